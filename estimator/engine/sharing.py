"""Gradients of groups of batches, which several recordings add to."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from estimator.engine.cause import CannotTraceError, Cause


class SharedGradients:
    """Memory for the gradients of a group: a recording can only add to what does not move.

    Where a group is a single batch, each recording has gradients of its own and this has none.

    Args:
        parameters: Whose gradients they are.
    """

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        self.parameters = parameters
        self.tensors = [None if p.grad is None else torch.zeros_like(p.grad) for p in parameters]

    def put(self) -> None:
        """Makes them the parameters' gradients, inside the recording of a later batch."""
        for p, own in zip(self.parameters, self.tensors, strict=True):
            p.grad = own

    def take(self) -> None:
        """Takes over what a backward has made, inside a recording.

        Raises:
            CannotTraceError: Other parameters have gradients than before.
        """
        for p, own in zip(self.parameters, self.tensors, strict=True):
            if (p.grad is None) != (own is None):
                raise CannotTraceError(Cause("E108", "other parameters have gradients"))
            if p.grad is not None and own is not None and p.grad is not own:
                own.copy_(p.grad)
        self.put()

    def hold(self) -> None:
        """Brings the gradients so far here, where eager batches have made them elsewhere."""
        for p, own in zip(self.parameters, self.tensors, strict=True):
            if own is not None and p.grad is not own:
                if p.grad is None:
                    own.zero_()
                else:
                    own.copy_(p.grad)
                p.grad = own

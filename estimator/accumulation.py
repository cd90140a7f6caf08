"""Gradients of groups of batches: exactly those of the mean over all items of the group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from estimator.handlers.base import ArgumentError
from estimator.loss_kinds import Count


class Accumulation:
    """Weighs the batches of a group so that their gradients add up to the group's.

    A group's mean loss is the sum over its batches of n_i * loss_i, over the sum of all n_i. How
    many there will be is not known before the group's last batch, so each loss is weighed by
    n_i / n_1, and the finished gradient divided by the sum of all n_i / n_1. A group of equal
    batches is then a plain sum divided by their number, and no weight overflows in fp16.

    Args:
        size: Batches a group.

    Raises:
        ArgumentError: `size` is not a whole number from 1 up.
    """

    __slots__ = ("_first", "_total", "filled", "is_sum", "size", "weighs")

    def __init__(self, size: int, *, is_sum: bool = False) -> None:
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ArgumentError(
                f"fit(accumulate=...) must be a whole number of batches from 1 up; received "
                f"{size!r}."
            )
        self.size = size
        self.is_sum = is_sum
        self.weighs = size > 1
        """Whether losses go through `weigh`; a group of a single batch has nothing to weigh."""
        self.filled = 0
        self._first: float = 1
        self._total: Count = 0

    def weigh(self, loss: torch.Tensor, count: Count, samples: float) -> torch.Tensor:
        """Takes a batch into the group; the result is what to differentiate.

        Args:
            loss: The batch's mean loss.
            count: Items it is the mean of.
            samples: Samples of the batch; those of the first batch are the unit of all weights.
        """
        if self.is_sum:
            return loss
        if self.filled == 0:
            self._first, self._total = max(samples, 1), 0
        if isinstance(count, int):
            self._total = self._total + count
            return loss if count == self._first else loss * (count / self._first)
        # A quotient of integers would be a float32, also for a loss in float64.
        count = count.to(torch.promote_types(loss.dtype, torch.float32))
        self._total = self._total + count
        return loss * (count / self._first)

    def unit(self, samples: float) -> float | None:
        """How many samples weigh one in the group of a batch; None where nothing is weighed.

        Args:
            samples: Of that batch.
        """
        if not self.weighs or self.is_sum:
            return None
        return self._first if self.filled else max(samples, 1)

    def full(self, is_last: bool) -> bool:
        """Whether the group is complete, by its size or by the end of the epoch."""
        return self.filled >= self.size or is_last

    def finish(self, parameters: Iterable[torch.Tensor]) -> None:
        """Turns the gathered gradients into those of the group's mean, and opens the next group."""
        if self.weighs and not self.is_sum:
            self._divide(self._total / self._first, parameters)
        self.filled = 0

    def _divide(self, total: float | torch.Tensor, parameters: Iterable[torch.Tensor]) -> None:
        if isinstance(total, torch.Tensor):
            # The gradients of a group without any item are zeros, which 0/0 would spoil.
            total = torch.where(total > 0, total, 1)
        if isinstance(total, torch.Tensor) or total != 1.0:
            for p in parameters:
                if p.grad is not None:
                    p.grad.div_(total)

    def state_dict(self, parameters: Sequence[torch.Tensor]) -> dict[str, Any] | None:
        """The open group with its gradients; None where there is no open group."""
        if self.filled == 0:
            return None
        grads = {i: p.grad for i, p in enumerate(parameters) if p.grad is not None}
        sums = {"filled": self.filled, "first": self._first, "total": self._total}
        return {**sums, "gradients": grads}

    def load_state_dict(
        self, state: Mapping[str, Any] | None, parameters: Sequence[torch.Tensor]
    ) -> None:
        """Takes back what `state_dict` gave, for the same parameters in the same order."""
        self.filled = 0
        if state is None:
            return
        self.filled, self._first = state["filled"], state["first"]
        gradients, total = state["gradients"], state["total"]
        for i, p in enumerate(parameters):
            p.grad = gradients[i].to(p.device) if i in gradients else None
        device = parameters[0].device
        self._total = total.to(device) if isinstance(total, torch.Tensor) else total

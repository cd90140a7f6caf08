"""The proof that a program does what the eager step does: the same batch twice, the same values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from estimator.engine.leaves import flatten, rebuild
from estimator.engine.trace import Traced
from estimator.randomness import random_states, set_random_states
from estimator.step import Step

_CLOSE = 1e-3


class Proof:
    """What a step starts from, kept so that the program can do the same step again.

    Args:
        step: About to compute a batch eagerly.
        traced: Its program.
        leaves: The batch's tensors.
        exact: Whether every bit has to be equal, and not only the values nearly.
    """

    def __init__(
        self, step: Step, traced: Traced, leaves: Sequence[torch.Tensor], *, exact: bool
    ) -> None:
        self.step, self.traced, self.exact = step, traced, exact
        # Gradients of the batches before this one, in a group of several.
        opened = step.accumulation.filled > 0
        before = [p.grad if opened else None for p in step.parameters]
        self.before = [None if grad is None else grad.clone() for grad in before]
        self.leaves = [leaf.clone() for leaf in leaves]
        self.constants = [c.detach().clone() for c in traced.program.constants]
        self.streams = random_states(step.runtime.device)

    def difference(self) -> str | None:
        """What the program makes otherwise than the eager step that has just been, if anything."""
        device, traced = self.step.runtime.device, self.traced
        after = random_states(device)
        set_random_states(self.streams, device)
        try:
            flat = traced.program.on(self.constants, self.leaves)
        except RuntimeError as error:
            set_random_states(after, device)
            return f"error: {str(error).partition(chr(10))[0]}"
        drawn = random_states(device)
        set_random_states(after, device)
        if not torch.equal(drawn["torch"], after["torch"]):
            return "number of random draws"
        for name, made, wanted in self._pairs(flat):
            if not self._equal(made, wanted, of_all=name == "gradient"):
                return name
        return None

    def _equal(self, a: Any, b: Any, *, of_all: bool) -> bool:
        if a is None or b is None:
            return a is b
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        if self.exact or not b.is_floating_point():
            return _same_bits(a, b)
        # A weight whose gradient should be zero has nothing but rounding of its own.
        length = self._gradient_length() if of_all else b.double().norm()
        difference = torch.dist(a.double(), b.double())
        return bool(difference <= _CLOSE * length) or _same_bits(a, b)

    def _gradient_length(self) -> torch.Tensor:
        grads = [p.grad for p in self.step.parameters if p.grad is not None]
        norms = [grad.double().norm() for grad in grads]
        length: torch.Tensor = torch.stack(norms).norm()
        return length

    def _pairs(self, flat: list[Any]) -> Iterator[tuple[str, Any, Any]]:
        step, results = self.step, self.traced.results
        stats = step.stats
        if results.loss is not None:
            yield "loss", flat[results.loss], stats.loss
        seen: list[torch.Tensor] = []
        flatten(stats.outputs, seen)
        made: list[torch.Tensor] = []
        flatten(rebuild(results.outputs, flat), made)
        for ours, theirs in zip(made, seen, strict=True):
            yield "output", ours, theirs
        # An evaluation has no gradients.
        for i, p, sum_before in zip(results.gradients, step.parameters, self.before, strict=False):
            gradient = None if i is None else flat[i]
            if gradient is not None and sum_before is not None:
                gradient = sum_before.add_(gradient)
            yield "gradient", sum_before if gradient is None else gradient, p.grad
        # Weights have not moved yet; buffers have.
        for ours, theirs in zip(self.constants, self.traced.program.constants, strict=True):
            yield "buffer", ours, theirs


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(torch.equal(a, b)) or bool(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True))

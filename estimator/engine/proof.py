"""The proof that a program does what the eager step does: the same batch twice, the same bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from estimator.engine.trace import Traced, flatten, rebuild
from estimator.randomness import random_states, set_random_states
from estimator.step import Step


class Proof:
    """What a step starts from, kept so that the program can do the same step again.

    Args:
        step: About to compute a batch eagerly.
        traced: Its program.
        leaves: The batch's tensors.
    """

    def __init__(self, step: Step, traced: Traced, leaves: Sequence[torch.Tensor]) -> None:
        self.step, self.traced = step, traced
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
            if (made is None) != (wanted is None) or not _equal(made, wanted):
                return name
        return None

    def _pairs(self, flat: list[Any]) -> Iterator[tuple[str, Any, Any]]:
        step, results = self.step, self.traced.results
        stats = step.stats
        yield "loss", flat[results.loss], stats.loss
        seen: list[torch.Tensor] = []
        flatten(stats.outputs, seen)
        made: list[torch.Tensor] = []
        flatten(rebuild(results.outputs, flat), made)
        for ours, theirs in zip(made, seen, strict=True):
            yield "output", ours, theirs
        for i, p in zip(results.gradients, step.parameters, strict=True):
            yield "gradient", None if i is None else flat[i], p.grad
        # Weights have not moved yet; buffers have.
        for ours, theirs in zip(self.constants, self.traced.program.constants, strict=True):
            yield "buffer", ours, theirs


def _equal(a: Any, b: Any) -> bool:
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and a.dtype == b.dtype and _same_bits(a, b)


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(torch.equal(a, b)) or bool(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True))

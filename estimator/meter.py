"""Means of losses, kept as sums on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from estimator.loss_kinds import Count

_WAITING = 64


class LossMeter:
    """The mean of a loss and of its parts over batches, weighted by what each batch counts.

    Args:
        device: Where the sums are kept, in float64 where the device has it.
    """

    __slots__ = ("_parts", "_samples", "_total", "_waiting", "_weight", "device", "dtype")

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.dtype = torch.float32 if device.type == "mps" else torch.float64
        self.reset()

    def reset(self) -> None:
        """Forgets all batches."""
        self._total = torch.zeros((), device=self.device, dtype=self.dtype)
        self._weight: Count = 0
        self._samples = 0
        self._parts: dict[str, torch.Tensor] = {}
        self._waiting: list[tuple[torch.Tensor, torch.Tensor]] = []

    def add(
        self, loss: torch.Tensor, parts: dict[str, torch.Tensor], weight: Count, samples: int,
        *, is_sum: bool = False,
    ) -> None:  # fmt: skip
        """Counts a batch.

        Args:
            loss: The batch's loss, detached.
            parts: Its named parts, detached.
            weight: What the batch counts in the mean: items, or samples.
            samples: Samples of the batch, which weigh the parts.
            is_sum: Whether the loss is a sum over the batch and not a mean.
        """
        if is_sum or isinstance(weight, int):
            self._total.add_(loss, alpha=1 if is_sum else int(weight))
            self._weight = self._weight + weight
        else:
            self._waiting.append((loss, weight))
            if len(self._waiting) == _WAITING:
                self._fold()
        self._samples += samples
        for name, part in parts.items() if parts else ():
            if name not in self._parts:
                self._parts[name] = torch.zeros_like(self._total)
            self._parts[name].add_(part, alpha=samples)

    def _fold(self) -> None:
        """Adds up what waits, in a few operations for many batches."""
        if self._waiting:
            losses, weights = (
                torch.stack([t.to(self.device, self.dtype) for t in column])
                for column in zip(*self._waiting, strict=True)
            )
            # A batch without items has a mean of 0/0, which must not spoil the others.
            self._total.add_(torch.where(weights > 0, losses * weights, 0).sum())
            self._weight = self._weight + weights.sum()
            self._waiting.clear()

    def means(self) -> dict[str, torch.Tensor]:
        """The mean loss, then its parts, as 0-d tensors; empty before the first batch."""
        if not self._samples:
            return {}
        self._fold()
        parts = {name: total / self._samples for name, total in self._parts.items()}
        return {"loss": self._total / self._weight, **parts}

    def state_dict(self) -> dict[str, Any]:
        """The sums, and what is not added up yet: to add it early would round otherwise."""
        return {
            "total": self._total,
            "weight": self._weight,
            "samples": self._samples,
            "parts": dict(self._parts),
            "waiting": [list(pair) for pair in self._waiting],
        }

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Takes the sums of several meters together as its own.

        Args:
            states: What their `state_dict` gave.
        """
        self.reset()
        for state in states:
            part = LossMeter(self.device)
            part.load_state_dict(state)
            part._fold()
            self._total += part._total
            self._weight = self._weight + part._weight
            self._samples += part._samples
            for name, total in part._parts.items():
                self._parts[name] = self._parts.get(name, 0) + total

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        place = self.device
        weight = state["weight"]
        self._weight = weight.to(place) if isinstance(weight, torch.Tensor) else weight
        self._total, self._samples = state["total"].to(place), state["samples"]
        self._parts = {name: total.to(place) for name, total in state["parts"].items()}
        self._waiting = [(loss.to(place), w.to(place)) for loss, w in state["waiting"]]

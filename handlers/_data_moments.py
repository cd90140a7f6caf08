"""Exact moments of what batches hold, gathered on their device without waiting for it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

CLASSES = 1000
"""Class numbers from here on are counted together."""
_AT_ONCE = 1 << 22
"""Elements that are widened at once: a batch may hold samples of a gigabyte."""


class Moments(NamedTuple):
    """What is known of one feature, on the host.

    Attributes:
        dtype: Of its elements.
        shape: Of one sample; "varies" stands for a size that differs between batches.
        samples: How many came.
        finite: Elements that are finite, of which mean, squares, low and high are.
        mean: Of all of them.
        squares: Sum of their squared distances from the mean.
        low: The least.
        high: The greatest.
        nan: Elements that are NaN.
        infinite: Elements that are infinite.
        classes: For whole numbers that are targets, how often each class came: those below 0,
            then from 0 up, and last those from `CLASSES` on. Else empty.
    """

    dtype: str
    shape: tuple[int | str, ...]
    samples: int
    finite: int
    mean: float
    squares: float
    low: float
    high: float
    nan: int
    infinite: int
    classes: list[int]

    @property
    def std(self) -> float:
        """Of the population."""
        return math.sqrt(self.squares / self.finite) if self.finite else math.nan


class Feature:
    """Adds up the elements of one feature over batches.

    The sums are of distances from a value near the mean, in 64 bits, so that nothing cancels where
    the mean is far from 0.

    Args:
        counts_classes: Whether to count whole numbers as classes.
    """

    def __init__(self, *, counts_classes: bool) -> None:
        self.counts_classes = counts_classes
        self.dtype, self.samples, self.elements = "", 0, 0
        self.shape: list[int | str] = []
        self.shift: Tensor | None = None
        self.sums: Tensor | None = None
        """Finite elements, their sum, their squares, lowest, highest, and how many are NaN."""
        self.classes: Tensor | None = None

    def add(self, batch: Tensor) -> None:
        """Takes a batch, (N, ...)."""
        values = batch.detach()
        shape: list[int | str] = list(values.shape[1:])
        self.dtype = str(values.dtype).removeprefix("torch.")
        self._widen(shape)
        self.samples += len(values)
        if values.is_complex():
            values = torch.view_as_real(values)
        flat = values.reshape(-1)
        self.elements += flat.numel()
        for part in flat.split(_AT_ONCE):
            self._add(part)
        if self.counts_classes and not values.is_floating_point():
            self._count(flat)

    def _widen(self, shape: list[int | str]) -> None:
        if not self.samples:
            self.shape = shape
        elif len(shape) != len(self.shape):
            self.shape = ["varies"]
        else:
            self.shape = [a if a == b else "varies" for a, b in zip(self.shape, shape, strict=True)]

    def _add(self, part: Tensor) -> None:
        wide = torch.float32 if part.device.type == "mps" else torch.float64
        values = part.to(wide)
        finite = values.isfinite()
        count = finite.sum()
        if self.shift is None:
            self.shift = torch.where(finite, values, 0).sum() / count.clamp(min=1)
        distance = torch.where(finite, values - self.shift, 0)
        fresh = (
            count, distance.sum(), (distance * distance).sum(),
            torch.where(finite, values, math.inf).min(),
            torch.where(finite, values, -math.inf).max(),
            values.isnan().sum(),
        )  # fmt: skip
        stacked = torch.stack([value.to(wide) for value in fresh])
        if self.sums is None:
            self.sums = stacked
            return
        total = self.sums + stacked
        total[3] = torch.minimum(self.sums[3], stacked[3])
        total[4] = torch.maximum(self.sums[4], stacked[4])
        self.sums = total

    def _count(self, flat: Tensor) -> None:
        if self.classes is None:
            self.classes = torch.zeros(CLASSES + 2, dtype=torch.int64, device=flat.device)
        places = flat.to(torch.int64).clamp(-1, CLASSES) + 1
        self.classes.scatter_add_(0, places, torch.ones_like(places))

    def read(self) -> Moments:
        """What came so far; waits for the device."""
        shape = tuple(self.shape)
        if self.sums is None or self.shift is None:
            nan = math.nan
            return Moments(self.dtype, shape, self.samples, 0, nan, 0.0, nan, nan, 0, 0, [])
        count, total, squares, low, high, missing = self.sums.tolist()
        infinite = self.elements - int(count) - int(missing)
        classes = [] if self.classes is None else self.classes.tolist()
        if not count:
            nan = math.nan
            moments = (0, nan, 0.0, nan, nan)
        else:
            mean = total / count
            spread = max(0.0, squares - total * mean)
            moments = (int(count), self.shift.item() + mean, spread, low, high)
        return Moments(self.dtype, shape, self.samples, *moments, int(missing), infinite, classes)

    def state_dict(self) -> dict[str, Any]:
        """All of it, as plain values and tensors."""
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Goes on where `state_dict` was."""
        for name, value in state.items():
            setattr(self, name, value.to(device) if isinstance(value, Tensor) else value)


def joined(parts: Sequence[Moments]) -> Moments:
    """The moments of all elements, from those of several processes (Chan, Golub, LeVeque 1983)."""
    there = [part for part in parts if part.finite]
    finite = sum(part.finite for part in there)
    first = parts[0]
    mean = squares = low = high = math.nan
    if there:
        # About a mean that is near all of them, so that nothing cancels.
        mean = there[0].mean + sum(p.finite * (p.mean - there[0].mean) for p in there) / finite
        squares = sum(p.squares + p.finite * (p.mean - mean) ** 2 for p in there)
        low, high = min(p.low for p in there), max(p.high for p in there)
    shapes = {part.shape for part in parts}
    return Moments(
        first.dtype, first.shape if len(shapes) == 1 else ("varies",),
        sum(p.samples for p in parts), finite, mean, 0.0 if math.isnan(squares) else squares,
        low, high, sum(p.nan for p in parts), sum(p.infinite for p in parts),
        _added(part.classes for part in parts),
    )  # fmt: skip


def _added(counts: Iterable[list[int]]) -> list[int]:
    filled = [count for count in counts if count]
    return [sum(column) for column in zip(*filled, strict=True)]

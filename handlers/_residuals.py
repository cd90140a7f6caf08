"""One regression output in a pass: sums over all its values, and values for quantiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from estimator.handlers._output_pairs import Pair

if TYPE_CHECKING:
    from estimator.stats import TrainStats

KEPT_VALUES = 1 << 20
"""Predictions with their targets that are kept; beyond it every second is given up, and so on."""
MOST_COLUMNS = 32
CHUNK = 1 << 18
QUANTILES = (0.5, 0.9, 0.95, 0.99)
_SUMS = ("count", "error", "absolute", "squared", "target", "target squared")

Floats = NDArray[np.float64]


def columns_of(pair: Pair) -> int | None:
    """How many columns of numbers an output has; None where it can be no regression.

    (N, D) has D columns up to 32; all values of larger outputs are taken together.
    """
    output, target = pair.output, pair.target
    if pair.role not in ("", "regression") or not output.is_floating_point():
        return None
    sizes = [[n for n in t.shape[1:] if n != 1] for t in (output, target)]
    if sizes[0] != sizes[1] or target.is_complex():
        return None
    width = sizes[0][0] if len(sizes[0]) == 1 else 1
    return width if width <= MOST_COLUMNS else 1


class Found(NamedTuple):
    """What one process has of a pass, on the host."""

    sums: Floats
    """(6, columns), of targets less `shift`."""
    shift: Floats
    largest: Floats
    tallies: list[int]
    """Values without a target, and those where either is not finite."""
    kept: Tensor
    """(n, 2, columns): predictions and targets of every `stride`-th row."""
    stride: int
    numbers: bool
    """Whether the targets are numbers, and not classes or masks."""


class Residuals:
    """Follows a regression output.

    Args:
        pair: Of the first batch.
    """

    def __init__(self, pair: Pair) -> None:
        columns = columns_of(pair)
        assert columns is not None
        self.columns = columns
        self._told = pair.role == "regression"
        self._is_flat = pair.output.ndim == 2 and columns > 1
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._values = 0
        self._parts: tuple[Tensor, ...] | None = None
        self._shift: Tensor | None = None
        self._kept: list[Tensor] = []
        self._rows, self._stride = 0, 1

    def add(self, pair: Pair, stats: TrainStats) -> None:
        """Takes a batch; one of another width is left out."""
        if columns_of(pair) != self.columns or not len(pair.output):
            return
        # The next batch may be written over this one.
        both = (part.reshape(-1, self.columns).clone() for part in (pair.output, pair.target))
        output, target = both
        self._waiting.append((output, target))
        self._values += output.numel()
        if self._values >= CHUNK:
            self._count()

    def _count(self) -> None:
        if not self._waiting:
            return
        output = torch.cat([output for output, _ in self._waiting])
        target = torch.cat([target for _, target in self._waiting])
        self._waiting, self._values = [], 0
        kind = torch.promote_types(output.dtype, torch.float32)
        if target.is_floating_point():
            kind = torch.promote_types(kind, target.dtype)
        # What is reckoned with takes several times the room of a batch, which may be large.
        step = 8 * CHUNK // self.columns
        for some, true in zip(output.split(step), target.split(step), strict=True):
            self._count_rows(some.to(kind), true.to(kind))

    def _count_rows(self, output: Tensor, target: Tensor) -> None:
        there = ~target.isnan()
        used = there & output.isfinite() & target.isfinite()
        if self._shift is None:
            self._shift = target.where(used, 0).sum(0) / used.sum(0).clamp(min=1)
        fresh = _terms(output, target, self._shift, there)
        self._parts = fresh if self._parts is None else _added(self._parts, fresh)
        nothing = torch.full((), torch.nan, dtype=output.dtype, device=output.device)
        both = torch.stack([output, target], dim=1).where(used.unsqueeze(1), nothing)
        self._keep(both)

    def _keep(self, rows: Tensor) -> None:
        first = -self._rows % self._stride
        self._rows += len(rows)
        # A copy, where a view would keep the others alive.
        self._kept.append(rows[first :: self._stride].clone())
        while sum(map(len, self._kept)) * self.columns > KEPT_VALUES:
            # The kept rows are those whose number the stride divides.
            self._kept = [torch.cat(self._kept)[::2].clone()]
            self._stride *= 2

    def take(self) -> Found | None:
        """The sums and values of the pass; None where it had none."""
        self._count()
        if self._parts is None or self._shift is None:
            return None
        sums, largest, signs = (part.cpu() for part in self._parts)
        odd, unlike_shares, *tallies = signs.tolist()
        numbers = self._told or bool(odd and (unlike_shares or not self._is_flat))
        shift = self._shift.cpu().double().numpy()
        kept = torch.cat(self._kept).cpu()
        arrays = (sums.double().numpy(), shift, largest.double().numpy())
        return Found(*arrays, tallies, kept, self._stride, numbers)


def _terms(output: Tensor, target: Tensor, shift: Tensor, there: Tensor) -> tuple[Tensor, ...]:
    """Sums by column, the largest error of each, and four counts that say what the targets are."""
    wide = torch.float32 if output.device.type == "mps" else torch.float64
    used = there & output.isfinite() & target.isfinite()
    error, centred = (output - target).where(used, 0), (target - shift).where(used, 0)
    columns = (used, error, error.abs(), error.square(), centred, centred.square())
    sums = torch.stack([column.sum(0, dtype=wide) for column in columns])
    odd = there & (target != 0) & (target != 1) & (target != -100)
    is_share = (target >= 0).all(1) & ((target.sum(1) - 1).abs() < 1e-3)
    signs = (odd.sum(), (there.all(1) & ~is_share).sum(), (~there).sum(), (there & ~used).sum())
    return sums, error.abs().amax(0), torch.stack(signs)


def _added(former: tuple[Tensor, ...], fresh: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    sums, largest, signs = zip(former, fresh, strict=True)
    return sums[0] + sums[1], torch.maximum(*largest), signs[0] + signs[1]


class Column(NamedTuple):
    """What the errors, predictions less targets, of one column of numbers are."""

    name: str
    samples: int
    bias: float
    mae: float
    rmse: float
    r2: float
    largest: float
    quantiles: list[float]
    """Of the absolute error, at `QUANTILES`."""
    predicted: Floats
    target: Floats


class Regression(NamedTuple):
    """A regression output over a whole pass."""

    columns: list[Column]
    missing: int
    not_finite: int
    stride: int
    """Quantiles and pictures are of every so manieth sample."""


def joined(parts: Sequence[Found | None]) -> Regression | None:
    """The result over the passes of all processes; None where there are no numbers."""
    found = [part for part in parts if part is not None]
    if not any(part.numbers for part in found):
        return None
    stride = max(part.stride for part in found)
    kept = torch.cat([part.kept[:: stride // part.stride] for part in found]).double().numpy()
    count = found[0].sums.shape[1]
    columns = [
        _column(str(index) if count > 1 else "", index, found, kept[..., index])
        for index in range(count)
    ]
    missing, not_finite = np.sum([part.tallies for part in found], axis=0).tolist()
    return Regression(columns, missing, not_finite, stride)


def _column(name: str, index: int, parts: Sequence[Found], kept: Floats) -> Column:
    sums: Floats = np.sum([part.sums[:, index] for part in parts], axis=0)
    totals = dict(zip(_SUMS, sums, strict=True))
    count = totals["count"]
    predicted, target = kept[~np.isnan(kept[:, 0])].T
    errors = np.abs(predicted - target)
    quantiles = np.quantile(errors, QUANTILES) if len(errors) else np.full(4, np.nan)
    spread = _spread([(part.sums[:, index], part.shift[index]) for part in parts])
    with np.errstate(divide="ignore", invalid="ignore"):
        means = [np.float64(totals[k]) / count for k in ("error", "absolute", "squared")]
        r2 = 1 - totals["squared"] / spread if spread > 0 else np.nan
    largest = max(part.largest[index] for part in parts)
    bias, mae, mean_square = map(float, means)
    return Column(
        *(name, int(count), bias, mae, float(np.sqrt(mean_square)), float(r2), float(largest)),
        *(quantiles.tolist(), predicted, target),
    )


def _spread(parts: Sequence[tuple[Floats, np.float64]]) -> float:
    """The sum of squares of targets around their mean, of parts with a centre of their own each."""
    there = [(part, shift) for part, shift in parts if part[0]]
    if not there:
        return 0.0
    counts = np.array([part[0] for part, _ in there])
    means = np.array([shift + part[4] / part[0] for part, shift in there])
    inner = sum(float(part[5] - part[4] ** 2 / part[0]) for part, _ in there)
    mean = np.average(means, weights=counts)
    return inner + float((counts * (means - mean) ** 2).sum())

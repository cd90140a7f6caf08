"""Scores of classes against the rest: exact ones up to a bound, counts in fine steps beyond it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

EXACT_VALUES = 1 << 22
"""Scores (samples times classes) that are kept as they are; there are 16 MiB of them."""
CELLS = 1 << 21
STEPS = 1 << 16
"""At most; with many classes `CELLS` leaves each of them fewer."""
LIMIT = 16.0
"""Log odds beyond this, of probabilities within 1e-7 of 0 and 1, share the outermost step."""

Floats = NDArray[np.float64]


class Ranked(NamedTuple):
    """Samples of a class and of the rest, counted from the highest score down."""

    hits: Floats
    """Samples of the class at each score."""
    others: Floats
    """All others there."""
    exact: bool


class Curve(NamedTuple):
    """How a class stands out from the rest; not a number where that has no meaning."""

    fpr: Floats
    tpr: Floats
    precision: Floats
    """At the same thresholds as `tpr`, which is the recall."""
    auc: float
    average_precision: float
    auc_error: float
    """How far the exact value may be at most; 0 where scores are exact."""
    average_precision_error: float


class ClassScores:
    """The scores of a pass, on their device.

    Args:
        columns: Classes that are compared with the rest: 1 for two classes.
    """

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.kept: list[tuple[Tensor, Tensor]] = []
        self.counts: Tensor | None = None
        self._values = 0

    def add(self, scores: Tensor, labels: Tensor) -> None:
        """Takes scores (n, columns), larger for the class, and labels (n,); below 0 is none."""
        self._values += scores.numel()
        if self.counts is None and self._values <= EXACT_VALUES:
            self.kept.append((scores, labels))
            return
        self._count_kept()
        fresh = counted(scores, labels)
        self.counts = fresh if self.counts is None else self.counts + fresh

    def _count_kept(self) -> None:
        for scores, labels in self.kept:
            fresh = counted(scores, labels)
            self.counts = fresh if self.counts is None else self.counts + fresh
        self.kept = []

    def take(self) -> tuple[list[tuple[Tensor, Tensor]], Tensor | None]:
        """Exact scores with labels, or counts (2, columns, steps); on the host."""
        kept = [(scores.cpu(), labels.cpu()) for scores, labels in self.kept]
        return kept, None if self.counts is None else self.counts.cpu()


def counted(scores: Tensor, labels: Tensor) -> Tensor:
    """How many of the rest (first) and of the class (second) are in each step, lowest first."""
    columns = scores.shape[1]
    steps = min(STEPS, CELLS // (2 * columns))
    place = (scores.nan_to_num(0.0, LIMIT, -LIMIT).clamp(-LIMIT, LIMIT) + LIMIT) / (2 * LIMIT)
    step = (place * steps).long().clamp(max=steps - 1)
    column = torch.arange(columns, device=scores.device)
    index = (_is_hit(labels, column).long() * columns + column) * steps + step
    weight = (labels >= 0).long().unsqueeze(1).expand_as(index)
    empty = torch.zeros(2 * columns * steps, dtype=torch.int64, device=scores.device)
    total = empty.scatter_add(0, index.flatten(), weight.flatten())
    return total.view(2, columns, steps)


def _is_hit(labels: Tensor, column: Tensor) -> Tensor:
    # The single column of two classes is that of class 1.
    wanted = column if len(column) > 1 else column + 1
    return labels.unsqueeze(1) == wanted


def ranked(parts: Sequence[tuple[list[tuple[Tensor, Tensor]], Any]]) -> Iterator[Ranked]:
    """The rankings of each column over the passes of all processes, which have a label at least."""
    kept = [pair for part, _ in parts for pair in part]
    counts = [found for _, found in parts if found is not None]
    if counts:
        every = torch.stack([*counts, *(counted(*pair) for pair in kept)])
        total = every.sum(0).numpy().astype(np.float64)
        for others, hits in zip(total[0, :, ::-1], total[1, :, ::-1], strict=True):
            there = hits + others > 0
            yield Ranked(hits[there], others[there], False)
    else:
        labels = torch.cat([label for _, label in kept])
        known = labels >= 0
        scores = torch.cat([score for score, _ in kept])[known]
        hit = _is_hit(labels[known], torch.arange(scores.shape[1])).numpy()
        for values, is_hit in zip(scores.numpy().T, hit.T, strict=True):
            yield _rank(values, is_hit)


def _rank(scores: NDArray[Any], is_hit: NDArray[np.bool_]) -> Ranked:
    order = np.argsort(-scores, kind="stable")
    scores, hit = scores[order], is_hit[order].astype(np.float64)
    first = np.flatnonzero(np.append(True, scores[1:] != scores[:-1]))
    hits = np.add.reduceat(hit, first)
    return Ranked(hits, np.add.reduceat(1 - hit, first), True)


def curve(ranking: Ranked) -> Curve:
    """ROC and precision-recall with the areas under them.

    The first is the share of pairs of a sample of the class and one of the rest that are in
    order, ties counting half; the second the mean precision over the samples of the class
    (a step function without interpolation). Both are those of scikit-learn.
    """
    hits, others, exact = ranking
    tps, fps = np.cumsum(hits), np.cumsum(others)
    positives, negatives = tps[-1], fps[-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = tps / (tps + fps)
        ties = hits * others / 2
        auc = float((hits * (negatives - fps) + ties).sum() / (positives * negatives))
        auc_error = 0.0 if exact else float(ties.sum() / (positives * negatives))
        average = float((hits * precision).sum() / positives)
        average_error = 0.0 if exact else _average_error(hits, others, tps, fps)
        fpr, tpr = np.append(0.0, fps) / negatives, np.append(0.0, tps) / positives
    return Curve(fpr, tpr, np.append(1.0, precision), auc, average, auc_error, average_error)


def _average_error(hits: Floats, others: Floats, tps: Floats, fps: Floats) -> float:
    """How far the mean precision may be off, whatever the order within the steps is."""
    before, rest = tps - hits, fps - others
    best = np.where(tps > 0, tps / (tps + rest), 0.0)
    worst = np.where(hits > 0, (before + 1) / (before + 1 + fps), 0.0)
    mean = tps / (tps + fps)
    higher, lower = (hits * (best - mean)).sum(), (hits * (mean - worst)).sum()
    return float(max(higher, lower) / tps[-1])

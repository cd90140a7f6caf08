"""One classification output in a pass: its confusion matrix and its scores, on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from estimator.handlers._class_scores import ClassScores, Curve, curve, ranked
from estimator.handlers._output_pairs import Pair

if TYPE_CHECKING:
    from estimator.stats import TrainStats

MOST_CLASSES = 2048
"""A matrix of more, of 32 MiB, is not kept."""
CHUNK = 1 << 18
"""Values of outputs that wait to be counted together."""

Form = Literal["index", "hot", "binary"]
_TALLIES = ("samples", "missing", "out of range", "mixed", "not a number")


def form_of(pair: Pair) -> Form | None:
    """How an output and its target make a classification; None where they do not.

    Returns:
        "index": logits (N, C, ...) with class indices (N, ...); "hot": with a column a class in
        the target too; "binary": one logit a sample.
    """
    output, target = pair.output, pair.target
    if pair.role not in ("", "classes", "binary") or not output.is_floating_point():
        return None
    if output.ndim > 1 and output.shape[1] > 1:
        if pair.role == "binary" or (output.ndim > 3 and not pair.role):
            return None
        if target.is_floating_point():
            return "hot" if target.shape == output.shape and output.ndim == 2 else None
        return "index" if target.shape == output.shape[:1] + output.shape[2:] else None
    one = all(t.ndim == 1 or t.shape[1:] == (1,) for t in (output, target))
    return "binary" if one and pair.role != "classes" else None


class Found(NamedTuple):
    """What one process has of a pass, on the host."""

    form: Form
    classes: int
    matrix: Tensor | None
    tallies: Tensor | None
    scores: Any
    fault: str
    told: bool
    """Whether the output says itself that it is a classification."""


class ClassCounts:
    """Counts a classification output.

    Args:
        pair: Of the first batch.
    """

    def __init__(self, pair: Pair) -> None:
        form = form_of(pair)
        assert form is not None
        self.form: Form = form
        self.classes = 2 if form == "binary" else pair.output.shape[1]
        self.fault = ""
        if self.classes > MOST_CLASSES:
            self.fault = (
                f"It has {self.classes:,} classes; reports are made of up to {MOST_CLASSES:,}."
            )
        self._ignored, self._told = pair.ignored, bool(pair.role)
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._values = 0
        self._matrix: Tensor | None = None
        self._tallies: Tensor | None = None
        self._scores = ClassScores(1 if self.classes == 2 else self.classes)

    def add(self, pair: Pair, stats: TrainStats) -> None:
        """Takes a batch."""
        width = 2 if self.form == "binary" else pair.output.shape[1:2].numel()
        if form_of(pair) != self.form or width != self.classes:
            self.fault = self.fault or "The shapes of outputs and targets changed within the pass."
        if self.fault:
            return
        # The next batch may be written over this one.
        self._waiting.append((_rows(pair.output), _rows(pair.target)))
        self._values += pair.output.numel()
        if self._values >= CHUNK:
            self._count()

    def _count(self) -> None:
        if not self._waiting:
            return
        outputs = torch.cat([output for output, _ in self._waiting])
        targets = torch.cat([target for _, target in self._waiting])
        self._waiting, self._values = [], 0
        step = max(1, CHUNK // outputs.shape[1])
        for output, target in zip(outputs.split(step), targets.split(step), strict=True):
            self._count_rows(output.to(torch.promote_types(output.dtype, torch.float32)), target)

    def _count_rows(self, outputs: Tensor, targets: Tensor) -> None:
        labels, missing, outside, mixed = self._labels(targets)
        predicted = outputs.argmax(1) if outputs.shape[1] > 1 else (outputs[:, 0] > 0).long()
        scores = log_odds(outputs)
        known = labels >= 0
        unclear = known & scores.isnan().any(1)
        used = known & ~unclear
        labels = labels.where(used, -1)
        tallies = torch.stack([part.sum() for part in (used, missing, outside, mixed, unclear)])
        self._tallies = tallies if self._tallies is None else self._tallies + tallies
        if self._matrix is None:
            cells = self.classes**2
            self._matrix = torch.zeros(cells, dtype=torch.int64, device=outputs.device)
        cell = (labels * self.classes + predicted).where(used, 0)
        # Adding into a known size does not wait for the device, as bincount would.
        self._matrix = self._matrix.scatter_add(0, cell, used.long())
        self._scores.add(scores, labels)

    def _labels(self, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Class numbers, -1 where there is none; and which are missing, out of range or mixed."""
        if self.form == "hot":
            missing = targets.isnan().any(1)
            shares = (targets >= 0).all(1) & ((targets.sum(1) - 1).abs() < 1e-3)
            pure = shares & (targets.amax(1) == 1)
            return targets.argmax(1).where(pure, -1), missing, ~(shares | missing), shares & ~pure
        return true_classes(targets[:, 0], self.classes, self._ignored)

    def take(self) -> Found:
        """The counts of the pass."""
        self._count()
        matrix, tallies = (None if p is None else p.cpu() for p in (self._matrix, self._tallies))
        scores = self._scores.take()
        return Found(self.form, self.classes, matrix, tallies, scores, self.fault, self._told)


def true_classes(
    values: Tensor, classes: int, ignored: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Class numbers, -1 where there is none; and which are missing, out of range or mixed.

    Args:
        values: Targets of any shape, whole or floating; NaN says that one is missing.
        classes: How many there are.
        ignored: Says that one is missing, too.
    """
    if not values.is_floating_point():
        values = values.long()
    missing = (values == ignored) | values.isnan()
    inside = (values >= 0) & (values <= classes - 1)
    labels = values.nan_to_num().long()
    known = inside & (labels == values) & ~missing
    return labels.where(known, -1), missing, ~(inside | missing), inside & ~(known | missing)


def _rows(tensor: Tensor) -> Tensor:
    """A copy with a row for each item: (n, classes) or (n, 1)."""
    if not tensor.is_floating_point():
        tensor = tensor.flatten()
    width = tensor.shape[1] if tensor.ndim > 1 else 1
    last = tensor.movedim(1, -1) if tensor.ndim > 1 else tensor
    return last.clone(memory_format=torch.contiguous_format).view(-1, width)


def log_odds(outputs: Tensor) -> Tensor:
    """How much likelier than the rest each class is: (n, C), or (n, 1) of two classes.

    The logarithm of p / (1 - p) ranks as the probability p does, and does not saturate: of two
    logits it is their difference, and never the last of them.
    """
    if outputs.shape[1] == 1:
        return outputs
    if outputs.shape[1] == 2:
        return outputs[:, 1:] - outputs[:, :1]
    # Twice as wide and rounded, so that a sum taken in another order makes no rank.
    wide = torch.float32 if outputs.device.type == "mps" else torch.float64
    logs = outputs.to(wide).log_softmax(1)
    return (logs - (-torch.expm1(logs)).log()).float()


class ClassResult(NamedTuple):
    """A classification output over a whole pass."""

    matrix: NDArray[np.int64]
    """Row: the true class; column: the predicted one."""
    tallies: dict[str, int]
    """How many samples count, and how many do not, by the reason."""
    curves: list[Curve]
    """Of each class against the rest; of two classes the one of class 1."""
    reason: str
    """Why there is no report; "" where there is one."""


def joined(parts: Sequence[Found]) -> ClassResult | None:
    """The result over the passes of all processes; None where it is no classification.

    Args:
        parts: At least one.
    """
    form, classes = parts[0].form, parts[0].classes
    shape = (classes, classes) if classes <= MOST_CLASSES else (0, 0)
    total, counts = torch.zeros(shape).long().view(-1), torch.zeros(len(_TALLIES)).long()
    alike = [part for part in parts if (part.form, part.classes) == (form, classes)]
    for part in alike:
        if part.matrix is not None and part.tallies is not None:
            total, counts = total + part.matrix, counts + part.tallies
    tallies = dict(zip(_TALLIES, counts.tolist(), strict=True))
    faults = [part.fault for part in parts if part.fault]
    if len(alike) < len(parts):
        faults.append("It has other shapes in other processes.")
    if form != "index" and not parts[0].told and _are_numbers(form, tallies):
        return None
    reason = faults[0] if faults else _reason(tallies)
    found = [] if reason else [curve(each) for each in ranked([part.scores for part in alike])]
    return ClassResult(total.view(shape).numpy(), tallies, found, reason)


def _are_numbers(form: Form, tallies: dict[str, int]) -> bool:
    """Whether the targets of an output that does not say what it is are no classes."""
    mixed = tallies["mixed"]
    others = tallies["out of range"] + (mixed if form == "binary" else 0)
    return others > 0 or not (tallies["samples"] or tallies["not a number"] or mixed)


def _reason(tallies: dict[str, int]) -> str:
    if tallies["mixed"]:
        return (
            f"{tallies['mixed']:,} targets are probabilities or mixtures of classes, such as "
            "MixUp, CutMix or label smoothing make them: they have no one true class."
        )
    if tallies["samples"]:
        return ""
    return "No sample has a target that is one of the classes and an answer that is a number."

"""How wrong each sample of a batch was answered, output by output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

CLASSES, LABELS, RESIDUAL = 0, 1, 2
"""Kinds of errors: one of several classes, any of several labels, a distance."""


class Judged(NamedTuple):
    """One output of a batch against its target."""

    name: str
    """Of the output; "" where there is one without a name."""
    target: str
    """The name that its target has among the rows."""
    score: Tensor
    """(N,) float32: how wrong, below 0 where right or without a target."""
    prediction: Tensor
    """(N, ...): classes, labels, or what the net gave."""
    confidence: Tensor
    """(N,) float32: the probability of what was answered wrongly; of a distance, the distance."""
    kind: Tensor
    """(N,) uint8: CLASSES, LABELS or RESIDUAL."""
    has_target: Tensor
    """(N,) bool."""


def judged(
    outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor], *, binary: bool
) -> Iterator[Judged]:
    """Judges each output that has a target; maps and sequences are left out.

    Args:
        outputs: Tensors (N, ...) by name, each name beginning with "output".
        targets: The same of targets. An output is compared with that of its name, or where there
            is one of each with the only one.
        binary: Whether a target of floating type and one column is a class.
    """
    alone = len(outputs) == len(targets) == 1
    for name, output in outputs.items():
        end = name.removeprefix("output")
        wanted = next(iter(targets)) if alone else f"target{end}"
        if wanted in targets:
            found = _judge(output, targets[wanted], binary=binary)
            if found is not None:
                yield Judged(end.removeprefix("."), wanted, *found)


_Parts = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def _judge(output: Tensor, target: Tensor, *, binary: bool) -> _Parts | None:
    if not output.is_floating_point() or target.dtype.is_complex or 0 in output.shape:
        return None
    flat, wanted = _columns(output.float()), _columns(target)
    is_class = not target.is_floating_point()
    if output.ndim > 2 and flat.shape[1] > 1:
        return None
    if is_class and wanted.shape[1] == 1 and flat.shape[1] > 1:
        return _one_of_many(flat, wanted[:, 0])
    if flat.shape != wanted.shape:
        return None
    if is_class or (binary and flat.shape[1] == 1):
        return _labels(flat, wanted)
    return _either(_labels(flat, wanted), _residual(flat, wanted), wanted)


def _columns(value: Tensor) -> Tensor:
    return value.reshape(len(value), -1)


def _one_of_many(logits: Tensor, target: Tensor) -> _Parts:
    shares = logits.softmax(1)
    confidence, prediction = shares.max(1)
    # Targets outside of the classes, such as -100, say that there is none.
    there = (target >= 0) & (target < logits.shape[1])
    # Where the net gave what is no number, it was surely wrong.
    wrong = there & ((prediction != target) | confidence.isnan())
    return _scored(wrong, confidence, prediction, there, CLASSES)


def _labels(logits: Tensor, target: Tensor) -> _Parts:
    """Each column is the logit of one label; the surest of the wrong ones counts."""
    prediction = (logits > 0).long()
    surely = torch.sigmoid(logits.abs())
    there = ~target.isnan() & (target >= 0)
    wrong = there & ((prediction != target) | logits.isnan())
    of_wrong = surely.masked_fill(~wrong, -1.0).max(1).values
    # Where all is right, what is said least surely.
    confidence = torch.where(wrong.any(1), of_wrong, surely.min(1).values)
    return _scored(wrong.any(1), confidence, prediction, there.any(1), LABELS)


def _residual(output: Tensor, target: Tensor) -> _Parts:
    """The mean distance over the values that have a target."""
    there = ~target.isnan()
    distance = (output - target.float()).abs().where(there, 0.0)
    mean = distance.sum(1) / there.sum(1).clamp(min=1)
    return _scored(there.any(1), mean, output, there.any(1), RESIDUAL)


def _scored(
    wrong: Tensor, confidence: Tensor, prediction: Tensor, there: Tensor, kind: int
) -> _Parts:
    score = torch.where(wrong, confidence, -1.0)
    kinds = torch.full(score.shape, kind, dtype=torch.uint8, device=score.device)
    return score, prediction, confidence, kinds, there


def _either(labels: _Parts, residual: _Parts, target: Tensor) -> _Parts:
    """Labels where each target of the batch is 0 or 1, so that nothing waits for the answer."""
    are_labels = ((target == 0) | (target == 1) | target.isnan()).all()
    first, second, *others = (
        torch.where(are_labels, a, b) for a, b in zip(labels, residual, strict=True)
    )
    return first, second, others[0], others[1], others[2]

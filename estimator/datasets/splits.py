"""`Splits`: the parts of a data set, and how rows are dealt to them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from estimator.handlers.base import ArgumentError, DataError


@dataclass(frozen=True)
class Splits:
    """The parts of a data set, as `fit`, `evaluate` and `predict` take them."""

    train: Any
    """A pair (x, y) or a dict of tensors with one row a sample."""
    val: Any
    """Likewise, held out of what is trained on."""
    test: Any = None
    """Likewise, to be looked at once; None where the data set has none."""
    classes: tuple[str, ...] = ()
    """Class names in the order of the class numbers; empty where there are none."""
    columns: tuple[str, ...] = ()
    """Names of the columns of x, for tables."""


def check_labels(labels: Tensor, classes: int, path: Path, *, complete: bool = True) -> Tensor:
    """Labels as int64.

    Args:
        labels: Class numbers, shape (N,).
        classes: How many classes there are.
        path: Where they were read.
        complete: Whether each class must have a sample.

    Raises:
        DataError: A label is out of range, or a class has no sample.
    """
    labels = labels.long()
    wrong = ((labels < 0) | (labels >= classes)).nonzero()
    if len(wrong):
        place = int(wrong[0])
        raise DataError(
            f"{path}: labels must be from 0 to {classes - 1}; received {int(labels[place])} for "
            f"sample {place}, and {len(wrong)} such labels in all. Is it the file of another data "
            "set?"
        )
    counts = torch.bincount(labels, minlength=classes)
    if complete and int(counts.min()) == 0:
        raise DataError(
            f"{path}: each of {classes} classes must have samples; received none of class "
            f"{int(counts.argmin())} among {len(labels)}. Is the file cut?"
        )
    return labels


def hold_out(samples: int, held_out: int, function: str) -> tuple[slice, slice]:
    """The first samples to train on, and the last ones to validate with.

    Raises:
        ArgumentError: Nothing would be left on one side.
    """
    if not isinstance(held_out, int) or isinstance(held_out, bool) or not 0 < held_out < samples:
        raise ArgumentError(
            f"{function}(held_out=...) must be from 1 to {samples - 1}, the samples that validate; "
            f"received {held_out!r}."
        )
    return slice(samples - held_out), slice(samples - held_out, samples)


def dealt(samples: int, shares: tuple[float, float], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows to train, validate and test with, drawn by seed.

    Args:
        samples: How many rows there are.
        shares: The parts of them that validate and test.
        seed: The same seed gives the same rows, on every machine.
    """
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed))
    val, test = (round(samples * share) for share in shares)
    return order[val + test :], order[:val], order[val : val + test]

"""Targets that are not for the loss, and losses that cannot be trained with, are explained."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from bad_calls import Case, X, Y, check_refused, est, fit
from torch import nn

from estimator import DataError

CE, MSE, BCE = nn.CrossEntropyLoss(), nn.MSELoss(), nn.BCEWithLogitsLoss()
CLASSES = "CrossEntropyLoss needs class indices of type int64"
SHAPES = "compares outputs and targets of the same shape"


def with_targets(targets: Any, loss: Any, outputs: int, *, flat: bool = False) -> Any:
    layers = [nn.Linear(4, outputs), *([nn.Flatten(0)] if flat else [])]
    return functools.partial(fit, (X, targets), by=est(nn.Sequential(*layers), loss))


TARGETS: dict[str, Case] = {
    "classes as floats": (
        with_targets(Y.float(), CE, 3),
        DataError,
        f"{CLASSES}, or class probabilities | targets tensor(12,) float32 | targets.long()",
    ),
    "classes as int32": (
        with_targets(Y.int(), CE, 3),
        DataError,
        f"{CLASSES} | received targets tensor(12,) int32 | targets.long()",
    ),
    "classes as a column": (
        with_targets(Y[:, None], CE, 3),
        DataError,
        "one class index for each output position, shape (12,) | targets tensor(12, 1) int64 "
        "| targets.squeeze(1)",
    ),
    "class too high": (
        with_targets(Y + 1, CE, 3),
        DataError,
        "class indices from 0 to below the number of outputs | received index 3 for 3 | from 0",
    ),
    "probabilities of another shape": (
        with_targets(torch.rand(12, 4), CE, 3),
        DataError,
        "class probabilities of the shape of the outputs | targets tensor(12, 4) float32 | Convert",
    ),
    "values as a row": (
        with_targets(X[:, 0], MSE, 1),
        DataError,
        f"MSELoss {SHAPES} | outputs tensor(12, 1) float32 and targets tensor(12,) float32, which "
        "would be broadcast | targets.view_as(outputs)",
    ),
    "values as a column": (
        with_targets(X[:, :1], MSE, 1, flat=True),
        DataError,
        f"MSELoss {SHAPES} | outputs tensor(12,) float32 and targets tensor(12, 1) float32",
    ),
    "values as integers": (
        with_targets(Y[:, None], MSE, 1),
        DataError,
        "MSELoss needs targets of a floating type | received tensor(12, 1) int64 | targets.float()",
    ),
    "binary as integers": (
        with_targets((Y > 0).long()[:, None], BCE, 1),
        DataError,
        "BCEWithLogitsLoss needs targets of a floating type | int64 | targets.float()",
    ),
    "validation only": (
        lambda: fit(val=(X, Y.float())),
        DataError,
        f"{CLASSES}, or class probabilities | targets tensor(12,) float32 | targets.long()",
    ),
}

LOSSES: dict[str, Case] = {
    "no gradient": (
        lambda: fit(by=est(loss=lambda o, t: (o.argmax(1) == t).float().mean())),
        DataError,
        "the loss must depend on the net's parameters | received one without a gradient "
        "| Check requires_grad | argmax",
    ),
    "number": (
        lambda: fit(by=est(loss=lambda o, t: 3.0)),
        DataError,
        "the loss must return a tensor or a dict of tensors | received float (3.0) | Return",
    ),
    "nothing": (
        lambda: fit(by=est(loss=lambda o, t: None)),
        DataError,
        "the loss must return a tensor or a dict of tensors | received NoneType (None) | Return",
    ),
}

CASES = {**TARGETS, **LOSSES}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_the_loss_cannot_take_is_explained(case: Case) -> None:
    check_refused(case)

"""A small fit with any argument changed, and what the message of a refused call has to say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from estimator import Estimator, EstimatorError, TrainStats

X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 3

Case = tuple[Callable[[], Any], type[EstimatorError], str]
"""A call, its exception, and what the message says: argument | what was received | advice."""


def net() -> nn.Module:
    return nn.Linear(4, 3)


def est(module: nn.Module | None = None, loss: Any = "default", **arguments: Any) -> Estimator:
    loss = nn.CrossEntropyLoss() if loss == "default" else loss
    return Estimator(net() if module is None else module, loss, **arguments)


def fit(train: Any = (X, Y), val: Any = None, *, by: Any = None, **arguments: Any) -> TrainStats:
    """Trains two epochs unless the arguments say otherwise; `by` is the Estimator."""
    length = {} if {"epochs", "iterations"} & set(arguments) else {"epochs": 2}
    settings = {"device": "cpu", "progress": False, **length, **arguments}
    return (est() if by is None else by).fit(train, val, **settings)


def check_refused(case: Case) -> None:
    """The call raises exactly this class, with a message that has all parts in their order."""
    call, kind, parts = case
    with pytest.raises(EstimatorError) as caught:
        call()
    assert caught.type is kind, repr(caught.value)
    message, place = str(caught.value), 0
    for part in parts.split(" | "):
        place = message.find(part, place)
        assert place >= 0, f"{part!r} is not said, or not there, in: {message}"
        place += len(part)
    assert message.endswith((".", "?", ")")), message

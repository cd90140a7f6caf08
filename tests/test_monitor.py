"""What counts as better, where the direction comes from, and which names may be followed."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from estimator import TrainStats
from estimator.handlers.base import ArgumentError, ArgumentTypeError, Monitor, MonitorError

NAN, INF = float("nan"), float("inf")


def stats_with(**values: float) -> TrainStats:
    stats = TrainStats(torch.nn.Linear(1, 1), torch.device("cpu"))
    stats.monitors = {"train_loss": False, "val_loss": False, "val_accuracy": True, "val_x": None}
    stats.val = values
    return stats


@pytest.mark.parametrize(
    ("options", "value", "best", "better"),
    [
        ({"mode": "min"}, 1.0, None, True),
        ({"mode": "min"}, 0.9, 1.0, True),
        ({"mode": "min"}, 1.0, 1.0, False),
        ({"mode": "max"}, 1.1, 1.0, True),
        ({"mode": "max"}, 1.0, 1.0, False),
        ({"mode": "min", "min_delta": 0.25}, 0.75, 1.0, False),
        ({"mode": "min", "min_delta": 0.25}, 0.74, 1.0, True),
        ({"mode": "max", "min_delta": 0.25}, 1.25, 1.0, False),
        ({"mode": "max", "min_delta": 0.25}, 1.26, 1.0, True),
        ({"mode": "min", "min_delta": 0.1, "relative": True}, -10.5, -10.0, False),
        ({"mode": "min", "min_delta": 0.1, "relative": True}, -11.5, -10.0, True),
        ({"mode": "max", "min_delta": 0.1, "relative": True}, -9.5, -10.0, False),
        ({"mode": "max", "min_delta": 0.1, "relative": True}, -8.5, -10.0, True),
        ({"mode": "min", "min_delta": 0.1, "relative": True}, 0.5, INF, True),
        ({"mode": "max", "relative": True}, 0.5, -INF, True),
        ({"mode": "min", "min_delta": 0.5, "relative": True}, -0.1, 0.0, True),
        ({"mode": "min"}, NAN, None, False),
        ({"mode": "max"}, NAN, 1.0, False),
        ({"mode": "min"}, INF, None, True),
    ],
)
def test_improvements(options: Any, value: float, best: float | None, better: bool) -> None:
    assert Monitor("val_loss", **options).improves(value, best) is better


@pytest.mark.parametrize(
    ("name", "mode", "higher"),
    [
        ("val_loss", None, False),
        ("val_accuracy", None, True),
        ("val_loss", "max", True),
        ("val_x", "min", False),
    ],
)
def test_the_value_says_its_direction_unless_mode_does(name: str, mode: Any, higher: bool) -> None:
    monitor = Monitor(name, mode=mode)
    monitor.resolve(stats_with(), "Owner")
    assert monitor.higher_is_better is higher


def test_events_at_which_values_are_fresh() -> None:
    assert Monitor("val_loss").event == "validation_end"
    assert Monitor("train_loss").event == "epoch_end"
    assert repr(Monitor("val_loss", mode="min")) == "Monitor('val_loss', mode='min')"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("val_accurcy", r"Owner\(monitor='val_accurcy'\): .* Did you mean 'val_accuracy'"),
        ("qqqq", "There are: train_loss, val_accuracy, val_loss, val_x"),
        ("val_x", "does not say which direction is better; received mode=None"),
    ],
)
def test_a_name_that_cannot_be_followed(name: str, message: str) -> None:
    with pytest.raises(MonitorError, match=message):
        Monitor(name).resolve(stats_with(), "Owner")


def test_a_run_without_validation_says_so() -> None:
    stats = stats_with()
    stats.monitors = {"train_loss": False}
    with pytest.raises(MonitorError, match=r"no validation data \(pass val= to fit\)"):
        Monitor("val_loss").resolve(stats, "Owner")


def test_the_best_value_is_kept_with_its_moment() -> None:
    stats, monitor = stats_with(), Monitor("val_loss", mode="min")
    seen = []
    for step, value in enumerate([NAN, 2.0, 3.0, NAN, 1.0, 1.0]):
        stats.val, stats.step, stats.epoch = {"loss": value}, step, step + 1
        observed = monitor.observe(stats)
        assert observed == value or math.isnan(observed)
        seen.append(stats.best["val_loss"].value if stats.best else None)
    assert seen == [None, 2.0, 2.0, 2.0, 1.0, 1.0]
    assert stats.best["val_loss"] == (1.0, 5, 4)
    higher = Monitor("val_accuracy", mode="max")
    for value in (0.5, 0.7, 0.6):
        stats.val = {"accuracy": value}
        higher.observe(stats)
    assert stats.best["val_accuracy"].value == 0.7


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": 3}, ArgumentTypeError, "must be the name of a value.*received 3"),
        ({"name": "a", "mode": "lower"}, ArgumentError, "'min', 'max' or None.*received 'lower'"),
        ({"name": "a", "min_delta": -0.1}, ArgumentError, "from 0 up; received -0.1"),
        ({"name": "a", "min_delta": NAN}, ArgumentError, "from 0 up; received nan"),
        ({"name": "a", "min_delta": INF}, ArgumentError, "from 0 up; received inf"),
    ],
)
def test_wrong_arguments(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Monitor(**arguments)

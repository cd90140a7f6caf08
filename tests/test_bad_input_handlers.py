"""Wrong handlers, events, schedules, monitors and folders: each message says what to do instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from bad_calls import Case, X, Y, check_refused, est, fit, net

from estimator import (
    ArgumentError,
    ArgumentTypeError,
    FolderError,
    HandlerError,
    MonitorError,
    TrainStats,
)
from estimator.handlers import (
    CheckpointHandler,
    CSVLogHandler,
    EarlyStoppingHandler,
    EventHandler,
    Every,
    LoggingHandler,
    TensorBoardHandler,
    every,
    on,
)
from estimator.metrics import FunctionMetric

UNITS = "Every takes exactly one of steps, epochs, seconds and calls"


class Quiet(EventHandler):
    """Does nothing."""


def show(stats: TrainStats) -> None: ...


def stats() -> TrainStats:
    return TrainStats(net(), torch.device("cpu"))


def twice(*, added: bool) -> None:
    handler, estimator = Quiet(), est()
    if added:
        estimator.add(handler)
    fit(by=estimator, handlers=[handler] if added else [handler, handler])


def undirected() -> Any:
    metric = FunctionMetric(lambda outputs, targets: outputs.mean(), name="mean")
    return est(metrics=[metric])


CASES: dict[str, Case] = {
    "class": (
        lambda: fit(handlers=[Quiet]),
        HandlerError,
        "handlers must be objects | received the class Quiet | Call it: Quiet(...)",
    ),
    "class alone": (
        lambda: fit(handlers=Quiet),
        HandlerError,
        "handlers must be objects | received the class Quiet | Call it: Quiet(...)",
    ),
    "class added": (
        lambda: est().add(Quiet),  # type: ignore[arg-type]  # what it is for
        HandlerError,
        "handlers must be objects | received the class Quiet | Call it: Quiet(...)",
    ),
    "unmarked function": (
        lambda: fit(handlers=[show]),
        HandlerError,
        'naming its event | received <function show at | Decorate it: @on("batch_end", every=100)',
    ),
    "no handler": (
        lambda: fit(handlers=[3]),
        HandlerError,
        "handlers must derive from EventHandler or be functions marked with @on | received 3",
    ),
    "same object twice": (
        lambda: twice(added=False),
        HandlerError,
        "each handler may be given once | received Quiet() twice | Make a second object",
    ),
    "same object added and given": (
        lambda: twice(added=True),
        HandlerError,
        "each handler may be given once | received Quiet() twice | Make a second object",
    ),
    "unknown event": (
        lambda: on("epochend"),
        ArgumentError,
        "on(event=...) | 'epochend' | Did you mean 'epoch_end' | There are: backward_end",
    ),
    "schedule of an event": (
        lambda: on("epoch_end", every="2"),  # type: ignore[arg-type]  # what it is for
        ArgumentTypeError,
        "on('epoch_end', every=...) must be an Every | received '2' | every(epochs=2)",
    ),
    "no unit": (
        lambda: every(),
        ArgumentError,
        f"{UNITS} | received none | Write Every(steps=100)",
    ),
    "two units": (
        lambda: Every(steps=3, epochs=2),
        ArgumentError,
        f"{UNITS} | received steps=3, epochs=2 | Write Every(steps=100)",
    ),
    "zero units": (
        lambda: every(0),
        ArgumentError,
        "Every(steps=...) must be a number above 0 | received 0",
    ),
    "part of a unit": (
        lambda: every(epochs=1.5),  # type: ignore[arg-type]  # what it is for
        ArgumentError,
        "Every(epochs=...) must be a number above 0 without a fraction | received 1.5",
    ),
    "schedule of a handler": (
        lambda: CheckpointHandler("never_made", every=100),  # type: ignore[arg-type]  # what it is for
        ArgumentTypeError,
        "CheckpointHandler(every=...) must be an Every | received 100 | Write every(100)",
    ),
    "empty reason": (
        lambda: stats().stop(""),
        ArgumentError,
        "stop(reason=...) must say who stops and why | received ''",
    ),
    "time of a stop": (
        lambda: stats().stop("enough", when="now"),  # type: ignore[arg-type]  # what it is for
        ArgumentError,
        "stop(when=...) must be 'batch' or 'epoch' | received 'now'",
    ),
    "column": (
        lambda: stats()["lrr"],
        ArgumentError,
        "history has no column 'lrr' | Did you mean 'lr' | There are: complete, epoch",
    ),
    "unknown monitor": (
        lambda: fit(val=(X, Y), handlers=EarlyStoppingHandler("val_los")),
        MonitorError,
        "EarlyStoppingHandler(monitor='val_los'): no such value appears | Did you mean 'val_loss' "
        "| There are: train_loss, val_loss",
    ),
    "monitor without validation": (
        lambda: fit(handlers=EarlyStoppingHandler("val_loss")),
        MonitorError,
        "EarlyStoppingHandler(monitor='val_loss') | This run has no validation data (pass val= to "
        "fit) | There are: train_loss",
    ),
    "monitor of a checkpoint": (
        lambda: fit(handlers=CheckpointHandler("never_made", monitor="val_accuracy")),
        MonitorError,
        "CheckpointHandler(monitor='val_accuracy') | no validation data | There are: train_loss",
    ),
    "monitor without direction": (
        lambda: fit(by=undirected(), handlers=EarlyStoppingHandler("train_mean")),
        MonitorError,
        "(monitor='train_mean') | direction | received mode=None | Pass mode='min' or mode='max'",
    ),
    "folder that is none": (
        lambda: fit(handlers=CheckpointHandler(None)),
        ArgumentError,
        "CheckpointHandler(folder=None) | writes to the run folder | this fit has none | Pass",
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_wrong_handler_is_explained(case: Case, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    check_refused(case)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "argument", "name"),
    [
        (CheckpointHandler, "CheckpointHandler(folder=...)", "runs"),
        (TensorBoardHandler, "TensorBoardHandler(folder=...)", "runs"),
        (CSVLogHandler, "CSVLogHandler(path=...)", "runs/history.csv"),
        (LoggingHandler, "LoggingHandler(file=...)", "runs/log.txt"),
    ],
)
def test_a_folder_that_cannot_be_written(
    kind: Any, argument: str, name: str, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    call = lambda: fit(handlers=kind(file / name))  # noqa: E731  # a case as in the tables
    rule = "must be a folder that can be written"
    received = f"received '{file}/runs' (Not a directory)"
    check_refused((call, FolderError, f"{argument} {rule} | {received} | Choose another folder"))
    assert file.read_text() == "kept"


def test_weights_below_a_file_cannot_be_saved(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    call = lambda: est().save(tmp_path / "file" / "net.pt")  # noqa: E731  # a case as in the tables
    check_refused((call, FolderError, f"Estimator.save(path=...) | received '{tmp_path}/file'"))


def with_method(name: str) -> EventHandler:
    kind: type[EventHandler] = type("Mine", (EventHandler,), {name: lambda self, stats: None})
    return kind()


@pytest.mark.parametrize(
    ("name", "event"),
    [
        ("on_epoch_end", "epoch_end"),
        ("epoch_finished", "epoch_end"),
        ("after_epoch", "epoch_end"),
        ("epochEnd", "epoch_end"),
        ("end_epoch", "epoch_end"),
        ("epoch_begins", "epoch_begin"),
        ("bacth_end", "batch_end"),
        ("batchend", "batch_end"),
        ("iteration_completed", "batch_end"),
        ("on_step_end", "batch_end"),
        ("onTrainBegin", "train_begin"),
        ("on_fit_start", "train_begin"),
        ("before_training", "train_begin"),
        ("train_ends", "train_end"),
        ("on_validation_end", "validation_end"),
        ("val_end", "validation_end"),
        ("val_batch_end", "validation_batch_end"),
        ("on_backward_end", "backward_end"),
        ("on_error", "error"),
        ("on_exception", "error"),
        ("on_train_epoch_end", "epoch_end"),
        ("on_train_batch_end", "batch_end"),
        ("on_validation_epoch_end", "validation_end"),
        ("on_after_backward", "backward_end"),
    ],
)
def test_a_misspelt_event_is_told(name: str, event: str) -> None:
    message = (
        f"Mine.{name} looks like a misspelt event | would never be called | Rename it to {event}, "
        "or begin its name with an underscore | There are: backward_end"
    )
    check_refused((lambda: est().add(with_method(name)), HandlerError, message))


@pytest.mark.parametrize(
    "name",
    [
        *("_on_epoch_end", "_epoch_finished", "reset", "draw_map", "error_rate", "epoch", "batch"),
        *(
            "train",
            "validate",
            "fit",
            "step",
            "begin",
            "end",
            "forward",
            "start_time",
            "errors",
            "stop_training",
            "finish_epoch",
            "batch_size",
        ),
        *(
            "epoch_count",
            "train_step",
            "validation_step",
            "steps_per_epoch",
            "step_size",
            "finished",
        ),
    ],
)
def test_a_method_that_is_no_event_is_left_alone(name: str) -> None:
    handler = with_method(name)
    assert est().add(handler).handler is handler


def test_a_value_that_looks_like_an_event_is_left_alone() -> None:
    kind = type("Mine", (EventHandler,), {"epoch_start": 3})
    est().add(kind())

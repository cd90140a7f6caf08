"""`CSVLogHandler` and `TimeLimitHandler`, and what they share with the log and the bar."""

from __future__ import annotations

import csv
import errno
import pickle
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from estimator import Estimator, History, TrainStats
from estimator.handlers.base import (
    ArgumentError,
    ArgumentTypeError,
    Band,
    FolderError,
    every,
    on,
    once,
)
from estimator.handlers.csv_log import CSVLogHandler
from estimator.handlers.logging import LoggingHandler
from estimator.handlers.progress import ProgressHandler
from estimator.handlers.time_limit import TimeLimitHandler

BATCHES = [(torch.randn(4, 3), torch.tensor([0, 1, 1, 0])) for _ in range(6)]


def fit(*handlers: Any, epochs: int | None = 2, val: Any = None, **settings: Any) -> TrainStats:
    est = Estimator(torch.nn.Linear(3, 2), torch.nn.CrossEntropyLoss(), ["accuracy"])
    settings |= {"handlers": handlers, "progress": False}
    return est.fit(BATCHES, val, epochs, "sgd", "cpu", **settings)


def bare() -> TrainStats:
    return TrainStats(torch.nn.Linear(1, 1), torch.device("cpu"))


def cells(path: Path) -> dict[str, list[Any]]:
    """A CSV file as columns of values."""
    words = {"": None, "True": True, "False": False}
    with path.open(newline="", encoding="utf-8") as file:
        names, *rows = csv.reader(file, strict=True)
    assert all(len(row) == len(names) for row in rows)
    values = [[words[cell] if cell in words else float(cell) for cell in row] for row in rows]
    return {name: [row[i] for row in values] for i, name in enumerate(names)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "history.csv"


def test_the_table_is_the_history(path: Path) -> None:
    stats = fit(CSVLogHandler(str(path)), val=BATCHES, validate=every(4))
    assert stats["complete"] == [False, True, False, True]
    assert cells(path) == stats.history.to_dict()
    assert [file.name for file in path.parent.iterdir()] == ["history.csv"]


def test_each_row_is_on_disk_before_the_next_batch_ends(path: Path) -> None:
    seen: list[list[float]] = []

    @on("batch_end")
    def look(stats: TrainStats) -> None:
        assert cells(path)["step"] == [row["step"] for row in stats.history.rows]
        seen.append(cells(path)["step"])

    fit(CSVLogHandler(path), look, val=BATCHES, validate=every(4))
    assert seen == [[], [], [], [], [4], [4], *[[4, 6]] * 2, *[[4, 6, 8]] * 4]


def test_late_columns_replaced_rows_and_numbers_in_full(path: Path) -> None:
    handler, stats = CSVLogHandler(path), bare()
    stats.history = History(["epoch"])
    stats.history.append({"epoch": 1, "loss": 0.1 + 0.2})
    handler.train_begin(stats)
    assert path.read_text("utf-8") == "epoch,loss\n1,0.30000000000000004\n"
    stats.history.append({"epoch": 2, "loss": torch.nan})
    handler.batch_begin(stats)
    stats.history.rows.pop()
    stats.history.append({"epoch": 3, "val_loss": 0.5})
    handler.epoch_end(stats)
    assert path.read_text("utf-8") == "epoch,loss,val_loss\n1,0.30000000000000004,\n3,,0.5\n"
    stats.history.rows[-1] = {"epoch": 3, "loss": torch.inf, "val_loss": torch.nan}
    handler.train_end(stats)
    assert path.read_text("utf-8").splitlines()[-1] == "3,inf,nan"


def test_a_second_fit_begins_a_new_table_at_once(path: Path) -> None:
    handler = CSVLogHandler(path)
    fit(handler, epochs=3)
    assert cells(path)["epoch"] == [1, 2, 3]
    stats = fit(pickle.loads(pickle.dumps(handler)), epochs=1)
    assert cells(path) == stats.history.to_dict()
    handler.train_begin(bare())
    assert path.read_text("utf-8") == "epoch,step,time,lr,complete\n"


@pytest.mark.parametrize("error", [RuntimeError("lost"), KeyboardInterrupt()])
def test_a_run_that_fails_keeps_its_rows(path: Path, error: BaseException) -> None:
    kept: list[TrainStats] = []

    @on("batch_end", every=once(8))
    def fail(stats: TrainStats) -> None:
        kept.append(stats)
        raise error

    with pytest.raises(type(error)):
        fit(CSVLogHandler(path), fail)
    assert cells(path) == kept[0].history.to_dict()
    assert cells(path)["complete"][0] is True


def test_a_failed_write_leaves_the_last_table_and_is_not_repeated(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []

    def to_csv(history: History, part: Path) -> None:
        tries.append(len(history))
        part.write_text("epoch,st", "utf-8")
        raise OSError(errno.ENOSPC, "No space left on device")

    @on("epoch_end", every=once(epochs=2))
    def fill_the_disk(stats: TrainStats) -> None:
        monkeypatch.setattr(History, "to_csv", to_csv)

    with pytest.raises(FolderError, match=rf"received '{path}' \(No space left on device\)"):
        fit(CSVLogHandler(path), fill_the_disk)
    assert tries == [2]
    assert cells(path)["epoch"] == [1]
    assert [file.name for file in path.parent.iterdir()] == ["history.csv"]


@pytest.mark.parametrize("kind", [CSVLogHandler, LoggingHandler])
@pytest.mark.parametrize("name", ["file.txt/new", "folder"])
def test_a_file_that_cannot_be_written(tmp_path: Path, name: str, kind: Any) -> None:
    (tmp_path / "file.txt").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(FolderError, match=rf"{kind.__name__}\(\w+=...\) must be .*{tmp_path}"):
        fit(kind(tmp_path / name))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file.txt", "folder"]


def test_the_limit_ends_the_run_after_its_batch() -> None:
    @on("batch_end", every=once(3))
    def take_long(stats: TrainStats) -> None:
        stats.restart_clock(5400)

    stats = fit(take_long, TimeLimitHandler(timedelta(hours=1.5)))
    assert stats.stopped == "TimeLimitHandler: the limit of 5400 s has passed"
    assert (stats.step, stats.epoch, stats["complete"]) == (3, 0, [False])


@pytest.mark.parametrize(("epochs", "stopped"), [(2, True), (1, False)])
def test_a_long_validation_ends_the_run_before_the_next_batch(epochs: int, stopped: bool) -> None:
    @on("validation_end")
    def take_long(stats: TrainStats) -> None:
        stats.restart_clock(60)

    stats = fit(take_long, TimeLimitHandler(60), val=BATCHES, epochs=epochs)
    assert bool(stats.stopped) is stopped
    assert (stats.step, stats.epoch, stats["complete"]) == (6, 1, [True])


def test_a_run_that_reached_its_iterations_is_not_stopped() -> None:
    limit = TimeLimitHandler(1e-9)
    assert fit(limit, epochs=None, iterations=1).stopped is None
    assert fit(limit, epochs=None, iterations=2).stopped is not None


def test_the_clock_is_that_of_the_run_with_what_it_resumes() -> None:
    handler, stats = TimeLimitHandler(3600.0), bare()
    stats.restart_clock(1800)
    handler.batch_end(stats)
    assert stats.stopped is None
    stats.restart_clock(3600)
    stats.error = RuntimeError("on its way")
    handler.batch_end(stats)
    assert stats.stopped is None
    stats.error = None
    handler.batch_end(stats)
    assert stats.stopped is not None


@pytest.mark.parametrize(
    ("kind", "name", "value", "error"),
    [
        (LoggingHandler, "file", 3, ArgumentTypeError),
        (LoggingHandler, "file", "", ArgumentTypeError),
        (LoggingHandler, "every", 100, ArgumentTypeError),
        (CSVLogHandler, "path", None, ArgumentTypeError),
        (CSVLogHandler, "path", "", ArgumentTypeError),
        (ProgressHandler, "refresh", "fast", ArgumentTypeError),
        (ProgressHandler, "refresh", True, ArgumentTypeError),
        (ProgressHandler, "refresh", 0, ArgumentError),
        (ProgressHandler, "refresh", float("inf"), ArgumentError),
        (TimeLimitHandler, "seconds", "1 h", ArgumentTypeError),
        (TimeLimitHandler, "seconds", True, ArgumentTypeError),
        (TimeLimitHandler, "seconds", float("nan"), ArgumentError),
        (TimeLimitHandler, "seconds", -1.5, ArgumentError),
        (TimeLimitHandler, "seconds", timedelta(0), ArgumentError),
    ],
)
def test_wrong_arguments_are_shown(kind: Any, name: str, value: object, error: Any) -> None:
    message = rf"{kind.__name__}\({name}=...\) must be .*received {re.escape(repr(value))}\. \w+"
    with pytest.raises(error, match=message):
        kind(**{name: value})


@pytest.mark.parametrize(
    ("kind", "settings", "band"),
    [
        (LoggingHandler, {"file": "log.txt", "every": every(5), "console": False}, Band.REPORT),
        (ProgressHandler, {"refresh": 2}, Band.REPORT),
        (CSVLogHandler, {"path": "history.csv"}, Band.REPORT),
        (TimeLimitHandler, {"seconds": timedelta(hours=1)}, Band.DECIDE),
    ],
)
def test_handlers_have_a_band_and_can_be_copied(kind: Any, settings: Any, band: Band) -> None:
    handler = kind(**settings)
    handler.train_end(bare())
    shown = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    assert repr(pickle.loads(pickle.dumps(handler))) == f"{kind.__name__}({shown})"
    assert (handler.band, handler.state_dict()) == (band, {})
    assert kind(**settings, band=Band.OBSERVE).band is Band.OBSERVE

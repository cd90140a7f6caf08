"""`LoggingHandler`: what its lines say, where they go, and that logging is left as it was."""

from __future__ import annotations

import contextlib
import logging
import pickle
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tqdm import tqdm

from estimator import Estimator, Trainer, TrainStats
from estimator.handlers.base import ArgumentTypeError, Band, EventHandler, Every, FolderError, every
from estimator.handlers.logging import LoggingHandler

LOGGER = logging.getLogger("estimator")
BATCHES = [(torch.randn(4, 3), torch.tensor([0, 1, 1, 0])) for _ in range(6)]


def make() -> Estimator:
    return Estimator(torch.nn.Linear(3, 2), loss=torch.nn.CrossEntropyLoss(), metrics=["accuracy"])


def fit(*handlers: EventHandler, est: Estimator | None = None, **settings: Any) -> TrainStats:
    settings = {"epochs": 2, "trainers": Trainer("sgd", lr=0.1), "device": "cpu"} | settings
    data = settings.pop("train", BATCHES)
    return (est or make()).fit(data, handlers=list(handlers), progress=False, **settings)


def lines(file: Path) -> list[str]:
    """The lines of a log, each of them without its time, which has to be there."""
    found = file.read_text("utf-8").splitlines()
    stamp = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ")
    assert all(stamp.match(line) for line in found)
    return [stamp.sub("", line, count=1) for line in found]


@pytest.fixture(autouse=True)
def unchanged() -> Iterator[None]:
    """No test leaves a trace in the logger."""
    state = (LOGGER.handlers[:], LOGGER.level, LOGGER.propagate, logging.getLogger().level)
    yield
    assert state == ([], logging.NOTSET, True, logging.WARNING)
    assert state == (LOGGER.handlers, LOGGER.level, LOGGER.propagate, logging.getLogger().level)


@contextlib.contextmanager
def root_handlers(*handlers: logging.Handler) -> Iterator[None]:
    """A program with these handlers, without those of pytest."""
    root = logging.getLogger()
    before = root.handlers[:]
    root.handlers[:] = handlers
    try:
        yield
        assert root.handlers == list(handlers)
    finally:
        root.handlers[:] = before


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "new" / "läuft.txt"


def drive(handler: LoggingHandler, stats: TrainStats, batches: int, **changes: float) -> None:
    """Fires `batch_end` as the loop does, each batch adding the same amounts."""
    for _ in range(batches):
        stats.batch_index = 0 if stats.batch_index is None else stats.batch_index + 1
        for name, amount in changes.items():
            setattr(stats, name, getattr(stats, name) + amount)
        handler.batch_end(stats)


def begun(handler: LoggingHandler, **fields: Any) -> TrainStats:
    stats = TrainStats(torch.nn.Linear(3, 2), torch.device("cpu"))
    for name, value in fields.items():
        setattr(stats, name, value)
    stats.restart_clock(62.5)
    handler.train_begin(stats)
    return stats


def test_a_run_in_lines(file: Path) -> None:
    stats = fit(LoggingHandler(file, console=False), val=BATCHES)
    first, *epochs, last = lines(file)
    assert first == "Training Linear, 8 parameters, on cpu for 2 epochs | trainer SGD lr 0.1"
    for number, line in enumerate(epochs, start=1):
        head, seconds, *values = line.split(" | ")
        assert head == f"Epoch {number}/2"
        assert re.fullmatch(r"\d+\.\d s", seconds)
        names = ["lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy"]
        assert values == [f"{name} {stats[name][number - 1]:.4g}" for name in names]
    assert len(epochs) == 2
    assert last == "Training completed | 2 epochs, 12 iterations | 0:00:00"


def test_first_line_shows_small_rates_groups_and_several_trainers(file: Path) -> None:
    net = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 2), "b": torch.nn.Linear(3, 2)})
    groups = [
        {"params": [weight], "lr": lr}
        for weight, lr in zip(net["a"].parameters(), [1e-5, 0.25], strict=True)
    ]
    handler = LoggingHandler(file, console=False)
    stats = begun(
        handler,
        net=net,
        iterations=1,
        epoch=3,
        step=1200,
        samples=9600,
        trainers={
            "a": Trainer("adam", params=groups).bind("a", net),
            "b": Trainer("sgd", lr=0.125, params="b").bind("b", net),
        },
    )
    handler.train_end(stats)
    assert lines(file)[:1] == [
        "Training ModuleDict, 16 parameters, on cpu for 1 iteration | a Adam lr 1e-05, 0.25 | "
        "b SGD lr 0.125 (from epoch 3, iteration 1200)"
    ]


def test_iteration_lines_show_speed_and_times_since_the_last(file: Path) -> None:
    handler = LoggingHandler(file, every=every(2), console=False)
    stats = begun(handler, epochs=5, batches=40, loss=torch.tensor(0.25))
    drive(handler, stats, 2, step=1, samples=8, fetch_seconds=0.001, update_seconds=0.003)
    drive(handler, stats, 3, step=1, samples=8, fetch_seconds=0.03, update_seconds=0.01)
    handler.train_end(stats)
    assert lines(file)[1:] == [
        "Iteration 2/200 | 2000.0 examples/s | loss 0.25 | elapsed 0:01:02 | left 1:43:07 | "
        "fetch 25 % 1.0 ms | update 75 % 3.0 ms",
        "Iteration 4/200 | 200.0 examples/s | loss 0.25 | elapsed 0:01:02 | left 0:51:02 | "
        "fetch 75 % 30.0 ms | update 25 % 10.0 ms",
        "Training completed | 0 epochs, 5 iterations | 0:01:02",
    ]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"iterations": 10}, r"Iteration 1/10 \| .* \| left 0:09:22 \| .*"),
        ({"iterations": sys.maxsize}, r"Iteration 1/9\d+ \| .* \| left \d+:\d\d:\d\d \| .*"),
        ({"epochs": 2}, r"Iteration 1 \| .* \| left \? \| .*"),
        ({"epochs": 2, "batches": 3, "step": 4}, r"Iteration 5 \| batch 1/6 \| .* left 0:05:12 .*"),
        ({"epochs": 1, "batches": 1, "epoch": 1}, r".* \| batch 2/1 \| .* left 0:00:00 .*"),
    ],
)
def test_what_is_left(file: Path, fields: dict[str, Any], expected: str) -> None:
    handler = LoggingHandler(file, every=every(1), console=False)
    stats = begun(handler, **fields)
    drive(handler, stats, 1, step=1)
    handler.train_end(stats)
    assert re.fullmatch(expected, lines(file)[1])


def test_nothing_is_divided_by_zero_and_nan_is_shown(file: Path) -> None:
    handler = LoggingHandler(file, every=Every(calls=1), console=False)
    stats = begun(handler, iterations=10)
    drive(handler, stats, 1)
    stats.loss = torch.tensor(float("nan"))
    stats.stepped = False
    drive(handler, stats, 1, fetch_seconds=0.5)
    stats.val = {"loss": float("inf")}
    stats.phase = "validation"
    handler.epoch_begin(stats)
    handler.validation_end(stats)
    row = {"epoch": 0, "lr": 1e-5, "complete": True, "train_loss": float("nan"), "val_loss": None}
    stats.history.append(row)
    handler.epoch_end(stats)
    handler.train_end(stats)
    assert lines(file)[1:-1] == [
        "Iteration 0/10 | ? examples/s | loss ? | elapsed 0:01:02 | left ? | fetch ? % 0.0 ms | "
        "update ? % 0.0 ms",
        "Iteration 0/10 | 0.0 examples/s | loss nan | elapsed 0:01:02 | left ? | "
        "fetch 100 % 500.0 ms | update 0 % 0.0 ms",
        "Validation at iteration 0 | val_loss inf",
        "Epoch 0 | 0.0 s | lr 1e-05 | train_loss nan",
    ]


def test_the_loss_is_read_once_a_line(file: Path) -> None:
    reads: list[int] = []

    class Loss:
        def __float__(self) -> float:
            reads.append(stats.step)
            return 1.0

    handler = LoggingHandler(file, every=every(3), console=False)
    stats = begun(handler, epochs=1, batches=10, loss=Loss())
    drive(handler, stats, 10, step=1)
    handler.train_end(stats)
    assert reads == [3, 6, 9]


def test_schedules_of_a_run(file: Path) -> None:
    quick = LoggingHandler(file, every=every(seconds=1e-9), console=False)
    fit(quick, accumulate=2)
    heads = [re.split(r" \| [\d.]+ examples", line)[0] for line in lines(file)[1:4]]
    assert heads == [
        "Iteration 0 | batch 1/12",
        "Iteration 1 | batch 2/12",
        "Iteration 1 | batch 3/12",
    ]
    file.unlink()
    fit(LoggingHandler(file, every=every(epochs=2), console=False), epochs=5)
    assert [line[:9] for line in lines(file)] == [
        "Training ",
        "Epoch 2/5",
        "Epoch 4/5",
        "Training ",
    ]


def test_validation_inside_an_epoch_has_a_line_and_evaluate_has_none(file: Path) -> None:
    est, handler = make(), LoggingHandler(file, console=False)
    stats = fit(handler, est=est, val=BATCHES, validate=every(4), epochs=1)
    values = f"val_loss {stats['val_loss'][0]:.4g} | val_accuracy {stats['val_accuracy'][0]:.4g}"
    found = lines(file)
    assert found[1] == f"Validation at iteration 4 | {values}"
    assert [line.split()[0] for line in found] == ["Training", "Validation", "Epoch", "Training"]
    est.evaluate(BATCHES, handlers=[handler])
    assert lines(file) == found


class Act(EventHandler):
    """Stops the run, or ends it with an exception, in its third batch."""

    def __init__(self, error: BaseException | None = None) -> None:
        super().__init__()
        self.exception = error

    def batch_end(self, stats: TrainStats) -> None:
        if stats.step == 3 and stats.error is None:
            if self.exception is not None:
                raise self.exception
            stats.stop("Act: enough")


def test_a_stop_and_its_incomplete_epoch(file: Path) -> None:
    fit(LoggingHandler(file, console=False, every=every(epochs=1)), Act())
    assert re.match(
        r"Epoch 1/2 \(incomplete\) \| \d\.\d s \| lr 0\.1 \| train_loss ", lines(file)[1]
    )
    assert lines(file)[2:] == ["Training stopped: Act: enough | 0 epochs, 3 iterations | 0:00:00"]


@pytest.mark.parametrize(
    ("error", "text"), [(ValueError("a\nb"), "ValueError: a"), (KeyError(), "KeyError")]
)
@pytest.mark.parametrize("schedule", [None, every(1)])
def test_a_failure(
    file: Path,
    error: Exception,
    text: str,
    schedule: Every | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(type(error)):
        fit(LoggingHandler(file, every=schedule), Act(error))
    assert lines(file)[-1] == f"Training failed: {text} | 0 epochs, 3 iterations | 0:00:00"
    kinds = [line.split()[0] for line in lines(file)]
    assert kinds == ["Training", *(["Iteration"] * 2 if schedule else []), "Training"]
    assert [record.levelname for record in caplog.records[-2:]] == ["INFO", "WARNING"]


def test_a_bare_program_sees_the_lines_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with root_handlers():
        fit(LoggingHandler(), LoggingHandler(every=every(3)), LoggingHandler())
    out, err = capsys.readouterr()
    assert out == ""
    kinds = [line.split()[0] for line in err.splitlines()]
    epoch = ["Iteration", "Iteration", "Epoch"]
    assert kinds == ["Training", *epoch, *epoch, "Training"]


def test_a_program_with_logging_gets_the_lines_in_its_own_handlers(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = logging.FileHandler(file.parent.parent / "own.txt", encoding="utf-8")
    with contextlib.closing(own), root_handlers(own):
        fit(LoggingHandler(), epochs=1)
        fit(LoggingHandler(file, console=False), epochs=1)
        fit(LoggingHandler(console=False), epochs=1)
    assert capsys.readouterr().err == ""
    assert len(Path(own.baseFilename).read_text("utf-8").splitlines()) == 3
    assert len(lines(file)) == 3


def test_a_level_of_the_logger_is_respected(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    LOGGER.setLevel(logging.WARNING)
    try:
        with root_handlers():
            fit(LoggingHandler(file))
        assert LOGGER.level == logging.WARNING
    finally:
        LOGGER.setLevel(logging.NOTSET)
    assert capsys.readouterr().err == ""
    assert len(lines(file)) == 4


def test_a_logger_cut_off_from_the_root_needs_a_console(capsys: pytest.CaptureFixture[str]) -> None:
    LOGGER.propagate = False
    try:
        with root_handlers(logging.NullHandler()):
            fit(LoggingHandler())
    finally:
        LOGGER.propagate = True
    assert len(capsys.readouterr().err.splitlines()) == 4


def test_lines_without_console_and_file_reach_handlers_of_the_program(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "estimator"):
        fit(LoggingHandler(console=False))
    assert [text[:9] for text in caplog.messages] == [
        *("Training ", "Epoch 1/2", "Epoch 2/2", "Training ")
    ]


class Talk(EventHandler):
    """Says something of its own."""

    def train_begin(self, stats: TrainStats) -> None:
        LOGGER.warning("100 %% %s", "sure")


def test_each_file_has_its_own_lines_and_what_others_say(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second = file.with_name("second.txt")
    with root_handlers():
        fit(
            LoggingHandler(file, console=False),
            LoggingHandler(second, every=every(4), band=Band.PREPARE),
            Talk(),
        )
    kinds = [[line.split()[0] for line in lines(one)] for one in (second, file)]
    assert kinds == [
        ["Training", "100", "Iteration", "Epoch", "Iteration", "Iteration", "Epoch", "Training"],
        ["Training", "Epoch", "Epoch", "Training"],
    ]
    assert lines(second)[1] == "100 % sure"
    assert [line.split()[0] for line in capsys.readouterr().err.splitlines()] == kinds[0]


def test_a_file_is_appended_to_and_closed(file: Path) -> None:
    handler = LoggingHandler(file, console=False)
    est = make()
    fit(handler, est=est, epochs=1)
    restored = pickle.loads(pickle.dumps(handler))
    assert repr(restored) == repr(handler) == f"LoggingHandler(file={file!r}, console=False)"
    fit(restored, est=est, epochs=1)
    assert [line[:9] for line in lines(file)] == ["Training ", "Epoch 1/1", "Training "] * 2
    LOGGER.warning("after the run")
    assert len(lines(file)) == 6


@pytest.mark.parametrize("name", ["file.txt/log.txt", "folder"])
def test_a_file_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    (tmp_path / "file.txt").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(FolderError, match=rf"LoggingHandler\(file=...\) must be .*{tmp_path}"):
        fit(LoggingHandler(str(tmp_path / name)))


def test_the_end_of_a_run_that_never_began_is_harmless() -> None:
    LoggingHandler().train_end(TrainStats(torch.nn.Linear(1, 1), torch.device("cpu")))


def test_lines_stand_above_an_open_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with tqdm(total=3, desc="bar", file=sys.stderr, ncols=40), root_handlers():
        fit(LoggingHandler(), epochs=1)
    for line in capsys.readouterr().err.split("\n")[:-1]:
        assert re.fullmatch(r"(.*\r)?(Training .*|Epoch 1/1 .*|bar: +0%.*)", line)


@pytest.mark.parametrize("bad", [{"file": 3}, {"file": ""}, {"every": 100}])
def test_arguments_are_checked(bad: dict[str, Any]) -> None:
    ((name, value),) = bad.items()
    with pytest.raises(ArgumentTypeError, match=rf"LoggingHandler\({name}=...\) .*{value!r}"):
        LoggingHandler(**bad)

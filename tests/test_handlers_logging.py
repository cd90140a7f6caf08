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

from estimator import Estimator, Trainer, TrainStats
from estimator.handlers.base import Every, every, on, once
from estimator.handlers.logging import LoggingHandler

LOGGER = logging.getLogger("estimator")
BATCHES = [(torch.randn(4, 3), torch.tensor([0, 1, 1, 0])) for _ in range(6)]


def make() -> Estimator:
    return Estimator(torch.nn.Linear(3, 2), torch.nn.CrossEntropyLoss(), ["accuracy"])


def fit(*handlers: Any, epochs: int = 2, val: Any = None, **settings: Any) -> TrainStats:
    settings |= {"handlers": handlers, "progress": False}
    return make().fit(BATCHES, val, epochs, Trainer("sgd", lr=0.1), "cpu", **settings)


def lines(file: Path) -> list[str]:
    """The lines of a log, each of them without its time, which has to be there."""
    found = file.read_text("utf-8").splitlines()
    stamp = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ")
    assert all(stamp.match(line) for line in found)
    return [stamp.sub("", line, count=1) for line in found]


@pytest.fixture(autouse=True)
def unchanged(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test leaves a trace in the logger; the clock of each run stands still."""
    monkeypatch.setattr(TrainStats, "elapsed", 62.5)
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
    handler.train_begin(stats)
    return stats


def test_a_run_in_lines(file: Path) -> None:
    stats = fit(LoggingHandler(file, console=False), val=BATCHES)
    first, *epochs, last = lines(file)
    assert first == "Training Linear, 8 parameters, on cpu for 2 epochs | trainer SGD lr 0.1"
    for number, line in enumerate(epochs, start=1):
        head, seconds, *values = line.split(" | ")
        assert head == f"Epoch {number}/2"
        assert seconds == "0.0 s"
        names = ["lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy"]
        assert values == [f"{name} {stats[name][number - 1]:.4g}" for name in names]
    assert len(epochs) == 2
    assert last == "Training completed | 2 epochs, 12 iterations | 0:01:02"


def test_first_line_shows_small_rates_groups_and_several_trainers(file: Path) -> None:
    net = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 2), "b": torch.nn.Linear(3, 2)})
    weight, bias = net["a"].parameters()
    groups = [{"params": [weight], "lr": 1e-5}, {"params": [bias], "lr": 0.25}]
    trainers = {
        "a": Trainer("adam", params=groups).bind("a", net),
        "b": Trainer("sgd", lr=0.125, params="b").bind("b", net),
    }
    handler, counts = LoggingHandler(file, console=False), {"epoch": 3, "step": 1200, "samples": 9}
    stats = begun(handler, net=net, trainers=trainers, iterations=1, **counts)
    handler.train_end(stats)
    assert lines(file)[:1] == [
        "Training ModuleDict, 16 parameters, on cpu for 1 iteration | a Adam lr 1e-05, 0.25 | "
        "b SGD lr 0.125 (resumes after 3 epochs, 1,200 iterations)"
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


def test_nothing_is_divided_by_zero_and_nan_is_shown(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = LoggingHandler(file, every=Every(calls=1), console=False)
    stats = begun(handler, iterations=10)
    drive(handler, stats, 1)
    stats.loss = torch.tensor(torch.nan)
    drive(handler, stats, 1, fetch_seconds=0.5)
    stats.val = {"loss": float("inf")}
    stats.phase = "validation"
    handler.epoch_begin(stats)
    handler.validation_end(stats)
    row = {"epoch": 0, "lr": 1e-5, "complete": True, "train_loss": torch.nan, "val_loss": None}
    stats.history.append(row)
    monkeypatch.setattr(TrainStats, "elapsed", 75.04)
    handler.epoch_end(stats)
    handler.train_end(stats)
    assert lines(file)[1:-1] == [
        "Iteration 0/10 | ? examples/s | loss ? | elapsed 0:01:02 | left ? | fetch ? % 0.0 ms | "
        "update ? % 0.0 ms",
        "Iteration 0/10 | 0.0 examples/s | loss nan | elapsed 0:01:02 | left ? | "
        "fetch 100 % 500.0 ms | update 0 % 0.0 ms",
        "Validation at iteration 0 | val_loss inf",
        "Epoch 0 | 12.5 s | lr 1e-05 | train_loss nan",
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
    quick = LoggingHandler(file, every=Every(calls=1), console=False)
    fit(quick, accumulate=2)
    heads = [re.split(r" \| [\d.]+ examples", line)[0] for line in lines(file)[1:4]]
    steps = zip((0, 1, 1), (1, 2, 3), strict=True)
    assert heads == [f"Iteration {step} | batch {batch}/12" for step, batch in steps]
    file.unlink()
    fit(LoggingHandler(file, every=every(epochs=2), console=False), epochs=5)
    heads = ["Training ", "Epoch 2/5", "Epoch 4/5", "Training "]
    assert [line[:9] for line in lines(file)] == heads


def test_validation_inside_an_epoch_has_a_line_and_evaluate_has_none(file: Path) -> None:
    handler = LoggingHandler(file, console=False)
    stats = fit(handler, val=BATCHES, validate=every(4), epochs=1)
    values = f"val_loss {stats['val_loss'][0]:.4g} | val_accuracy {stats['val_accuracy'][0]:.4g}"
    found = lines(file)
    assert found[1] == f"Validation at iteration 4 | {values}"
    assert [line.split()[0] for line in found] == ["Training", "Validation", "Epoch", "Training"]
    make().evaluate(BATCHES, handlers=[handler])
    assert lines(file) == found


def test_a_stop_and_its_incomplete_epoch(file: Path) -> None:
    @on("batch_end", every=once(3))
    def stop(stats: TrainStats) -> None:
        stats.stop("stop: enough")

    fit(LoggingHandler(file, console=False, every=every(epochs=1)), stop)
    _, epoch, last = lines(file)
    assert epoch.startswith("Epoch 1/2 (incomplete) | 0.0 s | lr 0.1 | train_loss ")
    assert last == "Training stopped: stop: enough | 0 epochs and 3 batches, 3 iterations | 0:01:02"


@pytest.mark.parametrize(
    ("error", "text"), [(ValueError("a\nb"), "ValueError: a"), (KeyError(), "KeyError")]
)
@pytest.mark.parametrize("schedule", [None, every(1)])
def test_a_failure(
    file: Path, error: Exception, text: str, schedule: Every | None, caplog: Any
) -> None:
    @on("batch_end", every=once(3))
    def fail(stats: TrainStats) -> None:
        raise error

    with pytest.raises(type(error)):
        fit(LoggingHandler(file, every=schedule), fail)
    done = "0 epochs and 3 batches, 3 iterations"
    assert lines(file)[-1] == f"Training failed: {text} | {done} | 0:01:02"
    inside = ["Iteration", "Iteration"] if schedule else []
    assert [line.split()[0] for line in lines(file)] == ["Training", *inside, "Training"]
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
    file: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    own = logging.FileHandler(file.parent.parent / "own.txt", encoding="utf-8")
    with contextlib.closing(own), root_handlers(own):
        fit(LoggingHandler(), epochs=1)
        fit(LoggingHandler(file, console=False), epochs=1)
        fit(LoggingHandler(console=False), epochs=1)
        with caplog.at_level(logging.INFO, "estimator"):
            fit(LoggingHandler(console=False))
    assert capsys.readouterr().err == ""
    heads = [line[:9] for line in Path(own.baseFilename).read_text("utf-8").splitlines()]
    assert heads == [
        *("Training ", "Epoch 1/1", "Training "),
        *("Training ", "Epoch 1/2", "Epoch 2/2", "Training "),
    ]
    assert len(lines(file)) == 3


def test_settings_of_the_logger_are_respected(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    LOGGER.setLevel(logging.WARNING)
    LOGGER.propagate = False
    try:
        with root_handlers(logging.NullHandler()):
            fit(LoggingHandler(file), talk)
        assert LOGGER.level == logging.WARNING
    finally:
        LOGGER.setLevel(logging.NOTSET)
        LOGGER.propagate = True
    assert capsys.readouterr().err == "100 % sure\n"
    assert len(lines(file)) == 5


@on("train_end")
def talk(stats: TrainStats) -> None:
    LOGGER.warning("100 %% %s", "sure")


def test_each_file_has_its_own_lines_and_what_others_say(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loud = LoggingHandler(file.with_name("loud.txt"), every=every(4))
    with root_handlers():
        fit(LoggingHandler(file, console=False), loud, talk)
    quiet = [line.split()[0] for line in lines(file)]
    assert quiet == ["Training", "Epoch", "Epoch", "100", "Training"]
    kinds = [line.split()[0] for line in lines(file.with_name("loud.txt"))]
    assert kinds == ["Training", "Iteration", "Epoch", "Iteration", "Iteration"] + quiet[2:]
    assert lines(file)[3] == "100 % sure"
    assert [line.split()[0] for line in capsys.readouterr().err.splitlines()] == kinds


def test_a_file_is_appended_to_and_closed(file: Path) -> None:
    handler = LoggingHandler(file, console=False)
    fit(handler, epochs=1)
    fit(pickle.loads(pickle.dumps(handler)), epochs=1)
    assert [line[:9] for line in lines(file)] == ["Training ", "Epoch 1/1", "Training "] * 2
    LOGGER.warning("after the run")
    assert len(lines(file)) == 6

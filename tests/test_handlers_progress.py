"""`ProgressHandler`: what its bars show, how rarely they are drawn, and that they are put away."""

from __future__ import annotations

import io
import itertools
import logging
import pickle
import re
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tqdm import tqdm

from estimator import Estimator, TrainStats
from estimator.handlers import progress
from estimator.handlers.base import EventHandler, Every, every, on, once
from estimator.handlers.logging import LoggingHandler
from estimator.handlers.progress import ProgressHandler

BATCHES = [(torch.randn(4, 3), torch.tensor([0, 1, 1, 0])) for _ in range(6)]


class Terminal(io.StringIO):
    """A stderr that says it is a terminal, and remembers each drawing."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def drawn(self) -> list[str]:
        """What was drawn, without the blanks that clear a line."""
        return [text.strip() for text in re.split(r"[\r\n]", self.getvalue()) if text.strip()]


class Clock:
    """Seconds that pass only where a test lets them, and how often they were read."""

    def __init__(self) -> None:
        self.now = 0.0
        self.reads = 0

    def __call__(self) -> float:
        self.reads += 1
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "perf_counter", clock)
    return clock


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """The terminal of a test, after which no bar and no thread of tqdm is left."""
    terminal = Terminal()
    system = SimpleNamespace(stderr=terminal, modules=sys.modules)
    monkeypatch.setattr(progress, "sys", system)
    monkeypatch.setattr("estimator.handlers.logging.sys", system)
    monkeypatch.setenv("COLUMNS", "100")
    # Another library may have drawn a bar in this process, and left a monitor.
    before = tqdm.monitor, tqdm.monitor_interval, monitors()
    yield terminal
    assert open_bars() == 0
    assert (tqdm.monitor, tqdm.monitor_interval, monitors()) == before


def monitors() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "TMonitor" in type(thread).__name__]


def open_bars() -> int:
    return len(getattr(tqdm, "_instances", ()))


def make() -> Estimator:
    return Estimator(torch.nn.Linear(3, 2), torch.nn.CrossEntropyLoss(), ["accuracy"])


def fit(*handlers: Any, train: Any = BATCHES, epochs: int | None = 1, **more: Any) -> TrainStats:
    more |= {"handlers": handlers, "progress": False}
    return make().fit(train, epochs=epochs, trainers="sgd", device="cpu", **more)


def passing(clock: Clock, seconds: float) -> Any:
    """A handler that lets time pass in each batch."""

    class Pass(EventHandler):
        def batch_begin(self, stats: TrainStats) -> None:
            clock.now += seconds

        def validation_batch_end(self, stats: TrainStats) -> None:
            clock.now += seconds

    return Pass()


def begun(handler: ProgressHandler, **fields: Any) -> TrainStats:
    stats = TrainStats(torch.nn.Linear(1, 1), torch.device("cpu"))
    for name, value in fields.items():
        setattr(stats, name, value)
    handler.epoch_begin(stats)
    return stats


def drive(handler: ProgressHandler, stats: TrainStats, clock: Clock, seconds: list[float]) -> None:
    for passed in seconds:
        stats.batch_index = 0 if stats.batch_index is None else stats.batch_index + 1
        clock.now += passed
        handler.batch_end(stats)


def test_a_bar_for_each_epoch_ends_with_its_results(terminal: Terminal) -> None:
    stats = fit(ProgressHandler(), val=BATCHES, epochs=2)
    *ended, rest = terminal.getvalue().split("\n")
    assert (len(ended), rest) == (2, "")
    for row, line in zip(stats.history.rows, ended, strict=True):
        names = ["train_loss", "train_accuracy", "val_loss", "val_accuracy"]
        results = ", ".join(f"{name.removeprefix('train_')}={row[name]:.4g}" for name in names)
        head, _, tail = line.rpartition("\r")[2].partition("| 6/6 [")
        assert re.fullmatch(rf"Epoch {row['epoch']}/2: 100%\|█+", head)
        assert tail.rstrip().endswith(f" batch/s, {results}]")


@pytest.mark.parametrize(("seconds", "drawings"), [(0.0, 2), (0.02, 6), (0.05, 12), (0.2, 22)])
def test_a_bar_is_drawn_by_time(
    terminal: Terminal, clock: Clock, seconds: float, drawings: int
) -> None:
    handler = ProgressHandler(refresh=0.0999)
    stats = begun(handler, batches=20)
    drive(handler, stats, clock, [seconds] * 20)
    handler.train_end(stats)
    assert len(terminal.drawn()) == drawings
    assert terminal.getvalue().endswith("\n")


def test_quick_batches_do_not_read_the_clock(terminal: Terminal, clock: Clock) -> None:
    handler = ProgressHandler()
    stats = begun(handler, batches=16_000)
    drive(handler, stats, clock, [1e-4] * 16_000)
    handler.train_end(stats)
    assert 1_000 <= clock.reads <= 1_100
    assert 14 <= len(terminal.drawn()) <= 18


def test_a_slow_stretch_after_a_fast_one_is_seen_soon(terminal: Terminal, clock: Clock) -> None:
    handler = ProgressHandler()
    stats = begun(handler, batches=2_000)
    drive(handler, stats, clock, [1e-5] * 1_000)
    assert len(terminal.drawn()) == 1
    drive(handler, stats, clock, [1.0] * 32)
    assert len(terminal.drawn()) >= 3
    handler.train_end(stats)


def test_the_loss_is_read_only_when_drawn(terminal: Terminal, clock: Clock) -> None:
    class Loss:
        reads = 0

        def __float__(self) -> float:
            self.reads += 1
            return float("nan")

    handler, loss = ProgressHandler(refresh=0.3), Loss()
    stats = begun(handler, batches=10, loss=loss)
    drive(handler, stats, clock, [0.11] * 10)
    assert loss.reads == 3
    assert [text.rpartition(", ")[2] for text in terminal.drawn()[1:]] == ["loss=nan]"] * 3
    handler.train_end(stats)


def test_a_validation_has_its_bar_in_the_place_of_the_epochs(
    terminal: Terminal, clock: Clock
) -> None:
    handlers = [passing(clock, 1.0), ProgressHandler()]
    fit(*handlers, val=BATCHES[:3], validate=every(4))
    kinds = [text.partition(":")[0] for text in terminal.drawn()]
    epoch, validation = ["Epoch 1/1"], ["Validation"] * 3
    assert kinds == epoch * 5 + validation + epoch * 2 + validation + epoch
    assert " 3/3 [" in terminal.drawn()[7]
    assert terminal.getvalue().count("\n") == 1 and "\x1b" not in terminal.getvalue()
    # The validation's line is wiped out before anything else is written.
    assert re.search(r" 3/3 \[[^\r]*\r {90,}\r\rEpoch", terminal.getvalue())


def test_a_short_validation_draws_nothing(terminal: Terminal) -> None:
    fit(ProgressHandler(), val=BATCHES)
    assert "Validation" not in terminal.getvalue()


def test_evaluate_and_predict_have_bars(terminal: Terminal, clock: Clock) -> None:
    handlers = [passing(clock, 1.0), ProgressHandler()]
    make().evaluate(BATCHES, handlers=handlers)
    assert [text.partition("|")[0] for text in terminal.drawn()] == [
        f"Evaluate: {percent:3}%" for percent in (17, 33, 50, 67, 83, 100)
    ]
    assert "loss=" in terminal.drawn()[-1]
    assert terminal.getvalue().endswith(" \r") and "\n" not in terminal.getvalue()
    make().predict(BATCHES, handlers=handlers)
    assert terminal.drawn()[-1].startswith("Predict: 100%|")


def test_a_stream_is_measured_by_the_runs_iterations(terminal: Terminal, clock: Clock) -> None:
    handlers = [passing(clock, 1.0), ProgressHandler()]
    fit(*handlers, train=itertools.cycle(BATCHES), epochs=None, iterations=4, accumulate=2)
    assert [re.findall(r"\d/4", text) for text in terminal.drawn()] == [
        [f"{steps}/4"] for steps in (0, 1, 2, 3, 4, 4)
    ]
    assert "step/s" in terminal.drawn()[-1]


def test_an_unknown_length(terminal: Terminal, clock: Clock) -> None:
    class Stream(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter(BATCHES)

    data = torch.utils.data.DataLoader(Stream(), batch_size=None)
    fit(passing(clock, 1.0), ProgressHandler(), train=data, val=data)
    assert "Validation: 6 batch [" in terminal.getvalue()
    assert terminal.drawn()[-1].startswith("Epoch 1/1: 6 batch [")


def test_a_run_resumed_inside_an_epoch(terminal: Terminal, clock: Clock) -> None:
    handler = ProgressHandler(refresh=0.0999)
    stats = begun(handler, batches=100, epoch=2, batch_index=89, batches_done=90)
    drive(handler, stats, clock, [0.05] * 10)
    handler.train_end(stats)
    assert terminal.drawn()[-1].startswith("Epoch 3: 100%|")
    shown = [int(n) for text in terminal.drawn() for n in re.findall(r"(\d+)/100", text)]
    assert shown == [90, 92, 94, 96, 98, 100, 100]


@pytest.mark.parametrize("error", [RuntimeError("lost"), KeyboardInterrupt()])
@pytest.mark.parametrize("event", ["batch_end", "validation_batch_end"])
def test_bars_are_closed_before_an_exception_is_seen(
    terminal: Terminal, clock: Clock, error: BaseException, event: str
) -> None:
    @on(event, every=Every(calls=3))
    def fail(stats: TrainStats) -> None:
        assert terminal.getvalue()[-1] not in "\r\n"
        raise error

    handler = ProgressHandler()
    with pytest.raises(type(error)):
        fit(passing(clock, 1.0), handler, fail, val=BATCHES)
    assert terminal.getvalue().endswith("\n")
    assert open_bars() == 0
    stats = fit(pickle.loads(pickle.dumps(handler)))
    assert f"loss={stats['train_loss'][0]:.4g}" in terminal.drawn()[-1]


def test_a_stopped_epoch_ends_its_line(terminal: Terminal) -> None:
    @on("batch_end", every=once(3))
    def stop(stats: TrainStats) -> None:
        stats.stop("enough")

    fit(ProgressHandler(), stop)
    assert terminal.getvalue().endswith("\n")
    assert re.match(r"Epoch 1/1:  50%\|.*\| 3/6 \[.*loss=", terminal.drawn()[-1])


def test_nothing_happens_where_nobody_sees_a_bar(
    terminal: Terminal, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ProgressHandler().visible
    for stream in (io.StringIO(), None):
        monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=stream, modules={}))
        assert not ProgressHandler().visible
        fit(passing(clock, 1.0), ProgressHandler(), val=BATCHES)
        make().predict(BATCHES, handlers=[ProgressHandler()])
        assert stream is None or stream.getvalue() == ""
    assert terminal.getvalue() == ""
    assert clock.reads == 0


def test_a_bar_beside_those_of_the_program(terminal: Terminal, clock: Clock) -> None:
    class Quiet(tqdm):  # type: ignore[type-arg]  # it takes none when it runs
        monitor_interval = 0

    with Quiet(total=3, desc="folds", file=terminal, ncols=60):
        fit(passing(clock, 1.0), ProgressHandler(), val=BATCHES)
    assert terminal.drawn()[-1].startswith("folds:   0%|")


def test_lines_of_the_log_stand_above_the_bar(
    terminal: Terminal, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers = [passing(clock, 1.0), ProgressHandler(), LoggingHandler(every=every(3))]
    with monkeypatch.context() as patch:
        patch.setattr(logging.getLogger(), "handlers", [])
        fit(*handlers)
    ended = [line.rpartition("\r")[2] for line in terminal.getvalue().split("\n")]
    heads = ["Training", "Iteration 3", "Iteration 6", "Epoch 1/1:", "Epoch 1/1 |", "Training", ""]
    assert [line[: len(head)] for line, head in zip(ended, heads, strict=True)] == heads


@pytest.mark.parametrize("widgets", [True, False])
def test_the_bar_of_a_notebook(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, widgets: bool
) -> None:
    made: list[dict[str, Any]] = []

    class Widget(tqdm):  # type: ignore[type-arg]  # as above
        def __init__(self, **settings: Any) -> None:
            made.append(settings)
            super().__init__(**{"file": terminal} | settings)

    shell = SimpleNamespace(kernel=object())
    modules = {"IPython": SimpleNamespace(get_ipython=lambda: shell)}
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=terminal, modules=modules))
    monkeypatch.setattr(progress, "find_spec", lambda name: name if widgets else None)
    monkeypatch.setattr("tqdm.notebook.tqdm", Widget)
    monkeypatch.setattr(terminal, "isatty", lambda: False)
    assert ProgressHandler().visible
    stats = fit(ProgressHandler())
    assert len(made) == widgets
    assert all(settings["dynamic_ncols"] for settings in made)
    assert f"loss={stats['train_loss'][0]:.4g}" in terminal.drawn()[-1]
    shell.kernel = None
    assert not ProgressHandler().visible

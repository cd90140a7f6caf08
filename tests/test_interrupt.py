"""Signals: the first ends a run in order and with a checkpoint, the second ends it at once."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from estimator import Estimator, TrainStats
from estimator.handlers import CheckpointHandler, EventHandler, _checkpoint_disk
from estimator.handlers.base import Every
from estimator.handlers.checkpoint import load_checkpoint
from estimator.interrupt import interruptible

X = torch.randn(12, 2)
Y = X[:, :1].clone()
NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]
REASONS = dict(zip(NUMBERS, ["Ctrl-C", "SIGTERM", "SIGUSR1"], strict=True))


class Send(EventHandler):
    """Sends signals at one event, from the given step on, once."""

    def __init__(self, event: str, *numbers: int, step: int = 0) -> None:
        super().__init__()
        self.numbers, self.step = list(numbers), step
        self.events: list[str] = []
        setattr(self, event, self._send)

    def _send(self, stats: TrainStats) -> None:
        while stats.step >= self.step and self.numbers:
            signal.raise_signal(self.numbers.pop(0))

    def error(self, stats: TrainStats) -> None:
        self.events.append(f"error {type(stats.error).__name__}")

    def train_end(self, stats: TrainStats) -> None:
        self.events.append("train_end")


def fit(*handlers: EventHandler, **arguments: Any) -> TrainStats:
    est = Estimator(nn.Linear(2, 1), nn.MSELoss())
    val = arguments.pop("val", (X, Y))
    arguments = {"epochs": 3, **arguments}
    return est.fit(
        (X, Y), val, trainers="sgd", device="cpu", batch_size=4, handlers=list(handlers),
        progress=False, **arguments,
    )  # fmt: skip


def dispositions() -> list[Any]:
    return [signal.getsignal(number) for number in NUMBERS]


@pytest.mark.parametrize("number", NUMBERS)
def test_the_first_signal_raises_a_flag(number: signal.Signals) -> None:
    before = dispositions()
    with interruptible() as came:
        assert came.signal is None
        assert all(new is not old for new, old in zip(dispositions(), before, strict=True))
        signal.raise_signal(number)
    assert came.signal == number.name and came.reason == f"interrupted by {REASONS[number]}"
    assert dispositions() == before


@pytest.mark.parametrize("first", NUMBERS)
def test_a_second_ctrl_c_is_one(first: signal.Signals) -> None:
    before = dispositions()
    with pytest.raises(KeyboardInterrupt), interruptible() as came:
        signal.raise_signal(first)
        signal.raise_signal(signal.SIGINT)
    assert came.signal == first.name and dispositions() == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_second_signal_does_what_it_did_before(number: signal.Signals) -> None:
    got: list[int] = []
    before = signal.signal(number, lambda n, frame: got.append(n))
    try:
        own = signal.getsignal(number)
        with interruptible():
            signal.raise_signal(signal.SIGINT)
            assert got == []
            signal.raise_signal(number)
            assert got == [number]
        assert signal.getsignal(number) is own
    finally:
        signal.signal(number, before)


def test_signals_that_are_ignored_are_so_again() -> None:
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with interruptible():
            pass
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_another_thread_leaves_signals_alone() -> None:
    seen: list[Any] = []

    class Look(EventHandler):
        def batch_end(self, stats: TrainStats) -> None:
            seen.append(dispositions())

    thread = threading.Thread(target=fit, args=(Look(),), kwargs={"epochs": 1})
    thread.start()
    thread.join()
    assert seen == [dispositions()] * 3


@pytest.mark.parametrize("event", ["batch_begin", "forward_end", "backward_end", "batch_end"])
@pytest.mark.parametrize("number", NUMBERS)
def test_a_fit_ends_after_the_present_batch(
    number: signal.Signals, event: str, tmp_path: Path
) -> None:
    before = dispositions()
    # The step is counted when the batch is over.
    sender = Send(event, number, step=1 if event == "batch_end" else 0)
    stats = fit(sender, CheckpointHandler(tmp_path))
    assert (stats.step, stats.samples, stats.interrupted) == (1, 4, number.name)
    assert stats.stopped == f"interrupted by {REASONS[number]}" and stats.error is None
    assert stats["complete"] == [False] and stats["val_loss"] == [None]
    assert sender.events == ["train_end"] and dispositions() == before
    state = load_checkpoint(tmp_path)
    assert (state["stats"]["step"], state["stats"]["batches_done"]) == (1, 1)
    marker = json.loads((tmp_path / "interrupted.json").read_text())
    assert (marker["signal"], marker["step"]) == (number.name, 1)
    assert (tmp_path / marker["checkpoint"]).is_file()


def test_the_second_ctrl_c_leaves_in_the_middle_of_a_batch(tmp_path: Path) -> None:
    before = dispositions()
    sender = Send("forward_end", signal.SIGTERM, signal.SIGINT, step=4)
    with pytest.raises(KeyboardInterrupt):
        fit(sender, CheckpointHandler(tmp_path))
    assert sender.events == ["error KeyboardInterrupt", "train_end"]
    assert dispositions() == before
    assert load_checkpoint(tmp_path)["stats"]["step"] == 3
    assert fit(Send("error"), CheckpointHandler(tmp_path), resume=tmp_path).epoch == 3


def test_signals_are_as_before_after_an_exception() -> None:
    class Fail(EventHandler):
        def batch_end(self, stats: TrainStats) -> None:
            raise RuntimeError("planned")

    before = dispositions()
    with pytest.raises(RuntimeError, match="planned"):
        fit(Fail())
    assert dispositions() == before


class Dying(EventHandler):
    """In a fork: sends the same signal twice."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def batch_begin(self, stats: TrainStats) -> None:
        signal.raise_signal(self.number)
        signal.raise_signal(self.number)

    def train_end(self, stats: TrainStats) -> None:
        os._exit(3)  # not reached: the process is gone


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_second_signal_ends_the_process(number: signal.Signals) -> None:
    child = os.fork()
    if child == 0:
        for each in NUMBERS:
            signal.signal(each, signal.SIG_DFL)
        try:
            fit(Dying(number))
        finally:
            os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -number


def test_a_signal_goes_before_a_stop_that_waits_for_the_epoch() -> None:
    class Later(EventHandler):
        def batch_begin(self, stats: TrainStats) -> None:
            stats.stop("enough", when="epoch")

    stats = fit(Later(), Send("forward_end", signal.SIGTERM))
    assert (stats.step, stats.stopped, stats.interrupted) == (1, "enough", "SIGTERM")


def test_a_signal_before_the_first_batch(tmp_path: Path) -> None:
    sender = Send("train_begin", signal.SIGTERM)
    stats = fit(sender, CheckpointHandler(tmp_path))
    assert (stats.step, stats.epoch, len(stats.history)) == (0, 0, 0)
    assert sender.events == ["train_end"] and stats.interrupted == "SIGTERM"
    assert load_checkpoint(tmp_path)["stats"]["step"] == 0
    assert fit(sender, CheckpointHandler(tmp_path), resume=tmp_path).step == 9


def run_during(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Acts once, within the first flush of a file to the disk."""
    real = os.fsync

    def fsync(descriptor: int) -> None:
        monkeypatch.setattr(os, "fsync", real)
        act()
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_within_a_save(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_during(monkeypatch, lambda: signal.raise_signal(number))
    stats = fit(CheckpointHandler(tmp_path, every=Every(steps=2)))
    assert (stats.step, stats.interrupted) == (2, number.name)
    assert load_checkpoint(tmp_path)["stats"]["step"] == 2


@pytest.mark.parametrize("error", [None, RuntimeError("DataLoader worker (pid 3) is killed")])
def test_what_comes_while_a_file_is_written_is_what_the_caller_gets(
    error: Exception | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Noisy(io.BufferedRandom):
        def write(self, content: Any) -> int:
            monkeypatch.undo()
            if error is not None:
                raise error
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            return super().write(content)

    def noisy(path: Path, mode: str) -> Noisy:
        return Noisy(io.FileIO(path, mode))

    monkeypatch.setattr(_checkpoint_disk, "open", noisy, raising=False)
    with pytest.raises(type(error) if error else KeyboardInterrupt) as caught:
        fit(CheckpointHandler(tmp_path))
    assert error in (None, caught.value)
    assert sorted(os.listdir(tmp_path)) == []


def test_two_within_a_save_leave_the_one_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    class Arm(EventHandler):
        def epoch_begin(self, stats: TrainStats) -> None:
            if stats.epoch == 1:
                run_during(monkeypatch, twice)

    with pytest.raises(KeyboardInterrupt):
        fit(Arm(), CheckpointHandler(tmp_path))
    assert load_checkpoint(tmp_path)["stats"]["epoch"] == 1
    assert not list(tmp_path.glob(".tmp-*"))

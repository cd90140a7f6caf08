"""Workers that die, raise or hang, memory that runs out, losses that are NaN: told and survived."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset, get_worker_info

from estimator import DataError, Estimator, TrainStats
from estimator.handlers import CheckpointHandler, EventHandler, NaNHandler
from estimator.handlers.base import Every
from estimator.handlers.checkpoint import load_checkpoint
from estimator.sequences import ResumableSampler, SeededDataset

X = torch.randn(24, 3, generator=torch.Generator().manual_seed(2))
Y = X.sum(1, keepdim=True)
STEPS = 12


class Faulty(Dataset[Any]):
    """Samples, of which one ends its worker, raises or hangs from the second time on."""

    def __init__(self, fault: str = "", error: Exception | None = None) -> None:
        self.fault, self.error = fault, error
        self.asked = multiprocessing.Value("i", 0)
        self.released = multiprocessing.Event()

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if self.fault and index == 7:
            with self.asked.get_lock():
                self.asked.value += 1
            if self.asked.value == 2:
                self._fail()
        return X[index], Y[index]

    def _fail(self) -> None:
        if self.fault == "killed":
            assert get_worker_info() is not None
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.fault == "hangs":
            self.released.wait(60)
        elif self.error is not None:
            raise self.error


class Watch(EventHandler):
    """Keeps the order of the last events, and the notes that the first of them saw."""

    def __init__(self, data: Faulty | None = None) -> None:
        super().__init__()
        self.data, self.events, self.notes = data, list[str](), list[str]()

    def epoch_end(self, stats: TrainStats) -> None:
        self.events.append("epoch_end")

    def validation_end(self, stats: TrainStats) -> None:
        self.events.append("validation_end")

    def error(self, stats: TrainStats) -> None:
        self.events.append("error")
        self.notes = list(getattr(stats.error, "__notes__", []))
        if self.data is not None:
            self.data.released.set()

    def train_end(self, stats: TrainStats) -> None:
        self.events.append("train_end")


class Net(nn.Module):
    """A net that runs out of memory in one call, in training or in evaluation."""

    def __init__(self, fails_at: int = -1, *, training: bool = True, error: Any = None) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.2))
        self.head = nn.Linear(8, 1)
        self.calls, self.fails_at, self.fails_in = 0, fails_at, training
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training is self.fails_in
        if self.calls == self.fails_at:
            raise self.error
        out: Tensor = self.head(self.body(x))
        return out


def loader(data: Dataset[Any], **more: Any) -> Any:
    sampler = ResumableSampler(len(X), 6, seed=4)
    more = {"num_workers": 2, **more}
    return DataLoader(SeededDataset(data), batch_sampler=sampler, **more)


def fit(folder: Path, train: Any, *handlers: EventHandler, **more: Any) -> TrainStats:
    torch.manual_seed(6)
    net = Net(**more.pop("broken", {}))
    batch = {"batch_size": 6} if isinstance(train, tuple) else {}
    saver = CheckpointHandler(folder, every=Every(steps=1))
    return Estimator(net, nn.MSELoss()).fit(
        train, epochs=3, trainers="adam", device="cpu", handlers=[*handlers, saver],
        progress=False, **(batch | more),
    )  # fmt: skip


def check_resumed(folder: Path, train: Any, handlers: Any = list, **more: Any) -> None:
    """Goes on with sound data and a sound net, and compares with a run without a fault."""
    whole = fit(folder / "whole", train, *handlers(), **more)
    stats = fit(folder, train, *handlers(), resume=folder, **more)
    assert (stats.step, stats["train_loss"]) == (STEPS, whole["train_loss"])
    ours, theirs = stats.net.state_dict(), whole.net.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("fault", "message", "note"),
    [
        (
            "killed",
            "DataLoader worker .pid|Connection|^$",
            "ended from outside.*num_workers=0.*resume",
        ),
        ("hangs", "DataLoader timed out after 3 seconds", "No worker gave a batch.*resume"),
    ],
)
# torch tells of a worker that was killed at any place in the run, such as just after an open().
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_worker_that_is_gone(fault: str, message: str, note: str, tmp_path: Path) -> None:
    data = Faulty(fault)
    watch = Watch(data)
    timeout = 3 if fault == "hangs" else 0
    with pytest.raises((RuntimeError, ConnectionError, EOFError), match=message) as caught:
        fit(tmp_path, loader(data, timeout=timeout), watch)
    traceback.clear_frames(caught.tb)  # They hold the workers, for which a collection would wait.
    assert watch.events == ["epoch_end", "error", "epoch_end", "train_end"]
    (told,) = watch.notes
    assert told == caught.value.__notes__[0]
    assert all(part in told for part in note.split(".*"))
    assert 4 <= load_checkpoint(tmp_path)["stats"]["step"] < 8
    check_resumed(tmp_path, loader(Faulty()))


class OddError(Exception):
    """One that the pickling of a worker keeps."""


@pytest.mark.parametrize("error", [ValueError("a bad file"), OddError("odd"), KeyError("gone")])
def test_what_a_worker_raises_keeps_its_type_and_message(error: Exception, tmp_path: Path) -> None:
    watch = Watch()
    with pytest.raises(type(error)) as caught:
        fit(tmp_path, loader(Faulty("raises", error)), watch)
    traceback.clear_frames(caught.tb)
    assert type(caught.value) is type(error) and str(error) in str(caught.value)
    assert watch.events[-3:] == ["error", "epoch_end", "train_end"] and watch.notes == []
    check_resumed(tmp_path, loader(Faulty(), num_workers=0))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_too_little_memory_for_a_step(precision: Any, tmp_path: Path) -> None:
    planned = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
    watch = Watch()
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate 9 GiB") as caught:
        # The first call is the look at a first batch.
        fit(
            tmp_path, (X, Y), watch, broken={"fails_at": 7, "error": planned},
            precision=precision,
        )  # fmt: skip
    assert caught.value is planned and watch.events[-1] == "train_end"
    (note,) = planned.__notes__
    assert "a batch of 6 samples. Pass a smaller batch_size with accumulate=" in note
    assert ('precision="bf16"' in note) is (precision == "fp32")
    assert load_checkpoint(tmp_path)["stats"]["step"] == 5
    check_resumed(tmp_path, (X, Y), precision=precision)


def test_too_little_memory_for_a_validation(tmp_path: Path) -> None:
    planned = torch.OutOfMemoryError("CUDA out of memory")
    watch, val = Watch(), DataLoader(TensorDataset(X, Y), 8)
    with pytest.raises(torch.OutOfMemoryError):
        broken = {"fails_at": 6, "training": False, "error": planned}
        fit(tmp_path, (X, Y), watch, val=val, broken=broken)
    assert watch.events[-4:] == ["error", "validation_end", "epoch_end", "train_end"]
    (note,) = planned.__notes__
    assert "a batch of 8 samples of the validation data" in note and "accumulate" not in note
    check_resumed(tmp_path, (X, Y), val=val)


def test_too_little_memory_of_the_host_and_without_a_batch(tmp_path: Path) -> None:
    def batches() -> Iterator[Any]:
        yield from ()
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(RuntimeError) as caught:
        Estimator(Net(), nn.MSELoss()).evaluate(batches())
    assert "its batch of the evaluate data" in caught.value.__notes__[0]


@pytest.mark.parametrize("often", [1, 100])
@pytest.mark.parametrize("action", ["stop", "raise"])
def test_a_loss_that_is_nan(action: Any, often: int, tmp_path: Path) -> None:
    class Poison(EventHandler):
        """Spoils the batch of one step."""

        def __init__(self, step: int) -> None:
            super().__init__()
            self.step = step

        def batch_begin(self, stats: TrainStats) -> None:
            if stats.step == self.step - 1:
                stats.inputs = stats.inputs * float("nan")

    def handlers(step: int = -1) -> list[EventHandler]:
        return [Poison(step), NaNHandler(action, every=Every(steps=often))]

    if action == "raise":
        with pytest.raises(DataError, match="the loss was not finite, first at step 6"):
            fit(tmp_path, (X, Y), *handlers(6))
    else:
        stats = fit(tmp_path, (X, Y), *handlers(6))
        assert stats.stopped == "NaNHandler: the loss was not finite, first at step 6"
        assert stats.step == (6 if often == 1 else 8)
    state = load_checkpoint(tmp_path)
    assert state["stats"]["step"] == 5
    assert all(bool(value.isfinite().all()) for value in state["net"].values())
    check_resumed(tmp_path, (X, Y), handlers)

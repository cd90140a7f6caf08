"""Signals that reach the workers of a loader as well, as Ctrl-C in a terminal does."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from resume_runs import SizedStateful
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset, get_worker_info
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from estimator import Estimator, TrainStats
from estimator.faults import advise, in_order
from estimator.handlers import CheckpointHandler, EventHandler
from estimator.handlers.checkpoint import load_checkpoint

X = torch.randn(24, 6, generator=torch.Generator().manual_seed(2))
Y = (X.sum(1) > 0).long()


class Signalling(Dataset[Any]):
    """Samples, of which one lets a signal come to its worker and to the run."""

    def __init__(self, number: int | None = None, *, dies: bool = False, asked: int = 1) -> None:
        self.number, self.dies, self.at = number, dies, asked
        self.asked = multiprocessing.Value("i", 0)

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index == 13 and self.number is not None and get_worker_info() is not None:
            with self.asked.get_lock():
                self.asked.value += 1
            if self.asked.value == self.at:
                self._send(self.number)
        return X[index], Y[index]

    def _send(self, number: int) -> None:
        os.kill(os.getppid(), number)
        if self.dies:
            os._exit(0)
        signal.raise_signal(number)


class Calls(EventHandler):
    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []

    def error(self, stats: TrainStats) -> None:
        self.events.append("error")

    def validation_end(self, stats: TrainStats) -> None:
        self.events.append("validation_end" if stats.val else "given up")

    def train_end(self, stats: TrainStats) -> None:
        self.events.append("train_end")


def loader(data: Any) -> Any:
    own = torch.Generator().manual_seed(3)
    return DataLoader(data, 4, shuffle=True, num_workers=2, generator=own)


@pytest.fixture(autouse=True)
def missed_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a loader look twice a second, and not every five seconds, whether its workers live."""
    fetch = _MultiProcessingDataLoaderIter._try_get_data
    monkeypatch.setattr(fetch, "__defaults__", (0.5,))


def fit(folder: Path, train: Any, *handlers: EventHandler, **more: Any) -> TrainStats:
    torch.manual_seed(77 if "resume" in more else 6)
    net = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.2), nn.Linear(8, 2))
    return Estimator(net, nn.CrossEntropyLoss()).fit(
        train, epochs=2, trainers="adam", device="cpu",
        handlers=[*handlers, CheckpointHandler(folder)], progress=False, **more,
    )  # fmt: skip


def check_resumed(folder: Path, train: Any, val: Any = lambda: None) -> None:
    whole = fit(folder / "whole", train(), val=val())
    stats = fit(folder, train(), val=val(), resume=folder)
    assert (stats.step, stats["train_loss"]) == (12, whole["train_loss"])
    assert val() is None or stats["val_loss"] == whole["val_loss"]
    ours, theirs = stats.net.state_dict(), whole.net.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("epoch", [1, 2])
def test_a_run_ends_in_order(
    number: signal.Signals, dies: bool, epoch: int, tmp_path: Path
) -> None:
    # One that it raises itself ends a worker by SIGTERM, at which torch complains at any place.
    dies = dies or number == signal.SIGTERM
    calls = Calls()
    stats = fit(tmp_path, loader(Signalling(number, dies=dies, asked=epoch)), calls)
    assert stats.interrupted == number.name and calls.events == ["train_end"]
    assert (epoch - 1) * 6 <= stats.step <= epoch * 6
    assert load_checkpoint(tmp_path)["stats"]["step"] == stats.step
    check_resumed(tmp_path, lambda: loader(Signalling()))


def test_a_validation_is_given_up_with_its_workers(tmp_path: Path) -> None:
    calls = Calls()
    val = loader(Signalling(signal.SIGTERM, dies=True))
    stats = fit(tmp_path, loader(Signalling()), calls, val=val)
    assert stats.interrupted == "SIGTERM" and calls.events == ["given up", "train_end"]
    assert (stats.step, stats.epoch, stats["val_loss"]) == (6, 0, [None])
    check_resumed(tmp_path, lambda: loader(Signalling()), lambda: loader(Signalling()))


class Press(EventHandler):
    """Sends a signal within the first validation."""

    def validation_batch_end(self, stats: TrainStats) -> None:
        if stats.batch_index == 1:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("form", ["shuffled", "own generator", "state", "arrays"])
def test_the_data_of_a_validation_that_was_given_up_goes_back(form: str, tmp_path: Path) -> None:
    def val() -> Any:
        forms: dict[str, Any] = {
            "shuffled": DataLoader(TensorDataset(X, Y), 4, shuffle=True),
            "own generator": loader(TensorDataset(X, Y)),
            "state": SizedStateful(),
            "arrays": (X.repeat(3, 1), Y.repeat(3)),
        }
        return forms[form]

    def train() -> Any:
        return DataLoader(TensorDataset(X, Y), 4, shuffle=True)

    stats = fit(tmp_path, train(), Press(), val=val())
    assert (stats.step, stats.epoch, stats["val_loss"]) == (6, 0, [None])
    check_resumed(tmp_path, train, val)


def ending(message: str) -> Iterator[int]:
    yield 1
    raise RuntimeError(message)


@pytest.mark.parametrize(
    ("sent", "message", "raises"),
    [
        ("SIGTERM", "DataLoader worker (pid(s) 3) exited unexpectedly", False),
        ("SIGTERM", "Pin memory thread exited unexpectedly", False),
        ("SIGTERM", "mat1 and mat2 shapes cannot be multiplied", True),
        (None, "DataLoader worker (pid(s) 3) exited unexpectedly", True),
    ],
)
def test_only_a_signal_makes_it_in_order(sent: str | None, message: str, raises: bool) -> None:
    run: Any = SimpleNamespace(heard=SimpleNamespace(signal=sent), iterator=object())
    batches = in_order(ending(message), run)
    assert next(batches) == 1
    if raises:
        with pytest.raises(RuntimeError, match="unexpectedly|multiplied"):
            next(batches)
        assert run.iterator is not None
    else:
        assert next(batches, None) is None and run.iterator is None


@pytest.mark.parametrize("form", ["global", "own generator", "workers", "state", "arrays"])
def test_before_the_first_batch(form: str, tmp_path: Path) -> None:
    class Early(EventHandler):
        def train_begin(self, stats: TrainStats) -> None:
            signal.raise_signal(signal.SIGTERM)

    def train() -> Any:
        forms: dict[str, Any] = {
            "global": DataLoader(TensorDataset(X, Y), 4, shuffle=True),
            "own generator": DataLoader(
                TensorDataset(X, Y), 4, shuffle=True, generator=torch.Generator().manual_seed(8)
            ),
            "workers": loader(TensorDataset(X, Y)),
            "state": SizedStateful(),
            "arrays": (X, Y),
        }
        return forms[form]

    def run(folder: Path, *handlers: EventHandler, **more: Any) -> TrainStats:
        size = {"batch_size": 4} if form == "arrays" else {}
        return fit(folder, train(), *handlers, **size, **more)

    assert run(tmp_path, Early()).step == 0
    whole, stats = run(tmp_path / "whole"), run(tmp_path, resume=tmp_path)
    assert stats["train_loss"] == whole["train_loss"] and stats.step == whole.step
    ours, theirs = stats.net.state_dict(), whole.net.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("module", ["torch.multiprocessing.reductions", "a_dataset_on_the_net"])
def test_a_worker_that_cannot_hand_over_its_batch(module: str) -> None:
    names: dict[str, Any] = {"__name__": module}
    exec("def batches():\n    yield 1\n    raise ConnectionResetError('gone')", names)
    with pytest.raises(ConnectionResetError) as caught:
        list(names["batches"]())
    advise(caught.value, TrainStats(nn.Linear(1, 1), torch.device("cpu")))
    ours = module.startswith("torch")
    assert len(getattr(caught.value, "__notes__", [])) == ours
    run: Any = SimpleNamespace(heard=SimpleNamespace(signal="SIGINT"), iterator=object())
    if ours:
        assert list(in_order(names["batches"](), run)) == [1]
    else:
        with pytest.raises(ConnectionResetError):
            list(in_order(names["batches"](), run))

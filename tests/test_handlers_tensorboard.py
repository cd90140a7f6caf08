"""`TensorBoardHandler`: what its event files hold is read back and compared with the history."""

from __future__ import annotations

import functools
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from event_files import Points, scalars
from tensorboard.summary.writer import event_file_writer
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from estimator import Estimator, Trainer
from estimator.handlers.base import (
    ArgumentError,
    ArgumentTypeError,
    EventHandler,
    Every,
    FolderError,
    every,
)
from estimator.handlers.tensorboard import TensorBoardHandler
from estimator.stats import TrainStats


@pytest.fixture(autouse=True)
def file_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Event files of one second are read in the order of their numbers, as text: 9 after 10."""
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """No writing thread outlives a run."""
    before = threading.enumerate()
    yield
    assert [thread for thread in threading.enumerate() if thread not in before] == []


def data(batches: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.randn(4, 3), torch.randint(0, 2, (4,))) for _ in range(batches)]


def fit(*handlers: EventHandler, val: Any = None, **arguments: Any) -> TrainStats:
    options: dict[str, Any] = {"epochs": 3, "trainers": Trainer("sgd", lr=0.1)} | arguments
    est = Estimator(nn.Linear(3, 2), loss=nn.CrossEntropyLoss(), metrics=["accuracy"])
    return est.fit(data(), val, device="cpu", handlers=handlers, progress=False, **options)


def single(value: float) -> float:
    return torch.tensor(value, dtype=torch.float32).item()


def points(stats: TrainStats, column: str) -> Points:
    pairs = zip(stats["step"], stats[column], strict=True)
    return [(step, single(value)) for step, value in pairs if value is not None]


def assert_equal_to_history(folder: Path, stats: TrainStats) -> None:
    assert scalars(folder / "train") == {
        "loss": points(stats, "train_loss"),
        "accuracy": points(stats, "train_accuracy"),
        "lr": points(stats, "lr"),
    }
    assert scalars(folder / "val") == {
        "loss": points(stats, "val_loss"),
        "accuracy": points(stats, "val_accuracy"),
    }


def test_train_and_val_are_two_runs_of_one_chart(tmp_path: Path) -> None:
    stats = fit(TensorBoardHandler(tmp_path), val=data(2))
    assert_equal_to_history(tmp_path, stats)
    assert [step for step, _ in scalars(tmp_path / "val")["loss"]] == [4, 8, 12]


def test_a_validation_inside_an_epoch_stands_at_its_step(tmp_path: Path) -> None:
    stats = fit(TensorBoardHandler(tmp_path), val=data(2), validate=every(3))
    assert_equal_to_history(tmp_path, stats)
    assert [step for step, _ in scalars(tmp_path / "val")["loss"]] == [3, 6, 9, 12]


class ValPointsSoFar(EventHandler):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.seen: list[list[int]] = []

    def batch_begin(self, stats: TrainStats) -> None:
        val = scalars(self.folder / "val").get("loss", [])
        self.seen.append([step for step, _ in val])


def test_a_validation_inside_an_epoch_is_seen_after_the_next_batch(tmp_path: Path) -> None:
    seen = ValPointsSoFar(tmp_path)
    fit(TensorBoardHandler(tmp_path), seen, val=data(1), validate=every(2), epochs=1)
    assert seen.seen == [[], [], [], [2]]


def test_without_validation_there_is_no_val_run(tmp_path: Path) -> None:
    stats = fit(TensorBoardHandler(tmp_path))
    assert scalars(tmp_path / "train")["loss"] == points(stats, "train_loss")
    assert [path.name for path in tmp_path.iterdir()] == ["train"]


class AddVal(EventHandler):
    """Brings values of its own to a run without validation data."""

    def epoch_begin(self, stats: TrainStats) -> None:
        if stats.history.rows:
            stats.history.append({"epoch": 1, "step": 4, "val_own": 0.25, "note": 3})


def test_values_of_others_open_the_val_run(tmp_path: Path) -> None:
    fit(TensorBoardHandler(tmp_path), AddVal(), epochs=2)
    assert scalars(tmp_path / "val") == {"own": [(4, 0.25)]}
    assert set(scalars(tmp_path / "train")) == {"loss", "accuracy", "lr"}


class Losses(EventHandler):
    def __init__(self) -> None:
        super().__init__()
        self.points: Points = []

    def batch_end(self, stats: TrainStats) -> None:
        assert stats.loss is not None
        self.points.append((stats.step, stats.loss.item()))


def test_loss_and_rate_of_single_steps(tmp_path: Path) -> None:
    losses = Losses()
    schedule = functools.partial(OneCycleLR, max_lr=0.5, total_steps=13)
    rates = OneCycleLR(torch.optim.SGD([torch.zeros(1)], 0.1), max_lr=0.5, total_steps=13)
    fit(
        TensorBoardHandler(tmp_path, every=every(2)),
        losses,
        trainers=Trainer("sgd", lr=0.1, scheduler=schedule),
    )
    used = []
    for step in range(1, 13):
        used.append((step, single(float(rates.get_last_lr()[0]))))
        rates.optimizer.step()
        rates.step()
    train = scalars(tmp_path / "train")
    assert train["step/loss"] == losses.points[1::2]
    assert train["step/lr"] == used[1::2]


def test_rates_of_trainers_and_groups_have_the_names_of_the_history(tmp_path: Path) -> None:
    def groups(net: nn.Module) -> list[dict[str, Any]]:
        weight, bias = net.parameters()
        return [{"params": [weight]}, {"params": [bias], "lr": 0.5}]

    stats = fit(
        TensorBoardHandler(tmp_path, every=every(4)),
        trainers=Trainer("sgd", lr=0.25, params=groups),
        epochs=1,
    )
    train = scalars(tmp_path / "train")
    names = [name for name in stats.history.columns if name.startswith("lr_")]
    assert {train[f"step/{name}"][0][1] for name in names} == {0.25, 0.5}
    assert [train[f"step/{name}"] for name in names] == [train[name] for name in names]


def test_two_trainers(tmp_path: Path) -> None:
    def half(index: int, lr: float) -> Trainer:
        return Trainer("sgd", lr=lr, params=lambda net: [list(net.parameters())[index]])

    fit(
        TensorBoardHandler(tmp_path, every=every(4)),
        trainers={"a": half(0, 0.5), "b": half(1, 0.25)},
        epochs=1,
    )
    train = scalars(tmp_path / "train")
    assert (train["step/lr_a"], train["step/lr_b"]) == ([(4, 0.5)], [(4, 0.25)])


def test_nothing_is_read_from_the_device_but_at_the_schedule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    item = torch.Tensor.item

    class Count(EventHandler):
        def batch_begin(self, stats: TrainStats) -> None:
            self.step = stats.step

    count = Count()

    def counted(tensor: torch.Tensor) -> Any:
        reads.append(count.step)
        return item(tensor)

    monkeypatch.setattr(torch.Tensor, "item", counted)
    fit(TensorBoardHandler(tmp_path, every=every(5)), count, epochs=1, trainers="sgd")
    assert reads == []
    fit(TensorBoardHandler(tmp_path, every=every(3)), count, epochs=1, trainers="sgd")
    assert reads == [2]


class FailAt(EventHandler):
    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def batch_end(self, stats: TrainStats) -> None:
        if stats.step == self.step:
            raise RuntimeError("on purpose")


def test_an_exception_closes_the_files_and_keeps_the_points(tmp_path: Path) -> None:
    handler = TensorBoardHandler(tmp_path, every=every(1))
    with pytest.raises(RuntimeError, match="on purpose"):
        fit(handler, FailAt(6), val=data(1))
    train = scalars(tmp_path / "train")
    assert [step for step, _ in train["step/loss"]] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in train["loss"]] == [4, 6]
    assert [step for step, _ in scalars(tmp_path / "val")["loss"]] == [4]


def test_a_stop_keeps_the_cut_epoch(tmp_path: Path) -> None:
    stats = fit(TensorBoardHandler(tmp_path), val=data(1), epochs=None, iterations=6)
    assert_equal_to_history(tmp_path, stats)
    assert [step for step, _ in scalars(tmp_path / "train")["loss"]] == [4, 6]


def test_a_second_fit_hides_the_first(tmp_path: Path) -> None:
    handler = TensorBoardHandler(tmp_path)
    fit(handler, val=data(1), epochs=3)
    stats = fit(handler, val=data(1), epochs=2)
    assert_equal_to_history(tmp_path, stats)


def test_it_can_be_pickled_before_and_after(tmp_path: Path) -> None:
    handler = pickle.loads(pickle.dumps(TensorBoardHandler(tmp_path, every=every(2))))
    fit(handler, epochs=1)
    again = pickle.loads(pickle.dumps(handler))
    assert repr(again) == f"TensorBoardHandler(folder={tmp_path!r}, every=every(steps=2))"


def test_train_end_without_train_begin_does_nothing(tmp_path: Path) -> None:
    stats = TrainStats(nn.Linear(1, 1), torch.device("cpu"))
    TensorBoardHandler(tmp_path).train_end(stats)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("schedule", "error", "message"),
    [
        (100, ArgumentTypeError, r"TensorBoardHandler\(every=...\) must be an Every.*100"),
        (Every(epochs=2), ArgumentError, r"counts steps or seconds.*received every\(epochs=2\)"),
    ],
)
def test_wrong_schedules(
    tmp_path: Path, schedule: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        TensorBoardHandler(tmp_path, every=schedule)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match=r"TensorBoardHandler\(folder=...\)"):
        fit(TensorBoardHandler(tmp_path / "file"))

"""`TensorBoardHandler` in a run that goes on: each point once, as in a run that never stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from event_files import scalars
from tensorboard.summary.writer import event_file_writer
from torch import nn

from estimator.handlers.base import every
from estimator.handlers.tensorboard import TensorBoardHandler
from estimator.stats import TrainStats


@pytest.fixture(autouse=True)
def file_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Event files of one second are read in the order of their numbers, as text: 9 after 10."""
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))


def by_hand(step: int = 0, *losses: float) -> TrainStats:
    stats = TrainStats(nn.Linear(1, 1), torch.device("cpu"))
    for index, loss in enumerate(losses, start=1):
        stats.history.append({"epoch": index, "step": 5 * index, "train_loss": loss})
    stats.step, stats.samples, stats.loss = step, step, torch.tensor(0.5)
    return stats


def write(handler: TensorBoardHandler, stats: TrainStats, *losses: float) -> None:
    """Epochs of five steps."""
    for loss in losses:
        for _ in range(5):
            stats.step += 1
            handler.batch_end(stats)
        stats.epoch += 1
        stats.history.append({"epoch": stats.epoch, "step": stats.step, "train_loss": loss})
        handler.epoch_end(stats)


def test_a_resumed_run_has_no_point_twice_and_none_too_few(tmp_path: Path) -> None:
    first = TensorBoardHandler(tmp_path, every=every(2))
    stats = by_hand()
    first.train_begin(stats)
    write(first, stats, 1.0, 2.0)
    # The checkpoint was written at step 10, its row included.
    state = first.state_dict()
    write(first, stats, 3.0)
    first.train_end(stats)

    second = TensorBoardHandler(tmp_path, every=every(2))
    second.load_state_dict(state)
    stats = by_hand(10, 1.0, 2.0)
    second.train_begin(stats)
    write(second, stats, 4.0)
    second.train_end(stats)
    train = scalars(tmp_path / "train")
    assert train["loss"] == [(5, 1.0), (10, 2.0), (15, 4.0)]
    assert [step for step, _ in train["step/loss"]] == [2, 4, 6, 8, 10, 12, 14]


def test_an_epoch_that_was_cut_before_the_resume_is_gone(tmp_path: Path) -> None:
    first = TensorBoardHandler(tmp_path)
    stats = by_hand()
    first.train_begin(stats)
    write(first, stats, 1.0)
    stats.step = 7
    stats.history.append({"epoch": 1, "step": 7, "train_loss": 9.0, "complete": False})
    first.epoch_end(stats)
    first.train_end(stats)

    stats = by_hand(7, 1.0)
    second = TensorBoardHandler(tmp_path)
    second.train_begin(stats)
    stats.step = 10
    stats.history.append({"epoch": 2, "step": 10, "train_loss": 2.0})
    second.epoch_end(stats)
    second.train_end(stats)
    assert scalars(tmp_path / "train")["loss"] == [(5, 1.0), (10, 2.0)]


def test_points_are_on_the_disk_when_a_checkpoint_is_made(tmp_path: Path) -> None:
    handler, stats = TensorBoardHandler(tmp_path, every=every(1)), by_hand()
    handler.train_begin(stats)
    stats.step = 1
    handler.batch_end(stats)
    assert handler.state_dict() == {"points": [(1, {"loss": 0.5})], "place": [1, 1]}
    assert scalars(tmp_path / "train")["step/loss"] == [(1, 0.5)]
    handler.train_end(stats)

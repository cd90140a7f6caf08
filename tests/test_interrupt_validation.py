"""Signals that meet a validation: it is left for the run that goes on, which makes it whole."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from estimator import Estimator, TrainStats
from estimator.handlers import CheckpointHandler, EventHandler
from estimator.handlers.checkpoint import load_checkpoint

X = torch.randn(12, 2, generator=torch.Generator().manual_seed(5))
Y = X[:, :1].clone()


class Watch(EventHandler):
    """Counts validations and their batches; sends a signal at one of its events."""

    def __init__(self, event: str = "", place: tuple[int, int] = (0, 0)) -> None:
        super().__init__()
        self.begun = self.batches = 0
        self.ended: list[dict[str, float]] = []
        self.event, self.place = event, place

    def _here(self, event: str, stats: TrainStats) -> None:
        if (event, (stats.step, stats.batch_index)) == (self.event, self.place):
            signal.raise_signal(signal.SIGTERM)

    def batch_begin(self, stats: TrainStats) -> None:
        self._here("batch_begin", stats)

    def batch_end(self, stats: TrainStats) -> None:
        self._here("batch_end", stats)

    def validation_begin(self, stats: TrainStats) -> None:
        self.begun += 1

    def validation_batch_end(self, stats: TrainStats) -> None:
        self.batches += 1
        self._here("validation_batch_end", stats)

    def validation_end(self, stats: TrainStats) -> None:
        self.ended.append(dict(stats.val))


def fit(folder: Path, watch: Watch, **arguments: Any) -> tuple[TrainStats, dict[str, Any]]:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    arguments = {"epochs": 3, **arguments}
    stats = Estimator(net, nn.MSELoss()).fit(
        (X, Y), DataLoader(TensorDataset(X, Y), 4, shuffle=True), trainers="sgd", device="cpu",
        batch_size=4, handlers=[watch, CheckpointHandler(folder)], progress=False, **arguments,
    )  # fmt: skip
    rows = stats.history.to_dict()
    return stats, {name: column for name, column in rows.items() if name != "time"}


def check_resumed(folder: Path, **arguments: Any) -> Watch:
    """Goes on in a folder, and compares with a run that was left alone."""
    watch = Watch()
    whole, rows = fit(folder / "whole", Watch(), **arguments)
    stats, resumed = fit(folder, watch, resume=folder, **arguments)
    assert resumed == rows
    ours, theirs = stats.net.state_dict(), whole.net.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert (stats.step, stats.epoch, stats.val) == (whole.step, whole.epoch, whole.val)
    return watch


def test_a_validation_is_given_up(tmp_path: Path) -> None:
    watch = Watch("validation_batch_end", (6, 1))
    stats, rows = fit(tmp_path, watch)
    # It ended with its batch, and its begin got an end without results.
    assert (watch.begun, watch.batches, watch.ended[1]) == (2, 5, {})
    assert (stats.epoch, stats.step, stats.interrupted) == (1, 6, "SIGTERM")
    assert rows["complete"] == [True, False] and rows["val_loss"][1] is None
    counts = load_checkpoint(tmp_path)["stats"]
    assert counts["validation_due"] and (counts["epoch"], counts["batches_done"]) == (1, 3)
    assert check_resumed(tmp_path).begun == 2


@pytest.mark.parametrize("event", ["batch_begin", "batch_end"])
def test_in_the_last_batch_of_an_epoch(event: str, tmp_path: Path) -> None:
    watch = Watch(event, (6, 2) if event == "batch_end" else (5, 2))
    stats, rows = fit(tmp_path, watch)
    assert (watch.begun, stats.epoch, stats.step) == (1, 1, 6)
    assert rows["complete"] == [True, False]
    assert load_checkpoint(tmp_path)["stats"]["validation_due"]
    assert check_resumed(tmp_path).begun == 2


@pytest.mark.parametrize("target", [{"epochs": 3}, {"epochs": None, "iterations": 8}])
@pytest.mark.parametrize("event", ["batch_begin", "validation_batch_end"])
def test_at_the_end_of_the_run(event: str, target: dict[str, Any], tmp_path: Path) -> None:
    last = target.get("iterations", 9)
    index = (last - 1) % 3
    place = (last - 1, index) if event == "batch_begin" else (last, 1)
    stats, rows = fit(tmp_path, Watch(event, place), **target)
    assert stats.step == last and stats.interrupted and rows["val_loss"][-1] is None
    watch = check_resumed(tmp_path, **target)
    assert (watch.begun, watch.batches) == (1, 3)


def test_without_validation_the_epoch_is_whole(tmp_path: Path) -> None:
    watch = Watch("batch_begin", (5, 2))
    run = partial(Estimator(nn.Linear(2, 1), nn.MSELoss()).fit, (X, Y), None, 3, "sgd", "cpu")
    stats = run(batch_size=4, handlers=watch, progress=False)
    assert (stats.epoch, stats.step, stats["complete"]) == (2, 6, [True, True])

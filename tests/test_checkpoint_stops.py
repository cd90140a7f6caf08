"""Checkpoints of runs that are stopped: at any batch, in a validation, by a signal."""

from __future__ import annotations

import datetime
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_runs import SAMPLES, new_stats, save_next, state_at
from test_handlers_checkpoint import NAN, Fail, Stop, fit, manifest, steps

from estimator.handlers.base import Band, EventHandler, every
from estimator.handlers.checkpoint import CheckpointHandler, best_checkpoint, load_checkpoint
from estimator.stats import TrainStats


class StopAt(EventHandler):
    """Stops after a batch of the first epoch, as a signal does where one is named."""

    band = Band.DECIDE

    def __init__(self, batch: int, signal: str | None = None) -> None:
        super().__init__()
        self.batch, self.signal = batch, signal

    def batch_end(self, stats: TrainStats) -> None:
        if stats.batch_index == self.batch:
            stats.interrupted = self.signal
            stats.stop("planned")


def places(folder: Path) -> list[tuple[int, int]]:
    return [(e["step"], e["samples"]) for e in manifest(folder)]


@pytest.mark.parametrize("background", [False, True])
def test_a_stop_inside_an_accumulation_group_is_saved_at_its_batch(
    tmp_path: Path, background: bool
) -> None:
    saver = CheckpointHandler(tmp_path, every=every(1), background=background)
    fit(saver, StopAt(2), accumulate=2)
    assert places(tmp_path) == [(1, 2 * SAMPLES), (1, 3 * SAMPLES)]
    assert load_checkpoint(tmp_path)["stats"]["samples"] == 3 * SAMPLES
    assert [e["file"] for e in manifest(tmp_path)] == ["step_00000001.pt", "step_00000001_1.pt"]


def test_a_stop_before_the_first_step_is_saved(tmp_path: Path) -> None:
    fit(CheckpointHandler(tmp_path), StopAt(0), accumulate=3)
    assert places(tmp_path) == [(0, SAMPLES)]


def test_a_place_is_saved_once(tmp_path: Path) -> None:
    fit(CheckpointHandler(tmp_path, every=every(1), keep_last=9), StopAt(1))
    assert places(tmp_path) == [(1, SAMPLES), (2, 2 * SAMPLES)]


def test_what_came_after_the_place_of_the_same_step_is_another_future(tmp_path: Path) -> None:
    fit(CheckpointHandler(tmp_path, every=every(1)), StopAt(2), accumulate=2)
    saver, stats = CheckpointHandler(tmp_path, keep_last=1), new_stats()
    saver.load_state_dict({"run_id": manifest(tmp_path)[0]["run"]})
    stats.step, stats.samples = 1, 2 * SAMPLES
    saver.train_begin(stats)
    save_next(saver, stats, state_at(2))
    saver.train_end(stats)
    listed = json.loads((tmp_path / "manifest.json").read_text("utf-8"))["checkpoints"]
    assert [e["file"] for e in listed] == ["step_00000001_1.pt", "step_00000002.pt"]


def test_a_validation_that_was_abandoned_counts_for_nothing(tmp_path: Path) -> None:
    saver, stats = CheckpointHandler(tmp_path, every=every(2), monitor="val_loss"), new_stats()
    stats.monitors, stats.epochs = {"val_loss": False}, 9
    saver.train_begin(stats)
    saver.epoch_begin(stats)
    for value in (1.0, None):
        stats.step, stats.samples = stats.step + 2, stats.samples + 2 * SAMPLES
        stats.capture_with(lambda: {"stats": {"step": stats.step, "epoch": 0}})
        stats.stepped, stats.validation_due = True, True
        saver.batch_end(stats)
        stats.phase, stats.val = "validation", {} if value is None else {"loss": value}
        stats.stopped = "planned" if value is None else None
        saver.validation_end(stats)
        stats.phase, stats.validation_due = "train", False
        assert sorted(path.name for path in tmp_path.glob("*.pt")) == ["step_00000002.pt"]
    saver.epoch_end(stats)
    saver.train_end(stats)
    assert [(e["step"], e["value"], e["best"]) for e in manifest(tmp_path)] == [
        *((2, 1.0, True), (4, None, False))
    ]
    assert best_checkpoint(tmp_path).name == "step_00000002.pt"


def marker(folder: Path) -> dict[str, Any]:
    """The marker, which it takes out of the folder."""
    path = folder / "interrupted.json"
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    path.unlink()
    return content


@pytest.mark.parametrize("background", [False, True])
def test_a_signal_leaves_a_marker(tmp_path: Path, background: bool) -> None:
    before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    fit(CheckpointHandler(tmp_path, background=background), StopAt(2, "SIGTERM"))
    content = marker(tmp_path)
    time = datetime.datetime.fromisoformat(content.pop("time"))
    assert before <= time <= datetime.datetime.now(datetime.UTC)
    assert content == {
        "signal": "SIGTERM",
        "epoch": 0,
        "step": 3,
        "checkpoint": "step_00000003.pt",
    }
    assert steps(tmp_path) == [3]


def test_a_marker_comes_after_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save: Any = torch.save
    rename, renamed, marked = os.replace, list[str](), threading.Event()

    def save_late(state: Any, file: Any) -> None:
        marked.wait(0.1)
        save(state, file)

    def log_rename(source: Path, target: Path) -> None:
        rename(source, target)
        renamed.append(target.name)
        if target.name == "interrupted.json":
            marked.set()

    monkeypatch.setattr(torch, "save", save_late)
    monkeypatch.setattr(os, "replace", log_rename)
    fit(CheckpointHandler(tmp_path, background=True), StopAt(2, "SIGTERM"))
    assert renamed == ["step_00000003.pt", "manifest.json", "interrupted.json"]


def test_the_next_run_in_the_folder_removes_the_marker(tmp_path: Path) -> None:
    fit(CheckpointHandler(tmp_path), StopAt(2, "SIGINT"))
    assert (tmp_path / "interrupted.json").exists()
    seen: list[bool] = []

    class Look(EventHandler):
        def epoch_begin(self, stats: TrainStats) -> None:
            seen.append((tmp_path / "interrupted.json").exists())

    fit(CheckpointHandler(tmp_path), Look())
    assert seen == [False, False]
    assert steps(tmp_path) == [3, 4, 8]


def test_a_marker_names_the_checkpoint_that_is_there(tmp_path: Path) -> None:
    class Poison(EventHandler):
        def batch_end(self, stats: TrainStats) -> None:
            next(stats.net.parameters()).data.fill_(NAN)

    fit(CheckpointHandler(tmp_path), Poison(), StopAt(1, "SIGTERM"))
    content = marker(tmp_path)
    assert (content["step"], content["checkpoint"]) == (2, None)


def test_there_is_no_marker_of_other_ends(tmp_path: Path) -> None:
    class FailLater(Fail):
        def epoch_end(self, stats: TrainStats) -> None:
            raise RuntimeError("failed on purpose")

    fit(CheckpointHandler(tmp_path), Stop(2))
    with pytest.raises(RuntimeError, match="on purpose"):
        fit(CheckpointHandler(tmp_path), FailLater(99), StopAt(2, "SIGTERM"))
    assert not (tmp_path / "interrupted.json").exists()

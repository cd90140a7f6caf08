"""`CheckpointHandler` where runs share a folder, fail or are set up wrongly."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_runs import SAMPLES
from test_handlers_checkpoint import BATCHES, NAN, Fail, Weights, data, fit, manifest, steps
from torch import nn

from estimator import Estimator
from estimator.handlers.base import (
    ArgumentError,
    ArgumentTypeError,
    Band,
    DataError,
    EventHandler,
    Every,
    FolderError,
    MonitorError,
    every,
)
from estimator.handlers.checkpoint import CheckpointHandler, best_checkpoint, load_checkpoint
from estimator.stats import TrainStats


def test_a_second_run_in_the_folder_leaves_the_first_alone(tmp_path: Path) -> None:
    saver = CheckpointHandler(tmp_path, monitor="val_loss", keep_last=1)
    fit(saver, losses=[1.0, 2.0])
    before = {f: (tmp_path / f).read_bytes() for f in os.listdir(tmp_path) if f.endswith(".pt")}
    first = fit(saver, losses=[9.0, 8.0, 9.5])
    assert {f: (tmp_path / f).read_bytes() for f in before} == before
    entries = manifest(tmp_path)
    assert [e["file"] for e in entries] == [
        *("step_00000004.pt", "step_00000008.pt", "step_00000008_1.pt", "step_00000012.pt")
    ]
    assert len({e["run"] for e in entries[:2]}) == len({e["run"] for e in entries[2:]}) == 1
    assert [e["best"] for e in entries] == [True, False, True, False]
    assert best_checkpoint(tmp_path) == tmp_path / "step_00000008_1.pt"
    assert torch.equal(load_checkpoint(tmp_path)["net"]["weight"], first.net.state_dict()["weight"])


def resumed(folder: Path, epoch: int, handler: CheckpointHandler) -> TrainStats:
    """A run that goes on after `epoch` epochs of four steps each, with the state saved there."""
    state = load_checkpoint(folder / f"step_{epoch * BATCHES:08d}.pt")
    handler.load_state_dict(state["handlers"]["CheckpointHandler"])
    stats = TrainStats(nn.Linear(2, 1), torch.device("cpu"))
    stats.monitors, stats.epochs = {"val_loss": False}, 100
    stats.epoch, stats.step, stats.samples = epoch, epoch * BATCHES, epoch * BATCHES * SAMPLES
    stats.capture_with(lambda: {"stats": {"epoch": stats.epoch, "step": stats.step}})
    return stats


def go_on(handler: CheckpointHandler, stats: TrainStats, losses: Sequence[float]) -> None:
    handler.train_begin(stats)
    for loss in losses:
        handler.epoch_begin(stats)
        stats.epoch, stats.step = stats.epoch + 1, stats.step + BATCHES
        stats.samples += BATCHES * SAMPLES
        stats.phase, stats.val = "validation", {"loss": loss}
        handler.validation_end(stats)
        handler.epoch_end(stats)
    handler.train_end(stats)


def test_a_resumed_run_keeps_on_counting_its_files_and_its_best(tmp_path: Path) -> None:
    def saver() -> CheckpointHandler:
        return CheckpointHandler(tmp_path, monitor="val_loss", keep_last=2)

    fit(saver(), losses=[5.0, 4.0, 7.0])
    handler = saver()
    go_on(handler, resumed(tmp_path, 3, handler), [6.0, 8.0])
    entries = manifest(tmp_path)
    assert [(e["epoch"], e["value"]) for e in entries] == [(2, 4.0), (4, 6.0), (5, 8.0)]
    assert best_checkpoint(tmp_path).name == "step_00000008.pt"
    assert len({e["run"] for e in entries}) == 1


def test_values_of_another_monitor_are_not_compared(tmp_path: Path) -> None:
    fit(CheckpointHandler(tmp_path, monitor="train_loss", keep_last=2))
    handler = CheckpointHandler(tmp_path, monitor="val_loss", keep_last=1)
    go_on(handler, resumed(tmp_path, 2, handler), [99.0, 98.0, 99.0])
    assert [(e["epoch"], e["best"]) for e in manifest(tmp_path)] == [(4, True), (5, False)]


def test_a_run_that_goes_on_from_an_older_checkpoint_keeps_the_other_future(tmp_path: Path) -> None:
    handler = CheckpointHandler(tmp_path, monitor="val_loss", keep_last=3)
    fit(handler, losses=[5.0, 4.0, 1.0])
    other = CheckpointHandler(tmp_path, monitor="val_loss", keep_last=1)
    go_on(other, resumed(tmp_path, 1, other), [3.0, 6.0])
    entries = manifest(tmp_path)
    assert [(e["epoch"], e["value"], e["best"]) for e in entries] == [
        *((2, 4.0, False), (3, 1.0, False), (2, 3.0, True), (3, 6.0, False))
    ]
    assert load_checkpoint(tmp_path) == {"stats": {"epoch": 3, "step": 12}}


def test_a_resumed_run_deletes_nothing_of_others_in_a_new_folder(tmp_path: Path) -> None:
    fit(CheckpointHandler(tmp_path / "a"))
    fit(CheckpointHandler(tmp_path / "b"))
    before = steps(tmp_path / "b")
    other = CheckpointHandler(tmp_path / "b", monitor="val_loss", keep_last=1)
    go_on(other, resumed(tmp_path / "a", 2, other), [1.0, 2.0])
    assert steps(tmp_path / "b") == [*before, 12, 16]


def test_a_failed_run_saves_nothing_more(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="on purpose"):
        fit(CheckpointHandler(tmp_path, every=every(3)), Fail(5))
    assert steps(tmp_path) == [3]

    class FailInValidation(EventHandler):
        def validation_end(self, stats: TrainStats) -> None:
            raise RuntimeError("failed on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fit(CheckpointHandler(tmp_path / "b", every=every(4)), FailInValidation(), losses=[1.0])
    assert os.listdir(tmp_path / "b") == []


def test_a_state_that_could_not_be_loaded_is_named_and_not_saved(tmp_path: Path) -> None:
    class Mine(EventHandler):
        state_names = ("best",)
        best = np.float64(1)

    with pytest.raises(DataError, match="received handlers.Mine.best: numpy.float64"):
        fit(CheckpointHandler(tmp_path), Mine())
    assert os.listdir(tmp_path) == []


def test_weights_that_hold_nan_do_not_push_good_ones_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Poison(EventHandler):
        def batch_end(self, stats: TrainStats) -> None:
            if stats.step == 5:
                next(stats.net.parameters()).data.fill_(NAN)

    fit(CheckpointHandler(tmp_path, keep_last=1), Poison(), epochs=4)
    assert steps(tmp_path) == [4]
    assert "step 16 is not saved, the weights hold NaN" in caplog.text


def test_a_file_that_cannot_be_deleted_does_not_end_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".pt" and not path.name.startswith("."):
            raise PermissionError(13, "Permission denied")
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    with caplog.at_level(logging.WARNING, "estimator"):
        fit(CheckpointHandler(tmp_path, keep_last=1))
    assert "step_00000004.pt cannot be deleted" in caplog.text
    assert torch.is_tensor(load_checkpoint(tmp_path)["net"]["weight"])


def test_the_order_of_a_save_is_file_then_manifest_then_deletion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    replace, unlink, fsync = os.replace, Path.unlink, os.fsync

    def log_replace(source: Path, target: Path) -> None:
        assert source.parent == target.parent
        done.append(f"rename {target.name}")
        replace(source, target)

    def log_unlink(path: Path, missing_ok: bool = False) -> None:
        if path.exists():
            done.append(f"delete {path.name}")
        unlink(path, missing_ok)

    def log_fsync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        done.append("sync folder" if is_folder else "sync")
        fsync(descriptor)

    monkeypatch.setattr(os, "replace", log_replace)
    monkeypatch.setattr(Path, "unlink", log_unlink)
    monkeypatch.setattr(os, "fsync", log_fsync)
    fit(CheckpointHandler(tmp_path, keep_last=1))
    durable = ["sync", "rename {}", "sync folder"]
    saved = [line.format(f) for f in ("step_00000008.pt", "manifest.json") for line in durable]
    assert done[6:] == [*saved, "delete step_00000004.pt", "delete .lock"]


def test_a_folder_that_cannot_be_written_is_said_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    weights = Weights()
    with pytest.raises(FolderError, match=r"CheckpointHandler\(folder=...\).*Choose another"):
        fit(CheckpointHandler(tmp_path / "file" / "run"), weights)
    assert weights.of_step == {}


def test_a_name_that_cannot_appear_is_said_before_training(tmp_path: Path) -> None:
    with pytest.raises(MonitorError, match=r"CheckpointHandler\(monitor='val_los'\)"):
        fit(CheckpointHandler(tmp_path / "run", monitor="val_los"), losses=[1.0])
    assert not (tmp_path / "run").exists()


def test_only_validations_of_the_training_count(tmp_path: Path) -> None:
    saver = CheckpointHandler(tmp_path, monitor="val_loss")
    est = Estimator(nn.Linear(2, 1), nn.MSELoss())
    est.evaluate(data(), handlers=saver)
    est.predict(data(), handlers=saver)
    assert os.listdir(tmp_path) == []


def test_a_validation_without_batches_has_no_value(tmp_path: Path) -> None:
    class Empty(EventHandler):
        band = Band.PREPARE

        def validation_end(self, stats: TrainStats) -> None:
            stats.val = {}

    saver = CheckpointHandler(tmp_path, monitor="val_loss")
    fit(Empty(), saver, val=data())
    assert [(e["step"], e["value"]) for e in manifest(tmp_path)] == [(4, None), (8, None)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"keep_last": 0}, "keep_last=.* from 1 up.*received 0"),
        ({"keep_last": True}, "keep_last=.*received True"),
        ({"keep_last": 2.0}, "keep_last=.*received 2.0"),
        ({"keep_best": -1}, "keep_best=.* from 0 up.*received -1"),
        ({"keep_best": 2}, "monitor=.*keep_best=2"),
        ({"mode": "min"}, "monitor=.*mode='min'"),
        ({"monitor": "val_loss", "mode": "low"}, "mode must be.*'low'"),
        ({"every": Every(calls=3)}, r"every=.*epochs, steps or seconds.*every\(calls=3\)"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        CheckpointHandler("runs", **arguments)


def test_a_number_is_not_a_schedule() -> None:
    with pytest.raises(ArgumentTypeError, match=r"CheckpointHandler\(every=...\).*received 5"):
        CheckpointHandler("runs", every=5)  # type: ignore[arg-type]  # what the test is about


def test_the_handler_can_be_pickled_shown_and_used_without_a_run(tmp_path: Path) -> None:
    saver = CheckpointHandler(tmp_path, every=every(3), monitor="val_loss", keep_last=7)
    assert repr(saver) == (
        f"CheckpointHandler(folder={tmp_path!r}, every=every(steps=3), monitor='val_loss', "
        "keep_last=7)"
    )
    stats = TrainStats(nn.Linear(1, 1), torch.device("cpu"))
    for event in ("batch_end", "epoch_end", "train_end"):
        getattr(saver, event)(stats)
    fit(saver, losses=[2.0, 1.0])
    again = pickle.loads(pickle.dumps(saver))
    assert not any(isinstance(v, nn.Module) for v in vars(again).values())
    fit(copy.deepcopy(again), losses=[2.0, 1.0])
    assert [e["value"] for e in manifest(tmp_path)].count(1.0) == 2

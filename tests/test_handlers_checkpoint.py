"""`CheckpointHandler`: what is saved when, what is kept, and that nothing is lost."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_runs import SAMPLES
from torch import nn

from estimator import Estimator, Trainer
from estimator.handlers.base import Band, EventHandler, Every, Mode, every
from estimator.handlers.checkpoint import CheckpointHandler, best_checkpoint, load_checkpoint
from estimator.handlers.early_stopping import EarlyStoppingHandler
from estimator.stats import TrainStats

BATCHES = 4
NAN = float("nan")


class Script(EventHandler):
    """Gives each validation the loss that the test wants, before other handlers look at it."""

    band = Band.PREPARE

    def __init__(self, values: Sequence[float]) -> None:
        super().__init__()
        self.values = list(values)

    def validation_end(self, stats: TrainStats) -> None:
        stats.val["loss"] = self.values.pop(0)


class Weights(EventHandler):
    """Keeps a copy of the weights of each step, after all handlers that act on them."""

    band = Band.REPORT

    def __init__(self) -> None:
        super().__init__()
        self.of_step: dict[int, torch.Tensor] = {}

    def batch_end(self, stats: TrainStats) -> None:
        self.of_step[stats.step] = next(stats.net.parameters()).detach().clone()


class Stop(EventHandler):
    band = Band.REPORT

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def batch_end(self, stats: TrainStats) -> None:
        if stats.step == self.step:
            stats.stop("enough")


class Fail(Stop):
    def batch_end(self, stats: TrainStats) -> None:
        if stats.step == self.step:
            raise RuntimeError("failed on purpose")


def data() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.randn(SAMPLES, 2), torch.randn(SAMPLES, 1)) for _ in range(BATCHES)]


class Unsized:
    def __iter__(self) -> Iterator[Any]:
        return iter(data())


def fit(
    *handlers: EventHandler, losses: Sequence[float] = (), train: Any = None, **arguments: Any
) -> TrainStats:
    """Trains two epochs of four steps; the validations have the losses that are given."""
    scripted: list[EventHandler] = [Script(losses), *handlers] if losses else [*handlers]
    settings = {"epochs": max(2, len(losses)), "val": data() if losses else None} | arguments
    return Estimator(nn.Linear(2, 1), nn.MSELoss()).fit(
        train or data(),
        trainers=Trainer("sgd", lr=0.01),
        device="cpu",
        handlers=scripted,
        progress=False,
        **settings,
    )


def manifest(folder: Path) -> list[dict[str, Any]]:
    """The manifest's entries, after a check that they are the files that are there."""
    content = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert content["schema"] == 1
    entries: list[dict[str, Any]] = content["checkpoints"]
    assert {e["file"] for e in entries} | {"manifest.json"} == set(os.listdir(folder))
    for entry in entries:
        content = (folder / entry["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"]
        state = load_checkpoint(folder / entry["file"])
        assert (state["stats"]["step"], state["stats"]["epoch"]) == (entry["step"], entry["epoch"])
    return entries


def steps(folder: Path) -> list[int]:
    return [entry["step"] for entry in manifest(folder)]


def test_each_epoch_is_saved_with_its_row(tmp_path: Path) -> None:
    weights = Weights()
    fit(CheckpointHandler(tmp_path / "new" / "run"), weights)
    entries = manifest(tmp_path / "new" / "run")
    assert [(e["file"], e["epoch"], e["value"], e["best"]) for e in entries] == [
        ("step_00000004.pt", 1, None, False),
        ("step_00000008.pt", 2, None, False),
    ]
    first = load_checkpoint(tmp_path / "new" / "run" / "step_00000004.pt")
    assert torch.equal(first["net"]["weight"], weights.of_step[4])
    assert [row["epoch"] for row in first["stats"]["history"]["rows"]] == [1]
    assert torch.equal(load_checkpoint(tmp_path / "new/run")["net"]["weight"], weights.of_step[8])


def test_retention_counts_checkpoints_and_not_digits(tmp_path: Path) -> None:
    fit(CheckpointHandler(tmp_path, every=every(1), keep_last=5), epochs=3)
    assert steps(tmp_path) == [8, 9, 10, 11, 12]


def test_one_is_enough_to_keep(tmp_path: Path) -> None:
    fit(CheckpointHandler(tmp_path, every=every(3), keep_last=1))
    assert steps(tmp_path) == [8]


@pytest.mark.parametrize(
    ("losses", "mode", "keep_best", "kept", "best"),
    [
        ([1.0, 0.0, 0.5, 0.7], None, 1, [2, 4], 2),
        ([3.0, 1.0, 2.0, 4.0], None, 2, [2, 3, 4], 2),
        ([NAN, 3.0, 2.0, 4.0], None, 1, [3, 4], 3),
        ([2.0, 2.0, 2.0, 2.0], None, 1, [1, 4], 1),
        ([-1.0, -2.0, 0.0, -3.0], "max", 1, [3, 4], 3),
        ([float("inf"), NAN, NAN, NAN], "max", 1, [4], None),
        ([1.0, 2.0, 3.0, 4.0], None, 0, [4], None),
    ],
)
def test_the_best_stay(
    tmp_path: Path,
    losses: list[float],
    mode: Mode | None,
    keep_best: int,
    kept: list[int],
    best: int,
) -> None:
    saver = CheckpointHandler(
        tmp_path, monitor="val_loss", mode=mode, keep_last=1, keep_best=keep_best
    )
    fit(saver, losses=losses)
    entries = manifest(tmp_path)
    assert [e["epoch"] for e in entries] == kept
    finite = [x if abs(x) < 9 else None for x in losses]
    assert [e["value"] for e in entries] == [finite[epoch - 1] for epoch in kept]
    assert [e["epoch"] for e in entries if e["best"]] == ([] if best is None else [best])
    if best is not None:
        assert best_checkpoint(tmp_path) == tmp_path / f"step_{best * BATCHES:08d}.pt"


def test_an_improvement_is_saved_off_the_schedule(tmp_path: Path) -> None:
    saver = CheckpointHandler(tmp_path, every=every(epochs=100), monitor="val_loss", keep_last=9)
    fit(saver, losses=[3.0, 4.0, 2.0, 5.0, 6.0])
    assert [(e["epoch"], e["value"]) for e in manifest(tmp_path)] == [(1, 3.0), (3, 2.0), (5, 6.0)]
    saver = CheckpointHandler(
        tmp_path / "b", every=every(epochs=100), monitor="val_loss", keep_best=0
    )
    fit(saver, losses=[3.0, 2.0, 1.0])
    assert [e["epoch"] for e in manifest(tmp_path / "b")] == [3]


def test_a_value_belongs_to_its_step_only(tmp_path: Path) -> None:
    saver = CheckpointHandler(tmp_path, every=every(2), monitor="val_loss", keep_last=9)
    fit(saver, losses=[2.0, 1.0])
    fit(saver, losses=[3.0], epochs=3, validate=every(epochs=3))
    found = [(e["step"], e["value"]) for e in manifest(tmp_path)]
    first = [(2, None), (4, 2.0), (6, None), (8, 1.0)]
    assert found == [*first, *((step, None) for step in range(2, 12, 2)), (12, 3.0)]


def test_a_save_waits_for_the_validation_of_its_step(tmp_path: Path) -> None:
    saver = CheckpointHandler(tmp_path, every=every(2), monitor="val_loss", keep_last=9)
    fit(saver, losses=[5.0, 4.0, 3.0, 2.0], validate=every(2), epochs=2)
    assert [(e["file"], e["value"]) for e in manifest(tmp_path)] == [
        ("step_00000002.pt", 5.0),
        ("step_00000004.pt", 4.0),
        ("step_00000006.pt", 3.0),
        ("step_00000008.pt", 2.0),
    ]


def test_a_step_whose_epoch_ended_unforeseen_is_saved_again(tmp_path: Path) -> None:
    saver = CheckpointHandler(tmp_path, every=every(4), monitor="val_loss", keep_best=0)
    fit(saver, losses=[2.0, 1.0], train=Unsized())
    assert [(e["file"], e["epoch"], e["value"]) for e in manifest(tmp_path)] == [
        ("step_00000004_1.pt", 1, 2.0),
        ("step_00000008_1.pt", 2, 1.0),
    ]


def test_a_validation_that_nobody_announced_is_saved_too(tmp_path: Path) -> None:
    class Hide(EventHandler):
        band = Band.PREPARE

        def batch_end(self, stats: TrainStats) -> None:
            self.due, stats.validation_due = stats.validation_due, False

        def validation_begin(self, stats: TrainStats) -> None:
            stats.validation_due = self.due

    class Unhide(Hide):
        band = Band.REPORT

        def batch_end(self, stats: TrainStats) -> None:
            stats.validation_due = stats.step == 2

        def validation_begin(self, stats: TrainStats) -> None:
            pass

    saver = CheckpointHandler(tmp_path, every=every(2), monitor="val_loss", keep_best=0)
    fit(Hide(), saver, Unhide(), losses=[1.0, 2.0], validate=every(2), epochs=1)
    assert [(e["file"], e["value"]) for e in manifest(tmp_path)] == [
        ("step_00000002_1.pt", 1.0),
        ("step_00000004.pt", 2.0),
    ]


def test_a_value_of_training_is_followed_at_the_end_of_the_epoch(tmp_path: Path) -> None:
    saver = CheckpointHandler(tmp_path, every=every(epochs=9), monitor="train_loss")
    stats = fit(saver)
    values = {e["epoch"]: e["value"] for e in manifest(tmp_path)}
    assert values[2] == stats.train["loss"] == stats["train_loss"][1]


@pytest.mark.parametrize(
    ("arguments", "step"), [({}, 8), ({"iterations": 6, "epochs": None}, 6), ({"epochs": 1}, 4)]
)
def test_the_last_step_of_a_run_is_saved(
    tmp_path: Path, arguments: dict[str, Any], step: int
) -> None:
    fit(CheckpointHandler(tmp_path, every=every(100)), **arguments)
    assert steps(tmp_path) == [step]


def test_the_last_step_of_a_stopped_run_is_saved_with_its_row(tmp_path: Path) -> None:
    class StopEarly(Stop):
        band = Band.DECIDE

    runs: list[tuple[int, EventHandler, dict[str, Any]]] = [
        *((9, Stop(6), {}), (6, StopEarly(6), {})),
        *((6, Stop(99), {"iterations": 6}), (9, Stop(99), {"iterations": 6, "losses": [2, 1]})),
    ]
    for i, (schedule, stop, settings) in enumerate(runs):
        folder = tmp_path / str(i)
        target: dict[str, Any] = {"epochs": None} if settings else {}
        saver = CheckpointHandler(
            folder, every=every(schedule), monitor="val_loss" if "losses" in settings else None
        )
        fit(saver, stop, **settings, **target)
        rows = load_checkpoint(folder)["stats"]["history"]["rows"]
        assert steps(folder)[-1] == 6
        assert [(row["step"], row["complete"]) for row in rows] == [(4, True), (6, False)]
    # What the last handler of a step decides comes after its save.
    fit(CheckpointHandler(tmp_path / "b", every=every(6)), Stop(6))
    assert [e["file"] for e in manifest(tmp_path / "b")] == ["step_00000006.pt"]


def test_a_run_stopped_by_the_last_handler_of_its_last_event_is_saved(tmp_path: Path) -> None:
    class StopLate(EventHandler):
        band = Band.REPORT

        def epoch_end(self, stats: TrainStats) -> None:
            stats.stop("late")

    fit(CheckpointHandler(tmp_path, every=every(100)), StopLate())
    assert steps(tmp_path) == [4]


def test_the_last_step_is_saved_before_other_weights_are_put_back(tmp_path: Path) -> None:
    weights = Weights()
    saver = CheckpointHandler(tmp_path, every=every(100))
    stopper = EarlyStoppingHandler(patience=9, restore_best=True)
    stats = fit(saver, stopper, weights, losses=[1.0, 2.0, 3.0])
    assert torch.equal(next(stats.net.parameters()), weights.of_step[4])
    assert torch.equal(load_checkpoint(tmp_path)["net"]["weight"], weights.of_step[12])


def test_gradients_that_wait_for_their_step_postpone_the_save(tmp_path: Path) -> None:
    fit(CheckpointHandler(tmp_path, every=Every(seconds=1e-9), keep_last=9), accumulate=2)
    assert steps(tmp_path) == [1, 2, 3, 4]

"""Runs that stop and go on, in one process or two, with the whole net on each or split."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from distributed_jobs import RANK, WORLD, data, fit, new_net, outcome
from torch import nn

from estimator import Estimator, Trainer, sharded
from estimator.handlers import (
    CheckpointHandler,
    EarlyStoppingHandler,
    EMAHandler,
    EventHandler,
    Every,
    GradientStatsHandler,
    NaNHandler,
    WorstSamplesHandler,
)
from estimator.stats import TrainStats

STOP = 10
"""Batches after which a run is stopped: inside the first epoch, and inside a group of three."""


class Stops(EventHandler):
    """Stops the run after some batches of its first epoch."""

    def batch_end(self, stats: TrainStats) -> None:
        if stats.batches_done == STOP and stats.epoch == 0:
            stats.stop("enough for now")


class Dies(EventHandler):
    """Kills the last process once, as soon as a step has been done."""

    def __init__(self, marker: Path) -> None:
        super().__init__()
        self.marker = marker

    def batch_begin(self, stats: TrainStats) -> None:
        here = stats.step == 17 and stats.world.rank == stats.world.size - 1
        if here and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def train(folder: Path, *others: EventHandler, dropout: float = 0.0, **changes: Any) -> TrainStats:
    """Three epochs with all that keeps a state, and a checkpoint every five steps."""
    saver = CheckpointHandler(folder / "saved", every=Every(steps=5), monitor="val_loss")
    keepers = EMAHandler(decay=0.5), EarlyStoppingHandler(patience=9, restore_best=True)
    worst = WorstSamplesHandler(folder / "worst", worst=3)
    est = Estimator(new_net(nn.Dropout(dropout), seed=RANK), nn.CrossEntropyLoss(), ["accuracy"])
    trainers = Trainer("adam", lr=0.05, clip_norm=1.0)
    gradients = GradientStatsHandler(folder / "gradients", every=Every(steps=5))
    handlers = [saver, *keepers, worst, NaNHandler(), gradients, *others]
    return fit(est, handlers=handlers, **({"trainers": trainers} | changes))


def found(stats: TrainStats, folder: Path) -> dict[str, Any]:
    lists = sorted((folder / "worst").glob("*_e3.txt")) if RANK == 0 else []
    texts = {path.name: path.read_text("utf-8") for path in lists}
    table = (folder / "gradients" / "gradients.csv").read_text("utf-8") if RANK == 0 else ""
    rows = [line.split(",") for line in table.splitlines()[1:]]
    gradients = {"/".join(row[1:3]): list(map(float, row[3:])) for row in rows}
    whole = outcome(stats)
    whole |= {"weights": sharded.whole(whole["weights"]), "worst": texts}
    return whole | {"gradients": gradients}


def copied(source: Path, target: Path) -> None:
    """Copies a folder, once for all processes."""
    if RANK == 0:
        shutil.copytree(source, target)
    if WORLD > 1:
        torch.distributed.barrier()


def straight_and_resumed(folder: Path, **changes: Any) -> dict[str, Any]:
    """A run that goes through, and one that stops inside an epoch and goes on."""
    for part in ("straight", "stopped", "resumed"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    straight = found(train(folder / "straight", **changes), folder / "straight")
    stats = train(folder / "stopped", Stops(), **changes)
    assert stats.batches_done == STOP and stats.stopped is not None
    resumed = _go_on(folder / "stopped", folder / "resumed" / "same", **changes)
    return {"straight": straight, "resumed": resumed}


def _go_on(stopped: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    copied(stopped, folder)
    return found(train(folder, Stops(), resume=True, **changes), folder)


def replicated(folder: Path) -> dict[str, Any]:
    return straight_and_resumed(folder / "replicated", accumulate=3)


def dropped(folder: Path) -> dict[str, Any]:
    return straight_and_resumed(folder / "dropped", dropout=0.5)


def split(folder: Path) -> dict[str, Any]:
    # So that even this net has blocks of its own.
    sharded.UNIT = 40
    strategy = "fsdp2" if WORLD > 1 else None
    results = straight_and_resumed(folder / "split", accumulate=3, strategy=strategy)
    est = Estimator(new_net(), nn.CrossEntropyLoss(), ["accuracy"])
    fit(est, strategy=strategy, epochs=1)
    est.save(folder / "split.pt")
    x, y = data()
    twin = Estimator(est.net, nn.CrossEntropyLoss(), ["accuracy"])
    twin.load_weights(folder / "split.pt")
    again = fit(twin, strategy=strategy, epochs=1)
    values = {"evaluated": twin.evaluate((x, y)), "predicted": twin.predict(x)}
    return results | {"again": outcome(again)["history"], **values}


def from_one(folder: Path) -> dict[str, Any]:
    """Goes on with what a single process has saved."""
    stopped = folder / "one" / "replicated" / "stopped"
    return {"resumed": _go_on(stopped, folder / "taken over", accumulate=3)}


def killed(folder: Path) -> dict[str, Any]:
    """A run that is started again after one process was killed, and one that was left alone."""
    (folder / "killed").mkdir(exist_ok=True)
    stats = train(folder / "killed", Dies(folder / "died"), dropout=0.5, resume=True)
    return {"resumed": found(stats, folder / "killed")}


JOBS: dict[str, Callable[[Path], dict[str, Any]]] = {
    job.__name__: job for job in (replicated, dropped, split, from_one, killed)
}

if __name__ == "__main__":
    for name in sys.argv[2:]:
        torch.save(JOBS[name](Path(sys.argv[1])), f"{sys.argv[1]}/{name}_{RANK}.pt")

"""One training with one handler, stopped or killed somewhere and gone on with by fresh objects."""

from __future__ import annotations

import csv
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from event_files import scalars
from torch import nn

from estimator import Estimator, Trainer
from estimator.handlers import CheckpointHandler, EventHandler, Every
from estimator.handlers.base import Band
from estimator.stats import TrainStats

Make = Callable[[Path], EventHandler]

STOPS = ("mid-epoch", "epoch end", "last batch", "validation")
ENDS = (*STOPS, "killed", "killed in a batch")
BATCHES = 5
# The second epoch has the batches 6 to 10, counted from 1.
_BATCH = {"mid-epoch": 8, "last batch": 10, "killed in a batch": 8}


class Killed(Exception):
    """Stands for what ends a process."""


class End(EventHandler):
    """Ends a run at one place, or kills it when the checkpoint of its batch is made."""

    def __init__(self, place: str | None) -> None:
        super().__init__(band=Band.REPORT if place == "killed in a batch" else Band.DECIDE)
        self.place = place
        self.batches = self.validations = 0

    def batch_end(self, stats: TrainStats) -> None:
        self.batches += 1
        if self.batches == _BATCH.get(str(self.place)) and stats.error is None:
            if self.place == "killed in a batch":
                raise Killed
            stats.stop("planned")

    def validation_begin(self, stats: TrainStats) -> None:
        self.validations += 1

    def validation_batch_end(self, stats: TrainStats) -> None:
        if self.place == "validation" and self.validations == 2 and stats.batch_index == 1:
            signal.raise_signal(signal.SIGUSR1)

    def epoch_end(self, stats: TrainStats) -> None:
        if self.place == "epoch end" and stats.epoch == 2:
            stats.stop("planned")


def train(
    make: Make, folder: Path, end: str | None = None, *, resume: bool = False, **arguments: Any
) -> dict[str, Any]:
    """Trains in a folder, and gives all that two equal runs have in common.

    Args:
        make: The handler, from the folder of its files.
        folder: Of the run.
        end: One of `ENDS`. A run that is "killed" comes to its end, but goes on from step 8.
        resume: Whether it goes on after that end.
        arguments: More for `fit`.
    """
    handler = make(folder / "files")
    saver = CheckpointHandler(folder / str(resume), every=Every(steps=8), keep_last=9)
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(4 * BATCHES - 2, 1, 6, 6, generator=generator)
    val = torch.rand(10, 1, 6, 6, generator=generator)
    torch.manual_seed(3 + resume)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, 3))
    killed = resume and end is not None and end.startswith("killed")
    start = folder / "False" / "step_00000008.pt" if killed else folder / "False"
    est = Estimator(net, nn.CrossEntropyLoss(), ["accuracy"])
    options: dict[str, Any] = {"epochs": 3, "batch_size": 4, "progress": False, "device": "cpu"}
    try:
        stats = est.fit(
            (x, torch.arange(len(x)) % 3), (val, torch.arange(10) % 3), **(options | arguments),
            trainers=Trainer("adam", lr=0.02, scheduler=_schedule),
            handlers=[End(None if resume else end), handler, saver],
            resume=start if resume else None,
        )  # fmt: skip
    except Killed:
        return {}
    rows = [{k: v for k, v in row.items() if k != "time"} for row in stats.history.rows]
    return {
        "stopped": stats.stopped, "weights": net.state_dict(), "history": rows,
        "state": handler.state_dict(), "files": files(folder / "files"),
    }  # fmt: skip


def _schedule(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)


def files(folder: Path) -> dict[str, Any]:
    """The content of all files below a folder, without times, as a reader of them has it."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                found[name] = {key: repr(arrays[key].tolist()) for key in arrays.files}
        elif "tfevents" in path.name:
            found[f"{path.parent.relative_to(folder)}/events"] = scalars(path.parent)
        elif path.suffix == ".csv":
            with open(path, newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            found[name] = [{k: v for k, v in row.items() if k != "time"} for row in rows]
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


def compared(make: Make, folder: Path, *ends: str, **arguments: Any) -> Iterator[Any]:
    """For each end what a run that goes on after it leaves, and what a whole one does."""
    whole = train(make, folder / "whole", **arguments)
    for end in ends:
        train(make, folder / end, end, **arguments)
        yield end, train(make, folder / end, end, resume=True, **arguments), whole

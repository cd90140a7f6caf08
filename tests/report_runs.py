"""Drives a report of outputs by hand, and reads the files that it wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from estimator.handlers._pass_report import PassReportHandler
from estimator.stats import TrainStats

Batch = tuple[Any, Any]


class Fold:
    """The world of the first of two processes, of which the other took what is given here."""

    rank, size = 0, 2

    def __init__(self, other: Any) -> None:
        self.other = other

    def gather(self, value: Any) -> list[Any]:
        return [value, self.other]

    def first(self, make: Any) -> Any:
        return make()


class Told(nn.Identity):
    """What `runtime` of a TrainStats needs to have."""

    def __init__(self, world: Any) -> None:
        super().__init__()
        self.world = world


class Run:
    """A run by hand: a batch is its outputs and its targets."""

    def __init__(self, handler: PassReportHandler, world: Any = None) -> None:
        self.handler = handler
        self.stats = TrainStats(nn.Identity(), torch.device("cpu"))
        if world is not None:
            self.stats.runtime = Told(world)  # type: ignore[assignment]  # all that is asked of it
        handler.train_begin(self.stats)

    def batch(self, outputs: Any, targets: Any, inputs: Any = None) -> None:
        stats = self.stats
        stats.outputs, stats.targets, stats.inputs = outputs, targets, inputs
        if stats.phase == "train":
            stats.step += 1
            self.handler.batch_end(stats)
        else:
            self.handler.validation_batch_end(stats)
        stats.clear_batch()

    def train(self, *batches: tuple[Any, ...], whole: bool = True) -> Run:
        self.handler.epoch_begin(self.stats)
        for batch in batches:
            self.batch(*batch)
        self.stats.epoch += whole
        self.handler.epoch_end(self.stats)
        return self

    def validate(self, *batches: tuple[Any, ...], phase: Any = "validation") -> Run:
        self.stats.phase, self.stats.val = phase, {"loss": 0.0}
        self.handler.validation_begin(self.stats)
        for batch in batches:
            self.batch(*batch)
        self.handler.validation_end(self.stats)
        self.stats.phase = "train"
        return self

    def end(self) -> None:
        self.handler.train_end(self.stats)


def section(folder: Path, name: str = "output-val") -> dict[str, Any]:
    """A section as the page reads it: strict JSON."""

    def refuse(constant: str) -> Any:
        raise AssertionError(constant)

    text = (folder / f"{name}.section.json").read_text("utf-8")
    found: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return found


def table(folder: Path, title: str, name: str = "output-val") -> list[dict[str, Any]]:
    """The rows of a table of a section, by the heads of its columns."""
    (found,) = (t for t in section(folder, name)["tables"] if t["title"] == title)
    return [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}

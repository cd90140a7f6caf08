"""Drives a `WorstSamplesHandler` by hand, and reads the files it wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from estimator.handlers.worst_samples import WorstSamplesHandler
from estimator.stats import TrainStats

HOST_READS = ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__float__", "__int__")


class Run:
    """A run by hand: each batch is its uids, its losses, and any of the batch fields."""

    def __init__(self, handler: WorstSamplesHandler, epoch: int = 0, step: int = 0) -> None:
        self.handler = handler
        self.stats = TrainStats(nn.Identity(), torch.device("cpu"))
        self.stats.epoch, self.stats.step, self.stats.samples = epoch, step, step
        handler.train_begin(self.stats)

    def batch(self, uids: Any, losses: Any, **fields: Any) -> None:
        stats = self.stats
        whole = isinstance(uids, list) and all(isinstance(uid, int) for uid in uids)
        stats.uids = torch.tensor(uids, dtype=torch.long) if whole else uids
        stats.sample_losses = torch.as_tensor(losses)
        for name in ("inputs", "targets", "outputs"):
            setattr(stats, name, fields.get(name))
        if stats.phase == "train":
            stats.step += 1
            self.handler.batch_end(stats)
        else:
            self.handler.validation_batch_end(stats)

    def validate(self, *batches: tuple[Any, ...], phase: str = "validation") -> None:
        self.stats.phase = phase  # type: ignore[assignment]  # a plain string in these tests
        self.handler.validation_begin(self.stats)
        for uids, losses, *fields in batches:
            self.batch(uids, losses, **(fields[0] if fields else {}))
        self.handler.validation_end(self.stats)
        self.stats.phase = "train"

    def epoch(self, *batches: tuple[Any, ...], val: tuple[Any, ...] = ()) -> Run:
        self.handler.epoch_begin(self.stats)
        for uids, losses, *fields in batches:
            self.batch(uids, losses, **(fields[0] if fields else {}))
        self.stats.epoch += 1
        if val:
            self.validate(*val)
        self.handler.epoch_end(self.stats)
        return self

    def end(self) -> None:
        self.handler.train_end(self.stats)


def table(folder: Path, split: str = "train") -> dict[str, Any]:
    with np.load(folder / f"{split}.npz") as file:
        return {name: file[name] for name in file.files}


def pixels(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as image:
        return np.asarray(image)


def facts(folder: Path, number: int) -> dict[str, str]:
    (path,) = folder.glob(f"{number:03d}_uid_*.txt")
    lines = [line.partition("=") for line in path.read_text("utf-8").splitlines()]
    return {name: value for name, _, value in lines}

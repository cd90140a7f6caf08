"""Drives an `ExplanationHandler` by hand, and reads the files it wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from estimator.explain import ExplanationHandler
from estimator.stats import TrainStats

FAST: dict[str, dict[str, Any]] = {"integrated_gradients": {"steps": 8}, "occlusion": {}}


class Run:
    """A run by hand; each batch is its inputs, targets, losses and any identities."""

    def __init__(
        self, handler: ExplanationHandler, net: nn.Module, *, validates: bool = True
    ) -> None:
        self.handler = handler
        self.stats = TrainStats(net, torch.device("cpu"))
        self.stats.val_data = [] if validates else None
        handler.train_begin(self.stats)

    def batch(self, inputs: Any, targets: Any, losses: Any, uids: Any = None) -> None:
        stats = self.stats
        stats.inputs, stats.targets, stats.uids = inputs, targets, uids
        stats.sample_losses = torch.as_tensor(losses)
        stats.batch_size = len(losses)
        stats.outputs = torch.zeros(len(losses), 3)
        self.handler.validation_batch_end(stats)

    def validate(self, *batches: tuple[Any, ...], phase: str = "validation") -> Run:
        self.stats.phase = phase  # type: ignore[assignment]  # plain strings
        self.handler.validation_begin(self.stats)
        for batch in batches:
            self.batch(*batch)
        self.handler.validation_end(self.stats)
        self.stats.phase = "train"
        return self

    def end(self) -> None:
        self.handler.train_end(self.stats)


def section(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "explanations.section.json").read_text("utf-8"))
    return found


def facts(folder: Path) -> list[dict[str, Any]]:
    return [card["facts"] for card in section(folder)["samples"]]


def outcomes(folder: Path) -> dict[str, str]:
    return dict(section(folder)["tables"][0]["rows"])


def arrays(folder: Path, method: str) -> dict[str, np.ndarray[Any, Any]]:
    """The attributions of a method by the uid of the sample, in the latest folder."""
    place = sorted(folder.glob("epoch_*"))[-1]
    ending = f"_{method}.npy"
    found = {path.name.removesuffix(ending): path for path in place.glob(f"*_uid_*{ending}")}
    return {name.split("_uid_")[1]: np.load(path) for name, path in found.items()}


def text(folder: Path, card: dict[str, Any]) -> list[str]:
    path: Path = folder / card["file"]
    return path.read_text("utf-8").splitlines()

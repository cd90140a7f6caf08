"""Drives an `EmbeddingHandler` by hand, and reads the projector's files."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from estimator.handlers.embedding import EmbeddingHandler
from estimator.stats import TrainStats


class Run:
    """A run by hand over one net; each validation gets its batches of inputs and targets."""

    def __init__(self, handler: EmbeddingHandler, net: nn.Module | None = None) -> None:
        self.handler = handler
        self.stats = TrainStats(net or nn.Identity(), torch.device("cpu"))
        self.stats.val_data = []
        handler.train_begin(self.stats)

    def batch(self, inputs: Any, targets: Any = None, uids: Any = None) -> None:
        stats = self.stats
        stats.inputs, stats.targets, stats.uids = inputs, targets, uids
        stats.batch_size = len(inputs)
        with torch.no_grad():
            stats.outputs = stats.net(inputs)
        self.handler.validation_batch_end(stats)

    def validate(self, *batches: tuple[Any, ...], step: int = 0, phase: str = "validation") -> Run:
        self.stats.step, self.stats.phase = step, phase  # type: ignore[assignment]  # plain strings
        self.handler.validation_begin(self.stats)
        for batch in batches:
            self.batch(*batch)
        self.handler.validation_end(self.stats)
        self.stats.phase = "train"
        return self

    def end(self) -> None:
        self.handler.train_end(self.stats)


class FromOutputs:
    """Picks what an output holds, and can be pickled."""

    def __init__(self, pick: Callable[[Any], Any]) -> None:
        self.pick = pick

    def __call__(self, outputs: Any) -> Any:
        return self.pick(outputs)


class ReturnsTwo(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"text": "no tensor", "sums": x.flatten(1).sum(1), "rows": [x.flatten(1)]}


def vectors(folder: Path) -> np.ndarray[Any, Any]:
    return np.loadtxt(folder / "tensors.tsv", delimiter="\t", ndmin=2)


def metadata(folder: Path) -> list[list[str]]:
    lines = (folder / "metadata.tsv").read_text("utf-8").removesuffix("\n").split("\n")
    return [line.split("\t") for line in lines]


def listed(folder: Path) -> list[dict[str, str]]:
    """The entries of the projector's list, by field."""
    text = (folder / "projector_config.pbtxt").read_text()
    entries = re.findall(r"^embeddings \{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL)
    return [dict(re.findall(r'(\w+): "?([^"\n]*)"?', entry)) for entry in entries]


def sprite(folder: Path) -> np.ndarray[Any, Any]:
    with Image.open(folder / "sprite.png") as image:
        return np.asarray(image)


def hooks(net: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in net.modules())

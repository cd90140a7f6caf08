"""Small nets of each make that an export has to do with, and a look into the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from estimator.outputs import ClassificationOutput, RegressionOutput


class Images(nn.Module):
    """Convolution, batch norm and dropout; one tensor in, one out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)
        self.drop, self.last = nn.Dropout(0.5), nn.Linear(2 * 4 * 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.last(self.drop(self.norm(self.conv(images)).relu()).flatten(1))
        return out


class Pair(nn.Module):
    """Two tensors in, a tuple out."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 2), nn.Linear(4, 2)

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        both = self.left(left) + self.right(right)
        return both, both.argmax(1)


class Texts(nn.Module):
    """A dict in, outputs that describe themselves out; a recurrent net over any length."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 4)
        self.lstm = nn.LSTM(4, 3, bidirectional=True, batch_first=True)
        self.digit, self.angle = nn.Linear(6, 5), nn.Linear(6, 1)

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        found = self.lstm(self.embed(batch["tokens"]))[0].mean(1)
        return {
            "digit": ClassificationOutput(self.digit(found), "label"),
            "angle": RegressionOutput(self.angle(found).squeeze(1), "turn"),
        }


def texts(samples: int = 4, length: int = 6) -> dict[str, Any]:
    return {
        "tokens": torch.randint(0, 20, (samples, length)),
        "label": torch.randint(0, 5, (samples,)),
        "turn": torch.randn(samples),
        "words": ["a word"] * samples,
        "sample_uid": torch.arange(samples),
    }


class Branching(nn.Module):
    """Does one thing or another by the values of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


class Fixed(nn.Module):
    """Goes by the size of the example."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if len(x) == 4 else x


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ones(2, 3)


def sizes(path: Path) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Names and shapes of a file's inputs and outputs; axes of any size by name."""
    graph = onnx.load(path).graph

    def read(values: Any) -> dict[str, list[Any]]:
        return {
            v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
            for v in values
        }

    return read(graph.input), read(graph.output)


def run(path: Path, **inputs: Tensor) -> list[np.ndarray]:
    """What onnxruntime makes of a file."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(None, {n: t.numpy() for n, t in inputs.items()})
    return found

"""Parts of the detector of the tutorials, with boxes and outputs to try them on."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

MODELS = Path(__file__).parents[1] / "tutorials/models"


def module(name: str) -> Any:
    """A module of the tutorials, which import each other as scripts do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(MODELS))
        return importlib.import_module(name)


boxes, precision, detection = map(module, ("_boxes", "_average_precision", "detection"))
LEVELS = (boxes.Level(8, (0.25, 0.5)), boxes.Level(16, (0.8,), (1.0,)))


def random_boxes(*shape: int, side: int = 64) -> Tensor:
    middle, half = torch.rand(*shape, 2) * side, 3 + torch.rand(*shape, 2) * side / 5
    return torch.cat([middle - half, middle + half], -1)


def random_targets(samples: int, most: int = 5, classes: int = 2) -> dict[str, Tensor]:
    valid = torch.arange(most) < torch.randint(0, most + 1, (samples, 1))
    labels = torch.randint(1, classes + 1, (samples, most)) * valid
    return {
        "boxes": random_boxes(samples, most) * valid[..., None],
        "labels": labels,
        "valid": valid,
    }


def random_outputs(samples: int, anchors: Tensor, classes: int = 2) -> dict[str, Tensor]:
    return {
        "scores": torch.randn(samples, len(anchors), classes + 1),
        "offsets": torch.randn(samples, len(anchors), 4),
    }

"""Small pictures of three classes, and what classifies them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from estimator import Estimator


def classifier_of_pictures() -> Estimator:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 3)
    )
    return Estimator(net, nn.CrossEntropyLoss(), ["accuracy"])


def pictures(samples: int) -> Any:
    generator = torch.Generator().manual_seed(samples)
    return torch.randn(samples, 1, 4, 4, generator=generator), torch.arange(samples) % 3


OF_PICTURES: dict[str, Any] = {"estimator": classifier_of_pictures, "data": pictures}
"""What a contract is told about a handler of pictures."""

"""Nets whose outputs describe themselves, and data for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from estimator import Estimator, Trainer
from estimator.stats import TrainStats

DOUBLE = torch.float64
Make = Callable[[Tensor, dict[str, Any]], dict[str, Any]]


class Net(nn.Module):
    """A linear layer, whose result a function makes into outputs."""

    def __init__(
        self, make: Make, width: int = 3, *, parts: dict[str, nn.Module] | None = None
    ) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layer = nn.Linear(4, width).double()
        self.make = make
        self.parts = nn.ModuleDict(parts or {})

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        return self.make(self.layer(batch["x"]), batch)


def data(samples: int = 22, **more: Any) -> dict[str, Any]:
    """Inputs, three classes and two numbers."""
    generator = torch.Generator().manual_seed(samples)
    x = torch.randn(samples, 4, generator=generator, dtype=DOUBLE)
    columns = {"x": x, "label": torch.arange(samples) % 3, "number": x[:, :2] * 2 + 1}
    return columns | more


def batches(columns: dict[str, Any], size: int) -> list[dict[str, Any]]:
    samples = len(columns["x"])
    return [{k: v[i : i + size] for k, v in columns.items()} for i in range(0, samples, size)]


def fit(
    net: nn.Module, train: Any, val: Any = None, **changes: Any
) -> tuple[Estimator, TrainStats]:
    est = Estimator(net, **{k: changes.pop(k) for k in ("metrics", "processor") if k in changes})
    rate = changes.pop("lr", 0.1)
    arguments: dict[str, Any] = {
        "epochs": 1, "trainers": Trainer("sgd", lr=rate), "device": "cpu", "progress": False,
    }  # fmt: skip
    return est, est.fit(train, val, **(arguments | changes))

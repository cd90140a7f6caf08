"""Runs and tables for the tests of `LRRecorderHandler`."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch
from torch import nn

from estimator import Estimator, Trainer
from estimator.handlers.base import EventHandler
from estimator.stats import TrainStats

BATCHES = 4


def data() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.randn(3, 2), torch.randn(3, 1)) for _ in range(BATCHES)]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(2, 4)
        self.head = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.body(x))
        return out


def fit(*handlers: EventHandler, trainers: Any = "sgd", **arguments: Any) -> TrainStats:
    arguments = {"epochs": 3} | arguments
    est = Estimator(Net(), loss=nn.MSELoss())
    return est.fit(
        data(), trainers=trainers, device="cpu", handlers=handlers, progress=False, **arguments
    )


def two_trainers() -> dict[str, Trainer]:
    def groups(net: nn.Module) -> list[dict[str, Any]]:
        body: Any = net.body
        return [{"params": [body.weight], "lr": 0.5}, {"params": [body.bias]}]

    return {
        "body": Trainer("sgd", lr=0.25, params=groups),
        "head": Trainer("adam", lr=1e-3, params="head"),
    }


def table(folder: Path) -> list[list[str]]:
    with open(folder / "lr.csv", newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def column(folder: Path, name: str) -> list[float]:
    head, *rows = table(folder)
    return [float(row[head.index(name)]) for row in rows]


class FailAt(EventHandler):
    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def batch_end(self, stats: TrainStats) -> None:
        if stats.step == self.step:
            raise RuntimeError("on purpose")

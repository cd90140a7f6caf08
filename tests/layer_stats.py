"""Nets, runs and NumPy references for the tests of the handlers that measure layers."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from estimator import Estimator, Trainer
from estimator.handlers.base import EventHandler
from estimator.stats import TrainStats

Batches = list[tuple[torch.Tensor, torch.Tensor]]


Table = dict[tuple[int, str], dict[str, float | None]]


Key = tuple[int, str]


MOMENTS = ["mean", "std", "min", "max", "zeros", "nonfinite"]


BATCHES = 4


LAYERS = ["first", "norm", "relu", "drop", "again", "last"]


class Net(nn.Module):
    """Normalisation, dropout, a change in place, and a layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 6)
        self.norm = nn.BatchNorm1d(6)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.2)
        self.again = nn.Linear(6, 6)
        self.last = nn.Linear(6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.drop(self.relu(self.norm(self.first(x))))
        out: torch.Tensor = self.last(self.again(self.again(x)))
        return out


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.first(x)
        return out


def data() -> Batches:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(5, 3, generator=generator), torch.randn(5, 1, generator=generator))
        for _ in range(BATCHES)
    ]


def fit(
    *handlers: EventHandler, net: nn.Module | None = None, batches: Any = None, **arguments: Any
) -> TrainStats:
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "epochs": 2,
        "trainers": Trainer("sgd", lr=0.1, clip_norm=0.01),
    } | arguments
    est = Estimator(Net() if net is None else net, loss=nn.MSELoss())
    batches = data() if batches is None else batches
    return est.fit(batches, device="cpu", handlers=handlers, progress=False, **options)


def by_hand(net: nn.Module, *, step: int = 0) -> TrainStats:
    stats = TrainStats(net, torch.device("cpu"))
    stats.step = stats.samples = step
    return stats


def measure(handler: EventHandler, stats: TrainStats) -> None:
    """The events of one batch that ends with an optimizer step."""
    handler.batch_begin(stats)
    stats.outputs = stats.net(stats.inputs)
    handler.forward_end(stats)
    handler.backward_end(stats)
    stats.step += 1
    handler.batch_end(stats)


def table(path: Path) -> Table:
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    owner = list(rows[0])[2]
    return {
        (int(row["step"]), row[owner]): {
            name: float(row[name]) if row[name] else None for name in list(row)[3:]
        }
        for row in rows
    }


def steps(path: Path) -> list[int]:
    return sorted({step for step, _ in table(path)})


def by_numpy(*arrays: torch.Tensor) -> dict[str, float]:
    values = np.concatenate([a.detach().numpy().ravel() for a in arrays]).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return {
            "mean": values.mean(),
            "std": values.std(),
            "min": values.min(),
            "max": values.max(),
            "zeros": (values == 0).mean(),
            "nonfinite": (~np.isfinite(values)).sum(),
        }


def close(expected: Mapping[str, Any]) -> Any:
    return pytest.approx(dict(expected), rel=1e-5, abs=1e-7, nan_ok=True)


class Reference(NamedTuple):
    """Of each step of a hand-written loop the gradients and outputs, and what it ended with."""

    gradients: dict[Key, torch.Tensor]
    outputs: dict[Key, list[torch.Tensor]]
    state: dict[str, torch.Tensor]
    random: torch.Tensor


def hand_loop() -> Reference:
    torch.manual_seed(0)
    net, step = Net(), 0
    gradients: dict[Key, torch.Tensor] = {}
    outputs: dict[Key, list[torch.Tensor]] = {}
    for name in LAYERS:

        def keep(_m: Any, _i: Any, output: torch.Tensor, name: str = name) -> None:
            outputs.setdefault((step, name), []).append(output.detach().clone())

        net.get_submodule(name).register_forward_hook(keep)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for x, y in data() * 2:
        step += 1
        optimizer.zero_grad()
        nn.functional.mse_loss(net(x), y).backward()
        for name, parameter in net.named_parameters():
            assert parameter.grad is not None
            gradients[step, name] = parameter.grad.clone()
        nn.utils.clip_grad_norm_(net.parameters(), 0.01)
        optimizer.step()
    return Reference(gradients, outputs, net.state_dict(), torch.get_rng_state())


def assert_same_training(stats: TrainStats, reference: Reference) -> None:
    state = stats.net.state_dict()
    assert list(state) == list(reference.state)
    assert all(torch.equal(state[name], value) for name, value in reference.state.items())
    assert torch.equal(torch.get_rng_state(), reference.random)


def hooks(net: nn.Module) -> list[Any]:
    return [hook for module in net.modules() for hook in module._forward_hooks.values()]

"""A small net, its data, and the same training by `fit` and by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from estimator import Estimator, TrainStats


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.Tanh())
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.body(x))
        return out


def data(n: int = 24) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(n, 4, generator=generator)
    y = torch.randint(3, (n,), generator=generator)
    return list(zip(x.split(8), y.split(8), strict=True))


def run(net: nn.Module, trainers: Any, epochs: int = 1, **arguments: Any) -> TrainStats:
    est = Estimator(net, nn.CrossEntropyLoss())
    return est.fit(
        data(), epochs=epochs, trainers=trainers, device="cpu", progress=False, **arguments
    )


def by_hand(
    net: nn.Module, optimizers: Iterable[torch.optim.Optimizer], epochs: int = 1,
    before_step: Callable[[], Any] = lambda: None, after_epoch: Callable[[], Any] = lambda: None,
) -> None:  # fmt: skip
    for _ in range(epochs):
        for x, y in data():
            net.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            before_step()
            for optimizer in optimizers:
                optimizer.step()
        after_epoch()


def assert_same(net: nn.Module, other: nn.Module) -> None:
    ours, theirs = net.state_dict(), other.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def pair() -> tuple[Net, Net]:
    net = Net()
    return net, copy.deepcopy(net)

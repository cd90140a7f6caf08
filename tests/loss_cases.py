"""Losses of every kind with data and a net for each, to compare batches with the whole set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Batch = tuple[Any, Any]
Make = Callable[[int], Batch]
IGNORED = -100
CLASS_WEIGHTS = torch.tensor([0.2, 1.0, 3.0])


class OwnCount(nn.Module):
    """The mean over all that is above 0 in the targets, which it counts itself."""

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        kept = targets > 0
        return ((outputs - targets) ** 2 * kept).sum() / kept.sum()

    def item_count(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (targets > 0).sum()


def mean_of_logs(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return ((outputs - targets) ** 2).mean(1).log1p().mean()


def classes(n: int) -> Batch:
    return torch.randn(n, 4), torch.randint(3, (n,))


def classes_with_ignored(n: int) -> Batch:
    x, y = classes(n)
    # The first target counts: a batch without any has a test of its own.
    return x, y.masked_fill(torch.rand(n) < 0.5, 2).index_fill(0, torch.tensor([0]), 1)


def sequences(n: int) -> Batch:
    x, y = torch.randn(n, 4), torch.randint(3, (n, 5))
    return x, y.masked_fill(torch.rand(n, 5) < 0.4, IGNORED)


def vectors(n: int) -> Batch:
    return torch.randn(n, 4), torch.randn(n, 3)


def bits(n: int) -> Batch:
    return torch.randn(n, 4), torch.rand(n, 3).round()


def positive(n: int) -> Batch:
    x, y = vectors(n)
    y[0, 0] = 1.0
    return x, y


def two(n: int) -> Batch:
    x, y = classes(n)
    return x, {"kind": y, "size": torch.randn(n, 2)}


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kind, self.size = nn.Linear(4, 3), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"kind": self.kind(x), "size": self.size(x)}


class Tokens(nn.Module):
    """Scores of 3 classes at 5 places."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 15)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.linear(x)
        return scores.view(-1, 3, 5)


def linear() -> nn.Module:
    return nn.Linear(4, 3)


CASES: dict[str, tuple[Any, Make, Callable[[], nn.Module]]] = {
    "cross entropy": (nn.CrossEntropyLoss(), classes, linear),
    "its function": (F.cross_entropy, classes, linear),
    "ignore_index of its own": (
        nn.CrossEntropyLoss(ignore_index=2),
        classes_with_ignored,
        linear,
    ),
    "no reduction": (
        nn.CrossEntropyLoss(reduction="none", ignore_index=2),
        classes_with_ignored,
        linear,
    ),
    "tokens": (nn.CrossEntropyLoss(), sequences, Tokens),
    "class weights": (nn.CrossEntropyLoss(weight=CLASS_WEIGHTS), classes, linear),
    "smoothing": (nn.CrossEntropyLoss(label_smoothing=0.1), classes, linear),
    "mse": (nn.MSELoss(), vectors, linear),
    "l1": (nn.L1Loss(), vectors, linear),
    "bce": (nn.BCEWithLogitsLoss(), bits, linear),
    "sum": (nn.MSELoss(reduction="sum"), vectors, linear),
    "a function": (mean_of_logs, vectors, linear),
    "its own count": (OwnCount(), positive, linear),
    "a dict": ({"kind": nn.CrossEntropyLoss(), "size": (nn.MSELoss(), 0.5)}, two, TwoHeads),
}


def whole(batches: list[Batch]) -> Batch:
    x = torch.cat([x for x, _ in batches])
    first = batches[0][1]
    if isinstance(first, dict):
        return x, {key: torch.cat([y[key] for _, y in batches]) for key in first}
    return x, torch.cat([y for _, y in batches])


def loss_of(spec: Any, outputs: Any, targets: Any) -> torch.Tensor:
    if isinstance(spec, dict):
        kind, (size, weight) = spec["kind"], spec["size"]
        total: torch.Tensor = kind(outputs["kind"], targets["kind"])
        total = total + weight * size(outputs["size"], targets["size"])
        return total
    result: torch.Tensor = spec(outputs, targets)
    return result.mean()


def group_gradients(net: nn.Module, spec: Any, group: list[Batch]) -> list[torch.Tensor]:
    x, y = whole(group)
    return list(torch.autograd.grad(loss_of(spec, net(x), y), list(net.parameters())))

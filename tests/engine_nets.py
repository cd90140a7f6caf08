"""Nets and losses for the engine: such as can be written down, and such as cannot."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

X = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


def mlp() -> nn.Module:
    layers = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.4), nn.Linear(16, 2)
    return nn.Sequential(*layers)


def conv() -> nn.Module:
    head = nn.Unflatten(1, (1, 2, 4)), nn.Conv2d(1, 4, 2), nn.BatchNorm2d(4), nn.GELU()
    return nn.Sequential(*head, nn.MaxPool2d((1, 2)), nn.Flatten(), nn.LazyLinear(2))


class Attention(nn.Module):
    """A small transformer layer with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.layer(x[:, None, :].expand(-1, 3, -1)).mean(1))


class Tied(nn.Module):
    """A weight that is used twice, a buffer that changes, and a tensor that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
        self.b.weight = self.a.weight
        self.head = nn.Linear(8, 2)
        self.register_buffer("mean", torch.zeros(8))
        self.scale = torch.full((8,), 0.5)

    def forward(self, x: Tensor) -> Any:
        assert isinstance(self.mean, Tensor)
        if self.training:
            self.mean.lerp_(x.mean(0), 0.1)
        return self.head(torch.tanh(self.b(self.a(x - self.mean))) * self.scale)


class Unused(nn.Module):
    """A layer that takes no part, whose weights get no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Any:
        return self.used(x)


class Masked(nn.Module):
    """A mask of minus infinity, as attention has it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Any:
        h = x.masked_fill(x < -1, float("-inf")).softmax(1)
        return self.layer(h)


class Branch(nn.Module):
    """Python's `if` on a value of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Any:
        h = self.layer(x)
        if h.max() > 1:
            h = h * 0.5
        return h


class Counter(nn.Module):
    """A Python number that changes with each call."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = nn.Linear(8, 2), 0

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        return self.layer(x) / self.calls


class Lottery(nn.Module):
    """Python's random numbers decide."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Any:
        return self.layer(x) * random.random()


class Sparse(nn.Module):
    """Gradients that are sparse."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(4, 3, sparse=True), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.table((x[:, 0] > 0).long()))


class Complex(nn.Module):
    """Weights that are complex."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 2, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Any:
        return (x.to(torch.complex64) @ self.weight).abs()


class Uncopied(nn.Module):
    """Something that cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.of_mine = nn.Linear(8, 2), (number for number in range(3))

    def forward(self, x: Tensor) -> Any:
        return self.layer(x)


def reading(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss that reads a value to the host."""
    loss = F.cross_entropy(outputs, targets)
    return loss * (1.0 if loss.item() < 100 else 0.5)


REPLAYED: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "mlp": (mlp, nn.CrossEntropyLoss()),
    "weighed": (mlp, nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0]), label_smoothing=0.1)),
    "ignored": (mlp, nn.CrossEntropyLoss(ignore_index=1)),
    "summed": (mlp, nn.CrossEntropyLoss(reduction="sum")),
    "conv": (conv, nn.CrossEntropyLoss()),
    "attention": (Attention, nn.CrossEntropyLoss()),
    "tied": (Tied, nn.CrossEntropyLoss()),
    "masked": (Masked, nn.CrossEntropyLoss()),
    "unused": (Unused, nn.CrossEntropyLoss()),
    "function": (mlp, lambda outputs, targets: ((outputs[:, 0] - targets) ** 2).mean()),
}
EAGER: dict[str, tuple[Callable[[], nn.Module], Any, str]] = {
    "branch": (Branch, nn.CrossEntropyLoss(), "E102"),
    "reading loss": (mlp, reading, "E102"),
    "counter": (Counter, nn.CrossEntropyLoss(), "E104"),
    "lottery": (Lottery, nn.CrossEntropyLoss(), "E104"),
    "sparse": (Sparse, nn.CrossEntropyLoss(), "E106"),
    "complex": (Complex, nn.CrossEntropyLoss(), "E106"),
    "uncopied": (Uncopied, nn.CrossEntropyLoss(), "E107"),
}

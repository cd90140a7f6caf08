"""Nets, data and handlers for tests of what goes through a run: every sample is its own number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from estimator import Estimator, TrainStats
from estimator.handlers import EventHandler

QUIET: dict[str, Any] = {"device": "cpu", "progress": False, "trainers": "sgd"}


def numbers(count: int) -> Tensor:
    """Inputs of shape (count, 1) whose values are 0, 1, 2, ..."""
    return torch.arange(float(count)).view(-1, 1)


def pairs(count: int, size: int) -> list[tuple[Tensor, Tensor]]:
    """Batches `(x, 2 x)`."""
    x = numbers(count)
    return list(zip(x.split(size), (2 * x).split(size), strict=True))


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    """A map-style dataset of `(x, 2 x)`."""

    def __init__(self, count: int) -> None:
        self.x = numbers(count)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index], 2 * self.x[index]


class Named(Dataset[dict[str, Any]]):
    """A map-style dataset of dicts."""

    def __init__(self, count: int) -> None:
        self.x = numbers(count)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"x": self.x[index], "y": 2 * self.x[index]}


class NoLength(Dataset[Any]):
    """A map-style dataset that does not say how long it is."""

    def __getitem__(self, index: int) -> Any:
        return numbers(1), numbers(1)


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """A dataset that can only be gone through, shared out among workers."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        worker = torch.utils.data.get_worker_info()
        start, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for row in numbers(self.count)[start::step]:
            yield row, 2 * row


class Counted:
    """Batches that can be gone through again and say how often that was begun."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches, self.begun = batches, 0

    def __iter__(self) -> Iterator[Any]:
        self.begun += 1
        yield from self.batches


class Recorder(EventHandler):
    """Keeps the inputs and identities of each batch, in training and in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.train: list[list[int]] = []
        self.val: list[list[int]] = []
        self.uids: list[Any] = []

    def batch_end(self, stats: TrainStats) -> None:
        self.train.append(whole(stats.inputs))
        self.uids.append(stats.uids)

    def validation_batch_end(self, stats: TrainStats) -> None:
        self.val.append(whole(stats.inputs))
        self.uids.append(stats.uids)


class UidRecorder(Recorder):
    """A recorder that cannot do without identities."""

    needs = frozenset({"uids"})


def whole(values: Any) -> list[int]:
    """A tensor's values as whole numbers."""
    assert isinstance(values, Tensor)
    return [int(value) for value in values.flatten().tolist()]


def line() -> nn.Linear:
    """A net that gives three times its input."""
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 3.0)
    return net


def fitted(data: Any, val: Any = None, **arguments: Any) -> Recorder:
    """Trains a line without moving it, and gives back what was seen."""
    recorder = arguments.pop("recorder", None) or Recorder()
    targets = arguments.pop("targets", None)
    est = Estimator(line(), nn.MSELoss(), targets=targets)
    given = QUIET | {"trainers": torch.optim.SGD(est.net.parameters(), lr=0.0)} | arguments
    if "iterations" not in given:
        given.setdefault("epochs", 1)
    est.fit(data, val, handlers=recorder, **given)
    return recorder

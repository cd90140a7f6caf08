"""Handlers that write down or disturb a run, and the runs they are used in."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from estimator import Estimator, TrainStats
from estimator.handlers import EVENTS, Band, EventHandler

X, Y = torch.randn(6, 3), torch.randn(6, 1)
BATCHES = [(X[:2], Y[:2]), (X[2:4], Y[2:4]), (X[4:], Y[4:])]
SHORT = {
    "train_begin": "T(", "train_end": ")T", "epoch_begin": "E(", "epoch_end": ")E",
    "batch_begin": "b(", "forward_end": "f", "backward_end": "g", "batch_end": ")b",
    "validation_begin": "V(", "validation_batch_end": "v", "validation_end": ")V",
    "error": "!",
}  # fmt: skip
BATCH = "b( f g )b"
EPOCH = f"E( {BATCH} {BATCH} {BATCH} V( v )V )E"


class Trace(EventHandler):
    """Writes down every event."""

    def __init__(self, band: Band | None = None) -> None:
        super().__init__(band=band)
        self.events: list[str] = []

    @property
    def text(self) -> str:
        return " ".join(SHORT[event] for event in self.events)


def _recorder(event: str) -> Any:
    def record(self: Trace, stats: TrainStats) -> None:
        self.events.append(event)

    return record


for _event in EVENTS:
    setattr(Trace, _event, _recorder(_event))


class At(EventHandler):
    """Does something at the n-th firing of an event."""

    def __init__(self, event: str, action: Any, n: int = 1) -> None:
        super().__init__()
        self.left = n
        self.action = action
        setattr(self, event, self.fire)

    def fire(self, stats: TrainStats) -> None:
        self.left -= 1
        if self.left == 0:
            self.action(stats)


def run(*handlers: Any, net: nn.Module | None = None, **arguments: Any) -> tuple[Trace, Any]:
    trace = Trace()
    est = Estimator(nn.Linear(3, 1) if net is None else net, nn.MSELoss())
    settings: dict[str, Any] = {"train": BATCHES, "val": BATCHES[:1], "epochs": 2} | arguments
    try:
        est.fit(
            device="cpu", trainers="sgd", progress=False, handlers=[trace, *handlers], **settings
        )
    except BaseException as error:
        return trace, error
    return trace, est.train_stats


def boom(stats: TrainStats) -> None:
    raise RuntimeError("boom")


class Collect(EventHandler):
    def __init__(self, event: str, action: Any) -> None:
        super().__init__()
        setattr(self, event, action)

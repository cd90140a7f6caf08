"""Jobs of one process and of two: who ends a run, what differs, and what they raise."""

from __future__ import annotations

import os
import random
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from distributed_jobs import RANK, WORLD, classifier, data, fit, new_net, outcome
from torch import Tensor, nn

from estimator import Estimator
from estimator.handlers import (
    Band,
    CheckpointHandler,
    CSVLogHandler,
    EarlyStoppingHandler,
    EventHandler,
    Every,
    NaNHandler,
    TimeLimitHandler,
    _checkpoint_store,
)
from estimator.handlers.base import FolderError
from estimator.metrics import Metric
from estimator.stats import TrainStats

LAST = WORLD - 1


class Asks(EventHandler):
    """Lets the last process alone ask for a stop, in one event."""

    def __init__(self, event: str, step: int, **stop: Any) -> None:
        super().__init__(band=stop.pop("band", None))
        self.step, self.settings = step, stop
        setattr(self, event, self.ask)

    def ask(self, stats: TrainStats) -> None:
        if stats.world.rank == LAST and stats.step == self.step:
            stats.stop(f"process {stats.world.size - 1 - LAST} has seen enough", **self.settings)


class Interrupts(EventHandler):
    """Sends a signal to the last process alone."""

    def __init__(self, event: str) -> None:
        super().__init__()
        setattr(self, event, self.send)

    def send(self, stats: TrainStats) -> None:
        if stats.step == 13 and stats.world.rank == LAST:
            os.kill(os.getpid(), signal.SIGTERM)


class Due(EventHandler):
    """Notes at which steps a schedule in seconds comes round."""

    def train_begin(self, stats: TrainStats) -> None:
        self.clock, self.steps = Every(seconds=0.01).clock(stats), [0]

    def batch_end(self, stats: TrainStats) -> None:
        self.steps += [stats.step] if self.clock.due(stats) else []


def decisions(folder: Path) -> dict[str, Any]:
    """Who ends a run, and where."""
    x, y = data()
    broken = x.clone()
    broken[50] = torch.inf
    patient = EarlyStoppingHandler(patience=2, min_delta=0.03, restore_best=True)
    asked: dict[str, EventHandler] = {
        "in a batch": Asks("forward_end", 4),
        "after a batch": Asks("batch_end", 5),
        "after the epoch": Asks("batch_end", 5, when="epoch"),
        "at the end of an epoch": Asks("epoch_end", 13, band=Band.REPORT),
        "at the begin": Asks("train_begin", 0),
        "in a validation": Asks("validation_batch_end", 13),
        "a signal": Interrupts("batch_end"),
        "a signal in a validation": Interrupts("validation_batch_end"),
        "the time": TimeLimitHandler(1e-9),
    }
    found = {name: outcome(fit(classifier(), handlers=h)) for name, h in asked.items()}
    found["early"] = outcome(fit(classifier(), epochs=30, handlers=patient))
    watching = NaNHandler(every=Every(steps=1))
    stats = fit(classifier(), (broken, y), epochs=1, seed=4, handlers=watching)
    found["not finite"] = {"stopped": stats.stopped, "counts": outcome(stats)["counts"]}
    return found


def own(folder: Path) -> dict[str, Any]:
    """What differs between the processes, or must not: streams, schedules in seconds, files."""
    due, log = Due(), CSVLogHandler(folder / f"history{RANK}.csv")
    stats = fit(classifier(net=new_net(nn.Dropout(0.5))), handlers=[due, log])
    est = classifier()
    fit(est, seed=None)
    (folder / str(RANK)).mkdir()
    est.save(folder / str(RANK) / "weights.pt")
    return {
        "due": due.steps,
        "times": stats["time"],
        "drawn": (random.random(), float(torch.rand(()))),
        "suggestion": est.find_lr(data(), steps=20).losses,
    }


class Largest(Metric):
    """A metric that does not say how its states come together."""

    name = "largest"

    def reset(self) -> None:
        self.value = torch.tensor(-torch.inf)

    def update(self, outputs: Any, targets: Any) -> None:
        self.value = self.value.fmax(outputs.max())

    def compute(self) -> Tensor:
        return self.value

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: Any) -> None:
        self.value = state["value"]


class Full(EventHandler):
    """A disk that is full, which only the first process notices."""

    def epoch_begin(self, stats: TrainStats) -> None:
        if RANK == 0:
            setattr(_checkpoint_store, "write_state", self.fail)  # noqa: B010, mypy knows its type

    def fail(self, *_: Any) -> str:
        raise FolderError("the disk is full")


def errors(folder: Path) -> dict[str, Any]:
    """What each process raises."""
    (folder / "a file").touch()
    x, y = data()
    pieces = {"a": nn.CrossEntropyLoss(ignore_index=1)}
    calls: dict[str, Callable[[], object]] = {
        "list": lambda: fit(classifier(), [(x, y)]),
        "metric": lambda: fit(classifier(metrics=Largest())),
        "folder": lambda: fit(classifier(), handlers=CheckpointHandler(folder / "a file" / "b")),
        "resume": lambda: fit(classifier(), resume=str(folder / "nothing")),
        "disk": lambda: fit(classifier(), handlers=[Full(), CheckpointHandler(folder / "full")]),
        "predict": lambda: classifier(net=Counts()).predict(x),
        "several": lambda: Estimator(Named(), pieces).fit((x, {"a": y}), device="cpu"),
    }
    found = {}
    for name, call in calls.items():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                call()
            except Exception as error:
                found[name] = f"{type(error).__name__}: {error}"
    return found


class Counts(nn.Module):
    """A net whose output has no row a sample."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum()


class Named(nn.Module):
    """A net with a dict of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.net = new_net()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"a": self.net(x)}

"""One training in many forms, which can be stopped anywhere and gone on with by fresh objects."""

from __future__ import annotations

import functools
import json
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau
from torch.utils.data import DataLoader, Dataset, TensorDataset

from estimator import Estimator, Trainer, TrainStats
from estimator.handlers import CheckpointHandler, EarlyStoppingHandler, EMAHandler, EventHandler
from estimator.handlers.base import Every
from estimator.sequences import ResumableSampler, SeededDataset

STOPS = ("epoch end", "mid-epoch", "mid-group", "last batch", "validation", "validation inside")
SETUPS = (
    *("plain", "accumulate", "bf16", "fp16", "ema", "two trainers", "one cycle", "plateau"),
    "early stopping",
)
FEEDS = (
    *("arrays", "dataset", "sampler", "sampler, 2 workers", "stock", "stock, 2 workers"),
    *("stateful", "unsized"),
)
MEANS = ("stop", "signal")
EPOCHS, SIZE, BATCHES = 4, 8, 7
# Of a run without accumulation, counted from 1: the second epoch has the batches 8 to 14.
_BATCH = {"mid-epoch": 10, "mid-group": 11, "last batch": 14}

_g = torch.Generator().manual_seed(1)
X = torch.randn(SIZE * (BATCHES - 1) + 4, 6, generator=_g)
Y = (X.sum(1) > 0).long()
VAL = TensorDataset(torch.randn(20, 6, generator=_g), torch.randint(2, (20,), generator=_g))


class Case(NamedTuple):
    """A training, and how it is stopped."""

    setup: str = "plain"
    feed: str = "arrays"
    stop: str = "mid-epoch"
    means: str = "stop"


class Augmented(Dataset[Any]):
    """Samples with noise from the global streams of Python, NumPy and torch."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = random.random() + float(np.random.rand()) + torch.randn(6)
        return X[index] + 0.1 * noise, Y[index]


class Stateful:
    """A loader that says its place itself, and draws its order from a generator of its own."""

    def __init__(self) -> None:
        self.own = torch.Generator().manual_seed(5)
        self.began, self.given, self.skip = self.own.get_state(), 0, 0

    def __iter__(self) -> Iterator[Any]:
        skip, self.skip = self.skip, 0
        self.began = self.own.get_state()
        order = torch.randperm(len(X), generator=self.own).split(SIZE)
        for self.given, rows in enumerate(order[skip:], skip + 1):
            yield X[rows], Y[rows]

    def state_dict(self) -> dict[str, Any]:
        return {"began": self.began, "given": self.given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.own.set_state(state["began"])
        self.skip = state["given"]


class SizedStateful(Stateful):
    """One that also knows how many batches it has."""

    def __len__(self) -> int:
        return BATCHES


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.Dropout(0.3), nn.ReLU())
        self.head = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x))
        return out


class Stop(EventHandler):
    """Ends a run at the place of a case, by `stats.stop` or by a signal."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case = case
        self.batches = self.validations = 0

    def _act(self, stats: TrainStats, number: signal.Signals = signal.SIGTERM) -> None:
        if self.case.means == "signal":
            signal.raise_signal(number)
        else:
            stats.stop("planned")

    def batch_begin(self, stats: TrainStats) -> None:
        self.batches += 1
        if self.case.means == "signal" and self.batches == _BATCH.get(self.case.stop):
            self._act(stats)

    def batch_end(self, stats: TrainStats) -> None:
        if self.case.means == "stop" and self.batches == _BATCH.get(self.case.stop):
            self._act(stats)

    def validation_begin(self, stats: TrainStats) -> None:
        self.validations += 1

    def validation_batch_end(self, stats: TrainStats) -> None:
        here = self.validations == 2 and stats.batch_index == 1
        if here and self.case.stop.startswith("validation"):
            self._act(stats, signal.SIGUSR1)

    def epoch_end(self, stats: TrainStats) -> None:
        if stats.epoch == 2 and self.case.stop == "epoch end":
            self._act(stats)


def feed(case: Case) -> Any:
    """The training data of a case, made anew."""
    form, _, workers = case.feed.partition(", ")
    count = 2 if workers else 0
    if form == "arrays":
        return X, Y
    if form == "dataset":
        return Augmented()
    if form == "sampler":
        sampler = ResumableSampler(len(X), SIZE, seed=5)
        own = torch.Generator()
        data = SeededDataset(Augmented())
        return DataLoader(data, batch_sampler=sampler, num_workers=count, generator=own)
    if form == "stock":
        own = torch.Generator().manual_seed(7)
        return DataLoader(Augmented(), SIZE, shuffle=True, num_workers=count, generator=own)
    if form == "global":
        return DataLoader(TensorDataset(X, Y), SIZE, shuffle=True)
    return SizedStateful() if form == "stateful" else Stateful()


def trainers(setup: str, net: Net) -> Any:
    if setup == "two trainers":
        body = Trainer("sgd", lr=0.1, momentum=0.9, params="body", clip_norm=1.0)
        return {"body": body, "head": Trainer("adam", lr=0.01, params="head")}
    if setup == "one cycle":
        steps = EPOCHS * BATCHES
        return Trainer("adamw", scheduler=lambda o: OneCycleLR(o, max_lr=0.1, total_steps=steps))
    if setup == "plateau":
        # Only a gain above 10 counts, so that every validation after the first is a bad one.
        plateau = functools.partial(ReduceLROnPlateau, patience=1, threshold=10.0, factor=0.5)
        return Trainer("adam", lr=0.05, scheduler=plateau)
    return Trainer("adamw", lr=0.02)


def handlers(setup: str) -> list[EventHandler]:
    if setup == "ema":
        return [EMAHandler(0.9)]
    if setup == "early stopping":
        return [EarlyStoppingHandler("val_loss", patience=2, min_delta=10.0, restore_best=True)]
    return []


def train(case: Case, folder: Path, *, stops: bool = False, resume: bool = False) -> dict[str, Any]:
    """Trains, and gives all that a run that goes on has to have in common with a whole one.

    Args:
        case: The training.
        folder: Of the checkpoints.
        stops: Whether it is stopped.
        resume: Whether it goes on from what is in the folder.
    """
    random.seed(8 + resume)
    np.random.seed(8 + resume)
    torch.manual_seed(8 + resume)
    net = Net()
    est = Estimator(net, nn.CrossEntropyLoss(), ["accuracy", "f1"])
    own = handlers(case.setup)
    saver = CheckpointHandler(folder, monitor="val_loss")
    inside = case.stop == "validation inside"
    more: dict[str, Any] = {"batch_size": SIZE} if case.feed in ("arrays", "dataset") else {}
    stats = est.fit(
        feed(case), DataLoader(VAL, SIZE), EPOCHS, trainers(case.setup, net), "cpu",
        handlers=[Stop(case if stops else Case(stop="never")), *own, saver],
        validate=Every(steps=2) if inside else None,
        accumulate=3 if case.setup == "accumulate" else 1,
        precision=case.setup if case.setup in ("bf16", "fp16") else None,  # type: ignore[arg-type]  # literals
        resume=folder if resume else None, progress=False, **more,
    )  # fmt: skip
    return outcome(stats, own) | {"best file": best_entry(folder)}


def outcome(stats: TrainStats, own: list[EventHandler]) -> dict[str, Any]:
    """All that a run leaves behind, except for times."""
    rows = stats.history.to_dict()
    return {
        "net": stats.net.state_dict(),
        "trainers": {name: bound.state_dict() for name, bound in stats.trainers.items()},
        "handlers": [handler.state_dict() for handler in own],
        "history": {name: column for name, column in rows.items() if name != "time"},
        "best": {name: list(best) for name, best in stats.best.items()},
        "results": [stats.train, stats.val],
        "counts": [stats.epoch, stats.step, stats.samples, stats.stopped],
        "random": [random.random(), float(np.random.rand()), torch.rand(2)],
    }


def best_entry(folder: Path) -> list[Any]:
    """The step and the value of the best checkpoint in a folder."""
    listed = json.loads((folder / "manifest.json").read_text())["checkpoints"]
    return [[entry["step"], entry["value"]] for entry in listed if entry["best"]]


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Where two results are not bit for bit the same; NaN equals NaN."""
    if isinstance(one, dict) and isinstance(other, dict) and list(one) == list(other):
        return [d for key in one for d in differences(one[key], other[key], f"{path}/{key}")]
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        if len(one) == len(other):
            pairs = zip(one, other, strict=True)
            return [d for i, (a, b) in enumerate(pairs) for d in differences(a, b, f"{path}/{i}")]
    elif isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.dtype == other.dtype and torch.equal(one, other):
            return []
    elif type(one) is type(other) and (one == other or one != one and other != other):
        return []
    return [f"{path}: {one!r} and {other!r}"]

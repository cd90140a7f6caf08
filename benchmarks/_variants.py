"""The same training, written in several ways: by hand, and with `fit`."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any

import torch
from _workloads import Workload
from torch import Tensor, nn

from estimator import Estimator, Trainer
from estimator.handlers import (
    ActivationStatsHandler,
    Band,
    CheckpointHandler,
    CSVLogHandler,
    EarlyStoppingHandler,
    EMAHandler,
    EmbeddingHandler,
    EventHandler,
    GradientStatsHandler,
    LoggingHandler,
    LRRecorderHandler,
    NaNHandler,
    ProgressHandler,
    TensorBoardHandler,
    TimeLimitHandler,
    WorstSamplesHandler,
)
from estimator.stats import TrainStats

DEVICE = torch.device("cpu")
SGD: dict[str, Any] = {"lr": 0.05, "momentum": 0.9}


@dataclass
class Moments:
    """When a training was asked for, began, and ended its epochs: seconds of (wall, CPU)."""

    called: tuple[float, float] = (0.0, 0.0)
    began: tuple[float, float] = (0.0, 0.0)
    epochs: list[tuple[float, float]] = field(default_factory=list)


def now() -> tuple[float, float]:
    return perf_counter(), thread_time()


Variant = Callable[[Workload, int, Moments], nn.Module]
"""Trains for a number of epochs, notes when what happened, and returns the net."""


def textbook(workload: Workload, epochs: int, moments: Moments) -> nn.Module:
    """As tutorials write it: loss and accuracy are read in each step."""
    net, loss_of = workload.fresh_net(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), **SGD)
    loader, _ = workload.loaders()
    moments.called = moments.began = now()
    for _ in range(epochs):
        net.train()
        total, correct, samples = 0.0, 0, 0
        for x, y in loader:
            x, y = x.to(DEVICE), y.to(DEVICE)
            optimizer.zero_grad()
            outputs = net(x)
            loss = loss_of(outputs, y)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(y)
            correct += (outputs.argmax(1) == y).sum().item()
            samples += len(y)
        _ = total / samples, correct / samples
        moments.epochs.append(now())
    return net


def careful(
    workload: Workload, epochs: int, moments: Moments, *, validate: bool = False
) -> nn.Module:
    """As someone writes it who knows: a fused optimizer, sums on the device, read once an epoch."""
    net, loss_of = workload.fresh_net(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), **SGD, fused=True)
    loader, val_loader = workload.loaders()
    moments.called = moments.began = now()
    for _ in range(epochs):
        net.train()
        sums = Sums()
        for x, y in loader:
            x, y = x.to(DEVICE), y.to(DEVICE)
            optimizer.zero_grad()
            outputs = net(x)
            loss = loss_of(outputs, y)
            loss.backward()
            optimizer.step()
            sums.add(loss.detach(), outputs.detach(), y)
        sums.read()
        if validate:
            _validate(net, loss_of, val_loader)
        moments.epochs.append(now())
    return net


class Sums:
    """Mean loss and accuracy, on the device."""

    def __init__(self) -> None:
        self.loss = torch.zeros((), dtype=torch.float64, device=DEVICE)
        self.correct = torch.zeros((), dtype=torch.int64, device=DEVICE)
        self.samples = 0

    def add(self, loss: Tensor, outputs: Tensor, y: Tensor) -> None:
        self.loss.add_(loss, alpha=len(y))
        self.correct.add_((outputs.argmax(1) == y).sum())
        self.samples += len(y)

    def read(self) -> tuple[float, float]:
        return self.loss.item() / self.samples, self.correct.item() / self.samples


def _validate(net: nn.Module, loss_of: nn.Module, loader: Any) -> None:
    net.eval()
    sums = Sums()
    with torch.no_grad():
        for x, y in loader:
            x, y = x.to(DEVICE), y.to(DEVICE)
            outputs = net(x)
            sums.add(loss_of(outputs, y), outputs, y)
    sums.read()


def careful_val(workload: Workload, epochs: int, moments: Moments) -> nn.Module:
    return careful(workload, epochs, moments, validate=True)


def fit(workload: Workload, epochs: int, moments: Moments) -> nn.Module:
    return _fit(workload, epochs, moments)


def fit_bare(workload: Workload, epochs: int, moments: Moments) -> nn.Module:
    return _fit(workload, epochs, moments, metrics=())


def fit_val(workload: Workload, epochs: int, moments: Moments) -> nn.Module:
    return _fit(workload, epochs, moments, validate=True)


def fit_all(workload: Workload, epochs: int, moments: Moments) -> nn.Module:
    """With every handler on, which write their files and draw their bars into memory."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(Terminal()):
        return _fit(workload, epochs, moments, validate=True, handlers=all_handlers(Path(folder)))


class Terminal(io.StringIO):
    """A place where a bar is drawn and that nobody sees."""

    def isatty(self) -> bool:
        return True


def all_handlers(folder: Path) -> list[EventHandler]:
    """All handlers at their default schedules; the stopping ones are told not to stop."""
    return [
        LoggingHandler(folder / "log.txt", console=False),
        ProgressHandler(),
        CheckpointHandler(folder / "checkpoints"),
        EarlyStoppingHandler("val_loss", patience=10**6),
        WorstSamplesHandler(folder / "worst_samples"),
        EmbeddingHandler(folder / "embedding"),
        LRRecorderHandler(folder / "lr_recorder"),
        TensorBoardHandler(folder / "tensorboard"),
        CSVLogHandler(folder / "history.csv"),
        NaNHandler(),
        TimeLimitHandler(10**6),
        EMAHandler(),
        GradientStatsHandler(folder / "gradients"),
        ActivationStatsHandler(folder / "activations"),
    ]


class Watch(EventHandler):
    """Notes when training begins and when each epoch has ended, after all other handlers."""

    band = Band.REPORT

    def __init__(self, moments: Moments) -> None:
        super().__init__()
        self.moments = moments

    def train_begin(self, stats: TrainStats) -> None:
        self.moments.began = now()

    def epoch_end(self, stats: TrainStats) -> None:
        self.moments.epochs.append(now())


def _fit(
    workload: Workload, epochs: int, moments: Moments, *, validate: bool = False,
    handlers: list[EventHandler] | None = None, metrics: tuple[str, ...] = ("accuracy",),
) -> nn.Module:  # fmt: skip
    est = Estimator(workload.fresh_net(), nn.CrossEntropyLoss(), list(metrics))
    loader, val_loader = workload.loaders(uids=handlers is not None)
    moments.called = now()
    est.fit(
        loader,
        val_loader if validate else None,
        epochs=epochs,
        trainers=Trainer("sgd", **SGD, fused=True),
        device=DEVICE,
        handlers=[*(handlers or []), Watch(moments)],
        progress=False,
    )
    return est.net


@dataclass(frozen=True)
class Entry:
    """A variant in the table, and which one it is held against."""

    train: Variant
    against: str
    what: str


VARIANTS = {
    "textbook": Entry(textbook, "careful", "default optimizer, loss and accuracy read each step"),
    "careful": Entry(careful, "careful", "fused optimizer, sums on the device"),
    "fit": Entry(fit, "careful", "metrics=['accuracy'], progress=False, fused optimizer"),
    "careful + val": Entry(careful_val, "careful + val", "the same with a validation each epoch"),
    "fit + val": Entry(fit_val, "careful + val", "the same with a validation each epoch"),
    "fit, all handlers": Entry(fit_all, "careful + val", "fit + val with all handlers on"),
}
EQUAL = ("fit", "careful + val", "fit + val", "fit, all handlers")
"""The variants whose weights must be those of the careful loop, to the last bit."""

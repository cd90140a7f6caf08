"""The learning rate range test."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn

from estimator.handlers.base import ArgumentError, Band, EventHandler
from estimator.plots import new_axes
from estimator.randomness import random_state_kept
from estimator.trainer import Trainer, TrainerSpec, named_trainers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from estimator.estimator import Estimator
    from estimator.stats import TrainStats


class LRFinderResult(NamedTuple):
    """What the range test found: one loss for each rate tried."""

    lrs: list[float]
    losses: list[float]
    smoothed: list[float]

    @property
    def suggestion(self) -> float:
        """The rate at which the loss falls steepest, over the logarithm of the rate.

        The slope at a rate is that of the line of least squares through the losses around it, a
        fifth of all: single losses are noisy, and an average of past ones answers too late.

        Raises:
            ArgumentError: The loss was finite at fewer than three rates.
        """
        finite = [loss for loss, s in zip(self.losses, self.smoothed, strict=True) if isfinite(s)]
        if len(finite) < 3:
            raise ArgumentError(
                f"find_lr needs a finite loss at 3 rates or more; received {len(finite)}. Lower "
                "low=, or check the data for NaN."
            )
        half = max(len(finite) // 10, 1)
        lowest = max(int(np.argmin(self.smoothed[: len(finite)])), 2 * half)
        # Rates are evenly spaced in their logarithm, so the line's slope is a weighted sum.
        slopes = np.correlate(finite[: lowest + 1], np.arange(-half, half + 1))
        return self.lrs[half + int(slopes.argmin())]

    def plot(self, ax: Axes | None = None) -> Figure:
        """Draws the losses over the rates, with the suggestion marked."""
        axes = new_axes() if ax is None else ax
        axes.plot(self.lrs, self.losses, alpha=0.3, label="loss of the step")
        axes.plot(self.lrs, self.smoothed, label="smoothed")
        axes.axvline(
            self.suggestion, color="tab:red", ls="--", label=f"suggestion {self.suggestion:.2g}"
        )
        smooth = [s for s in self.smoothed if isfinite(s)]
        low, high = min([*smooth, *filter(isfinite, self.losses)]), max(smooth)
        margin = 0.1 * (high - low) or 0.1
        axes.set_ylim(low - margin, high + margin)
        axes.set_xscale("log")
        axes.set_xlabel("learning rate")
        axes.set_ylabel("loss")
        axes.grid(alpha=0.3)
        axes.legend()
        figure: Figure = axes.figure  # type: ignore[assignment]  # never a SubFigure of ours
        return figure


class _Sweep(EventHandler):
    """Raises the rate each step and keeps the losses; stops where the loss diverges."""

    band = Band.PREPARE

    def __init__(self, rates: list[float]) -> None:
        super().__init__()
        self.rates = rates
        self.losses: list[float] = []
        self.smoothed: list[float] = []
        self._mean = 0.0
        self.before: list[tuple[Any, dict[str, Any]]] = []

    def train_begin(self, stats: TrainStats) -> None:
        # Not before: until here a lazy net has no weights to copy.
        keepers: list[Any] = [stats.net, *(t.optimizer for t in stats.trainers.values())]
        self.before = [(keeper, copy.deepcopy(keeper.state_dict())) for keeper in keepers]

    def restore(self) -> None:
        """Gives the net and the optimizers the state that they had."""
        for keeper, state in self.before:
            keeper.load_state_dict(state)

    def batch_begin(self, stats: TrainStats) -> None:
        for trainer in stats.trainers.values():
            for group in trainer.optimizer.param_groups:
                group["lr"] = self.rates[len(self.losses)]

    def batch_end(self, stats: TrainStats) -> None:
        if stats.error is not None:
            return
        assert stats.loss is not None
        loss = _mean_loss(stats, float(stats.loss))
        self.losses.append(loss)
        # An exponential mean, corrected for its start at zero as in Adam.
        self._mean = 0.9 * self._mean + 0.1 * loss
        self.smoothed.append(self._mean / (1 - 0.9 ** len(self.losses)))
        if not isfinite(loss) or self.smoothed[-1] > 4 * min(self.smoothed) > 0:
            stats.stop("find_lr: the loss diverged")


def _mean_loss(stats: TrainStats, loss: float) -> float:
    """The loss of the batch on all processes."""
    shares = stats.world.gather((loss, stats.batch_size or 0))
    samples = sum(count for _, count in shares)
    return sum(part * (count / samples) for part, count in shares)


def find_lr(
    est: Estimator, train: Any, trainers: TrainerSpec | None, *, bounds: tuple[float, float],
    steps: int, batch_size: int, device: str | torch.device | None,
) -> LRFinderResult:  # fmt: skip
    """Runs the test on an Estimator's net; see `Estimator.find_lr`."""
    low, high = bounds
    if not 0 < low < high:
        raise ArgumentError(
            f"find_lr(low=..., high=...) must be rates with 0 < low < high; received {bounds}."
        )
    if not isinstance(steps, int) or steps < 3:
        raise ArgumentError(f"find_lr(steps=...) must be at least 3; received {steps!r}.")
    rates = np.geomspace(low, high, steps).tolist()
    sweep = _Sweep(rates)
    named = named_trainers(Trainer("sgd", lr=low) if trainers is None else trainers)
    twin = copy.copy(est)
    twin.handlers, twin.trainers, twin.metrics = [], {}, type(est.metrics)(None)
    with _restored(est.net, sweep), random_state_kept():
        twin.fit(
            train,
            trainers={name: _without_schedule(spec) for name, spec in named.items()},
            device=_device_of(est) if device is None else device,
            iterations=steps,
            handlers=sweep,
            batch_size=batch_size,
            progress=False,
        )
    return LRFinderResult(rates[: len(sweep.losses)], sweep.losses, sweep.smoothed)


def _device_of(est: Estimator) -> torch.device | None:
    return None if est.train_stats is None else est.train_stats.device


def _without_schedule(spec: Trainer) -> Trainer:
    plain = copy.copy(spec)
    plain.scheduler, plain.step, plain.monitor = None, "auto", None
    return plain


@contextlib.contextmanager
def _restored(net: nn.Module, sweep: _Sweep) -> Iterator[None]:
    modes = [(module, module.training) for module in net.modules()]
    gradients = [(p, p.grad) for p in net.parameters()]
    try:
        yield
    finally:
        sweep.restore()
        for module, mode in modes:
            module.training = mode
        for p, gradient in gradients:
            p.grad = gradient

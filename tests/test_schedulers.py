"""When schedulers advance, what they follow, and which rate a row shows."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import (
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from estimator import Estimator, Trainer, TrainStats
from estimator.handlers import EventHandler, Every
from estimator.handlers.base import ArgumentError, ArgumentTypeError, MonitorError

X = torch.randn(24, 4, generator=torch.Generator().manual_seed(1))
BATCHES = [(x, x[:, :1].clone()) for x in X.split(8)]
Make = Callable[[torch.optim.Optimizer], LRScheduler]


class Rates(EventHandler):
    """The rate that each optimizer step uses."""

    def train_begin(self, stats: TrainStats) -> None:
        self.used: list[float] = []

    def backward_end(self, stats: TrainStats) -> None:
        self.used.append(stats.trainers["trainer"].optimizer.param_groups[0]["lr"])


def fit(scheduler: Any, epochs: int = 3, **arguments: Any) -> tuple[TrainStats, list[float]]:
    rates = Rates()
    options = {name: arguments.pop(name) for name in ("step", "monitor") if name in arguments}
    lr = arguments.pop("lr", 0.1)
    est = Estimator(nn.Linear(4, 1), nn.MSELoss(), arguments.pop("metrics", None))
    stats = est.fit(
        BATCHES,
        epochs=epochs,
        trainers=Trainer("sgd", lr=lr, scheduler=scheduler, **options),
        device="cpu",
        handlers=[rates, *arguments.pop("handlers", [])],
        progress=False,
        **arguments,
    )
    return stats, rates.used


def by_hand(make: Make, per_step: bool, epochs: int = 3) -> list[float]:
    optimizer = torch.optim.SGD(nn.Linear(4, 1).parameters(), lr=0.1)
    scheduler, used = make(optimizer), []
    for _ in range(epochs):
        for _ in BATCHES:
            used.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if per_step:
                scheduler.step()
        if not per_step:
            scheduler.step()
    return used


ONE_CYCLE = partial(OneCycleLR, max_lr=0.5, total_steps=10)
CYCLIC = partial(CyclicLR, base_lr=0.1, max_lr=0.5, step_size_up=2)
STEP = partial(StepLR, step_size=2, gamma=0.1)


def sequence(optimizer: torch.optim.Optimizer) -> LRScheduler:
    parts: list[LRScheduler] = [ExponentialLR(optimizer, 0.9), ExponentialLR(optimizer, 0.5)]
    return SequentialLR(optimizer, parts, [1])


@pytest.mark.parametrize(
    ("make", "step", "per_step"),
    [
        (STEP, "auto", False),
        (STEP, "epoch", False),
        (STEP, "step", True),
        (ONE_CYCLE, "auto", True),
        (ONE_CYCLE, "step", True),
        (ONE_CYCLE, "epoch", False),
        (CYCLIC, "auto", True),
        (sequence, "auto", False),
        (partial(LambdaLR, lr_lambda=lambda n: 1 / (n + 1)), "auto", False),
    ],
)
def test_schedulers_advance_when_they_should(make: Make, step: str, per_step: bool) -> None:
    stats, used = fit(make, step=step)
    assert used == by_hand(make, per_step)
    assert stats["lr"] == used[2::3]


def test_no_warning_about_the_order_of_steps() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(STEP)
        fit(ONE_CYCLE)
    assert [str(w.message) for w in caught] == []


def test_a_scheduler_object_with_its_optimizer() -> None:
    net = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    spec = Trainer(optimizer, scheduler=StepLR(optimizer, 1, gamma=0.5))
    stats = Estimator(net, nn.MSELoss()).fit(BATCHES, None, 3, spec, "cpu", progress=False)
    assert stats["lr"] == [0.1, 0.05, 0.025]


def test_a_step_is_an_optimizer_step_not_a_batch() -> None:
    stats, used = fit(ExponentialLR_half, step="step", accumulate=2, epochs=2)
    assert used == [0.1, 0.05, 0.025, 0.0125]
    assert stats["lr"] == [0.05, 0.0125]


def ExponentialLR_half(optimizer: torch.optim.Optimizer) -> LRScheduler:
    return ExponentialLR(optimizer, 0.5)


def test_a_rate_may_be_a_tensor() -> None:
    stats, _ = fit(ExponentialLR_half, step="step", lr=torch.tensor(0.5), epochs=1)
    assert stats["lr"] == [0.125]


def test_an_epoch_that_is_cut_does_not_advance_its_scheduler() -> None:
    est = Estimator(nn.Linear(4, 1), nn.MSELoss())
    trainer = Trainer("sgd", lr=0.1, scheduler=ExponentialLR_half)
    stats = est.fit(BATCHES, iterations=4, trainers=trainer, device="cpu", progress=False)
    scheduler = stats.trainers["trainer"].scheduler
    assert scheduler is not None and scheduler.last_epoch == 1
    assert stats["lr"] == [0.1, 0.05]


class Serve(EventHandler):
    """Puts chosen values in the place of what was measured."""

    def __init__(self, name: str, values: list[float]) -> None:
        super().__init__()
        self.name, self.values = name, values

    def train_begin(self, stats: TrainStats) -> None:
        # The scheduler reads before handlers get the event, so values are set where it reads.
        left, observed = list(self.values), stats.trainers["trainer"].monitor
        assert observed is not None
        stats.scratch[self] = observed

        def observe(stats: TrainStats) -> float:
            return left.pop(0)

        observed.observe = observe  # type: ignore[method-assign]  # a value made up


def plateau(**options: Any) -> Make:
    return partial(ReduceLROnPlateau, patience=0, factor=0.1, **options)


def hand_plateau(values: list[float], **options: Any) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler, used = plateau(**options)(optimizer), []
    for value in values:
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step(value)  # type: ignore[arg-type]  # of this class it takes a value
    return used


VALUES = [1.0, 0.5, 0.7, float("nan"), 0.4]


def test_plateau_follows_the_validation_loss() -> None:
    stats, _ = fit(plateau(), epochs=5, val=BATCHES, handlers=[Serve("val_loss", VALUES)])
    assert stats["lr"] == hand_plateau(VALUES)
    assert stats["lr"][-1] == pytest.approx(0.001)


@pytest.mark.parametrize("monitor", ["train_loss", "val_mae"])
def test_plateau_follows_the_monitor(monitor: str) -> None:
    stats, _ = fit(
        plateau(), epochs=5, val=BATCHES, monitor=monitor, metrics=["mae"],
        handlers=[Serve(monitor, VALUES)],
    )  # fmt: skip
    assert stats["lr"] == hand_plateau(VALUES)


def test_plateau_gets_the_values_of_the_history() -> None:
    stats, _ = fit(plateau(threshold=0.5), epochs=6, val=BATCHES)
    assert stats["lr"] == hand_plateau(stats["val_loss"], threshold=0.5)
    assert stats.best["val_loss"].value == min(stats["val_loss"])
    train, _ = fit(plateau(threshold=0.5), epochs=6, monitor="train_loss")
    assert train["lr"] == hand_plateau(train["train_loss"], threshold=0.5)


def test_plateau_counts_validations_by_steps() -> None:
    values = [1.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    stats, used = fit(
        plateau(), epochs=2, val=BATCHES, validate=Every(steps=1),
        handlers=[Serve("val_loss", values)],
    )  # fmt: skip
    assert used == pytest.approx([0.1, 0.1, 0.01, 1e-3, 1e-4, 1e-5])
    assert stats["lr"] == used and stats["step"] == [1, 2, 3, 4, 5, 6]


def test_plateau_that_runs_against_its_value_is_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"mode='max'\) follows 'val_loss', .* better lower"):
        fit(plateau(mode="max"), epochs=1, val=BATCHES)
    y = (X[:, 0] > 0).long()
    est = Estimator(nn.Linear(4, 2), nn.CrossEntropyLoss(), ["accuracy"])
    trainer = Trainer("sgd", scheduler=plateau(), monitor="val_accuracy")
    with pytest.warns(UserWarning, match=r"better higher: .* Pass mode='max'"):
        est.fit((X, y), (X, y), 1, trainer, "cpu", progress=False)
    right = Trainer("sgd", scheduler=plateau(mode="max"), monitor="val_accuracy")
    stats = est.fit((X, y), (X, y), 3, right, "cpu", progress=False)
    assert stats["lr"] != [] and stats.best["val_accuracy"].value == max(stats["val_accuracy"])


def test_plateau_of_an_undeclared_value_takes_the_schedulers_mode() -> None:
    def spread(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return outputs.std()

    fit(plateau(mode="max"), epochs=1, val=BATCHES, metrics=[spread], monitor="val_spread")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"Trainer\(monitor='val_loss'\): no such value .* no validation data"),
        ({"monitor": "train_los"}, "Did you mean 'train_loss'"),
    ],
)
def test_plateau_needs_its_value(arguments: Any, message: str) -> None:
    with pytest.raises(MonitorError, match=message):
        fit(plateau(), **arguments)


@pytest.mark.parametrize(
    ("scheduler", "options", "error", "message"),
    [
        (plateau(), {"step": "step"}, ArgumentError, "does not suit ReduceLROnPlateau"),
        (STEP, {"monitor": "val_loss"}, ArgumentError, "on ReduceLROnPlateau only; .*StepLR"),
        (lambda optimizer: None, {}, ArgumentTypeError, "returned None"),
        (StepLR, {}, ArgumentError, "called with the optimizer as its only argument"),
        ("cosine", {}, ArgumentTypeError, "received 'cosine'"),
        (
            StepLR(torch.optim.SGD(nn.Linear(1, 1).parameters()), 1), {}, ArgumentError,
            "steers another optimizer",
        ),
        (
            lambda optimizer: StepLR(torch.optim.SGD(nn.Linear(1, 1).parameters()), 1), {},
            ArgumentError, "StepLR steers another optimizer",
        ),
    ],
)  # fmt: skip
def test_a_wrong_scheduler(
    scheduler: Any, options: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fit(scheduler, val=BATCHES, **options)


def test_a_scheduler_leaves_the_trainer_as_it_was() -> None:
    trainer = Trainer("sgd", lr=0.1, scheduler=STEP)
    before = copy.copy(vars(trainer))
    Estimator(nn.Linear(4, 1), nn.MSELoss()).fit(BATCHES, None, 3, trainer, "cpu", progress=False)
    assert vars(trainer) == before

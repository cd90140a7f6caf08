"""What handlers change in the middle of a run counts from there, recorded or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from engine_nets import mlp
from engine_runs import assert_equal
from graph_runs import (
    CLOSE,
    DEVICES,
    STRICT,
    codes,
    fit,
    graphed,
    whole,
)
from test_engine_replay import (
    Anneal,
    Clip,
    Freeze,
    Hooked,
    Noise,
    Redrop,
    Reload,
    Still,
    Swap,
    Write,
)

from estimator import Trainer
from estimator.handlers import EventHandler
from estimator.stats import TrainStats

each_device = pytest.mark.parametrize("device", DEVICES)


class Decay(EventHandler):
    """Changes a number of the optimizer once."""

    def batch_begin(self, stats: TrainStats) -> None:
        group = stats.trainers["trainer"].optimizer.param_groups[0]
        group["weight_decay"] = 0.0 if stats.step < 9 else 0.5


class Rate(EventHandler):
    def batch_begin(self, stats: TrainStats) -> None:
        if stats.step == 9:
            stats.trainers["trainer"].optimizer.param_groups[0]["lr"] = 0.5


class Swapped(EventHandler):
    """Another optimizer in the middle of an epoch."""

    def batch_end(self, stats: TrainStats) -> None:
        if stats.step == 8:
            optimizer = torch.optim.SGD(stats.net.parameters(), lr=0.05, momentum=0.9)
            stats.trainers["trainer"].optimizer = optimizer


class Loaded(EventHandler):
    """The state of the optimizer in tensors of another place."""

    def batch_end(self, stats: TrainStats) -> None:
        if stats.step == 8:
            optimizer = stats.trainers["trainer"].optimizer
            optimizer.load_state_dict(optimizer.state_dict())


class Dropped(EventHandler):
    """Gradients that are gone when the batch ends."""

    def batch_end(self, stats: TrainStats) -> None:
        for p in stats.net.parameters():
            p.grad = None


class Unclipped(EventHandler):
    def batch_end(self, stats: TrainStats) -> None:
        stats.trainers["trainer"].clip_norm = 0.1 if stats.step > 8 else None


HANDLERS: list[Callable[[], EventHandler]] = [
    *(Freeze, Reload, Swap, Redrop, Still, Clip, Noise, Hooked, Decay, Rate, Swapped, Loaded),
    Unclipped,
]  # fmt: skip


@each_device
@pytest.mark.parametrize("handler", HANDLERS)
def test_what_handlers_do_counts(handler: Callable[[], EventHandler], device: str) -> None:
    est, ours, made = graphed(STRICT, mlp, None, handler(), device=device, epochs=6)
    assert made.replays > 0
    assert codes(est) == (["E101"] if handler is Hooked else [])
    assert_equal(ours, fit("eager", mlp, None, handler(), device=device, epochs=6)[1])


@each_device
def test_gradients_that_a_handler_drops_come_back(device: str) -> None:
    est, ours, made = graphed(STRICT, mlp, None, Dropped(), device=device)
    assert whole(est) == [True] and all(p.grad is None for p in est.net.parameters())
    assert_equal(ours, fit("eager", mlp, None, Dropped(), device=device)[1])


class Rewrite(EventHandler):
    @torch.no_grad()
    def batch_end(self, stats: TrainStats) -> None:
        for p in stats.net.parameters():
            p.data = p.data.clone()


@each_device
@pytest.mark.parametrize("handler", [Write, Rewrite])
def test_weights_that_always_move_are_given_up(
    handler: Callable[[], EventHandler], device: str
) -> None:
    est, ours, made = graphed(STRICT, mlp, None, handler(), device=device, epochs=12)
    assert codes(est) == ["E121"] and made.replays == 0
    assert_equal(ours, fit("eager", mlp, None, handler(), device=device, epochs=12)[1])


@each_device
def test_layers_that_often_change_are_given_up(device: str) -> None:
    est, ours, _ = graphed(STRICT, mlp, None, Anneal(), device=device, epochs=12)
    assert codes(est) == ["E104"] and "attribute p of a layer" in est.engine_report()
    assert_equal(ours, fit("eager", mlp, None, Anneal(), device=device, epochs=12)[1])


def test_a_rate_that_becomes_a_tensor() -> None:
    class Heat(EventHandler):
        def batch_end(self, stats: TrainStats) -> None:
            if stats.step == 8:
                stats.trainers["trainer"].optimizer.param_groups[0]["lr"] = torch.tensor(2**-5)

    for engine in (STRICT, CLOSE):
        trainer = Trainer("adam", lr=2**-6, fused=True)
        est, ours, _ = graphed(engine, mlp, None, Heat(), trainers=trainer)
        assert_equal(ours, fit("eager", mlp, None, Heat(), trainers=trainer)[1])


class Counting(torch.optim.Optimizer):
    """Replaces its state at each step, and counts in Python."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # it has no closure
        for p in self.param_groups[0]["params"]:
            state = self.state[p]
            state["calls"] = state.get("calls", 1000) + 1
            state["mean"] = state.get("mean", 0) * 0.9 + p.grad
            p -= self.param_groups[0]["lr"] * state["mean"]


@each_device
def test_an_optimizer_of_another_make_steps_itself(device: str) -> None:
    trainer = Trainer(Counting, lr=0.01)
    est, ours, made = graphed(STRICT, device=device, trainers=trainer)
    assert codes(est) == ["E116"] and whole(est) == [False] and made.replays == 16
    assert_equal(ours, fit("eager", device=device, trainers=trainer)[1])

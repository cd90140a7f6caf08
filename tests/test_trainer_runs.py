"""Clipping, and what goes on with a second fit or a second Estimator."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR
from trainer_runs import Net, assert_same, by_hand, data, pair, run

from estimator import Estimator, Trainer, TrainStats
from estimator.handlers import EventHandler

STEPPED = functools.partial(StepLR, step_size=1, gamma=0.5)


@pytest.mark.parametrize("clip", [{"clip_norm": 0.05}, {"clip_value": 0.01}])
def test_clipping_equals_a_hand_loop(clip: dict[str, Any]) -> None:
    net, twin = pair()
    run(net, Trainer("sgd", lr=0.5, **clip), epochs=2)

    def cut() -> None:
        if "clip_norm" in clip:
            nn.utils.clip_grad_norm_(twin.parameters(), clip["clip_norm"])
        else:
            nn.utils.clip_grad_value_(twin.parameters(), clip["clip_value"])

    by_hand(twin, [torch.optim.SGD(twin.parameters(), lr=0.5)], epochs=2, before_step=cut)
    assert_same(net, twin)


def test_value_is_clipped_before_norm_and_each_trainer_clips_its_own() -> None:
    net, twin = pair()
    run(
        net,
        [
            Trainer("sgd", lr=0.5, params="body", clip_norm=0.02, clip_value=0.01),
            Trainer("sgd", lr=0.5, params="head"),
        ],
    )

    def cut() -> None:
        nn.utils.clip_grad_value_(twin.body.parameters(), 0.01)
        nn.utils.clip_grad_norm_(twin.body.parameters(), 0.02)

    by_hand(twin, [torch.optim.SGD(twin.parameters(), lr=0.5)], before_step=cut)
    assert_same(net, twin)


def test_backward_end_sees_gradients_before_they_are_clipped() -> None:
    class Norms(EventHandler):
        def train_begin(self, stats: TrainStats) -> None:
            self.before: list[float] = []
            self.after: list[float] = []

        def backward_end(self, stats: TrainStats) -> None:
            self.before.append(norm(stats.net))

        def batch_end(self, stats: TrainStats) -> None:
            self.after.append(norm(stats.net))

    def norm(net: nn.Module) -> float:
        grads = [p.grad for p in net.parameters() if p.grad is not None]
        return float(torch.cat([g.flatten() for g in grads]).norm())

    handler = Norms()
    run(Net(), Trainer("sgd", lr=0.0, clip_norm=0.01), handlers=handler)
    assert min(handler.before) > 0.05
    assert handler.after == pytest.approx([0.01] * 3, rel=1e-3)


def momentum_and_steps(net: nn.Module) -> tuple[torch.optim.Optimizer, StepLR]:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    return optimizer, StepLR(optimizer, 1, gamma=0.5)


@pytest.mark.parametrize("again", ["none", "same trainer"])
def test_a_second_fit_goes_on_with_optimizer_and_scheduler(again: str) -> None:
    net, twin = pair()
    est = Estimator(net, nn.CrossEntropyLoss())
    trainer = Trainer("sgd", lr=0.1, momentum=0.9, scheduler=STEPPED)
    est.fit(data(), None, 2, trainer, "cpu", progress=False)
    second = est.fit(
        data(), None, 2, trainer if again == "same trainer" else None, "cpu", progress=False
    )
    optimizer, scheduler = momentum_and_steps(twin)
    by_hand(twin, [optimizer], epochs=4, after_epoch=scheduler.step)
    assert_same(net, twin)
    assert second["lr"] == [0.025, 0.0125] and second["epoch"] == [1, 2]


def test_another_trainer_starts_afresh() -> None:
    net, twin = pair()
    est = Estimator(net, nn.CrossEntropyLoss())
    for _ in range(2):
        est.fit(data(), None, 1, Trainer("adam", lr=0.1), "cpu", progress=False)
    for _ in range(2):
        by_hand(twin, [torch.optim.Adam(twin.parameters(), lr=0.1)])
    assert_same(net, twin)


def test_an_optimizer_goes_on_under_another_scheduler() -> None:
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    est = Estimator(net, nn.CrossEntropyLoss())
    est.fit(data(), None, 1, Trainer(optimizer), "cpu", progress=False)
    stats = est.fit(data(), None, 2, Trainer(optimizer, scheduler=STEPPED), "cpu", progress=False)
    assert stats["lr"] == [0.1, 0.05]


def test_a_trainer_that_goes_on_under_another_name_has_that_name() -> None:
    est = Estimator(Net(), nn.CrossEntropyLoss())
    body, head = Trainer("sgd", lr=0.1, params="body"), Trainer("sgd", lr=0.2, params="head")
    est.fit(data(), None, 1, {"a": body, "b": head}, "cpu", progress=False)
    stats = est.fit(data(), None, 1, {"b": body, "a": head}, "cpu", progress=False)
    assert {name: trainer.name for name, trainer in stats.trainers.items()} == {"a": "a", "b": "b"}
    assert (stats["lr_b"], stats["lr_a"]) == ([0.1], [0.2])


def test_one_trainer_serves_two_estimators_without_shared_state() -> None:
    trainer = Trainer("sgd", lr=0.1, momentum=0.9, scheduler=STEPPED)
    first, second = pair()
    twin = copy.deepcopy(first)
    run(first, trainer, epochs=2)
    run(second, trainer, epochs=2)
    optimizer, scheduler = momentum_and_steps(twin)
    by_hand(twin, [optimizer], epochs=2, after_epoch=scheduler.step)
    assert_same(first, twin)
    assert_same(second, twin)

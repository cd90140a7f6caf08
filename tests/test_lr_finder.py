"""The learning rate range test: what it suggests, and that it leaves everything as it was."""

from __future__ import annotations

import copy
import math
import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from estimator import Estimator, Trainer
from estimator.handlers.base import ArgumentError
from estimator.lr_finder import LRFinderResult

X = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
Y = X @ torch.tensor([[1.0], [-2.0], [3.0], [0.5]])


def net_with_everything() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1)
    )


def curve(losses: list[float], low: float = 1e-4, high: float = 1.0) -> LRFinderResult:
    return LRFinderResult(np.geomspace(low, high, len(losses)).tolist(), losses, losses)


def test_everything_is_as_before() -> None:
    net = net_with_everything()
    net.eval()
    net[0].train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.25, momentum=0.9)
    est = Estimator(net, nn.MSELoss(), ["mae"])
    net(X).sum().backward()
    optimizer.step()
    trainer = Trainer(optimizer, scheduler=torch.optim.lr_scheduler.StepLR(optimizer, 1))
    weights, state = copy.deepcopy(net.state_dict()), copy.deepcopy(optimizer.state_dict())
    grads = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    modes = [module.training for module in net.modules()]
    streams = random.getstate(), torch.get_rng_state(), pickle.dumps(np.random.get_state())
    result = est.find_lr((X, Y), trainers=trainer, steps=20, batch_size=8, device="cpu")
    assert len(result.lrs) == len(result.losses) == len(result.smoothed) <= 20
    assert all(torch.equal(v, weights[k]) for k, v in net.state_dict().items())
    after = optimizer.state_dict()
    assert after["param_groups"] == state["param_groups"]
    for key, value in state["state"].items():
        assert torch.equal(after["state"][key]["momentum_buffer"], value["momentum_buffer"])
    assert [module.training for module in net.modules()] == modes
    assert all(
        torch.equal(p.grad, g) for p, g in zip(net.parameters(), grads, strict=True)
        if p.grad is not None
    )  # fmt: skip
    assert all(p.grad is not None for p in net.parameters())
    assert random.getstate() == streams[0] and torch.equal(torch.get_rng_state(), streams[1])
    assert pickle.dumps(np.random.get_state()) == streams[2]
    assert (est.train_stats, est.trainers, est.handlers) == (None, {}, [])


def test_a_fit_afterwards_is_the_fit_without_it() -> None:
    net = net_with_everything()
    twin = copy.deepcopy(net)
    for each, finds in ((net, True), (twin, False)):
        torch.manual_seed(5)
        est = Estimator(each, nn.MSELoss())
        if finds:
            est.find_lr((X, Y), steps=10, device="cpu")
        est.fit((X, Y), None, 2, Trainer("adam", lr=0.01), "cpu", progress=False)
    assert all(torch.equal(v, twin.state_dict()[k]) for k, v in net.state_dict().items())


def test_everything_is_as_before_after_an_error() -> None:
    net = net_with_everything()
    weights = copy.deepcopy(net.state_dict())
    batches: list[Any] = [(X, Y), (X, Y), (X[:, :2], Y)]
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        Estimator(net, nn.MSELoss()).find_lr(batches, low=0.01, high=0.1, steps=5, device="cpu")
    assert all(torch.equal(v, weights[k]) for k, v in net.state_dict().items())


def test_rates_rise_geometrically_and_the_suggestion_lies_inside() -> None:
    est = Estimator(nn.Linear(4, 1), nn.MSELoss())
    result = est.find_lr((X, Y), low=1e-5, high=100.0, steps=60, batch_size=16, device="cpu")
    ratios = np.array(result.lrs[1:]) / np.array(result.lrs[:-1])
    np.testing.assert_allclose(ratios, (100 / 1e-5) ** (1 / 59))
    assert len(result.lrs) < 60, "it ends where the loss diverges"
    assert 1e-3 < result.suggestion < 1.0
    trained = est.fit((X, Y), None, 5, Trainer("sgd", lr=result.suggestion), "cpu", progress=False)[
        "train_loss"
    ]
    assert trained[-1] < trained[0] / 5


def test_each_rate_is_that_of_its_step() -> None:
    net = nn.Linear(4, 1)
    twin = copy.deepcopy(net)
    result = Estimator(net, nn.MSELoss()).find_lr(
        [(X, Y)], low=0.01, high=0.2, steps=5, device="cpu"
    )
    losses = []
    for lr in result.lrs:
        optimizer = torch.optim.SGD(twin.parameters(), lr=lr)
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(twin(X), Y)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
    assert result.losses == pytest.approx(losses, rel=1e-5)
    mean = 0.0
    for n, (one, smooth) in enumerate(zip(losses, result.smoothed, strict=True), 1):
        mean = 0.9 * mean + 0.1 * one
        assert smooth == pytest.approx(mean / (1 - 0.9**n), rel=1e-5)


def test_the_suggestion_is_where_the_loss_falls_steepest() -> None:
    position = np.linspace(-6, 6, 41)
    falls = (1 / (1 + np.exp(position))).tolist()
    climbs = [falls[-1] + 0.5 * n for n in range(1, 8)]
    result = curve(falls + climbs)
    assert result.suggestion == pytest.approx(result.lrs[20])


def test_a_climb_at_the_end_or_a_dip_in_it_is_not_followed() -> None:
    result = curve([1.0, 1.0, 0.8, 0.5, 0.4, 5.0, 9.0, 6.0, 9.0])
    assert result.suggestion in result.lrs[2:4]


def test_a_loss_that_never_climbs_back() -> None:
    result = curve([1.0, 0.99, 0.9, 0.7, 0.6, 0.55, 0.54])
    assert result.suggestion == result.lrs[3] or result.suggestion == result.lrs[2]
    flat = curve([1.0] * 5)
    assert flat.suggestion in flat.lrs


def test_a_loss_that_only_climbs_suggests_a_low_rate() -> None:
    result = curve([1.0, 1.1, 1.2, 1.4, 2.0, 5.0])
    assert result.suggestion in result.lrs[:3]


def test_losses_that_are_not_finite_are_left_out() -> None:
    result = curve([1.0, 0.9, 0.5, 0.4, math.nan, math.nan])
    assert result.suggestion in result.lrs[1:3]
    for few in ([1.0, 0.9], [1.0, 0.9, math.nan, math.inf]):
        with pytest.raises(ArgumentError, match="finite loss at 3 rates or more; received 2"):
            _ = curve(few).suggestion


def test_the_sweep_ends_at_the_first_loss_that_is_nan() -> None:
    batches = [(X, Y), (X, Y), (X, Y), (X * math.nan, Y), (X, Y), (X, Y)]
    est = Estimator(nn.Linear(4, 1), nn.MSELoss())
    result = est.find_lr(batches, low=0.01, high=0.1, steps=6, device="cpu")
    assert len(result.losses) == 4 and math.isnan(result.losses[-1])
    assert result.suggestion in result.lrs[:3]


def test_few_steps() -> None:
    est = Estimator(nn.Linear(4, 1), nn.MSELoss())
    result = est.find_lr((X, Y), low=0.001, high=0.1, steps=3, device="cpu")
    assert result.suggestion in result.lrs


def test_lazy_layers_may_take_their_shape_from_the_sweep() -> None:
    net = nn.Sequential(nn.LazyLinear(3), nn.ReLU(), nn.Linear(3, 1))
    est = Estimator(net, nn.MSELoss())
    result = est.find_lr((X, Y), low=0.001, high=0.1, steps=4, device="cpu")
    assert len(result.losses) == 4
    first = est.fit((X, Y), None, 1, "sgd", "cpu", progress=False)
    assert math.isfinite(first["train_loss"][0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"low": 0.0}, r"0 < low < high; received \(0.0, 10.0\)"),
        ({"low": 1.0, "high": 0.1}, "0 < low < high"),
        ({"steps": 2}, r"find_lr\(steps=...\) must be at least 3; received 2"),
        ({"steps": 10.0}, "at least 3; received 10.0"),
    ],
)
def test_wrong_arguments(arguments: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Estimator(nn.Linear(4, 1), nn.MSELoss()).find_lr((X, Y), device="cpu", **arguments)


def test_the_sweep_runs_where_the_estimator_ran() -> None:
    est = Estimator(nn.Linear(4, 1), nn.MSELoss())
    est.fit((X, Y), None, 1, "sgd", "cpu", progress=False)
    stats = est.train_stats
    est.find_lr((X, Y), steps=3)
    assert est.train_stats is stats and next(est.net.parameters()).device.type == "cpu"

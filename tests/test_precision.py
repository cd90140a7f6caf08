"""bf16 and fp16: equal to hand-written autocast, and an overflow leaves everything alone."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR

from estimator import Estimator, Trainer, TrainStats
from estimator.handlers import EventHandler
from estimator.handlers.base import ArgumentError
from estimator.runtime import Runtime, find_device, move

X = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))
BATCHES = [(x, (x[:, 0] > 0).long()) for x in X.split(8)]
HALVED = partial(ExponentialLR, gamma=0.5)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))


def fit(net: nn.Module, precision: Any, trainers: Any, **arguments: Any) -> TrainStats:
    est = Estimator(net, arguments.pop("loss", nn.CrossEntropyLoss()))
    return est.fit(
        arguments.pop("data", BATCHES), epochs=2, trainers=trainers, device="cpu",
        precision=precision, progress=False, **arguments,
    )  # fmt: skip


def test_bf16_equals_a_hand_written_autocast_loop() -> None:
    net = mlp()
    twin = copy.deepcopy(net)
    stats = fit(net, "bf16", Trainer("sgd", lr=0.1, clip_norm=0.5))
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    for _ in range(2):
        for x, y in BATCHES:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = nn.functional.cross_entropy(twin(x), y)
            loss.backward()
            nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
            optimizer.step()
    for name, value in twin.state_dict().items():
        assert torch.equal(net.state_dict()[name], value)
    assert stats.runtime is not None and stats.runtime.scaler is None


@pytest.mark.parametrize("accumulate", [1, 2])
def test_fp16_equals_a_hand_written_scaled_loop(accumulate: int) -> None:
    net = mlp()
    twin = copy.deepcopy(net)
    stats = fit(net, "fp16", Trainer("sgd", lr=0.1, clip_norm=0.5), accumulate=accumulate)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu")
    for _ in range(2):
        for start in range(0, len(BATCHES), accumulate):
            optimizer.zero_grad()
            for x, y in BATCHES[start : start + accumulate]:
                with torch.autocast("cpu", torch.float16):
                    loss = nn.functional.cross_entropy(twin(x), y)
                scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            for p in twin.parameters():
                assert p.grad is not None
                p.grad /= accumulate
            nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
            scaler.step(optimizer)
            scaler.update()
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value, rtol=1e-6, atol=1e-7)
    assert stats.step == 2 * len(BATCHES) // accumulate


class Trace(EventHandler):
    def train_begin(self, stats: TrainStats) -> None:
        self.seen: list[tuple[int, bool, list[float]]] = []
        self.finite: list[bool] = []

    def backward_end(self, stats: TrainStats) -> None:
        grads = [p.grad for p in stats.net.parameters() if p.grad is not None]
        self.finite.append(all(bool(g.isfinite().all()) for g in grads))

    def batch_end(self, stats: TrainStats) -> None:
        rates = [g["lr"] for g in stats.trainers["trainer"].optimizer.param_groups]
        self.seen.append((stats.step, stats.stepped, rates))


def overflow_in(batch: int) -> Any:
    data = [(x.clone(), y) for x, y in BATCHES]
    data[batch][0][0, 0] = 1e6
    return data


def test_an_overflow_leaves_step_and_scheduler_alone() -> None:
    net, trace = mlp(), Trace()
    trainer = Trainer("sgd", lr=0.1, scheduler=HALVED, step="step")
    stats = fit(net, "fp16", trainer, data=overflow_in(1), handlers=trace)
    assert trace.finite == [True, False, True, True] * 2
    assert [stepped for _, stepped, _ in trace.seen] == trace.finite
    assert [step for step, _, _ in trace.seen] == [1, 1, 2, 3, 4, 4, 5, 6]
    assert trace.seen[0][2] == trace.seen[1][2] == [0.05]
    assert stats.step == 6 and stats.samples == 64
    assert all(bool(p.isfinite().all()) for p in net.parameters())
    assert stats.runtime is not None and stats.runtime.scaler is not None
    assert stats.runtime.scaler.get_scale() == 2.0**14


def test_an_overflow_in_the_first_step_gives_no_warning_about_the_order() -> None:
    stats = fit(mlp(), "fp16", Trainer("sgd", scheduler=HALVED, step="step"), data=overflow_in(0))
    assert stats.step == 6


def test_an_epoch_of_nothing_but_overflows() -> None:
    data = [(x * 1e6, y) for x, y in BATCHES]
    stats = fit(mlp(), "fp16", Trainer("sgd", scheduler=HALVED), data=data)
    assert stats.step == 0 and stats.epoch == 2


def test_fp16_with_a_trainer_that_gets_no_gradient() -> None:
    net = mlp()

    def second_layer_only(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        last = net.get_parameter("2.bias")
        return nn.functional.cross_entropy(outputs.detach() + last, targets)

    before = copy.deepcopy(net.state_dict())
    trainers = [Trainer("sgd", lr=0.1, params="0"), Trainer("sgd", lr=0.1, params="2")]
    stats = fit(net, "fp16", trainers, loss=second_layer_only)
    assert stats.step == 8
    changed = {n for n, v in net.state_dict().items() if not torch.equal(v, before[n])}
    assert changed == {"2.bias"}


def test_fp16_with_a_batch_that_reaches_no_trainer() -> None:
    net = mlp()
    outside = nn.Parameter(torch.zeros(2))

    def elsewhere(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs.detach() + outside, targets)

    before = copy.deepcopy(net.state_dict())
    stats = fit(net, "fp16", Trainer("sgd", lr=0.1), loss=elsewhere)
    assert stats.step == 8
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("precision", ["fp61", 16, ""])
def test_an_unknown_precision(precision: Any) -> None:
    with pytest.raises(ArgumentError, match=r"'fp32', 'bf16' or 'fp16'; received"):
        fit(mlp(), precision, "sgd")


def test_a_precision_that_the_device_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError("not implemented for Half")

    monkeypatch.setattr(torch, "ones", refuse)
    with pytest.raises(ArgumentError, match="received device 'cpu', which does not"):
        Runtime(torch.device("cpu"), "fp16")


def test_evaluation_has_the_precision_of_training() -> None:
    net = mlp()
    est = Estimator(net, nn.CrossEntropyLoss())
    stats = est.fit(
        BATCHES, BATCHES, 1, Trainer("sgd", lr=0.1), "cpu", precision="bf16", progress=False
    )
    assert est.evaluate(BATCHES)["loss"] == stats["val_loss"][-1]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(est.predict(X), net(X))
    assert est.predict(X).dtype == torch.bfloat16


def test_the_state_of_an_optimizer_follows_its_parameters() -> None:
    net = mlp()
    bound = Trainer("adam").bind("t", net)
    net(X).sum().backward()
    bound.optimizer.step()
    Runtime(torch.device("cpu")).prepare(net, [bound])
    state = bound.optimizer.state[next(net.parameters())]
    assert state["exp_avg"].device.type == state["step"].device.type == "cpu"


def test_the_accelerator_is_taken_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # The meta device stands in for one that this machine may not have.
    there = torch.device("meta")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: there)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert find_device(None) is there
    with pytest.raises(ArgumentError, match="There are: cpu, meta:0, meta:1"):
        find_device("nowhere")


def test_batches_of_any_make_are_moved() -> None:
    class Graph:
        def to(self, device: torch.device) -> str:
            return f"on {device}"

    class Pair(NamedTuple):
        x: Any
        y: Any

    fixed = np.arange(3.0)
    fixed.setflags(write=False)
    moved = move({"a": [fixed, np.int64(3)], "b": Pair(Graph(), "text")}, torch.device("cpu"))
    assert moved["a"][0].dtype == torch.float32 and moved["a"][0].tolist() == [0.0, 1.0, 2.0]
    assert moved["a"][1].item() == 3 and moved["b"] == Pair("on cpu", "text")
    assert move((1, 2), torch.device("cpu")) == (1, 2)


def test_values_are_read_in_the_order_of_their_names() -> None:
    runtime = Runtime(torch.device("cpu"))
    assert runtime.host({}) == {}
    values = runtime.host({"b": torch.tensor(0.1, dtype=torch.float64), "a": torch.tensor(2)})
    assert list(values.items()) == [("b", 0.1), ("a", 2.0)]

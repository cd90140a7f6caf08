"""`EMAHandler`: the average against a plain loop, and the net as it was when not shown."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from estimator import Estimator, Trainer
from estimator.handlers.base import (
    ArgumentError,
    Band,
    DataError,
    EventHandler,
    Every,
    HandlerError,
    every,
)
from estimator.handlers.ema import EMAHandler
from estimator.stats import TrainStats

State = dict[str, torch.Tensor]
CPU = torch.device("cpu")


class Trace(EventHandler):
    """Keeps the net's state after each step, and around each validation."""

    band = Band.REPORT

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[State] = []
        self.shown: list[State] = []
        self.after: list[State] = []

    def train_begin(self, stats: TrainStats) -> None:
        self.steps.append(copy_state(stats.net))

    def batch_end(self, stats: TrainStats) -> None:
        if stats.stepped:
            self.steps.append(copy_state(stats.net))

    def validation_begin(self, stats: TrainStats) -> None:
        self.shown.append(copy_state(stats.net))

    def validation_end(self, stats: TrainStats) -> None:
        self.after.append(copy_state(stats.net))


class Fail(EventHandler):
    def validation_batch_end(self, stats: TrainStats) -> None:
        raise RuntimeError("failed on purpose")


def copy_state(net: nn.Module) -> State:
    return {name: value.clone() for name, value in net.state_dict().items()}


def data(batches: int = 3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.randn(4, 2), torch.randn(4, 1)) for _ in range(batches)]


def make_net() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))


def fit(*handlers: EventHandler, net: nn.Module | None = None, **arguments: Any) -> TrainStats:
    settings: dict[str, Any] = {"epochs": 2} | arguments
    return Estimator(net or make_net(), nn.MSELoss()).fit(
        data(),
        trainers=Trainer("sgd", lr=0.1),
        device="cpu",
        handlers=handlers,
        progress=False,
        **settings,
    )


def reference(steps: list[State], decay: float, *, warmup: bool = False) -> State:
    """The average by the formula, tensor by tensor, in double precision."""
    average = {name: value.double() for name, value in steps[0].items()}
    for t, state in enumerate(steps[1:]):
        d = min(decay, (1 + t) / (10 + t)) if warmup else decay
        for name, value in state.items():
            average[name] = d * average[name] + (1 - d) * value.double()
    return average


def assert_average(shadow: State, expected: State, tolerance: float = 1e-6) -> None:
    for name, value in shadow.items():
        torch.testing.assert_close(value.double(), expected[name], rtol=tolerance, atol=tolerance)


def assert_equal(left: State, right: State) -> None:
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


PARAMETERS = ["0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias"]
BUFFERS = ["1.running_mean", "1.running_var", "1.num_batches_tracked"]


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("warmup", [False, True])
def test_the_average_equals_a_plain_loop(decay: float, warmup: bool) -> None:
    ema, trace = EMAHandler(decay, warmup=warmup), Trace()
    fit(ema, trace, epochs=5)
    assert (ema.count, list(ema.shadow)) == (15, PARAMETERS)
    assert_average(ema.shadow, reference(trace.steps, decay, warmup=warmup))


@pytest.mark.parametrize(("accumulate", "schedule", "count"), [(2, None, 4), (1, every(2), 3)])
def test_only_optimizer_steps_that_are_due_count(
    accumulate: int, schedule: Every | None, count: int
) -> None:
    ema, trace = EMAHandler(0.5, every=schedule), Trace()
    fit(ema)
    fit(ema, trace, accumulate=accumulate)
    assert ema.count == count
    assert_average(ema.shadow, reference(trace.steps[:: 1 if schedule is None else 2], 0.5))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_averaged_in_full(dtype: torch.dtype) -> None:
    net = nn.Linear(4, 4).to(dtype)
    net.bias.data = net.bias.data.float()
    stats = TrainStats(net, CPU)
    ema = EMAHandler(0.999)
    ema.train_begin(stats)
    steps = [copy_state(net)]
    stats.stepped = True
    for _ in range(20):
        for p in net.parameters():
            p.data.add_(0.01)
        ema.batch_end(stats)
        steps.append(copy_state(net))
    assert {tensor.dtype for tensor in ema.shadow.values()} == {torch.float32}
    assert_average(ema.shadow, reference(steps, 0.999), 1e-5)
    ema.validation_begin(stats)
    assert net.weight.dtype == dtype
    assert torch.equal(net.weight, ema.shadow["weight"].to(dtype))
    ema.validation_end(stats)
    assert_equal(copy_state(net), steps[-1])


def test_validation_sees_the_average_and_the_buffers_of_the_net() -> None:
    ema, trace = EMAHandler(0.5), Trace()
    stats = fit(ema, trace, val=data(2), epochs=2)
    for epoch, shown in enumerate(trace.shown, 1):
        live = trace.steps[3 * epoch]
        expected = reference(trace.steps[: 3 * epoch + 1], 0.5)
        assert_average({name: shown[name] for name in PARAMETERS}, expected)
        assert not torch.equal(shown["0.weight"], live["0.weight"])
        assert_equal(
            {name: shown[name] for name in BUFFERS}, {name: live[name] for name in BUFFERS}
        )
        assert_equal(trace.after[epoch - 1], live)
    assert_equal(copy_state(stats.net), trace.steps[-1])


def test_showing_the_average_changes_nothing_of_the_training() -> None:
    states = []
    for handlers in [[], [EMAHandler(0.5)]]:
        torch.manual_seed(1)
        net = make_net()
        pointers = [t.data_ptr() for t in net.state_dict().values()]
        fit(*handlers, net=net, val=data(2))
        assert [t.data_ptr() for t in net.state_dict().values()] == pointers
        states.append(copy_state(net))
    assert_equal(*states)


def test_evaluate_and_predict_use_the_average_while_it_is_attached() -> None:
    net, trace = make_net(), Trace()
    est = Estimator(net, nn.MSELoss())
    handle, x = est.add(EMAHandler(0.5)), torch.randn(5, 2)
    assert torch.equal(est.predict(x), net.eval()(x)), "there is no average yet"
    net.train()
    est.fit(data(), trainers="sgd", device="cpu", handlers=trace, progress=False)
    live = copy_state(net)
    averaged = copy.deepcopy(net).eval().requires_grad_(False)
    average = reference(trace.steps, 0.5)
    averaged.load_state_dict({k: average[k].float() if k in PARAMETERS else live[k] for k in live})
    torch.testing.assert_close(est.predict(x), averaged(x))
    losses = est.evaluate((x, torch.zeros(5, 1)))["loss"]
    assert losses == pytest.approx(averaged(x).square().mean().item(), rel=1e-5)
    assert_equal(copy_state(net), live)
    handle.remove()
    torch.testing.assert_close(est.predict(x), net.eval()(x).detach())


def test_an_error_in_the_validation_brings_the_weights_back() -> None:
    net, trace, ema = make_net(), Trace(), EMAHandler(0.5, use_at_end=True)
    with pytest.raises(RuntimeError, match="on purpose"):
        fit(ema, trace, Fail(), net=net, val=data(1))
    assert_equal(copy_state(net), trace.steps[-1])


def test_an_evaluation_inside_a_validation_loses_no_weights() -> None:
    ema, trace = EMAHandler(0.5), Trace()

    class Nested(EventHandler):
        def validation_batch_end(self, stats: TrainStats) -> None:
            Estimator(stats.net).predict(torch.zeros(1, 2), handlers=ema)
            assert_equal(copy_state(stats.net), trace.shown[0])

    fit(ema, Nested(), trace, val=data(1), epochs=1)
    assert_equal(trace.after[0], trace.steps[-1])


def test_the_end_of_the_run_brings_the_weights_back_too() -> None:
    stats = fit(ema := EMAHandler(0.5))
    before = copy_state(stats.net)
    ema.validation_begin(stats)
    assert not torch.equal(stats.net.state_dict()["0.weight"], before["0.weight"])
    ema.train_end(stats)
    assert_equal(copy_state(stats.net), before)


def test_the_average_can_be_left_in_the_net_and_its_copy_shares_nothing() -> None:
    ema = EMAHandler(0.5, use_at_end=True)
    net = fit(ema, val=data(1)).net
    state, live = ema.averaged_state(net), net.state_dict()
    assert_equal({k: live[k] for k in PARAMETERS}, ema.shadow)
    assert list(state) == list(live)
    assert not {t.data_ptr() for t in state.values()} & {t.data_ptr() for t in live.values()}
    assert_equal(state, live)
    net.train()(torch.randn(4, 2))
    assert [k for k in BUFFERS if torch.equal(state[k], live[k])] == []
    make_net().load_state_dict(state)


def test_a_shared_parameter_has_one_average_under_all_its_names() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
            self.b.weight = self.a.weight
            self.out = nn.Linear(2, 1)
            self.index = nn.Parameter(torch.tensor([1, 2]), requires_grad=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.out(self.b(self.a(x)))
            return out

    ema, trace = EMAHandler(0.5), Trace()
    net = fit(ema, trace, net=Tied(), val=data(1)).net
    state = ema.averaged_state(net)
    expected = reference(trace.steps, 0.5)
    assert "b.weight" not in ema.shadow and "index" not in ema.shadow
    assert_average({"b.weight": state["b.weight"], "a.weight": state["a.weight"]}, expected)
    assert state["index"].tolist() == [1, 2]
    assert not torch.equal(trace.shown[0]["b.weight"], trace.after[0]["b.weight"])


def test_a_net_without_parameters_has_nothing_to_average() -> None:
    net = nn.Module()
    stats = TrainStats(net, CPU)
    stats.stepped = True
    ema = EMAHandler(0.5, use_at_end=True)
    ema.train_begin(stats)
    ema.batch_end(stats)
    ema.train_end(stats)
    assert (ema.shadow, ema.averaged_state(net)) == ({}, {})


def test_two_averages_of_one_net_are_refused() -> None:
    weights = make_net()
    with pytest.raises(HandlerError, match=r"one EMAHandler.*decay=0.9\).*decay=0.5\)"):
        fit(EMAHandler(0.9), EMAHandler(0.5), net=weights, val=data(1))
    first, second = EMAHandler(0.9), EMAHandler(0.5)
    fit(first, net=weights)
    fit(second, net=weights)
    before = copy_state(weights)
    with pytest.raises(HandlerError, match="one EMAHandler at most"):
        Estimator(weights, nn.MSELoss()).evaluate(data(1), handlers=[first, second])
    assert_equal(copy_state(weights), before)


def test_a_resumed_run_goes_on_with_its_average() -> None:
    ema, resumed = (EMAHandler(0.5, warmup=True) for _ in range(2))
    stats = fit(ema)
    state = pickle.loads(pickle.dumps(ema.state_dict()))
    saved = {name: value.clone() for name, value in state["shadow"].items()}
    resumed.load_state_dict(state)
    for handler in (ema, resumed):
        stats.scratch.clear()
        handler.train_begin(stats)
        stats.stepped = True
        handler.batch_end(stats)
    assert resumed.count == ema.count == 7
    assert_equal(resumed.shadow, ema.shadow)
    assert_equal(state["shadow"], saved)


def test_an_average_of_another_net_is_refused() -> None:
    fit(ema := EMAHandler())
    stats = TrainStats(nn.Linear(2, 1), CPU)
    stats.step = stats.samples = 5
    for call in (ema.train_begin, ema.validation_begin, lambda s: ema.averaged_state(s.net)):
        with pytest.raises(DataError, match=r"names and shapes.*'0.bias'.*Use the handler with"):
            call(stats)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5, float("nan")])
def test_a_wrong_decay_is_named(decay: float) -> None:
    with pytest.raises(ArgumentError, match=r"decay=...\) must be a number from 0 to below 1"):
        EMAHandler(decay)


def test_a_wrong_schedule_is_named() -> None:
    with pytest.raises(ArgumentError, match=r"every=...\) must be in steps.*every\(epochs=1\)"):
        EMAHandler(every=Every(epochs=1))


def test_the_handler_can_be_pickled_and_shown() -> None:
    ema = EMAHandler(0.5, every=every(2), use_at_end=True)
    assert repr(ema) == "EMAHandler(decay=0.5, every=every(steps=2), use_at_end=True)"
    ema.train_end(TrainStats(make_net(), CPU))
    stats = fit(ema, val=data(1))
    again = pickle.loads(pickle.dumps(ema))
    assert_equal(again.shadow, ema.shadow)
    assert (again._same, again._half, again._weights) == (([], []), ([], []), [])
    assert stats.scratch == {}

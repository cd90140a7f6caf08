from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from estimator.handlers.base import ArgumentError
from estimator.metrics import (
    AUROC,
    F1,
    MAE,
    MSE,
    RMSE,
    Accuracy,
    FunctionMetric,
    Metric,
    MetricSet,
    Perplexity,
    TopKAccuracy,
)
from estimator.metrics.base import SumMetric, widest_float

HOST_READS = ("item", "__bool__", "__float__", "__int__", "__index__", "tolist", "cpu", "numpy")
Pair = tuple[Tensor, Tensor]


def classes() -> Pair:
    return torch.randn(23, 6, requires_grad=True), torch.randint(6, (23,))


def binary() -> Pair:
    return torch.randn(23, requires_grad=True), torch.arange(23) % 2


def numbers() -> Pair:
    return torch.randn(23, 3, requires_grad=True), torch.randn(23, 3, requires_grad=True)


CASES: list[tuple[Callable[[], Metric], Callable[[], Pair]]] = [
    (Accuracy, classes),
    (lambda: Accuracy(ignore_index=0, name="accuracy_of_1"), binary),
    (lambda: TopKAccuracy(2), classes),
    (F1, classes),
    (lambda: F1("micro", 6), classes),
    (lambda: F1("binary"), binary),
    (Perplexity, classes),
    (AUROC, binary),
    (MAE, numbers),
    (MSE, numbers),
    (RMSE, numbers),
    (lambda: FunctionMetric(torch.nn.functional.l1_loss), numbers),
]
per_metric = pytest.mark.parametrize(
    ("make", "draw"), CASES, ids=[make().name for make, _ in CASES]
)


def sums_of(metric: Metric) -> list[Tensor]:
    assert isinstance(metric, SumMetric)
    return list(metric._sums.values())


@per_metric
def test_nan_before_any_update_and_after_reset(
    make: Callable[[], Metric], draw: Callable[[], Pair]
) -> None:
    metric = make()
    assert math.isnan(metric.compute().item())
    metric.update(*draw())
    assert math.isfinite(metric.compute().item())
    metric.reset()
    assert math.isnan(metric.compute().item())


@per_metric
def test_any_split_gives_the_same_value(
    make: Callable[[], Metric], draw: Callable[[], Pair]
) -> None:
    outputs, targets = draw()
    values = []
    for size in (23, 10, 7, 1):
        metric = make()
        for start in range(0, 23, size):
            metric.update(outputs[start : start + size], targets[start : start + size])
        # An empty batch changes nothing.
        if metric.name != "l1_loss":
            metric.update(outputs[:0], targets[:0])
        values.append(metric.compute().item())
    # The loss function itself rounds its mean over a batch to float32.
    assert values == pytest.approx([values[0]] * 4, rel=1e-6 if metric.name == "l1_loss" else 1e-13)


@per_metric
def test_state_goes_on_mid_stream(make: Callable[[], Metric], draw: Callable[[], Pair]) -> None:
    (outputs, targets), metric, fresh = draw(), make(), make()
    metric.update(outputs[:5], targets[:5])
    state = metric.state_dict()
    metric.update(outputs[5:], targets[5:])
    fresh.load_state_dict(state)
    fresh.update(outputs[5:], targets[5:])
    assert torch.equal(fresh.compute(), metric.compute())
    # The saved state is a copy: loading it goes back in time.
    metric.load_state_dict(state)
    metric.update(outputs[5:], targets[5:])
    assert torch.equal(fresh.compute(), metric.compute())


@per_metric
def test_state_without_batches_can_be_loaded(
    make: Callable[[], Metric], draw: Callable[[], Pair]
) -> None:
    pair, metric, fresh = draw(), make(), make()
    metric.update(*draw())
    metric.load_state_dict(fresh.state_dict())
    assert math.isnan(metric.compute().item())
    metric.update(*pair)
    fresh.update(*pair)
    assert torch.equal(fresh.compute(), metric.compute())


@per_metric
def test_state_with_other_keys_is_refused(
    make: Callable[[], Metric], draw: Callable[[], Pair]
) -> None:
    metric = make()
    metric.update(*draw())
    first, *others = metric.state_dict()
    state = {"stranger": torch.zeros(()), **{key: torch.zeros(()) for key in others}}
    with pytest.raises(ArgumentError, match=rf"missing: \['{first}'\], unknown: \['stranger'\]"):
        metric.load_state_dict(state)


def test_state_of_other_sizes_is_refused() -> None:
    five, six = F1(num_classes=5), F1(num_classes=6)
    with pytest.raises(ArgumentError, match=r"F1.* the shape \(6,\), and the state has \[\(5,\)\]"):
        six.load_state_dict(five.state_dict())
    with pytest.raises(ArgumentError, match=r"Accuracy.* \(\), and the state has \[\(0,\)\]"):
        Accuracy().load_state_dict({"correct": torch.zeros(0), "count": torch.zeros(0)})
    mixed = {**five.state_dict(), "actual": torch.zeros(6)}
    with pytest.raises(ArgumentError, match="same arguments"):
        five.load_state_dict(mixed)


@per_metric
def test_a_deep_copy_is_independent(make: Callable[[], Metric], draw: Callable[[], Pair]) -> None:
    metric = make()
    metric.update(*draw())
    before = metric.compute()
    twin = copy.deepcopy(metric)
    assert torch.equal(twin.compute(), before)
    twin.update(*draw())
    twin.reset()
    assert torch.equal(metric.compute(), before)


@pytest.mark.parametrize("make", [make for make, draw in CASES if make is not AUROC])
def test_sums_stay_the_same_tensors(make: Callable[[], Metric]) -> None:
    draw = dict(CASES)[make]
    metric = make()
    metric.update(*draw())
    before = sums_of(metric)
    state = metric.state_dict()
    metric.update(*draw())
    metric.reset()
    metric.load_state_dict(state)
    metric.update(*draw())
    assert all(now is then for now, then in zip(sums_of(metric), before, strict=True))


@per_metric
def test_no_update_reads_a_value_to_the_host(
    make: Callable[[], Metric], draw: Callable[[], Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def counted(name: str) -> Callable[..., Any]:
        original = getattr(Tensor, name)

        def method(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return original(*args, **kwargs)

        return method

    pairs = [draw() for _ in range(3)]
    metrics = MetricSet(make())
    for name in HOST_READS:
        monkeypatch.setattr(Tensor, name, counted(name))
    for outputs, targets in pairs:
        metrics.update(outputs, targets)
    reads = list(calls)
    (value,) = metrics.compute().values()
    (float(value), value.item())
    monkeypatch.undo()
    assert reads == []
    # What counts is patched in earnest: reading the value is seen.
    assert calls[-2:] == ["__float__", "item"]


@per_metric
def test_no_graph_is_kept(make: Callable[[], Metric], draw: Callable[[], Pair]) -> None:
    metric = make()
    metric.update(*draw())
    held = [value for value in metric.state_dict().values() if isinstance(value, Tensor)]
    assert len(held) > 1
    assert not any(value.requires_grad for value in [*held, metric.compute()])


@per_metric
def test_batches_of_inference_mode_can_be_mixed_with_others(
    make: Callable[[], Metric], draw: Callable[[], Pair]
) -> None:
    outputs, targets = draw()
    plain, metrics = make(), MetricSet(make())
    plain.update(outputs, targets)
    with torch.inference_mode():
        metrics = metrics.copy()
        metrics.update(outputs.detach()[:9].clone(), targets.detach()[:9].clone())
        metrics.load_state_dict(metrics.state_dict())
    metrics.update(outputs[9:], targets[9:])
    (value,) = metrics.compute().values()
    assert value.item() == pytest.approx(plain.compute().item(), rel=1e-6)
    metrics.reset()
    metrics.update(outputs, targets)
    (value,) = metrics.copy().compute().values()
    assert math.isnan(value.item())


@per_metric
def test_the_state_follows_the_device_of_the_outputs(
    make: Callable[[], Metric], draw: Callable[[], Pair]
) -> None:
    metric = make()
    state = copy.deepcopy(metric)
    state.update(*draw())
    metric.load_state_dict(state.state_dict())
    outputs, targets = draw()
    metric.update(outputs.detach().to("meta"), targets.detach().to("meta"))
    held = [value for value in metric.state_dict().values() if isinstance(value, Tensor)]
    assert {value.device.type for value in held} == {"meta"}


def test_sums_are_as_wide_as_the_device_allows() -> None:
    assert widest_float(torch.device("cpu")) == torch.float64
    assert widest_float(torch.device("cuda", 1)) == torch.float64
    assert widest_float(torch.device("mps")) == torch.float32


def test_integer_counts_do_not_round() -> None:
    metric = Accuracy()
    metric.load_state_dict({"correct": torch.tensor(2**53), "count": torch.tensor(2**53)})
    metric.update(torch.tensor([1.0]), torch.tensor([1]))
    assert metric.state_dict() == {"correct": 2**53 + 1, "count": 2**53 + 1}


def test_a_metric_says_what_it_needs() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Metric()  # type: ignore[abstract]  # the wrong use is what is tested

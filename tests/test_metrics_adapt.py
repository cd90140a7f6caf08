from __future__ import annotations

import copy
import math
import operator
import warnings
from functools import partial
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

from estimator.handlers.base import ArgumentError, ArgumentTypeError, DataError
from estimator.metrics import Accuracy, FunctionMetric, Metric, MetricSet, make_metric
from estimator.metrics.adapt import TorchMetric

with warnings.catch_warnings():
    # Some of its own dependencies warn on import, depending on their versions.
    warnings.simplefilter("ignore")
    from torchmetrics import MetricCollection, MinMaxMetric
    from torchmetrics.classification import BinaryAUROC, MulticlassAccuracy
    from torchmetrics.regression import MeanSquaredError
    from torchmetrics.wrappers import LambdaInputTransformer


def gap(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).abs().mean()


def gaps(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).abs().mean(1)


def result(metric: Metric, outputs: Tensor, targets: Tensor) -> float:
    for start in range(0, len(targets), 10):
        metric.update(outputs[start : start + 10], targets[start : start + 10])
    return metric.compute().item()


@pytest.mark.parametrize("fn", [gap, gaps, lambda o, t: gap(o, t).item()])
def test_functions_are_weighted_by_samples(fn: Any) -> None:
    outputs, targets = torch.randn(23, 3), torch.randn(23, 3)
    outputs[20:] += 100
    found = result(FunctionMetric(fn, "gap"), outputs, targets)
    assert found == pytest.approx((outputs - targets).abs().mean().item(), rel=1e-6)


def test_a_function_may_return_booleans_and_numpy_numbers() -> None:
    outputs, targets = torch.randn(23), torch.randn(23)
    hits = FunctionMetric(lambda o, t: o > t, "hits")
    assert result(hits, outputs, targets) == pytest.approx((outputs > targets).double().mean())
    assert result(FunctionMetric(lambda o, t: numpy.float32(0.5), "half"), outputs, targets) == 0.5


def test_the_targets_tell_the_number_of_samples() -> None:
    def mean(outputs: dict[str, Tensor], targets: object) -> Tensor:
        return outputs["scale"].mean()

    metric = FunctionMetric(mean)
    metric.update({"scale": torch.ones(7)}, {"weight": torch.tensor(1.0), "y": [torch.ones(2)]})
    metric.update({"scale": torch.zeros(7)}, None)
    assert metric.compute().item() == pytest.approx(2 / 9)


@pytest.mark.parametrize(
    ("value", "received"),
    [
        (torch.zeros(3), r"\(3,\) float32"),
        (torch.zeros(4, 2), r"\(4, 2\) float32"),
        (None, "None"),
        ("good", "'good'"),
    ],
)
def test_what_a_function_returns_is_checked(value: Any, received: str) -> None:
    metric = FunctionMetric(lambda o, t: value, "mine")
    with pytest.raises(DataError, match=f"mine: .* each of the 4 samples, received {received}"):
        metric.update(torch.zeros(4, 2), torch.zeros(4))


def test_a_function_without_samples_is_refused() -> None:
    with pytest.raises(DataError, match="gap: neither targets nor outputs hold a tensor"):
        FunctionMetric(gap).update(torch.tensor(1.0), torch.tensor(2.0))


def test_names_of_functions() -> None:
    assert FunctionMetric(gap).name == "gap"
    assert FunctionMetric(partial(partial(gap), targets=None)).name == "gap"
    assert FunctionMetric(torch.nn.L1Loss()).name == "L1Loss"
    assert FunctionMetric(lambda o, t: 0.0, name="zero", higher_is_better=False).name == "zero"
    with pytest.raises(ArgumentError, match="a lambda has none. Give it one: FunctionMetric"):
        make_metric(lambda outputs, targets: 0.0)


def test_a_copy_shares_the_function() -> None:
    class Owner:
        def __deepcopy__(self, memo: object) -> Owner:
            raise AssertionError("the owner of a bound method must not be copied")

        def mean(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return gap(outputs, targets)

    metrics = MetricSet(FunctionMetric(Owner().mean))
    metrics.update(torch.ones(2), torch.zeros(2))
    twin = metrics.copy()
    twin.update(torch.zeros(2), torch.zeros(2))
    assert metrics.compute()["mean"].item() == 1.0
    assert twin.compute()["mean"].item() == 0.0


def test_objects_of_torchmetrics_serve_as_they_are() -> None:
    outputs, targets = torch.randn(23, 5), torch.randint(5, (23,))
    theirs = MulticlassAccuracy(5, average="micro")
    theirs.update(torch.zeros(1, 5), torch.zeros(1, dtype=torch.int64))
    before = copy.deepcopy(theirs.metric_state)
    metric = make_metric(theirs)
    assert (metric.name, metric.higher_is_better) == ("MulticlassAccuracy", True)
    assert repr(metric) == "TorchMetric(metric=MulticlassAccuracy(), name='MulticlassAccuracy')"
    assert result(metric, outputs, targets) == pytest.approx(result(Accuracy(), outputs, targets))
    assert metric.compute().dtype == torch.float64
    assert theirs.metric_state == before
    square = make_metric(MeanSquaredError())
    outputs, targets = torch.randn(23), torch.randn(23)
    assert result(square, outputs, targets) == pytest.approx(((outputs - targets) ** 2).mean())
    assert square.higher_is_better is False


def test_before_an_update_an_object_of_torchmetrics_is_nan() -> None:
    metric = make_metric(MeanSquaredError())
    assert math.isnan(metric.compute().item())
    metric.update(torch.ones(2), torch.zeros(2))
    metric.reset()
    assert math.isnan(metric.compute().item())


@pytest.mark.parametrize(
    "theirs",
    [
        MulticlassAccuracy(2, average="micro"),
        BinaryAUROC(),
        LambdaInputTransformer(BinaryAUROC(), lambda scores: -scores),
    ],
)
def test_state_of_torchmetrics_goes_on_mid_stream(theirs: Any) -> None:
    scores, targets = torch.rand(23, requires_grad=True), torch.arange(23) % 2
    outputs = torch.stack([1 - scores, scores], 1) if "Multi" in repr(theirs) else scores
    metric, fresh = make_metric(theirs), make_metric(theirs)
    metric.update(outputs[:9], targets[:9])
    state = metric.state_dict()
    metric.update(outputs[9:], targets[9:])
    fresh.load_state_dict(state)
    fresh.update(outputs[9:], targets[9:])
    assert torch.equal(fresh.compute(), metric.compute())
    metric.load_state_dict(state)
    metric.update(outputs[9:], targets[9:])
    assert torch.equal(fresh.compute(), metric.compute())
    whole = make_metric(theirs)
    whole.update(outputs, targets)
    assert torch.equal(whole.compute(), metric.compute())


def test_state_of_torchmetrics_keeps_no_graph_and_no_shared_tensor() -> None:
    metric = make_metric(BinaryAUROC())
    metric.update(torch.rand(4, requires_grad=True), torch.tensor([0, 1, 0, 1]))
    state = metric.state_dict()
    (scores,) = state["states"]["preds"]
    assert not scores.requires_grad
    before = metric.compute()
    metric.load_state_dict(state)
    scores.fill_(0.5)
    assert torch.equal(metric.compute(), before)


def test_state_of_torchmetrics_is_strict() -> None:
    metric = make_metric(MeanSquaredError())
    with pytest.raises(ArgumentError, match=r"missing: \['states', 'updates'\], unknown: \['a'\]"):
        metric.load_state_dict({"a": 1})
    with pytest.raises(ArgumentError, match=r"missing: \['sum_squared_error', 'total'\]"):
        metric.load_state_dict({"states": {}, "updates": [1]})


def test_an_object_of_torchmetrics_follows_the_device_of_the_outputs() -> None:
    metric = make_metric(MeanSquaredError())
    metric.update(torch.ones(2), torch.zeros(2))
    metric.update(torch.ones(2, device="meta"), torch.zeros(2, device="meta"))
    assert metric.compute().device.type == "meta"


def test_an_object_of_torchmetrics_may_take_a_dict() -> None:
    theirs: Any = LambdaInputTransformer(MeanSquaredError(), operator.itemgetter("y"))
    metric = make_metric(theirs)
    metric.update({"y": torch.full((2,), 3.0)}, torch.zeros(2))
    assert metric.compute().item() == 9.0


def test_objects_of_torchmetrics_with_several_values_are_refused() -> None:
    with pytest.raises(
        ArgumentTypeError, match=r"a single metric, .* list\(collection.values\(\)\)"
    ):
        make_metric(MetricCollection([BinaryAUROC(), MeanSquaredError()]))
    vector = TorchMetric(MulticlassAccuracy(3, average=None), "each")
    vector.update(torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1]))
    with pytest.raises(
        DataError, match=r"each: .* one number, received \(3,\) float32. Give it an"
    ):
        vector.compute()
    two = make_metric(MinMaxMetric(BinaryAUROC()))
    two.update(torch.rand(2), torch.arange(2))
    with pytest.raises(DataError, match="MinMaxMetric: .* one number, received {'raw'"):
        two.compute()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("accuracy", "Accuracy"),
        ("top1_accuracy", "TopKAccuracy"),
        ("top12_accuracy", "TopKAccuracy"),
        ("mae", "MAE"),
        ("mse", "MSE"),
        ("rmse", "RMSE"),
        ("f1", "F1"),
        ("f1_macro", "F1"),
        ("f1_micro", "F1"),
        ("f1_binary", "F1"),
        ("perplexity", "Perplexity"),
        ("auroc", "AUROC"),
    ],
)
def test_names_make_metrics_of_that_name(name: str, kind: str) -> None:
    metric = make_metric(name)
    assert (metric.name, type(metric).__name__) == (name, kind)
    average = getattr(metric, "average", None)
    assert average in (None, "macro", name.removeprefix("f1_"))
    assert getattr(metric, "k", 12) in (1, 12)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("acuracy", "Did you mean 'accuracy'"),
        ("Accuracy", "Did you mean 'accuracy'"),
        ("top_accuracy", "'top5_accuracy'"),
        ("top0_accuracy", "'top5_accuracy'"),
        ("wer", "There are: accuracy, auroc, f1,"),
    ],
)
def test_unknown_names_are_refused(name: str, hint: str) -> None:
    with pytest.raises(ArgumentError, match=f"there is no metric called '{name}'. .*{hint}"):
        make_metric(name)


def test_classes_and_other_objects_are_refused() -> None:
    for kind in (Accuracy, MeanSquaredError):
        with pytest.raises(
            ArgumentTypeError, match=rf"class {kind.__name__}. Call it: {kind.__name__}\(\)"
        ):
            make_metric(kind)
    for other in (None, 3, ["mae"]):
        with pytest.raises(
            ArgumentTypeError, match="a metric must be a name, a Metric, .* received"
        ):
            make_metric(other)  # type: ignore[arg-type]  # the wrong type is what is tested


def test_our_metrics_are_copied_and_reset() -> None:
    mine = Accuracy(threshold=0.25, name="mine")
    mine.update(torch.zeros(4), torch.ones(4))
    metric = make_metric(mine)
    assert repr(metric) == repr(mine)
    assert math.isnan(metric.compute().item())
    metric.update(torch.ones(4), torch.ones(4))
    assert (mine.compute().item(), metric.compute().item()) == (0.0, 1.0)

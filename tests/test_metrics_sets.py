from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from estimator.handlers.base import ArgumentError, ArgumentTypeError, DataError
from estimator.metrics import MAE, RMSE, Accuracy, FunctionMetric, Metric, MetricSet

LOGITS = torch.tensor([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0], [1.0, 0.0]])
LABELS = torch.tensor([0, 1, 1, 0])
DEPTH = torch.tensor([1.0, 2.0, 3.0, 4.0])


class Last(Metric):
    """A metric of a user: the last value, or what the test wants it to compute."""

    name = "last"

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.reset()

    def reset(self) -> None:
        self.value = torch.tensor(math.nan)

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.value = (outputs * 1)[-1]

    def compute(self) -> Tensor:
        return self.value if self.answer is None else self.answer

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: Any) -> None:
        self.value = state["value"]


def values(metrics: MetricSet) -> dict[str, float]:
    return {name: value.item() for name, value in metrics.compute().items()}


def test_none_and_empty_forms_are_no_metrics() -> None:
    spec: Any
    for spec in (None, [], {}, ()):
        metrics = MetricSet(spec)
        metrics.check(object(), None)
        metrics.update(object(), None)
        assert (metrics.names, metrics.compute(), metrics.state_dict()) == ((), {}, {})


def test_one_metric_sees_the_whole() -> None:
    metrics = MetricSet("accuracy")
    metrics.update(LOGITS[:3], LABELS[:3])
    metrics.update(LOGITS[3:], LABELS[3:])
    assert values(metrics) == {"accuracy": 0.75}


def test_each_metric_of_a_list_sees_the_whole() -> None:
    metrics = MetricSet(["top2_accuracy", Accuracy(name="hits"), FunctionMetric(len_of_batch)])
    metrics.update(LOGITS, LABELS)
    assert values(metrics) == {"top2_accuracy": 1.0, "hits": 0.75, "len_of_batch": 4.0}
    assert metrics.names == ("top2_accuracy", "hits", "len_of_batch")
    assert repr(metrics) == "MetricSet(['top2_accuracy', 'hits', 'len_of_batch'])"


def len_of_batch(outputs: Any, targets: Any) -> int:
    return len(outputs)


def test_a_dict_pairs_by_output_name() -> None:
    metrics = MetricSet({"class": "accuracy", "depth": ("mae", RMSE(name="root"))})
    outputs = {"class": LOGITS, "depth": DEPTH, "more": None}
    targets = {"class": LABELS, "depth": DEPTH + 2}
    metrics.check(outputs, targets)
    metrics.update(outputs, targets)
    assert values(metrics) == {"class_accuracy": 0.75, "depth_mae": 2.0, "depth_root": 2.0}


def test_a_list_pairs_by_position_when_asked() -> None:
    metrics = MetricSet(["accuracy", None, ["mae", "rmse"]], by_position=True)
    outputs, targets = (LOGITS, None, DEPTH), [LABELS, None, DEPTH - 2]
    metrics.check(outputs, targets)
    metrics.update(outputs, targets)
    assert values(metrics) == {"0_accuracy": 0.75, "2_mae": 2.0, "2_rmse": 2.0}
    assert MetricSet("mae", by_position=True).names == ("mae",)
    assert MetricSet({"a": "mae"}, by_position=True).names == ("a_mae",)


def test_names_must_differ_and_leave_the_loss_alone() -> None:
    for spec in (["mae", MAE()], {"a": ["mae", "mae"]}):
        with pytest.raises(
            ArgumentError, match=r"two metrics are called '(a_)?mae', .* MAE\(..., na"
        ):
            MetricSet(spec)  # type: ignore[arg-type]  # the wrong type is what is tested
    with pytest.raises(ArgumentError, match=r"'loss' is the name of .* FunctionMetric\(..., name="):
        MetricSet(FunctionMetric(len_of_batch, "loss"))
    assert MetricSet({"a": ["mae"], "b": ["mae"]}).names == ("a_mae", "b_mae")


def test_forms_that_are_no_metrics_are_refused() -> None:
    spec: Any
    for spec in ([None], {"a": None}, [["mae"]], 3):
        with pytest.raises(ArgumentTypeError, match="a metric must be a name, .* received"):
            MetricSet(spec)
    with pytest.raises(ArgumentTypeError, match="names of outputs to metrics, received the key 0"):
        MetricSet({0: "mae"})  # type: ignore[dict-item]  # a stand-in
    with pytest.raises(ArgumentTypeError, match=r"received the class MAE. Call it: MAE\(\)"):
        MetricSet([MAE])


def test_directions() -> None:
    metrics = MetricSet({"a": ["mae", "accuracy", FunctionMetric(len_of_batch)]})
    assert [metrics.higher_is_better(name) for name in metrics.names] == [False, True, None]
    with pytest.raises(ArgumentError, match="received 'a_mea'. Did you mean 'a_mae'"):
        metrics.higher_is_better("a_mea")


def test_objects_of_the_user_are_never_changed() -> None:
    mine, spec = Accuracy(), {"a": [Accuracy(name="x")]}
    first, second = MetricSet(mine), MetricSet(mine)
    MetricSet(spec).update({"a": LOGITS}, {"a": LABELS})
    first.update(LOGITS, LABELS)
    assert math.isnan(mine.compute().item())
    assert math.isnan(spec["a"][0].compute().item())
    assert math.isnan(values(second)["accuracy"])
    assert mine.name == "accuracy"


def test_a_copy_is_independent_and_reset() -> None:
    train = MetricSet({"a": ["accuracy", "auroc"], "b": "mae"})
    outputs, targets = {"a": LOGITS, "b": DEPTH}, {"a": LABELS, "b": DEPTH + 1}
    train.update(outputs, targets)
    before = values(train)
    validation = train.copy()
    assert all(math.isnan(value) for value in values(validation).values())
    validation.update(outputs, {"a": 1 - LABELS, "b": DEPTH})
    assert values(train) == before
    assert values(validation) == {"a_accuracy": 0.25, "a_auroc": 0.25, "b_mae": 0.0}
    validation.reset()
    assert all(math.isnan(value) for value in values(validation).values())


def test_no_graph_is_built() -> None:
    outputs = torch.randn(4, requires_grad=True)
    metrics = MetricSet(Last())
    metrics.update(outputs, DEPTH)
    assert not metrics.compute()["last"].requires_grad
    metrics.check(outputs, DEPTH)


def test_state_goes_on_and_is_strict() -> None:
    metrics, fresh = MetricSet(["accuracy", "f1"]), MetricSet(["accuracy", "f1"])
    metrics.update(LOGITS[:2], LABELS[:2])
    fresh.load_state_dict(metrics.state_dict())
    for each in (metrics, fresh):
        each.update(LOGITS[2:], LABELS[2:])
    assert values(fresh) == values(metrics)
    with pytest.raises(ArgumentError, match=r"MetricSet.* missing: \['f1'\], unknown: \['auroc'\]"):
        fresh.load_state_dict({"accuracy": {}, "auroc": {}})
    with pytest.raises(ArgumentError, match=r"Accuracy.* missing: \['correct', 'count'\]"):
        fresh.load_state_dict({"accuracy": {}, "f1": {}})


def test_the_check_leaves_no_trace() -> None:
    metrics = MetricSet(["accuracy", "f1"])
    metrics.check(LOGITS, LABELS)
    assert all(math.isnan(value) for value in values(metrics).values())


@pytest.mark.parametrize(
    ("spec", "outputs", "targets", "message"),
    [
        (
            {"mask": "mae"},
            DEPTH,
            {"mask": DEPTH},
            r"a dict of metrics needs a dict of outputs, received \(4,\) float32. Return {'mask'",
        ),
        (
            {"mask": "mae"},
            {"mask": DEPTH},
            [DEPTH, None],
            r"needs a dict of targets, received \[\(4,\) float32, None\]",
        ),
        (
            {"mask": "mae"},
            {"masks": DEPTH},
            {"mask": DEPTH},
            "outputs must have the key 'mask', .* Did you mean 'masks'",
        ),
        (
            {"mask": "mae"},
            {"mask": DEPTH},
            {"y": DEPTH},
            "targets must have the key 'mask', .* There are: y",
        ),
        (
            ["mae", "mae"],
            (DEPTH, DEPTH, DEPTH),
            (DEPTH, DEPTH),
            r"a list of 2 paired by position needs a list or tuple of 2 outputs, received \[\(4,",
        ),
        (
            ["mae", "mae"],
            (DEPTH, DEPTH),
            DEPTH,
            r"tuple of 2 targets, received \(4,\) float32. Give one entry for each output, None",
        ),
        (
            "mae",
            DEPTH,
            DEPTH.unsqueeze(1),
            r"'mae' must take .* outputs \(4,\) float32 and targets \(4, 1\) float32, and raised "
            "DataError: mae: outputs and targets must have the same shape",
        ),
        (
            ["accuracy"],
            {"mask": DEPTH},
            {"mask": DEPTH},
            "received outputs {'mask': .*raised AttributeError: .* pair it with the part",
        ),
        (
            {"a": Last(torch.zeros(3))},
            {"a": DEPTH},
            {"a": DEPTH},
            r"'a_last' must compute a 0-d tensor, received \(3,\) float32. .* Last.compute\(\)",
        ),
        (Last(2.5), DEPTH, DEPTH, "'last' must compute a 0-d tensor, received 2.5"),
    ],
)
def test_the_check_says_what_does_not_pair(
    spec: Any, outputs: Any, targets: Any, message: str
) -> None:
    paired = isinstance(spec, list) and len(spec) == 2
    with pytest.raises(DataError, match=message):
        MetricSet(spec, by_position=paired).check(outputs, targets)

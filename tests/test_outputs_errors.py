"""What is wrong with outputs that describe themselves is said, with what to do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from output_nets import Net, data, fit
from torch import Tensor, nn

from estimator import BatchProcessor, Estimator
from estimator.handlers import on
from estimator.handlers.base import ArgumentError, ArgumentTypeError, DataError
from estimator.outputs import (
    BinaryClassificationOutput,
    ClassificationOutput,
    EmbeddingOutput,
    LossOutput,
    RegressionOutput,
    SegmentationOutput,
)

NAN = float("nan")


def tasks(z: Tensor, b: dict[str, Any]) -> dict[str, Any]:
    return {
        "softmax": ClassificationOutput(z, "label"),
        "number": RegressionOutput(z[:, :2], "number", weight=0.5),
        "point": EmbeddingOutput(z),
    }


class Returns(nn.Module):
    """Returns what a function gives."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3).double()
        self.make = make

    def forward(self, batch: dict[str, Any]) -> Any:
        return self.make(self.layer(batch["x"]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda z: {"a": ClassificationOutput(z, "labels")},
         r"output 'a': ClassificationOutput\(target='labels'\) .* the keys \['x', 'label', 'nu"),
        (lambda z: {"a": RegressionOutput(z, "number", mask="m")}, r"\(mask='m'\)"),
        (lambda z: {"a": RegressionOutput(z, "number", sample_weights="w")}, "sample_weights='w'"),
        (lambda z: {"a": RegressionOutput(z, "x3", sample_weights="x3")}, "one a sample"),
        (lambda z: {"a": ClassificationOutput(z, "label"), "b": z}, "Make an EmbeddingOutput"),
        (lambda z: {"a": ClassificationOutput(z[:, :2], "label")}, "below 2, .* received 2"),
        (lambda z: {"a": ClassificationOutput(z, "number")}, "'number' tensor.22, 2. float64"),
        (lambda z: {"a": ClassificationOutput(z[:, 0], "label")}, "needs class indices None"),
        (lambda z: {"a": RegressionOutput(z, "number")}, "needs a target of the shape"),
        (lambda z: {"a": BinaryClassificationOutput(z[:, 0], "label")}, "received 2"),
        (lambda z: {"a": SegmentationOutput(z, "number")}, "SegmentationOutput needs class"),
        (lambda z: {"a": LossOutput(z.mean())}, "losses of single samples"),
        (lambda z: {"a": ClassificationOutput(z, "label", criterion=whole_mean)}, "whole_mean"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_before_the_first_step(make: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit(Returns(make), [data(x3=data()["x"][:, :3])])


def whole_mean(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets)


@pytest.mark.parametrize(
    ("later", "message"),
    [
        (lambda z: {"b": ClassificationOutput(z, "label")}, "'b': ClassificationOutput"),
        (lambda z: {"a": ClassificationOutput(z, "other")}, "for the first batch"),
        (lambda z: z, "must return a dict of them under names"),
        (lambda z: {"a": ClassificationOutput(z, "label"), 3: EmbeddingOutput(z)}, "under names"),
    ],
)
def test_outputs_that_change_are_named(later: Any, message: str) -> None:
    net = Returns(lambda z: {"a": ClassificationOutput(z, "label")})

    def change(stats: Any) -> None:
        net.make = later

    with pytest.raises(DataError, match=message):
        fit(net, [data()], handlers=[on("batch_begin")(change)])


def test_a_pass_without_any_loss_is_named() -> None:
    class Fades(Net):
        def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
            found = super().forward(batch)
            return found if self.training else {"point": found["point"]}

    with pytest.raises(DataError, match="must return an output with a loss"):
        fit(Fades(tasks), [data()], [data()])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda z: RegressionOutput(z, weight=-1.0), r"weight=...\) must be from 0 up"),
        (lambda z: RegressionOutput(z, weight=NAN), "received nan"),
    ],
)
def test_bad_weights_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make(torch.zeros(3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda z: RegressionOutput(z, weight=True), "a number or a LearnedWeight"),
        (lambda z: RegressionOutput(z, z), "must be a key of the batch"),
        (lambda z: EmbeddingOutput(z, "label"), "a target and a criterion, or neither"),
    ],
)
def test_arguments_of_the_wrong_kind_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ArgumentTypeError, match=message):
        make(torch.zeros(3))


def test_nothing_to_train_and_nothing_to_measure_are_said() -> None:
    points = Returns(lambda z: {"p": EmbeddingOutput(z)})
    with pytest.raises(ArgumentError, match=r"Estimator\(loss=...\) is needed to train"):
        fit(points, [data()])
    with pytest.raises(ArgumentError, match="loss=None and metrics=None"):
        Estimator(points).evaluate([data()])
    plain = Returns(lambda z: {"p": z})
    with pytest.raises(ArgumentError, match=r"Estimator\(loss=...\) is needed to train"):
        fit(plain, [data()])


def test_a_processor_of_ones_own_is_refused() -> None:
    class Own(BatchProcessor):
        pass

    with pytest.raises(ArgumentError, match="received Own"):
        fit(Net(tasks), [data()], processor=Own())


def test_batches_that_stop_being_dicts_are_named() -> None:
    with pytest.raises(DataError, match="needs batches that are dicts"):
        fit(Net(tasks), [data(), (data()["x"], data()["label"])])


def test_an_error_in_the_first_look_says_what_it_was_for() -> None:
    def broken(z: Tensor) -> Any:
        raise ValueError("planned")

    with pytest.raises(ValueError, match="planned") as caught:
        fit(Returns(broken), [data()])
    assert any("Without a loss, the net was run" in n for n in caught.value.__notes__)


def test_an_output_shows_itself() -> None:
    shown = repr(RegressionOutput(torch.zeros(3), "age"))
    assert shown == "RegressionOutput(tensor(3,) float32, target='age')"

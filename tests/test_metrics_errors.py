from __future__ import annotations

import pytest
import torch
from torch import Tensor

from estimator.handlers.base import ArgumentError, ArgumentTypeError, DataError
from estimator.metrics import (
    AUROC,
    F1,
    MAE,
    MSE,
    RMSE,
    Accuracy,
    Metric,
    Perplexity,
    TopKAccuracy,
)


def tensor(*shape: int) -> Tensor:
    return torch.zeros(*shape)


def labels(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.int64)


CLASSES = r"{}: targets must be class indices, .* outputs {} .* targets {}.*argmax\(1\)"
SAME = r"{}: outputs and targets must have the same shape, .* outputs {} .* targets {}"
SCORES = r"auroc: outputs must have the shape \(N,\), .* outputs {} .* targets {}"


def told(template: str, name: str, outputs: Tensor, targets: Tensor) -> str:
    shapes = [
        str(tuple(t.shape)).replace("(", r"\(").replace(")", r"\)") for t in (outputs, targets)
    ]
    return template.format(*([name] if template.count("{}") == 3 else []), *shapes)


@pytest.mark.parametrize(
    ("metric", "template", "outputs", "targets"),
    [
        (Accuracy(), CLASSES, tensor(4, 3), labels(4, 1)),
        (Accuracy(), CLASSES, tensor(4, 3), tensor(4, 3)),
        (Accuracy(), CLASSES, tensor(4, 1), labels(5)),
        (Accuracy(), CLASSES, tensor(4), labels(4, 2)),
        (Accuracy(), CLASSES, tensor(4), torch.tensor(1)),
        (F1(), CLASSES, tensor(4, 3), labels(4, 1)),
        (TopKAccuracy(2), CLASSES, tensor(4, 3), labels(4, 1)),
        (TopKAccuracy(2), CLASSES, tensor(4), labels(4)),
        (Perplexity(), CLASSES, tensor(4, 3), labels(4, 1)),
        (Perplexity(), CLASSES, tensor(4), labels(4)),
        (Perplexity(class_dim=-1), CLASSES, tensor(4, 3, 7), labels(4, 7)),
        (Perplexity(class_dim=1), CLASSES, tensor(4, 3, 7), labels(4, 3)),
        (MAE(), SAME, tensor(4), tensor(4, 1)),
        (MSE(), SAME, tensor(4, 1), tensor(4)),
        (RMSE(), SAME, tensor(4, 2), tensor(4, 1)),
        (AUROC(), SCORES, tensor(4, 3), labels(4)),
        (AUROC(), SCORES, tensor(4, 2), labels(4, 2)),
        (AUROC(), SCORES, tensor(4), labels(5)),
        (AUROC(), SCORES, tensor(4, 2, 2), labels(4)),
    ],
)
def test_shapes_that_do_not_pair_are_refused(
    metric: Metric, template: str, outputs: Tensor, targets: Tensor
) -> None:
    with pytest.raises(DataError, match=told(template, metric.name, outputs, targets)):
        metric.update(outputs, targets)


@pytest.mark.parametrize(
    ("metric", "outputs", "message"),
    [
        (Accuracy(), labels(4), r"accuracy: outputs with one entry .* \(4,\) int64. Give what"),
        (TopKAccuracy(3), tensor(4, 2), r"at least k=3 classes .* \(4, 2\) float32. Give a small"),
        (F1("binary"), tensor(4, 3), r"f1_binary: outputs must have the shape .* Use 'macro'"),
        (F1("macro", 5), tensor(4, 3), r"f1: outputs must have 5 classes .* \(4, 3\) float32"),
    ],
)
def test_outputs_that_do_not_suit_are_refused(
    metric: Metric, outputs: Tensor, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        metric.update(outputs, labels(4))


def test_f1_holds_on_to_the_number_of_classes() -> None:
    metric = F1()
    metric.update(torch.randn(4, 3), labels(4))
    with pytest.raises(DataError, match=r"f1: outputs must have 3 classes .* \(4, 4\) float32"):
        metric.update(torch.randn(4, 4), labels(4))


def test_settings_are_checked() -> None:
    with pytest.raises(ArgumentTypeError, match=r"TopKAccuracy: k must be an int, received 2\.0"):
        TopKAccuracy(2.0)  # type: ignore[arg-type]  # the wrong type is what is tested
    with pytest.raises(ArgumentTypeError, match="k must be an int, received True"):
        TopKAccuracy(True)
    with pytest.raises(ArgumentError, match="k must be at least 1, received 0"):
        TopKAccuracy(0)
    with pytest.raises(ArgumentError, match="average is unknown: 'makro'. Did you mean 'macro'"):
        F1("makro")  # type: ignore[arg-type]  # the wrong type is what is tested
    with pytest.raises(ArgumentError, match="num_classes must be at least 2, received 1"):
        F1(num_classes=1)
    with pytest.raises(ArgumentError, match="class_dim must be 1 .* received 2"):
        Perplexity(class_dim=2)


def test_names_and_directions() -> None:
    found = {
        metric.name: metric.higher_is_better
        for metric in (Accuracy(), TopKAccuracy(5), F1(), F1("micro"), F1("binary"), AUROC())
    }
    assert found == dict.fromkeys(
        ["accuracy", "top5_accuracy", "f1", "f1_micro", "f1_binary", "auroc"], True
    )
    lower = {
        metric.name: metric.higher_is_better for metric in (MAE(), MSE(), RMSE(), Perplexity())
    }
    assert lower == dict.fromkeys(["mae", "mse", "rmse", "perplexity"], False)
    assert [m.name for m in (Accuracy(name="a"), F1(name="b"), AUROC(name="c"))] == ["a", "b", "c"]


def test_repr_shows_the_settings() -> None:
    assert repr(Accuracy()) == "Accuracy(threshold=0.0, ignore_index=None, name='accuracy')"
    assert repr(TopKAccuracy(5)) == "TopKAccuracy(k=5, name='top5_accuracy')"

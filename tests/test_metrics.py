from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from sklearn import metrics as reference
from torch import Tensor

from estimator.handlers.base import DataError
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

DRAWS = 50
Pair = tuple[Tensor, Tensor]


def batches(samples: int) -> Iterator[slice]:
    """Cuts at random places, the last batch being short."""
    cuts = torch.randperm(samples - 1)[:4].add(1).sort().values.tolist()
    yield from map(slice, [0, *cuts], [*cuts, samples])


def value_of(metric: Metric, outputs: Tensor, targets: Tensor) -> float:
    metric.reset()
    for batch in batches(len(targets)):
        metric.update(outputs[batch], targets[batch])
    value = metric.compute()
    assert value.shape == ()
    assert value.dtype == torch.float64
    return value.item()


def many_classes(classes: int = 6) -> Pair:
    """Some classes are never a target, some never predicted, some neither."""
    samples = int(torch.randint(8, 60, ()))
    outputs = torch.randn(samples, classes)
    outputs[:, torch.rand(classes) < 0.3] -= 100
    present = torch.randperm(classes)[: int(torch.randint(1, classes, ()))]
    return outputs, present[torch.randint(len(present), (samples,))]


def two_classes() -> Pair:
    samples = int(torch.randint(8, 60, ()))
    return torch.randn(samples), torch.randint(2, (samples,))


def regression() -> Pair:
    samples = int(torch.randint(8, 60, ()))
    return torch.randn(samples, 3), torch.randn(samples, 3)


def test_accuracy_is_that_of_sklearn() -> None:
    for _ in range(DRAWS):
        outputs, targets = many_classes()
        expected = reference.accuracy_score(targets, outputs.argmax(1))
        assert value_of(Accuracy(), outputs, targets) == pytest.approx(expected, rel=1e-12)
        assert value_of(Accuracy(), outputs.softmax(1), targets) == pytest.approx(expected)


@pytest.mark.parametrize("column", [True, False], ids=["(N, 1)", "(N,)"])
@pytest.mark.parametrize("kind", [torch.int64, torch.float32, torch.bool])
def test_binary_accuracy_takes_one_logit_a_sample(column: bool, kind: torch.dtype) -> None:
    for _ in range(DRAWS):
        outputs, targets = two_classes()
        expected = reference.accuracy_score(targets, outputs > 0)
        outputs = outputs.unsqueeze(1) if column else outputs
        for truth in (targets, targets.unsqueeze(1)):
            assert value_of(Accuracy(), outputs, truth.to(kind)) == pytest.approx(expected)
            probability = value_of(Accuracy(threshold=0.5), outputs.sigmoid(), truth)
            assert probability == pytest.approx(expected)


def test_accuracy_of_pixels() -> None:
    outputs, targets = torch.randn(7, 3, 4, 5), torch.randint(3, (7, 4, 5))
    expected = (outputs.argmax(1) == targets).double().mean().item()
    assert value_of(Accuracy(), outputs, targets) == pytest.approx(expected)
    mask = torch.randint(2, (7, 4, 5))
    expected = ((outputs[:, 0] > 0) == mask).double().mean().item()
    assert value_of(Accuracy(), outputs[:, :1], mask) == pytest.approx(expected)
    assert value_of(Accuracy(), outputs[:, :1], mask.unsqueeze(1)) == pytest.approx(expected)


def test_ignored_targets_do_not_count() -> None:
    for _ in range(DRAWS):
        outputs, targets = many_classes()
        ignored = torch.rand(len(targets)) < 0.4
        ignored[0] = False
        truth = targets.masked_fill(ignored, -1)
        expected = reference.accuracy_score(targets[~ignored], outputs[~ignored].argmax(1))
        assert value_of(Accuracy(ignore_index=-1), outputs, truth) == pytest.approx(expected)
        expected = math.exp(negative_log_likelihood(outputs[~ignored], targets[~ignored]))
        assert value_of(Perplexity(-1), outputs, truth) == pytest.approx(expected, rel=1e-6)
    assert math.isnan(value_of(Perplexity(), torch.randn(5, 3), torch.full((5,), -100)))


def test_top_k_accuracy_is_that_of_sklearn() -> None:
    for draw in range(DRAWS):
        outputs, targets = many_classes()
        k = draw % 5 + 1
        expected = reference.top_k_accuracy_score(targets, outputs, k=k, labels=range(6))
        assert value_of(TopKAccuracy(k), outputs, targets) == pytest.approx(expected)


@pytest.mark.parametrize("average", ["macro", "micro"])
def test_f1_is_that_of_sklearn(average: Any) -> None:
    for _ in range(DRAWS):
        outputs, targets = many_classes()
        expected = reference.f1_score(targets, outputs.argmax(1), average=average, zero_division=0)
        assert value_of(F1(average), outputs, targets) == pytest.approx(expected, rel=1e-12)
        assert value_of(F1(average, 6), outputs, targets) == pytest.approx(expected, rel=1e-12)


def test_binary_f1_is_that_of_sklearn() -> None:
    for draw in range(DRAWS):
        outputs, targets = two_classes()
        if draw % 5 == 0:
            outputs, targets = -outputs.abs(), targets * 0
        expected = reference.f1_score(targets, outputs > 0, zero_division=0)
        pair = torch.stack([torch.zeros_like(outputs), outputs], 1)
        for given in (outputs, outputs.unsqueeze(1), pair):
            assert value_of(F1("binary"), given, targets) == pytest.approx(expected, rel=1e-12)
        probability = value_of(F1("binary", threshold=0.5), outputs.sigmoid(), targets.float())
        assert probability == pytest.approx(expected, rel=1e-12)


def negative_log_likelihood(outputs: Tensor, targets: Tensor) -> float:
    likelihood = outputs.double().softmax(1)
    # sklearn clips at the smallest step, which these logits go below.
    chosen = likelihood[torch.arange(len(targets)), targets].clamp(min=1e-320)
    return -chosen.log().mean().item()


def test_perplexity_is_the_exponential_of_the_log_loss_of_sklearn() -> None:
    for _ in range(DRAWS):
        targets = torch.randint(5, (int(torch.randint(8, 60, ())),))
        outputs = torch.randn(len(targets), 5)
        loss = reference.log_loss(targets, outputs.double().softmax(1), labels=range(5))
        found = value_of(Perplexity(), outputs, targets)
        assert found == pytest.approx(math.exp(loss), rel=1e-6)


def test_perplexity_finds_the_dimension_of_the_classes() -> None:
    outputs, targets = torch.randn(9, 4, 7), torch.randint(7, (9, 4))
    expected = math.exp(negative_log_likelihood(outputs.flatten(0, 1), targets.flatten()))
    for metric in (Perplexity(), Perplexity(class_dim=-1)):
        assert value_of(metric, outputs, targets) == pytest.approx(expected, rel=1e-6)
    for metric in (Perplexity(), Perplexity(class_dim=1)):
        found = value_of(metric, outputs.movedim(-1, 1), targets)
        assert found == pytest.approx(expected, rel=1e-6)


def test_perplexity_says_when_the_dimension_is_ambiguous() -> None:
    outputs, targets = torch.randn(9, 4, 4), torch.randint(4, (9, 4))
    second, last = Perplexity(class_dim=1), Perplexity(class_dim=-1)
    expected = value_of(second, outputs, targets)
    assert value_of(last, outputs.movedim(1, -1), targets) == pytest.approx(expected)
    with pytest.warns(UserWarning, match=r"\(9, 4, 4\) float32 .* 1 is taken. Say it: class_dim=1"):
        guessing = Perplexity()
        guessing.update(outputs, targets)
    assert guessing.compute().item() == pytest.approx(expected)


def test_half_precision_does_not_blur_the_values() -> None:
    outputs, targets = torch.randn(64, 5).bfloat16(), torch.randint(5, (64,))
    expected = math.exp(negative_log_likelihood(outputs.float(), targets))
    assert value_of(Perplexity(), outputs, targets) == pytest.approx(expected, rel=1e-6)
    big = torch.full((4,), 300.0, dtype=torch.float16)
    assert value_of(MSE(), big, torch.zeros(4)) == 90000.0


@pytest.mark.parametrize("ties", [False, True])
def test_auroc_is_that_of_sklearn(ties: bool) -> None:
    for _ in range(DRAWS):
        outputs, targets = two_classes()
        targets[:2] = torch.tensor([0, 1])
        outputs = outputs.mul(2).round() if ties else outputs
        expected = reference.roc_auc_score(targets, outputs)
        for given in (outputs, outputs.unsqueeze(1)):
            assert value_of(AUROC(), given, targets.unsqueeze(1)) == pytest.approx(expected)


def test_auroc_of_two_logits_ranks_by_the_probability() -> None:
    for _ in range(DRAWS):
        _, targets = two_classes()
        targets[:2] = torch.tensor([0, 1])
        outputs = torch.randn(len(targets), 2).double()
        expected = reference.roc_auc_score(targets, outputs.softmax(1)[:, 1])
        assert value_of(AUROC(), outputs, targets) == pytest.approx(expected)
    # The last logit alone orders these samples the other way round.
    outputs, targets = torch.tensor([[5.0, 2.0], [-5.0, 1.0]]), torch.tensor([0, 1])
    metric = AUROC()
    metric.update(outputs, targets)
    assert metric.compute().item() == 1.0


def test_auroc_of_saturated_logits_has_no_false_ties() -> None:
    metric = AUROC()
    metric.update(torch.tensor([[0.0, 200.0], [0.0, 300.0]]), torch.tensor([0, 1]))
    assert metric.compute().item() == 1.0


def test_auroc_without_a_value_is_nan() -> None:
    for label in (0, 1):
        assert math.isnan(value_of(AUROC(), torch.randn(9), torch.full((9,), label)))
    assert math.isnan(value_of(AUROC(), torch.full((6,), torch.nan), torch.tensor([0, 1] * 3)))


def test_auroc_refuses_labels_other_than_0_and_1() -> None:
    metric = AUROC()
    metric.update(torch.randn(3), torch.tensor([-1, 1, 1]))
    with pytest.raises(DataError, match=r"auroc: targets must be 0 or 1, .* \[-1, 1\]. Map them"):
        metric.compute()


def test_auroc_keeps_copies() -> None:
    outputs, targets = torch.tensor([0.1, 0.9]), torch.tensor([0, 1])
    metric = AUROC()
    metric.update(outputs, targets)
    outputs.fill_(0.0)
    targets.fill_(1)
    assert metric.compute().item() == 1.0


def test_regression_errors_are_those_of_sklearn() -> None:
    for _ in range(DRAWS):
        outputs, targets = regression()
        for metric, function in (
            (MAE(), reference.mean_absolute_error),
            (MSE(), reference.mean_squared_error),
            (RMSE(), lambda t, o: reference.mean_squared_error(t.flatten(), o.flatten()) ** 0.5),
        ):
            expected = function(targets.double(), outputs.double())
            assert value_of(metric, outputs, targets) == pytest.approx(expected, rel=1e-12)

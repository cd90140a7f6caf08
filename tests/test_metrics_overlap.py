"""Intersection over union, against counts by hand."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import jaccard_score
from torch import Tensor, nn

from estimator import DataError, Estimator
from estimator.metrics import MeanIoU, make_metric


def logits(predicted: Tensor, classes: int) -> Tensor:
    return nn.functional.one_hot(predicted, classes).movedim(-1, 1).float()


def test_mean_iou_is_that_worked_by_hand() -> None:
    truth = torch.tensor([[[0, 0, 0], [0, 1, 1]], [[0, 0, 1], [2, 2, 1]]])
    guess = torch.tensor([[[0, 0, 1], [0, 1, 1]], [[0, 0, 0], [2, 1, 1]]])
    # Class 0: 5 hits, 6 guessed, 6 true. Class 1: 3, 5, 4. Class 2: 1, 1, 2. Class 3 is nowhere.
    by_hand = [5 / 7, 3 / 6, 1 / 2]
    metric = MeanIoU()
    assert math.isnan(metric.compute())
    for rows in (slice(0, 1), slice(1, 2)):
        metric.update(logits(guess[rows], 4), truth[rows])
    assert metric.by_class()[:3].tolist() == pytest.approx(by_hand)
    assert math.isnan(metric.by_class()[3])
    assert metric.compute().item() == pytest.approx(sum(by_hand) / 3)
    at_once = MeanIoU()
    at_once.update(logits(guess, 4), truth)
    assert torch.equal(at_once.compute(), metric.compute())
    merged = MeanIoU()
    merged.merge([metric.state_dict(), metric.state_dict()])
    assert torch.equal(merged.compute(), metric.compute())
    metric.reset()
    assert math.isnan(metric.compute())


@pytest.mark.parametrize("shape", [(6, 4), (6, 1, 4)])
def test_one_channel_has_the_class_of_what_is_above_zero(shape: tuple[int, ...]) -> None:
    guess, truth = torch.randn(6, 1, 4), torch.randint(0, 2, (6, 1, 4))
    truth[0, 0, 0] = -100
    metric = make_metric("iou")
    metric.update(guess, truth.reshape(shape))
    kept = truth.flatten() >= 0
    expected = jaccard_score(truth.flatten()[kept], (guess > 0).flatten()[kept])
    assert metric.compute().item() == pytest.approx(expected)


def test_positions_of_the_ignored_class_do_not_count() -> None:
    guess, truth = torch.tensor([[0, 1, 1, 0]]), torch.tensor([[0, 1, 7, 7]])
    metric = MeanIoU(ignore_index=7)
    metric.update(logits(guess, 2), truth)
    assert metric.by_class().tolist() == [1.0, 1.0]


def test_shapes_that_do_not_fit_are_refused() -> None:
    for outputs, targets in (((2, 3, 4, 4), (2, 1, 4, 4)), ((5,), (5,))):
        with pytest.raises(DataError, match=r"iou: outputs must be logits \(N, C, ...\)"):
            MeanIoU().update(torch.zeros(outputs), torch.zeros(targets).long())


def test_it_is_a_metric_by_name() -> None:
    maps = torch.randn(4, 3, 2, 2)
    est = Estimator(nn.Identity(), metrics=["iou"])
    assert est.evaluate((maps, maps.argmax(1)))["iou"] == 1.0

"""The numbers of classification reports are those of scikit-learn, whatever the draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from report_runs import Run, section, table
from sklearn import metrics
from torch import Tensor

from estimator.handlers import ClassificationReportHandler, _class_scores, classification_report
from estimator.handlers._class_counts import log_odds
from estimator.handlers._class_numbers import errors_of_classes, largest_errors, rates
from estimator.handlers._class_scores import counted, curve, ranked

CASES = range(8)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than all else."""
    for name in ("draw_matrix", "draw_curves"):
        monkeypatch.setattr(classification_report, name, lambda *_: None)


def drawn(seed: int, classes: int, samples: int = 60) -> tuple[Tensor, Tensor]:
    """Logits with ties, and targets in which some classes are missing."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(samples, classes, generator=generator)
    if seed % 2:
        logits = (2 * logits).round() / 2
    there = torch.randperm(classes, generator=generator)[: max(1, classes - seed % 3)]
    return logits, there[torch.randint(len(there), (samples,), generator=generator)]


def run(folder: Path, logits: Tensor, targets: Tensor) -> None:
    batches = zip(logits.split(7), targets.split(7), strict=True)
    Run(ClassificationReportHandler(folder)).validate(*batches).end()


@pytest.mark.parametrize("seed", CASES)
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_matrix_and_rates(tmp_path: Path, seed: int, classes: int) -> None:
    logits, targets = drawn(seed, classes)
    run(tmp_path, logits, targets)
    predicted = logits.argmax(1)
    expected = metrics.confusion_matrix(targets, predicted, labels=range(classes))
    rows = table(tmp_path, "Confusion matrix")
    found = [[row[str(index)] for index in range(classes)] for row in rows]
    assert found == expected.tolist()
    by_class = metrics.precision_recall_fscore_support(
        targets, predicted, labels=range(classes), zero_division=0
    )
    occurs = (expected.sum(0) + expected.sum(1)) > 0
    for row, there, *values in zip(table(tmp_path, "By class"), occurs, *by_class, strict=True):
        told = [row[name] for name in ("precision", "recall", "F1")]
        assert told == (pytest.approx(values[:3]) if there else [None] * 3)
        assert row["support"] == values[3]
    means = {row[""]: row for row in table(tmp_path, "Means")}
    for average in ("macro", "weighted"):
        values = metrics.precision_recall_fscore_support(
            targets, predicted, average=average, zero_division=0
        )
        row = means[f"{average} mean"]
        assert [row["precision"], row["recall"], row["F1"]] == pytest.approx(values[:3])
    assert means["accuracy"]["F1"] == pytest.approx(metrics.accuracy_score(targets, predicted))


def expected_areas(targets: Any, scores: Any) -> tuple[Any, Any]:
    """AUC and average precision; NaN where there are samples of one kind only."""
    if not targets.any():
        return "NaN", "NaN"
    average = metrics.average_precision_score(targets, scores)
    if targets.all():
        return "NaN", average
    return metrics.roc_auc_score(targets, scores), average


def is_close(found: Any, expected: Any) -> bool:
    return bool(found == (expected if expected == "NaN" else pytest.approx(expected)))


@pytest.mark.parametrize("seed", CASES)
@pytest.mark.parametrize("classes", [3, 5])
def test_areas_of_each_class_against_the_rest(tmp_path: Path, seed: int, classes: int) -> None:
    logits, targets = drawn(seed, classes)
    run(tmp_path, logits, targets)
    # A probability rounds away differences that its logarithm keeps.
    shares = logits.double().softmax(1).numpy().round(7)
    rows = table(tmp_path, "By class")
    defined = []
    for index, row in enumerate(rows):
        auc, average = expected_areas((targets == index).numpy(), shares[:, index])
        assert is_close(row["AUC"], auc) and is_close(row["average precision"], average)
        defined += [] if auc == "NaN" else [auc]
    (macro,) = (row for row in table(tmp_path, "Means") if row[""] == "macro mean")
    assert is_close(macro["AUC"], np.mean(defined) if defined else "NaN")


@pytest.mark.parametrize("seed", CASES)
@pytest.mark.parametrize("columns", [1, 2])
def test_areas_of_two_classes(tmp_path: Path, seed: int, columns: int) -> None:
    logits, _ = drawn(seed, columns)
    targets = torch.randint(2, (len(logits),)) if seed else torch.ones(len(logits)).long()
    run(tmp_path, logits, targets)
    score = logits[:, 0] if columns == 1 else logits[:, 1] - logits[:, 0]
    auc, average = expected_areas(targets.numpy().astype(bool), score.numpy())
    first, second = table(tmp_path, "By class")
    assert first["AUC"] is None
    assert is_close(second["AUC"], auc) and is_close(second["average precision"], average)


def test_two_logits_rank_by_their_difference_and_not_by_the_last(tmp_path: Path) -> None:
    logits = torch.tensor([[5.0, 4.0], [3.0, 2.0], [0.0, 1.0], [-3.0, 0.0]])
    run(tmp_path, logits, torch.tensor([0, 0, 1, 1]))
    assert table(tmp_path, "By class")[1]["AUC"] == 1.0


def test_log_odds_do_not_saturate() -> None:
    logits = torch.tensor([[0.0, 40.0, -9.0], [0.0, 60.0, -9.0]])
    odds = log_odds(logits / 2)
    assert odds[0, 1] < odds[1, 1]
    assert (odds[1, [0, 2]] < odds[0, [0, 2]]).all()
    torch.testing.assert_close(log_odds(logits[:, :2]), torch.tensor([[40.0], [60.0]]))
    shares = torch.randn(5, 4).softmax(1)
    torch.testing.assert_close(log_odds(shares.log()), shares.logit())


@pytest.mark.parametrize("columns", [1, 4])
def test_counted_scores_say_how_far_they_may_be_off(
    monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setattr(_class_scores, "STEPS", 64)
    scores = torch.randn(500, columns)
    labels = torch.randint(max(2, columns), (500,))
    labels[::9] = -1
    pairs = [(scores[:200], labels[:200]), (scores[200:], labels[200:])]
    exact = [curve(each) for each in ranked([(pairs, None)])]
    rough = [curve(each) for each in ranked([(pairs[:1], None), ([], counted(*pairs[1]))])]
    for one, other in zip(exact, rough, strict=True):
        assert one.auc_error == one.average_precision_error == 0.0
        assert 0 < other.auc_error < 0.2 and 0 < other.average_precision_error < 0.3
        assert abs(one.auc - other.auc) <= other.auc_error
        gap = abs(one.average_precision - other.average_precision)
        assert gap <= other.average_precision_error


def test_too_many_scores_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("estimator.handlers._class_counts.CHUNK", 30)
    monkeypatch.setattr(_class_scores, "EXACT_VALUES", 100)
    monkeypatch.setattr(_class_scores, "STEPS", 1000)
    logits, targets = drawn(4, 3, samples=400)
    run(tmp_path, logits, targets)
    text = section(tmp_path)["text"]
    assert "There were too many scores to keep: the AUC is exact to" in text
    for index, row in enumerate(table(tmp_path, "By class")):
        auc, average = expected_areas((targets == index).numpy(), logits.softmax(1)[:, index])
        if auc == "NaN":
            assert row["AUC"] == row["AUC is within"] == "NaN"
            continue
        assert abs(row["AUC"] - auc) <= row["AUC is within"] < 0.02
        gap = abs(row["average precision"] - average)
        assert gap <= row["average precision is within"] < 0.05


def test_errors_are_ordered() -> None:
    matrix = np.array([[5, 2, 3, 0], [0, 0, 0, 0], [9, 0, 0, 1], [0, 0, 0, 2]])
    assert errors_of_classes(matrix, 1) == [(0, 2, 3, 0.3), (2, 0, 9, 0.9)]
    assert [error[:3] for error in errors_of_classes(matrix, 5)] == [
        (0, 2, 3), (0, 1, 2), (2, 0, 9), (2, 3, 1)
    ]  # fmt: skip
    assert largest_errors(matrix, 3) == [(2, 0, 9, 0.9), (0, 2, 3, 0.3), (0, 1, 2, 0.2)]
    assert rates(matrix).occurs.tolist() == [True, True, True, True]
    assert rates(matrix).precision.tolist() == [5 / 14, 0.0, 0.0, 2 / 3]

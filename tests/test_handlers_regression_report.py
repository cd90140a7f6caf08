"""Regression reports: numbers as of scikit-learn and NumPy, and what they are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from report_runs import Fold, Run, files, section, table
from sklearn import metrics
from torch import Tensor

from estimator.handlers import RegressionReportHandler, _residual_pictures, _residuals

NAN, INF = float("nan"), float("inf")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The figures that are written, by the name of their file; nothing is drawn."""
    found: dict[str, Any] = {}

    def keep(path: Path, figure: Any) -> None:
        found[path.name] = figure

    monkeypatch.setattr(_residual_pictures, "write_figure", keep)
    return found


def expected(predicted: Tensor, target: Tensor) -> dict[str, float]:
    errors = (predicted - target).double().numpy()
    quantiles = np.quantile(np.abs(errors), [0.5, 0.9, 0.95, 0.99])
    heads = [f"{share}% of absolute errors" for share in (50, 90, 95, 99)]
    return {
        "samples": len(errors),
        "bias": errors.mean(),
        "MAE": np.abs(errors).mean(),
        "RMSE": metrics.root_mean_squared_error(target, predicted),
        "R2": metrics.r2_score(target, predicted),
        **dict(zip(heads, quantiles, strict=True)),
        "largest absolute error": np.abs(errors).max(),
    }


def told(folder: Path, name: str = "output-val") -> list[dict[str, Any]]:
    return table(folder, "Errors", name)


@pytest.mark.parametrize("far", [0.0, 1e4])
@pytest.mark.parametrize("columns", [1, 3])
def test_numbers_of_each_column(
    tmp_path: Path, drawn: dict[str, Any], columns: int, far: float
) -> None:
    target = torch.randn(50, columns).double() + far
    predicted = target + 0.3 * torch.randn(50, columns) + 0.1
    batches = zip(predicted.split(9), target.split(9), strict=True)
    Run(RegressionReportHandler(tmp_path)).validate(*batches).end()
    rows = told(tmp_path)
    assert [row.pop("column") for row in rows] == (["all"] if columns == 1 else ["0", "1", "2"])
    for index, row in enumerate(rows):
        assert row == pytest.approx(expected(predicted[:, index], target[:, index]), rel=1e-6)
    text = (tmp_path / "output-val-report.txt").read_text("utf-8")
    assert f"RMSE  {rows[0]['RMSE']:.6g}\n" in text
    found = section(tmp_path)
    assert (found["title"], found["order"]) == ("Regression: output, val", 300)
    assert drawn.keys() == {"output-val-residuals.png", "output-val-predicted.png"}
    for figure in drawn.values():
        assert len(figure.axes) == columns
    axes = drawn["output-val-predicted.png"].axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("target", "predicted")
    points = axes.lines[0].get_xydata()
    np.testing.assert_allclose(points, torch.stack([target[:, 0], predicted[:, 0]], 1))
    bars = drawn["output-val-residuals.png"].axes[0].patches
    assert sum(bar.get_height() for bar in bars) == 50


def test_pictures_are_files_that_the_section_names(tmp_path: Path) -> None:
    target = torch.randn(3000, 1)
    run = Run(RegressionReportHandler(tmp_path))
    run.validate((target + 0.1 * torch.randn(3000, 1), target[:, 0])).train((target, target)).end()
    for split in ("train", "val"):
        for picture in section(tmp_path, f"output-{split}")["pictures"]:
            content = (tmp_path / picture["file"]).read_bytes()
            assert content.startswith(b"\x89PNG") and len(content) > 5000
    assert len(files(tmp_path)) == 8


def test_missing_targets_and_numbers_that_are_not_finite(
    tmp_path: Path, drawn: dict[str, Any]
) -> None:
    target = torch.tensor([[1.0, NAN], [2.5, 3.0], [NAN, NAN], [4.0, INF], [0.5, 2.0]])
    predicted = torch.tensor([[1.5, 0.0], [NAN, 3.5], [1.0, 1.0], [4.0, 1.0], [INF, 2.0]])
    Run(RegressionReportHandler(tmp_path)).validate((predicted, target)).end()
    first, second = told(tmp_path)
    assert [first[k] for k in ("samples", "bias", "MAE")] == [2, 0.25, 0.25]
    assert [second[k] for k in ("samples", "bias", "R2")] == [2, 0.25, 0.5]
    assert section(tmp_path)["text"] == (
        "2 values a column. Not counted: 3 have no target, 3 are not finite."
    )
    Run(RegressionReportHandler(tmp_path)).validate((predicted * NAN, target)).end()
    row = told(tmp_path)[0]
    assert (row["samples"], row["MAE"], row["R2"]) == (0, "NaN", "NaN")
    assert row["50% of absolute errors"] == "NaN"
    assert section(tmp_path)["pictures"] == []


def test_equal_targets_have_no_r2(tmp_path: Path) -> None:
    Run(RegressionReportHandler(tmp_path)).validate((torch.full((4,), 2.0), torch.full((4,), 2.0)))
    run = Run(RegressionReportHandler(tmp_path))
    run.validate((torch.full((4,), 2.0), torch.full((4,), 2.0))).end()
    assert (told(tmp_path)[0]["R2"], told(tmp_path)[0]["MAE"]) == ("NaN", 0.0)


def test_of_many_values_every_second_is_kept_evenly(
    tmp_path: Path, drawn: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_residuals, "CHUNK", 4)
    monkeypatch.setattr(_residuals, "KEPT_VALUES", 100)
    target = torch.arange(1000).double()
    predicted = target + torch.linspace(0, 10, 1000)
    parts = zip(predicted.split(13), target.split(13), strict=True)
    Run(RegressionReportHandler(tmp_path)).validate(*parts).end()
    row, whole = told(tmp_path)[0], expected(predicted, target)
    for name in ("samples", "bias", "MAE", "RMSE", "R2", "largest absolute error"):
        assert row[name] == pytest.approx(whole[name])
    assert row["90% of absolute errors"] == pytest.approx(9.0, abs=0.2)
    assert "of every 16th sample" in section(tmp_path)["text"]
    kept = drawn["output-val-predicted.png"].axes[0].lines[0].get_xdata()
    assert kept.tolist() == [*range(0, 1000, 16)]


def test_many_columns(tmp_path: Path, drawn: dict[str, Any]) -> None:
    target = torch.randn(20, 14)
    handler = RegressionReportHandler(tmp_path)
    Run(handler).validate(
        (
            {"few": target, "many": torch.randn(20, 3, 30)},
            {"few": target + 1, "many": torch.randn(20, 3, 30)},
        )
    ).end()
    assert len(told(tmp_path, "few-val")) == 14
    assert len(drawn["few-val-residuals.png"].axes) == 12
    assert told(tmp_path, "many-val")[0]["samples"] == 20 * 90


def test_processes_are_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_residual_pictures, "write_figure", lambda *_: None)
    target = 1e3 + torch.randn(40, 2).double()
    predicted = target + torch.randn(40, 2)
    other = RegressionReportHandler(tmp_path)
    Run(other).validate((predicted[:10], target[:10]))
    run = Run(RegressionReportHandler(tmp_path), world=Fold(other._whole["val"].taken()))
    run.validate((predicted[10:], target[10:])).end()
    for index, row in enumerate(told(tmp_path)):
        row.pop("column")
        assert row == pytest.approx(expected(predicted[:, index], target[:, index]))
    empty = RegressionReportHandler(tmp_path)
    Run(empty).validate((predicted[:0], target[:0]))
    taken = empty._whole["val"].taken()
    run = Run(RegressionReportHandler(tmp_path), world=Fold(taken))
    run.validate((predicted, target)).end()
    assert told(tmp_path)[0]["samples"] == 40


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        (torch.randn(6, 3), torch.arange(6) % 3),
        (torch.randn(6, 3), torch.eye(3)[torch.arange(6) % 3]),
        (torch.randn(6, 3), torch.rand(6, 3).softmax(1)),
        (torch.randn(6, 1), torch.arange(6) % 2),
        (torch.randn(6, 2), torch.ones(6, 2)),
        (torch.arange(6), torch.randn(6)),
        (torch.randn(6, 2), torch.randn(6, 3)),
        (torch.randn(6), torch.randn(6).to(torch.complex64)),
        (torch.randn(6, 1, 4, 4), torch.randint(2, (6, 1, 4, 4))),
        (torch.randn(0, 2), torch.randn(0, 2)),
    ],
)
def test_what_is_no_regression(tmp_path: Path, outputs: Tensor, targets: Tensor) -> None:
    Run(RegressionReportHandler(tmp_path)).validate((outputs, targets)).end()
    assert files(tmp_path) == set()


def test_a_batch_of_another_width_is_left_out(tmp_path: Path, drawn: dict[str, Any]) -> None:
    numbers = torch.randn(5, 2)
    run = Run(RegressionReportHandler(tmp_path))
    run.validate((numbers, numbers + 1), (numbers[:, :1], numbers[:, :1])).end()
    assert [row["samples"] for row in told(tmp_path)] == [5, 5]

"""`RegressionReportHandler`: how far a net's numbers are from the true ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from estimator.handlers._output_pairs import Pair
from estimator.handlers._pass_report import PassReportHandler, Report
from estimator.handlers._residual_pictures import draw_predictions, draw_residuals
from estimator.handlers._residuals import (
    QUANTILES,
    Column,
    Found,
    Regression,
    Residuals,
    columns_of,
    joined,
)
from estimator.handlers.base import Band, Every, Picture, Section, Table, write_section, write_whole

if TYPE_CHECKING:
    from estimator.stats import TrainStats

_HEAD = (
    *("column", "samples", "bias", "MAE", "RMSE", "R2"),
    *(f"{quantile:.0%} of absolute errors" for quantile in QUANTILES),
    "largest absolute error",
)


class RegressionReportHandler(PassReportHandler):
    """Residuals, predicted against true values, and error quantiles of every regression output.

    An output is one where output and target are numbers of one shape, apart from dimensions of
    1, unless the targets are 0 and 1 only or shares of classes; also an output of
    `estimator.outputs` that says so. For each output and split ("train", "val", and "evaluate"
    where `evaluate` is called), in the folder:

    - `<output>-<split>-residuals.png`: histograms of predicted less true values. What lies beyond
      the outermost thousandth is in the outermost bars.
    - `<output>-<split>-predicted.png`: predicted against true values; from 2,001 on their density.
    - `<output>-<split>-report.txt`: of each column bias (mean of predicted less true), mean
      absolute error, root of the mean squared error, R2 = 1 - sum of squared errors / sum of
      squares of the targets around their mean, and the absolute error that 50, 90, 95 and 99 % of
      the samples stay within (linear between neighbours).
    - `<output>-<split>.section.json`: the same as a table.

    An output (N, D) has D columns up to 32, of which pictures show 12; the values of larger ones
    are taken together. NaN in a target says that it is missing; it does not count, nor do values
    that are not finite, and the report says how many there were. R2 is NaN where all targets are
    equal.

    Means and R2 are of all values. For quantiles and pictures up to 2 ** 20 values are kept on
    the device with their targets; of more every second sample, every fourth and so on, evenly over
    the pass, which the report says. Beside these up to 2 ** 18 values wait there to be counted.
    Nothing is read from the device within a pass.

    Args:
        folder: Where the files go; None is the run folder. In `evaluate` without a `fit` before
            there is a report only with a folder.
        every: When to write, in epochs; None writes at the end of the run only, which always
            writes what was not written yet, also after an exception.
        band: When it runs within an event; REPORT by default.

    Raises:
        ArgumentError: `every` does not count epochs.
        MissingExtraError: matplotlib or Pillow is not installed.

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> from estimator import Estimator
        >>> est = Estimator(torch.nn.Linear(2, 1), loss=torch.nn.MSELoss())
        >>> data = torch.randn(9, 2), torch.randn(9, 1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = RegressionReportHandler(folder)
        ...     stats = est.fit(data, data, epochs=1, device="cpu", handlers=report, progress=False)
        ...     sorted(path.name for path in Path(folder).glob("*-val-*"))
        ['output-val-predicted.png', 'output-val-report.txt', 'output-val-residuals.png']
    """

    what = "regression report"

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        every: Every | None = None,
        band: Band | None = None,
    ) -> None:
        super().__init__(folder, every, band)

    def collector(self, pair: Pair) -> Residuals | None:
        """Follows an output that may be numbers."""
        return None if columns_of(pair) is None else Residuals(pair)

    def write(self, report: Report, parts: Sequence[Found | None], stats: TrainStats) -> None:
        """Writes text, pictures and section of one output."""
        result = joined(parts)
        if result is None:
            return
        paragraph = " ".join(filter(None, [_summary(result), report.note]))
        rows = [_row(column) for column in result.columns]
        text = _as_text(report.title, paragraph, rows)
        write_whole(report.path("report.txt"), text.encode("utf-8"))
        pictures = []
        for ending, draw, caption in (
            ("residuals.png", draw_residuals, "Residuals"),
            ("predicted.png", draw_predictions, "Predicted against true values"),
        ):
            draw(report.path(ending), result.columns, report.title)
            if report.path(ending).exists():
                pictures.append(Picture(report.path(ending).name, caption))
        tables = [Table("Errors", _HEAD, rows)]
        section = Section(f"Regression: {report.title}", 300, paragraph, tables, pictures)
        write_section(report.folder, report.stem, section, stats)


def _summary(result: Regression) -> str:
    count = max(column.samples for column in result.columns)
    found = [f"{count:,} values{' a column' if len(result.columns) > 1 else ''}."]
    left = {"have no target": result.missing, "are not finite": result.not_finite}
    told = [f"{number:,} {words}" for words, number in left.items() if number]
    if told:
        found.append(f"Not counted: {', '.join(told)}.")
    if result.stride > 1:
        kept = max(len(column.target) for column in result.columns)
        found.append(
            f"Quantiles and pictures are of every {result.stride}th sample, so that the shares are "
            f"exact to about {0.5 / np.sqrt(max(kept, 1)):.2%}."
        )
    return " ".join(found)


def _row(column: Column) -> list[str | int | float]:
    means = (column.bias, column.mae, column.rmse, column.r2)
    return [column.name or "all", column.samples, *means, *column.quantiles, column.largest]


def _as_text(title: str, paragraph: str, rows: Sequence[Sequence[str | int | float]]) -> str:
    lines = [title, "", paragraph, ""]
    for row in rows:
        for name, value in zip(_HEAD, row, strict=True):
            shown = f"{value:.6g}" if isinstance(value, float) else str(value)
            lines.append(f"{name:>28}  {shown}")
        lines.append("")
    return "\n".join(lines)

"""How the handlers that report outputs and histories are made for the contract of handlers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from estimator.handlers import (
    BestHistoryHandler,
    ClassificationReportHandler,
    EventHandler,
    HistoryPlotHandler,
    RegressionReportHandler,
    SegmentationReportHandler,
    every,
)

Make = Callable[[Path], EventHandler]
EACH = every(epochs=1)

OUTPUT_REPORTS: dict[str, list[Make]] = {
    "BestHistoryHandler": [lambda folder: BestHistoryHandler(folder)],
    "ClassificationReportHandler": [
        lambda folder: ClassificationReportHandler(folder),
        lambda folder: ClassificationReportHandler(folder, every=EACH, classes=["a"] * 3),
    ],
    "HistoryPlotHandler": [lambda folder: HistoryPlotHandler(folder, every=EACH)],
    "RegressionReportHandler": [lambda folder: RegressionReportHandler(folder, every=EACH)],
    "SegmentationReportHandler": [lambda folder: SegmentationReportHandler(folder, every=EACH)],
}

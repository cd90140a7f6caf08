"""How the handlers that report outputs are made for the contract of handlers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from estimator.handlers import (
    ClassificationReportHandler,
    EventHandler,
    RegressionReportHandler,
    SegmentationReportHandler,
    every,
)

Make = Callable[[Path], EventHandler]
EACH = every(epochs=1)

OUTPUT_REPORTS: dict[str, list[Make]] = {
    "ClassificationReportHandler": [
        lambda folder: ClassificationReportHandler(folder),
        lambda folder: ClassificationReportHandler(folder, every=EACH, classes=["a"] * 3),
    ],
    "RegressionReportHandler": [lambda folder: RegressionReportHandler(folder, every=EACH)],
    "SegmentationReportHandler": [lambda folder: SegmentationReportHandler(folder, every=EACH)],
}

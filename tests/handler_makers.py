"""How the handlers are made that say what the net and the data are, for their contract."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from estimator import handlers
from estimator.handlers import EventHandler, every

OF_THE_NET: dict[str, list[Callable[[Path], EventHandler]]] = {
    "DataSummaryHandler": [handlers.DataSummaryHandler],
    "LayerReportHandler": [
        lambda folder: handlers.LayerReportHandler(folder, every=every(epochs=1))
    ],
    "ModelExportHandler": [lambda folder: handlers.ModelExportHandler(folder, onnx=False)],
    "ModelSummaryHandler": [handlers.ModelSummaryHandler],
    "ProfilerHandler": [lambda folder: handlers.ProfilerHandler(folder, wait=0, active=2)],
}

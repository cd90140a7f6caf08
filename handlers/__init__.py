"""Pluggable handlers: one file each, over `base`; each is imported when it is first asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from estimator.handlers.base import (
    EVENTS,
    Band,
    EventHandler,
    Every,
    Monitor,
    after,
    every,
    on,
    once,
)

if TYPE_CHECKING:
    from estimator.handlers.activation_stats import ActivationStatsHandler
    from estimator.handlers.augment import AugmentHandler
    from estimator.handlers.augmentations import AugmentationsHandler
    from estimator.handlers.best_history import BestHistoryHandler
    from estimator.handlers.checkpoint import CheckpointHandler, best_checkpoint, load_checkpoint
    from estimator.handlers.classification_report import ClassificationReportHandler
    from estimator.handlers.csv_log import CSVLogHandler
    from estimator.handlers.cutmix import CutMixHandler
    from estimator.handlers.data_summary import DataSummaryHandler
    from estimator.handlers.early_stopping import EarlyStoppingHandler
    from estimator.handlers.ema import EMAHandler
    from estimator.handlers.embedding import EmbeddingHandler
    from estimator.handlers.errors import ErrorsHandler
    from estimator.handlers.gradient_stats import GradientStatsHandler
    from estimator.handlers.history_plot import HistoryPlotHandler
    from estimator.handlers.layer_report import LayerReportHandler
    from estimator.handlers.logging import LoggingHandler
    from estimator.handlers.lr_recorder import LRRecorderHandler
    from estimator.handlers.metric import MetricHandler
    from estimator.handlers.mixup import MixUpHandler
    from estimator.handlers.model_export import ModelExportHandler
    from estimator.handlers.model_summary import ModelSummaryHandler
    from estimator.handlers.nan import NaNHandler
    from estimator.handlers.profiler import ProfilerHandler
    from estimator.handlers.progress import ProgressHandler
    from estimator.handlers.random_samples import RandomSamplesHandler
    from estimator.handlers.regression_report import RegressionReportHandler
    from estimator.handlers.segmentation_report import SegmentationReportHandler
    from estimator.handlers.tensorboard import TensorBoardHandler
    from estimator.handlers.time_limit import TimeLimitHandler
    from estimator.handlers.worst_samples import WorstSamplesHandler

__all__ = [
    "EVENTS",
    "ActivationStatsHandler",
    "AugmentHandler",
    "AugmentationsHandler",
    "Band",
    "BestHistoryHandler",
    "CSVLogHandler",
    "CheckpointHandler",
    "ClassificationReportHandler",
    "CutMixHandler",
    "DataSummaryHandler",
    "EMAHandler",
    "EarlyStoppingHandler",
    "EmbeddingHandler",
    "ErrorsHandler",
    "EventHandler",
    "Every",
    "GradientStatsHandler",
    "HistoryPlotHandler",
    "LRRecorderHandler",
    "LayerReportHandler",
    "LoggingHandler",
    "MetricHandler",
    "MixUpHandler",
    "ModelExportHandler",
    "ModelSummaryHandler",
    "Monitor",
    "NaNHandler",
    "ProfilerHandler",
    "ProgressHandler",
    "RegressionReportHandler",
    "SegmentationReportHandler",
    "RandomSamplesHandler",
    "TensorBoardHandler",
    "TimeLimitHandler",
    "WorstSamplesHandler",
    "after",
    "best_checkpoint",
    "every",
    "load_checkpoint",
    "on",
    "once",
]

_FILES = {
    "ActivationStatsHandler": "activation_stats",
    "AugmentHandler": "augment",
    "AugmentationsHandler": "augmentations",
    "BestHistoryHandler": "best_history",
    "CSVLogHandler": "csv_log",
    "CheckpointHandler": "checkpoint",
    "ClassificationReportHandler": "classification_report",
    "CutMixHandler": "cutmix",
    "DataSummaryHandler": "data_summary",
    "EMAHandler": "ema",
    "EarlyStoppingHandler": "early_stopping",
    "EmbeddingHandler": "embedding",
    "ErrorsHandler": "errors",
    "GradientStatsHandler": "gradient_stats",
    "HistoryPlotHandler": "history_plot",
    "LRRecorderHandler": "lr_recorder",
    "LayerReportHandler": "layer_report",
    "LoggingHandler": "logging",
    "MetricHandler": "metric",
    "MixUpHandler": "mixup",
    "ModelExportHandler": "model_export",
    "ModelSummaryHandler": "model_summary",
    "NaNHandler": "nan",
    "ProfilerHandler": "profiler",
    "ProgressHandler": "progress",
    "RandomSamplesHandler": "random_samples",
    "RegressionReportHandler": "regression_report",
    "SegmentationReportHandler": "segmentation_report",
    "TensorBoardHandler": "tensorboard",
    "TimeLimitHandler": "time_limit",
    "WorstSamplesHandler": "worst_samples",
    "best_checkpoint": "checkpoint",
    "load_checkpoint": "checkpoint",
}
"""Where each is. All of them together would take as long to import as the rest of the library."""


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
    return found

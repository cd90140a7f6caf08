"""How each exported handler is made for the contract that all of them keep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from scenes import noisy

from estimator.handlers import (
    ActivationStatsHandler,
    AugmentationsHandler,
    AugmentHandler,
    BestHistoryHandler,
    CheckpointHandler,
    ClassificationReportHandler,
    CSVLogHandler,
    CutMixHandler,
    DataSummaryHandler,
    EarlyStoppingHandler,
    EMAHandler,
    EmbeddingHandler,
    ErrorsHandler,
    EventHandler,
    GradientStatsHandler,
    HistoryPlotHandler,
    LayerReportHandler,
    LoggingHandler,
    LRRecorderHandler,
    MetricHandler,
    MixUpHandler,
    ModelExportHandler,
    ModelSummaryHandler,
    NaNHandler,
    ProfilerHandler,
    ProgressHandler,
    RandomSamplesHandler,
    RegressionReportHandler,
    SegmentationReportHandler,
    TensorBoardHandler,
    TimeLimitHandler,
    WorstSamplesHandler,
    every,
)

Make = Callable[[Path], EventHandler]
EACH = every(epochs=1)

MAKE: dict[str, list[Make]] = {
    "ActivationStatsHandler": [lambda folder: ActivationStatsHandler(folder, every=EACH)],
    "AugmentHandler": [lambda _: AugmentHandler(noisy)],
    "AugmentationsHandler": [lambda folder: AugmentationsHandler(folder, samples=3, draws=2)],
    "BestHistoryHandler": [BestHistoryHandler],
    "CSVLogHandler": [lambda folder: CSVLogHandler(folder / "history.csv")],
    "CheckpointHandler": [
        CheckpointHandler,
        lambda folder: CheckpointHandler(folder, monitor="val_loss", every=every(50)),
    ],
    "ClassificationReportHandler": [
        ClassificationReportHandler,
        lambda folder: ClassificationReportHandler(folder, every=EACH, classes=["a"] * 3),
    ],
    "CutMixHandler": [lambda _: CutMixHandler(3)],
    "DataSummaryHandler": [DataSummaryHandler],
    "EMAHandler": [lambda _: EMAHandler(0.9)],
    "EarlyStoppingHandler": [
        lambda _: EarlyStoppingHandler("train_loss", patience=2),
        lambda _: EarlyStoppingHandler(patience=2, restore_best=True),
    ],
    "EmbeddingHandler": [
        EmbeddingHandler,
        lambda folder: EmbeddingHandler(folder, layer="0", every=EACH),
    ],
    "ErrorsHandler": [
        lambda folder: ErrorsHandler(folder, most=2),
        lambda folder: ErrorsHandler(folder, every=EACH, classes=["a", "b", "$c$"]),
    ],
    "GradientStatsHandler": [
        lambda folder: GradientStatsHandler(folder, every=EACH, histograms=True)
    ],
    "HistoryPlotHandler": [lambda folder: HistoryPlotHandler(folder, every=EACH)],
    "LRRecorderHandler": [lambda folder: LRRecorderHandler(folder, tensorboard=True)],
    "LayerReportHandler": [lambda folder: LayerReportHandler(folder, every=EACH)],
    "LoggingHandler": [
        lambda folder: LoggingHandler(folder / "log.txt", console=False),
        lambda _: LoggingHandler(every=every(50)),
    ],
    "MetricHandler": [lambda _: MetricHandler()],
    "MixUpHandler": [lambda _: MixUpHandler(3)],
    "ModelExportHandler": [lambda folder: ModelExportHandler(folder, onnx=False)],
    "ModelSummaryHandler": [ModelSummaryHandler],
    "NaNHandler": [lambda _: NaNHandler()],
    "ProfilerHandler": [lambda folder: ProfilerHandler(folder, wait=0, active=2)],
    "ProgressHandler": [lambda _: ProgressHandler()],
    "RandomSamplesHandler": [
        lambda folder: RandomSamplesHandler(folder, samples=3),
        lambda folder: RandomSamplesHandler(folder, samples=2, every=EACH),
    ],
    "RegressionReportHandler": [lambda folder: RegressionReportHandler(folder, every=EACH)],
    "SegmentationReportHandler": [lambda folder: SegmentationReportHandler(folder, every=EACH)],
    "TensorBoardHandler": [lambda folder: TensorBoardHandler(folder, every=every(50))],
    "TimeLimitHandler": [lambda _: TimeLimitHandler(3600)],
    "WorstSamplesHandler": [lambda folder: WorstSamplesHandler(folder, worst=2)],
}

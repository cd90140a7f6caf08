"""`full`: all reports of a run, as a list of handlers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from torch import Tensor

from estimator.explain import ExplanationHandler
from estimator.handlers import (
    AugmentationsHandler,
    ClassificationReportHandler,
    DataSummaryHandler,
    EmbeddingHandler,
    ErrorsHandler,
    EventHandler,
    HistoryPlotHandler,
    LayerReportHandler,
    ModelExportHandler,
    ModelSummaryHandler,
    RandomSamplesHandler,
    RegressionReportHandler,
    SegmentationReportHandler,
    WorstSamplesHandler,
)
from estimator.handlers.base import ArgumentTypeError
from estimator.report.handler import ReportPageHandler


def full(
    classes: Sequence[str] | None = None,
    *,
    decode: Callable[[Tensor], str] | None = None,
    without: Collection[type[EventHandler]] = (),
) -> list[EventHandler]:
    """All reports, for `fit(..., run="name", handlers=report.full())`.

    Each writes to its own place in the run folder what fits the net and the data. A handler of
    your own in their place is `[*report.full(without=[ErrorsHandler]), ErrorsHandler(most=500)]`.

    Args:
        classes: Class names in the order of the class numbers.
        decode: Makes text of the inputs of one sample, such as tokens (T,).
        without: Classes that are left out.

    Returns:
        New handlers, the page last.

    Raises:
        ArgumentTypeError: `without` names no handler classes.
        MissingExtraError: A library of the extras report, explain and onnx is not installed; it
            is that of a class that `without` may name.

    Example:
        >>> [type(handler).__name__ for handler in full()][-1]
        'ReportPageHandler'
    """
    for kind in without:
        if not (isinstance(kind, type) and issubclass(kind, EventHandler)):
            raise ArgumentTypeError(
                f"full(without=...) must name classes of handlers; received {kind!r}. Write "
                "full(without=[ExplanationHandler])."
            )
    shown: dict[str, Any] = {"classes": classes, "decode": decode}
    makers: list[tuple[type[EventHandler], dict[str, Any]]] = [
        (DataSummaryHandler, {}),
        (ModelSummaryHandler, {}),
        (RandomSamplesHandler, shown),
        (AugmentationsHandler, shown),
        (ErrorsHandler, shown),
        (WorstSamplesHandler, shown),
        (ClassificationReportHandler, {"classes": classes}),
        (RegressionReportHandler, {}),
        (SegmentationReportHandler, {"classes": classes}),
        (HistoryPlotHandler, {}),
        (LayerReportHandler, {}),
        (EmbeddingHandler, {"classes": classes}),
        (ExplanationHandler, {"classes": classes}),
        (ModelExportHandler, {}),
        (ReportPageHandler, {}),
    ]
    return [kind(**settings) for kind, settings in makers if kind not in without]

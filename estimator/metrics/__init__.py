"""Metrics: numbers over many batches, kept on the device, equal for any split into batches."""

from estimator.metrics.adapt import FunctionMetric, make_metric
from estimator.metrics.base import Metric
from estimator.metrics.classification import F1, Accuracy, Perplexity, TopKAccuracy
from estimator.metrics.overlap import MeanIoU
from estimator.metrics.ranking import AUROC
from estimator.metrics.regression import MAE, MSE, RMSE
from estimator.metrics.sets import MetricSet

__all__ = [
    "AUROC",
    "F1",
    "MAE",
    "MSE",
    "RMSE",
    "Accuracy",
    "FunctionMetric",
    "MeanIoU",
    "Metric",
    "MetricSet",
    "Perplexity",
    "TopKAccuracy",
    "make_metric",
]

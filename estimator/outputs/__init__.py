"""Outputs that describe themselves: a net returns `{name: Output}` and needs no loss or metrics."""

from estimator.outputs.classification import BinaryClassificationOutput, ClassificationOutput
from estimator.outputs.embedding import EmbeddingOutput, TripletOutput
from estimator.outputs.learned_weight import LearnedWeight
from estimator.outputs.loss import LossOutput
from estimator.outputs.output import Output
from estimator.outputs.regression import RegressionOutput
from estimator.outputs.segmentation import SegmentationOutput

__all__ = [
    "BinaryClassificationOutput",
    "ClassificationOutput",
    "EmbeddingOutput",
    "LearnedWeight",
    "LossOutput",
    "Output",
    "RegressionOutput",
    "SegmentationOutput",
    "TripletOutput",
]

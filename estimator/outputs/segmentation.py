"""Outputs that name the class of each position."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from estimator.loss_kinds import LossFunction
from estimator.metrics import Accuracy, MeanIoU, Metric
from estimator.outputs.classification import (
    BINARY_CROSS_ENTROPY,
    CROSS_ENTROPY,
    ClassificationOutput,
    shaped_as,
)
from estimator.outputs.learned_weight import LearnedWeight
from estimator.outputs.metrics import BinaryAccuracy
from estimator.outputs.output import Metrics


class SegmentationOutput(ClassificationOutput):
    """Logits of the class of each position, (N, C, ...), or of one mask, (N, 1, ...).

    Targets of C classes are those of `ClassificationOutput`; those of one mask are 0 or 1,
    (N, ...) or (N, 1, ...), with NaN or -100 where they are missing. Default: (binary) cross
    entropy, with columns `<name>_accuracy` of positions and `<name>_iou`, the mean over classes.

    Args:
        logits: (N, C, ...).
        target: The batch's key of the class maps.
        criterion: See `Output`; `estimator.losses.SoftDiceLoss` is another choice.
        weight: See `Output`.
        sample_weights: See `Output`.
        mask: See `Output`: (N,), or of the target's shape.
        metrics: See `Output`.
    """

    def __init__(
        self, logits: Tensor, target: str = "targets", *, criterion: LossFunction | None = None,
        weight: float | LearnedWeight = 1.0, sample_weights: str | None = None,
        mask: str | None = None, metrics: Metrics = None,
    ) -> None:  # fmt: skip
        self.is_binary = logits.ndim > 1 and logits.shape[1] == 1
        super().__init__(
            logits, target, criterion=criterion, weight=weight, sample_weights=sample_weights,
            mask=mask, metrics=metrics,
        )  # fmt: skip

    def default_criterion(self) -> LossFunction:
        """Cross entropy, binary for one mask."""
        return BINARY_CROSS_ENTROPY if self.is_binary else CROSS_ENTROPY

    def default_metrics(self, value: Any) -> list[Metric]:
        """The accuracy of positions, and the mean intersection over union."""
        ignored = self.ignore_index
        accuracy = BinaryAccuracy() if self.is_binary else Accuracy(ignore_index=ignored)
        return [accuracy, MeanIoU(ignored)]

    def fit(self, value: Any, target: Any) -> Any:
        """Class indices, or of one mask numbers of its shape with NaN for missing ones."""
        if not self.is_binary:
            return super().fit(value, target)
        target = shaped_as(self, value, target)
        return target.masked_fill(target == self.ignore_index, math.nan)

    def present(self, value: Any, target: Any) -> Tensor:
        """All but what is marked as missing."""
        return ~torch.isnan(target) if self.is_binary else super().present(value, target)

    def filled(self, target: Any, present: Tensor) -> Any:
        """Of one mask, the ignored index where the criterion knows it and else 0."""
        if not self.is_binary:
            return super().filled(target, present)
        known = hasattr(self.criterion, "ignore_index")
        return target.where(present, self.ignore_index if known else 0)

    def for_metrics(self, value: Any, target: Any) -> Any:
        """The fitted target."""
        return target if self.is_binary else super().for_metrics(value, target)

    def check(self, value: Any, target: Any) -> None:
        """Looks at shapes and at the range of class indices."""
        if not self.is_binary:
            super().check(value, target)

"""Outputs that are points in a space."""

from __future__ import annotations

from torch import Tensor

from estimator.handlers.base import ArgumentTypeError
from estimator.loss_kinds import LossFunction
from estimator.losses import TripletLoss
from estimator.outputs.learned_weight import LearnedWeight
from estimator.outputs.output import Metrics, Output


class EmbeddingOutput(Output):
    """Vectors, (N, D), which come with predictions; by default they have no loss and no metric.

    Args:
        value: The vectors.
        target: The batch's key of what the criterion compares them with.
        criterion: A loss such as `estimator.losses.CenterLoss`.
        weight: See `Output`.
        sample_weights: See `Output`.
        metrics: See `Output`.

    Raises:
        ArgumentTypeError: A criterion without a target, or a target without a criterion.
    """

    def __init__(
        self, value: Tensor, target: str | None = None, *, criterion: LossFunction | None = None,
        weight: float | LearnedWeight = 1.0, sample_weights: str | None = None,
        metrics: Metrics = None,
    ) -> None:  # fmt: skip
        super().__init__(
            value, target, criterion=criterion, weight=weight, sample_weights=sample_weights,
            metrics=metrics,
        )  # fmt: skip
        if self.has_loss != (target is not None):
            raise ArgumentTypeError(
                f"{type(self).__name__} needs a target and a criterion, or neither; received "
                f"target={target!r} and criterion={criterion!r}."
            )


class TripletOutput(EmbeddingOutput):
    """Vectors, (N, D), of which those of one label are to be nearer than others.

    Default: `estimator.losses.TripletLoss`, whose triplets are found in the batch; its mean is
    over the pairs of one label.

    Args:
        value: The vectors.
        target: The batch's key of the labels, (N,).
        criterion: See `Output`.
        weight: See `Output`.
        sample_weights: See `Output`; that of the anchor counts.
        metrics: See `Output`.
    """

    def __init__(
        self, value: Tensor, target: str = "targets", *, criterion: LossFunction | None = None,
        weight: float | LearnedWeight = 1.0, sample_weights: str | None = None,
        metrics: Metrics = None,
    ) -> None:  # fmt: skip
        super().__init__(
            value, target, criterion=criterion, weight=weight, sample_weights=sample_weights,
            metrics=metrics,
        )  # fmt: skip

    def default_criterion(self) -> LossFunction:
        """The triplet loss with semi-hard negatives."""
        return TripletLoss()

"""Outputs that are numbers."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from estimator.loss_kinds import LossFunction
from estimator.metrics import Metric
from estimator.outputs.classification import shaped_as
from estimator.outputs.learned_weight import LearnedWeight
from estimator.outputs.metrics import ErrorOfPresent
from estimator.outputs.output import Metrics, Output

SQUARED_ERROR = functools.partial(F.mse_loss, reduction="none")


class RegressionOutput(Output):
    """Numbers, (N,) or (N, D, ...), compared with targets of the same shape.

    NaN in a target says that it is missing; a sample of several numbers may lack some of them.
    A sample weight holds for all numbers of its sample. Default: the mean squared error, with
    columns `<name>_mae` and `<name>_rmse`.

    Args:
        value: What the net computed.
        target: The batch's key of the true numbers.
        criterion: See `Output`.
        weight: See `Output`.
        sample_weights: See `Output`.
        mask: See `Output`.
        metrics: See `Output`.
    """

    uncertainty_factor = 0.5

    def __init__(
        self, value: Tensor, target: str = "targets", *, criterion: LossFunction | None = None,
        weight: float | LearnedWeight = 1.0, sample_weights: str | None = None,
        mask: str | None = None, metrics: Metrics = None,
    ) -> None:  # fmt: skip
        super().__init__(
            value, target, criterion=criterion, weight=weight, sample_weights=sample_weights,
            mask=mask, metrics=metrics,
        )  # fmt: skip

    def default_criterion(self) -> LossFunction:
        """The squared error."""
        return SQUARED_ERROR

    def default_metrics(self, value: Any) -> list[Metric]:
        """The mean absolute error and the root of the mean squared one."""
        return [ErrorOfPresent("mae"), ErrorOfPresent("rmse")]

    def fit(self, value: Any, target: Any) -> Any:
        """Numbers of the shape and type of the value."""
        return shaped_as(self, value, target)

    def present(self, value: Any, target: Any) -> Tensor:
        """All but NaN."""
        return ~torch.isnan(target)

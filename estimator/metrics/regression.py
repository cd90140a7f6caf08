"""Metrics of the distance between outputs and targets, as means over all elements."""

from __future__ import annotations

from typing import Final, final

import torch
from torch import Tensor

from estimator.handlers.base import DataError
from estimator.metrics.base import SumMetric, shape_of, widest_float

_MEAN: Final = {"total": torch.float64, "count": torch.int64}


@final
class MAE(SumMetric):
    """The mean absolute error over all elements: 1/n sum |output - target|.

    Outputs and targets have one shape; nothing is broadcast.

    Args:
        name: See `Metric`.

    Example:
        >>> metric = MAE()
        >>> metric.update(torch.tensor([1.0, 5.0]), torch.tensor([2.0, 2.0]))
        >>> metric.compute()
        tensor(2., dtype=torch.float64)
    """

    higher_is_better = False
    _fields = _MEAN

    def __init__(self, *, name: str = "mae") -> None:
        super().__init__(name)

    def _terms(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
        return _difference(self.name, outputs, targets).abs().sum(), outputs.numel()

    def compute(self) -> Tensor:
        """Returns the mean absolute error, in the unit of the targets; NaN before any update."""
        return self._ratio("total", "count")


@final
class MSE(SumMetric):
    """The mean squared error over all elements: 1/n sum (output - target)^2.

    Outputs and targets have one shape; nothing is broadcast.

    Args:
        name: See `Metric`.

    Example:
        >>> metric = MSE()
        >>> metric.update(torch.tensor([1.0, 5.0]), torch.tensor([2.0, 2.0]))
        >>> metric.compute()
        tensor(5., dtype=torch.float64)
    """

    higher_is_better = False
    _fields = _MEAN

    def __init__(self, *, name: str = "mse") -> None:
        super().__init__(name)

    def _terms(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
        return _difference(self.name, outputs, targets).square().sum(), outputs.numel()

    def compute(self) -> Tensor:
        """Returns the mean squared error; NaN before any update."""
        return self._ratio("total", "count")


@final
class RMSE(SumMetric):
    """The root of the mean squared error over all elements: sqrt(1/n sum (output - target)^2).

    The root is taken once, of the mean over all batches. Outputs and targets have one shape;
    nothing is broadcast.

    Args:
        name: See `Metric`.

    Example:
        >>> metric = RMSE()
        >>> metric.update(torch.tensor([0.0, 0.0]), torch.tensor([5.0, 5.0]))
        >>> metric.compute()
        tensor(5., dtype=torch.float64)
    """

    higher_is_better = False
    _fields = _MEAN

    def __init__(self, *, name: str = "rmse") -> None:
        super().__init__(name)

    def _terms(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
        return _difference(self.name, outputs, targets).square().sum(), outputs.numel()

    def compute(self) -> Tensor:
        """Returns the root, in the unit of the targets; NaN before any update."""
        return self._ratio("total", "count").sqrt()


def _difference(name: str, outputs: Tensor, targets: Tensor) -> Tensor:
    if outputs.shape != targets.shape:
        raise DataError(
            f"{name}: outputs and targets must have the same shape, or broadcasting would compare "
            f"all with all; received outputs {shape_of(outputs)} and targets {shape_of(targets)}. "
            "Reshape one of them, as in outputs.squeeze(1) or targets.unsqueeze(1)."
        )
    return outputs.detach().to(widest_float(outputs.device)) - targets.detach()

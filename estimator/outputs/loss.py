"""Outputs that are losses already."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from estimator.handlers.base import DataError
from estimator.loss_kinds import LossFunction
from estimator.outputs.learned_weight import LearnedWeight
from estimator.outputs.output import Output
from estimator.processor import describe


class LossOutput(Output):
    """Losses that the net has computed itself: one a sample, (N,), or of items, (N, ...).

    Args:
        losses: To be made small.
        weight: See `Output`.
        sample_weights: See `Output`.
        mask: The batch's key of what says, with True, which losses count.
    """

    def __init__(
        self, losses: Tensor, *, weight: float | LearnedWeight = 1.0,
        sample_weights: str | None = None, mask: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(losses, weight=weight, sample_weights=sample_weights, mask=mask)

    def default_criterion(self) -> LossFunction:
        """The losses as they are."""
        return _as_it_is

    def marked(self, target: Any, mask: Tensor) -> Any:
        """The mask: there is no target to mark."""
        return mask

    def present(self, value: Any, target: Any) -> Tensor:
        """What the mask says, or all."""
        if value.ndim == 0:
            raise DataError(
                f"output {self.name!r}: LossOutput needs losses of single samples, (N,) or "
                f"(N, ...); received {describe(value)}. Leave the mean to it."
            )
        return torch.ones_like(value, dtype=torch.bool) if target is None else target

    def filled(self, target: Any, present: Tensor) -> Any:
        """Nothing to fill."""
        return target


def _as_it_is(losses: Tensor, target: Any) -> Tensor:
    return losses

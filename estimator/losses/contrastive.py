"""The contrastive loss of pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from estimator.handlers.base import DataError
from estimator.losses._base import ItemLoss, Reduction, check_range
from estimator.processor import describe


class ContrastiveLoss(ItemLoss):
    """Draws pairs of one kind together, and pairs of two kinds apart up to a margin.

    1/2 (t d^2 + (1 - t) max(0, margin - d)^2) with d the Euclidean distance of a pair (Hadsell,
    Chopra and LeCun, 2006, "Dimensionality Reduction by Learning an Invariant Mapping"). Outputs
    are two tensors (N, D); targets t (N,) are 1 for the same kind and 0 for two.

    Args:
        margin: The distance from which two kinds are far enough apart, from 0 up.
        reduction: "mean" over pairs, "sum", or "none": one value a pair.

    Raises:
        ArgumentError: `margin` is negative, or an unknown reduction.

    Example:
        >>> pair = torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])
        >>> ContrastiveLoss(7.0)(pair, torch.tensor([0])).item()  # (7 - 5)^2 / 2
        2.0
    """

    def __init__(self, margin: float = 1.0, *, reduction: Reduction = "mean") -> None:
        super().__init__(reduction)
        self.margin = check_range("ContrastiveLoss", "margin", margin, low=0, high=float("inf"))

    def items(self, outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
        """The loss of each pair."""
        pair = isinstance(outputs, (tuple, list)) and len(outputs) == 2
        shapes = {tuple(part.shape) for part in outputs} if pair else set()
        if len(shapes) != 1 or (*targets.shape, *outputs[0].shape[1:]) not in shapes:
            raise DataError(
                "ContrastiveLoss needs outputs of two tensors (N, D) and targets (N,); received "
                f"outputs {describe(outputs)} and targets {describe(targets)}."
            )
        square = (outputs[0] - outputs[1]).square().flatten(1).sum(1)
        # The root has no slope at 0.
        distance = square.clamp(min=torch.finfo(square.dtype).tiny).sqrt()
        apart = (self.margin - distance).clamp(min=0).square()
        same = targets.to(square.dtype)
        return (same * square + (1 - same) * apart) / 2

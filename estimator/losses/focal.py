"""Focal losses, which look away from what is easy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from estimator.handlers.base import ArgumentError, DataError
from estimator.losses._base import ItemLoss, Reduction, check_range, class_counted, class_targets
from estimator.metrics.base import shape_of


class FocalLoss(ItemLoss):
    """Cross entropy whose well classified items count little.

    -alpha_t (1 - p_t)^gamma log p_t, where p_t is the softmax probability of the true class (Lin,
    Goyal, Girshick, He and Dollar, 2017, "Focal Loss for Dense Object Detection",
    arXiv:1708.02002). Outputs are logits (N, C, ...); targets class indices (N, ...), or
    probabilities (N, C, ...), of which the classes' losses are the mean.

    Args:
        gamma: How far easy items count less, from 0 (cross entropy) up.
        alpha: One weight a class; None weighs all alike.
        ignore_index: Of targets that do not count.
        reduction: "mean" over the items that count, "sum", or "none": one value a sample.

    Raises:
        ArgumentError: `gamma` or a weight is negative, or an unknown reduction.

    Example:
        >>> loss = FocalLoss(gamma=2.0)
        >>> round(loss(torch.tensor([[0.0, 0.0]]), torch.tensor([1])).item(), 4)  # (1/2)^2 log 2
        0.1733
    """

    alpha: Tensor | None

    def __init__(
        self, gamma: float = 2.0, alpha: Sequence[float] | Tensor | None = None, *,
        ignore_index: int = -100, reduction: Reduction = "mean",
    ) -> None:  # fmt: skip
        super().__init__(reduction)
        self.gamma = check_range("FocalLoss", "gamma", gamma, low=0, high=float("inf"))
        self.ignore_index = ignore_index
        weights = None if alpha is None else torch.as_tensor(alpha, dtype=torch.get_default_dtype())
        if weights is not None and (weights.ndim != 1 or bool((weights < 0).any())):
            raise ArgumentError(
                f"FocalLoss(alpha=...) must be weights from 0 up, one a class; received {alpha!r}."
            )
        self.register_buffer("alpha", weights)

    def items(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each position."""
        truth = class_targets("FocalLoss", outputs, targets, self.ignore_index)
        logp = outputs.to(truth.dtype).log_softmax(1)
        # The power has no slope at 0 where gamma is below 1.
        hardness = (-logp.expm1()).clamp(min=torch.finfo(logp.dtype).eps) ** self.gamma
        losses = -truth * hardness * logp
        if self.alpha is not None:
            if len(self.alpha) != outputs.shape[1]:
                raise DataError(
                    f"FocalLoss(alpha=...) must have one weight for each of the outputs' "
                    f"{outputs.shape[1]} classes; received {len(self.alpha)}."
                )
            losses = losses * self.alpha.to(losses.dtype).view(-1, *[1] * (losses.ndim - 2))
        return losses.sum(1)

    def counted(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """Which positions count."""
        return class_counted(outputs, targets, self.ignore_index)


class BinaryFocalLoss(ItemLoss):
    """Binary cross entropy whose well classified items count little.

    -alpha (1 - p)^gamma log p for a true 1, -(1 - alpha) p^gamma log(1 - p) for a true 0, with
    p = sigmoid(output) (Lin et al., 2017, arXiv:1708.02002). A target between them gets the mean
    of both, weighted by itself. Outputs are logits of any shape (N, ...), targets have the same.

    Args:
        gamma: How far easy items count less, from 0 up.
        alpha: Weight of a true 1, from 0 to 1; None weighs both with 1.
        reduction: "mean" over all items, "sum", or "none": one value a sample.

    Raises:
        ArgumentError: A number out of its range, or an unknown reduction.

    Example:
        >>> loss = BinaryFocalLoss(gamma=2.0, alpha=None)
        >>> round(loss(torch.zeros(1), torch.ones(1)).item(), 4)  # (1/2)^2 log 2
        0.1733
    """

    def __init__(
        self, gamma: float = 2.0, alpha: float | None = 0.25, *, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(reduction)
        self.gamma = check_range("BinaryFocalLoss", "gamma", gamma, low=0, high=float("inf"))
        if alpha is not None:
            alpha = check_range("BinaryFocalLoss", "alpha", alpha, low=0, high=1)
        self.alpha = alpha

    def items(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each element."""
        if outputs.shape != targets.shape:
            raise DataError(
                "BinaryFocalLoss compares outputs and targets of the same shape; received outputs "
                f"{shape_of(outputs)} and targets {shape_of(targets)}. Reshape one of them, with "
                "targets.view_as(outputs) for example."
            )
        wide = torch.promote_types(outputs.dtype, torch.float32)
        outputs, targets = outputs.to(wide), targets.to(wide)
        # log(1 + e^x) gives both logarithms, and the powers as exponentials, without overflow.
        low, high = F.softplus(-outputs), F.softplus(outputs)
        positive, negative = low * (-self.gamma * high).exp(), high * (-self.gamma * low).exp()
        share, rest = (1.0, 1.0) if self.alpha is None else (self.alpha, 1 - self.alpha)
        return share * targets * positive + rest * (1 - targets) * negative

    def counted(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """All elements count."""
        return torch.ones_like(outputs, dtype=torch.bool)

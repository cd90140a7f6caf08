"""The soft Dice loss of segmentation."""

from __future__ import annotations

import torch
from torch import Tensor

from estimator.handlers.base import DataError
from estimator.losses._base import ItemLoss, Reduction, check_range, class_counted, class_targets
from estimator.metrics.base import shape_of


class SoftDiceLoss(ItemLoss):
    """One minus the overlap of prediction and truth, as a smooth function of the probabilities.

    For each sample and class (2 sum p t + smooth) / (sum p + sum t + smooth), over all positions;
    the sample's loss is 1 minus the mean over its classes (after Milletari, Navab and Ahmadi,
    2016, "V-Net", arXiv:1606.04797, with plain sums in the denominator). Outputs are logits
    (N, C, ...) with targets of class indices (N, ...) or probabilities (N, C, ...); one channel
    (N, 1, ...) is a binary mask, with targets from 0 to 1 shaped (N, ...) or (N, 1, ...).

    Args:
        smooth: Keeps an empty class defined, from 0 up; it draws all overlaps towards 1.
        background: Whether class 0 of several counts.
        ignore_index: Of positions that do not count.
        reduction: "mean" over samples, "sum", or "none": one value a sample.

    Raises:
        ArgumentError: `smooth` is negative, or an unknown reduction.

    Example:
        >>> sure = torch.tensor([[[9.0, -9.0]]])
        >>> round(SoftDiceLoss()(sure, torch.tensor([[1, 0]])).item(), 3)
        0.0
    """

    def __init__(
        self, smooth: float = 1.0, *, background: bool = True, ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:  # fmt: skip
        super().__init__(reduction)
        self.smooth = check_range("SoftDiceLoss", "smooth", smooth, low=0, high=float("inf"))
        self.background = background
        self.ignore_index = ignore_index

    def items(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each sample."""
        if outputs.ndim > 1 and outputs.shape[1] == 1:
            guess, truth, counted = self._binary(outputs, targets)
        else:
            truth = class_targets("SoftDiceLoss", outputs, targets, self.ignore_index)
            counted = class_counted(outputs, targets, self.ignore_index)
            guess = outputs.to(truth.dtype).softmax(1)
        kept = counted.unsqueeze(1)
        guess, truth = ((v * kept).reshape(*v.shape[:2], -1) for v in (guess, truth))
        if not self.background and guess.shape[1] > 1:
            guess, truth = guess[:, 1:], truth[:, 1:]
        total = guess.sum(2) + truth.sum(2) + self.smooth
        tiny = torch.finfo(total.dtype).tiny
        overlap = (2 * (guess * truth).sum(2) + self.smooth) / total.clamp(min=tiny)
        return 1 - overlap.mean(1)

    def _binary(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if targets.ndim == outputs.ndim - 1:
            targets = targets.unsqueeze(1)
        if targets.shape != outputs.shape:
            raise DataError(
                "SoftDiceLoss with one channel needs targets (N, ...) or (N, 1, ...) for outputs "
                f"(N, 1, ...); received outputs {shape_of(outputs)} and targets "
                f"{shape_of(targets)}."
            )
        wide = torch.promote_types(outputs.dtype, torch.float32)
        counted = targets != self.ignore_index
        return outputs.to(wide).sigmoid(), targets.where(counted, 0).to(wide), counted[:, 0]

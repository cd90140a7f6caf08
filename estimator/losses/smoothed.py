"""Cross entropy with smoothed or soft targets."""

from __future__ import annotations

from torch import Tensor

from estimator.losses._base import ItemLoss, Reduction, check_range, class_counted, class_targets


class SmoothedCrossEntropyLoss(ItemLoss):
    """Cross entropy with targets that are not sure of themselves.

    -sum_c q_c log softmax(outputs)_c with q = (1 - smoothing) t + smoothing / C (Szegedy et al.,
    2015, "Rethinking the Inception Architecture", arXiv:1512.00567). Outputs are logits
    (N, C, ...); targets class indices (N, ...), or probabilities (N, C, ...) such as mixed labels.

    Args:
        smoothing: How much of each target goes to all classes alike, from 0 to 1.
        ignore_index: Of targets that do not count.
        reduction: "mean" over the items that count, "sum", or "none": one value a sample.

    Raises:
        ArgumentError: `smoothing` is out of its range, or an unknown reduction.

    Example:
        >>> import torch
        >>> loss, logits = SmoothedCrossEntropyLoss(0.2), torch.tensor([[1.0, 0.0]])
        >>> loss(logits, torch.tensor([0])) == loss(logits, torch.tensor([[1.0, 0.0]]))
        tensor(True)
    """

    def __init__(
        self, smoothing: float = 0.1, *, ignore_index: int = -100, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(reduction)
        owner = "SmoothedCrossEntropyLoss"
        self.smoothing = check_range(owner, "smoothing", smoothing, low=0, high=1)
        self.ignore_index = ignore_index

    def items(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each position."""
        owner = "SmoothedCrossEntropyLoss"
        truth = class_targets(owner, outputs, targets, self.ignore_index)
        soft = truth * (1 - self.smoothing) + self.smoothing / outputs.shape[1]
        return -(soft * outputs.to(truth.dtype).log_softmax(1)).sum(1)

    def counted(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """Which positions count."""
        return class_counted(outputs, targets, self.ignore_index)

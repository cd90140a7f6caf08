"""What the losses of this package share: a reduction, items that count, and their checks."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from estimator.handlers.base import ArgumentError, DataError, nearest
from estimator.metrics.base import shape_of

Reduction = Literal["mean", "sum", "none"]


class ItemLoss(nn.Module):
    """Base of losses that are a mean over items: samples, positions of samples, or pairs.

    Args:
        reduction: "mean" over all items that count, "sum" over them, or "none" for the mean over
            the items of each sample, shape (N,), which is 0 for a sample without any.
    """

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__()
        if reduction not in get_args(Reduction):
            raise ArgumentError(
                f"{type(self).__name__}(reduction=...) must be 'mean', 'sum' or 'none'; received "
                f"{reduction!r}. {nearest(str(reduction), get_args(Reduction))}"
            )
        self.reduction: str = reduction

    @abstractmethod
    def items(self, outputs: Any, targets: Any) -> Tensor:
        """The loss of each item, (N, ...)."""

    def counted(self, outputs: Any, targets: Any) -> Tensor | None:
        """Which items count, (N, ...); None says that each sample is an item that counts."""
        return None

    def forward(self, outputs: Any, targets: Any) -> Tensor:
        """The loss of a batch, or of its samples."""
        losses, counted = self.items(outputs, targets), self.counted(outputs, targets)
        if counted is None:
            counted = torch.ones_like(losses, dtype=torch.bool)
        losses = torch.where(counted, losses, 0)
        if self.reduction == "sum":
            return losses.sum()
        if self.reduction == "mean":
            return losses.sum() / counted.sum().clamp(min=1)
        losses, counted = (part.reshape(len(part), -1) for part in (losses, counted))
        return losses.sum(1) / counted.sum(1).clamp(min=1)

    def item_count(self, outputs: Any, targets: Any) -> int | Tensor:
        """How many items the mean is over, which makes means over several batches exact."""
        counted = self.counted(outputs, targets)
        return len(targets) if counted is None else counted.sum()


def class_counted(outputs: Tensor, targets: Tensor, ignore_index: int) -> Tensor:
    """Which positions (N, ...) count: those whose class index is not the ignored one."""
    if targets.shape == outputs.shape and targets.is_floating_point():
        return torch.ones_like(targets[:, 0], dtype=torch.bool)
    return targets != ignore_index


def class_targets(owner: str, outputs: Tensor, targets: Tensor, ignore_index: int) -> Tensor:
    """Class probabilities (N, C, ...) of targets in either form; class 0 where they are ignored.

    Args:
        owner: What messages call the loss.
        outputs: Logits (N, C, ...).
        targets: Class indices (N, ...), or probabilities of the shape of the outputs.
        ignore_index: Of indices that do not count.

    Raises:
        DataError: Shapes that do not fit.
    """
    wide = torch.promote_types(outputs.dtype, torch.float32)
    if targets.is_floating_point() and targets.shape == outputs.shape:
        return targets.to(wide)
    fitting = outputs.ndim > 1 and targets.shape == (outputs.shape[0], *outputs.shape[2:])
    if targets.is_floating_point() or not fitting:
        raise DataError(
            f"{owner} needs class indices, shaped as the outputs without dimension 1, or class "
            f"probabilities of the shape of the outputs; received outputs {shape_of(outputs)} and "
            f"targets {shape_of(targets)}. Convert indices with targets.long()."
        )
    known = targets.where(targets != ignore_index, 0).long()
    hot = torch.zeros(outputs.shape, dtype=wide, device=outputs.device)
    return hot.scatter_(1, known.unsqueeze(1), 1.0)


def check_range(owner: str, name: str, value: float, *, low: float, high: float) -> float:
    """A number from `low` to `high`, or an ArgumentError that says so."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:
        upto = "up" if high == float("inf") else f"to {high:g}"
        raise ArgumentError(
            f"{owner}({name}=...) must be a number from {low:g} {upto}; received {value!r}."
        )
    return float(value)


def check_pairs(owner: str, embeddings: Any, labels: Any) -> None:
    """Checks that there is one label for each embedding.

    Raises:
        DataError: There is not.
    """
    both = isinstance(embeddings, Tensor) and isinstance(labels, Tensor)
    if not both or embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        shown = [shape_of(v) if isinstance(v, Tensor) else repr(v) for v in (embeddings, labels)]
        raise DataError(
            f"{owner} needs embeddings (N, D) and one label for each, (N,); received outputs "
            f"{shown[0]} and targets {shown[1]}. Flatten them, as in outputs.flatten(1)."
        )

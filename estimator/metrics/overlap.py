"""How well areas are found: the mean intersection over union."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from estimator.handlers.base import DataError
from estimator.metrics.base import SumMetric, shape_of, widest_float


@final
class MeanIoU(SumMetric):
    """The mean over classes of intersection over union, counted over all positions of all batches.

    Of a class: hits / (predicted + actual - hits), as in Long, Shelhamer and Darrell (2015, "Fully
    Convolutional Networks for Semantic Segmentation", arXiv:1411.4038).

    Logits (N, C, ...) with targets of class indices (N, ...) have C classes, of which those count
    that occur in predictions or targets; one channel (N, 1, ...) with targets 0 or 1 has the
    class of what is above 0 alone.

    Args:
        ignore_index: Of positions that do not count; with one channel NaN says it too.
        name: See `Metric`.

    Raises:
        DataError: In `update`, shapes that do not belong together.

    Example:
        >>> metric = MeanIoU()
        >>> metric.update(torch.eye(2)[[0, 1, 1]], torch.tensor([0, 1, 0]))  # 1/2 and 1/2
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    higher_is_better = True
    _fields = dict.fromkeys(("intersection", "predicted", "actual"), torch.int64)

    def __init__(self, ignore_index: int = -100, *, name: str = "iou") -> None:
        super().__init__(name, (0,))
        self.ignore_index = ignore_index

    def _terms(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        _check_shapes(self.name, outputs, targets)
        classes = outputs.shape[1]
        if not len(self._sums["actual"]):
            self._allocate((classes,))
        if classes == 1:
            targets = targets.reshape(outputs.shape)
            counted = ~targets.isnan() & (targets != self.ignore_index)
            guess, truth = (outputs > 0) & counted, targets > 0.5
            found = (guess & truth, guess, truth)
            hits, guesses, truths = (each.count_nonzero().reshape(1) for each in found)
            return hits, guesses, truths
        counted = (targets != self.ignore_index).flatten()
        guess, truth = outputs.argmax(1).flatten(), targets.where(targets >= 0, 0).flatten().long()
        truth = truth.where(counted, 0)
        # Adding into a known size reads nothing to the host.
        empty = torch.zeros(classes, dtype=torch.int64, device=outputs.device)
        return (
            empty.scatter_add(0, truth, ((guess == truth) & counted).long()),
            empty.scatter_add(0, guess, counted.long()),
            empty.scatter_add(0, truth, counted.long()),
        )

    def by_class(self) -> Tensor:
        """The value of each class (C,); NaN for one that is neither there nor predicted."""
        hits, guesses, truths = self._sums.values()
        return hits.to(widest_float(hits.device)) / (guesses + truths - hits)

    def compute(self) -> Tensor:
        """Returns the mean, from 0 to 1; NaN before any class was there."""
        return self.by_class().nanmean()


def _check_shapes(name: str, outputs: Tensor, targets: Tensor) -> None:
    of_classes = outputs.ndim > 1 and outputs.shape[:1] + outputs.shape[2:] == targets.shape
    one_channel = outputs.ndim > 1 and outputs.shape[1] == 1 and outputs.shape == targets.shape
    if not (of_classes or one_channel):
        raise DataError(
            f"{name}: outputs must be logits (N, C, ...) with targets (N, ...), or (N, 1, ...) "
            f"with targets of that shape; received {shape_of(outputs)} and {shape_of(targets)}."
        )

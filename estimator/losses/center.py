"""The centre loss, which draws the features of a class together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from estimator.handlers.base import ArgumentError
from estimator.losses._base import ItemLoss, Reduction, check_pairs


class CenterLoss(ItemLoss):
    """Half the squared distance of features to the centre of their class.

    1/2 |x_i - c_{y_i}|^2, where the centres c are learned with the net (Wen, Zhang, Li and Qiao,
    2016, "A Discriminative Feature Learning Approach for Deep Face Recognition"). It goes beside
    a classification loss, with a small weight. The centres are parameters: make the loss a part
    of the net, or give its parameters to a trainer, or they stay where they are. Their gradient
    under "mean" is that of the paper up to a factor for each class.

    Args:
        classes: How many classes there are.
        features: D, the width of the features.
        reduction: "mean" over samples, "sum", or "none": one value a sample.

    Raises:
        ArgumentError: A number below 1, or an unknown reduction.

    Example:
        >>> loss = CenterLoss(2, 3)
        >>> _ = nn.init.zeros_(loss.centers)
        >>> loss(torch.ones(4, 3), torch.tensor([0, 1, 0, 1])).item()
        1.5
    """

    def __init__(self, classes: int, features: int, *, reduction: Reduction = "mean") -> None:
        super().__init__(reduction)
        for name, value in (("classes", classes), ("features", features)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ArgumentError(
                    f"CenterLoss({name}=...) must be a whole number from 1 up; received {value!r}."
                )
        self.classes, self.features = classes, features
        self.centers = nn.Parameter(torch.randn(classes, features))

    def items(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each sample."""
        check_pairs("CenterLoss", outputs, targets)
        return (outputs - self.centers[targets.long()]).square().sum(1) / 2

"""Outputs that choose a class, or say yes or no."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from estimator.handlers.base import DataError
from estimator.loss_kinds import OVER_CLASSES, LossFunction, setting_of
from estimator.metrics import Accuracy, Metric
from estimator.outputs.learned_weight import LearnedWeight
from estimator.outputs.metrics import BinaryAccuracy, BinaryAUROC
from estimator.outputs.output import Metrics, Output
from estimator.outputs.terms import spread
from estimator.processor import describe

CROSS_ENTROPY = functools.partial(F.cross_entropy, reduction="none")
BINARY_CROSS_ENTROPY = functools.partial(F.binary_cross_entropy_with_logits, reduction="none")


class ClassificationOutput(Output):
    """Logits (N, C, ...) of classes that exclude one another.

    Targets are class indices (N, ...), of which -100 (or the criterion's own `ignore_index`) says
    that one is missing, or class probabilities (N, C, ...). Default: cross entropy, with a column
    `<name>_accuracy`; probabilities count there as their likeliest class.

    Args:
        logits: (N, C, ...).
        target: The batch's key of the classes.
        criterion: See `Output`.
        weight: See `Output`.
        sample_weights: See `Output`.
        mask: See `Output`.
        metrics: See `Output`.

    Example:
        >>> from estimator import Estimator
        >>> from torch import nn
        >>> class Net(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = nn.Linear(4, 3)
        ...
        ...     def forward(self, batch):
        ...         return {"softmax": ClassificationOutput(self.layer(batch["x"]), "label")}
        >>> data = {"x": torch.randn(16, 4), "label": torch.arange(16) % 3}
        >>> stats = Estimator(Net()).fit(data, epochs=1, device="cpu", progress=False)
        >>> sorted(stats.train)
        ['loss', 'softmax_accuracy', 'softmax_loss']
    """

    def __init__(
        self, logits: Tensor, target: str = "targets", *, criterion: LossFunction | None = None,
        weight: float | LearnedWeight = 1.0, sample_weights: str | None = None,
        mask: str | None = None, metrics: Metrics = None,
    ) -> None:  # fmt: skip
        super().__init__(
            logits, target, criterion=criterion, weight=weight, sample_weights=sample_weights,
            mask=mask, metrics=metrics,
        )  # fmt: skip

    @property
    def ignore_index(self) -> int:
        """The class index that says that a target is missing."""
        assert self.criterion is not None
        by_argument = setting_of(self.criterion).ignore_index
        return int(getattr(self.criterion, "ignore_index", by_argument))

    def default_criterion(self) -> LossFunction:
        """Cross entropy."""
        return CROSS_ENTROPY

    def default_metrics(self, value: Any) -> list[Metric]:
        """The accuracy."""
        return [Accuracy(ignore_index=self.ignore_index)]

    def marked(self, target: Any, mask: Tensor) -> Any:
        """A target in which the ignored index, or NaN in probabilities, says what is missing."""
        if target.is_floating_point():
            return super().marked(target, mask)
        return target.long().masked_fill(~spread(mask, target), self.ignore_index)

    def fit(self, value: Any, target: Any) -> Any:
        """Class indices as int64."""
        return target if target.is_floating_point() else target.long()

    def present(self, value: Any, target: Any) -> Tensor:
        """All but the ignored index, and probabilities without NaN."""
        if target.is_floating_point():
            return ~torch.isnan(target).any(1)
        there: Tensor = target != self.ignore_index
        return there

    def filled(self, target: Any, present: Tensor) -> Any:
        """The target as it is where the criterion knows of missing ones."""
        if target.is_floating_point():
            return target.where(present.unsqueeze(1), 1 / target.shape[1])
        assert self.criterion is not None
        known = setting_of(self.criterion).kind in OVER_CLASSES
        known = known or hasattr(self.criterion, "ignore_index")
        return target if known else target.where(present, 0)

    def for_metrics(self, value: Any, target: Any) -> Any:
        """Class indices, of probabilities the likeliest."""
        if target.is_floating_point() and target.shape == value.shape:
            return target.argmax(1).where(self.present(value, target), self.ignore_index)
        return target

    def item_weights(self, target: Any) -> Tensor | None:
        """The weights that torch's losses give to classes."""
        assert self.criterion is not None
        setting = setting_of(self.criterion)
        of_classes = setting.weight if setting.kind in OVER_CLASSES else None
        if of_classes is None or target.is_floating_point():
            return None
        weights: Tensor = of_classes[target.where(target != self.ignore_index, 0)]
        return weights

    def check(self, value: Any, target: Any) -> None:
        """Looks at shapes and at the range of class indices."""
        wanted = (*value.shape[:1], *value.shape[2:]) if value.ndim > 1 else None
        soft = target.is_floating_point() and target.shape == value.shape
        if not soft and (target.is_floating_point() or tuple(target.shape) != wanted):
            raise DataError(
                f"output {self.name!r}: {type(self).__name__} needs class indices {wanted} for its "
                f"logits, or class probabilities of the shape of these; received logits "
                f"{describe(value)} and target {self.keys.target!r} {describe(target)}. Drop a "
                "spare dimension with squeeze(1)."
            )
        if soft:
            return
        known = target[self.present(value, target)]
        wrong = known[(known < 0) | (known >= value.shape[1])]
        if wrong.numel():
            raise DataError(
                f"output {self.name!r}: target {self.keys.target!r} must be class indices from 0 "
                f"to below {value.shape[1]}, the width of the logits; received {int(wrong[0])}. "
                f"Count classes from 0, and mark missing ones with {self.ignore_index}."
            )


class BinaryClassificationOutput(Output):
    """Logits of yes or no: one a sample, (N,) or (N, 1), or of several questions, (N, D, ...).

    Targets are 0 or 1, or probabilities, of the same shape with or without a dimension of 1; NaN
    or -100 says that one is missing. Default: binary cross entropy, with columns
    `<name>_accuracy` and, for one question, `<name>_auroc`.

    Args:
        logits: Above 0 is yes.
        target: The batch's key of the answers.
        criterion: See `Output`.
        weight: See `Output`.
        sample_weights: See `Output`.
        mask: See `Output`.
        metrics: See `Output`; they see answers as float.
    """

    def __init__(
        self, logits: Tensor, target: str = "targets", *, criterion: LossFunction | None = None,
        weight: float | LearnedWeight = 1.0, sample_weights: str | None = None,
        mask: str | None = None, metrics: Metrics = None,
    ) -> None:  # fmt: skip
        super().__init__(
            logits, target, criterion=criterion, weight=weight, sample_weights=sample_weights,
            mask=mask, metrics=metrics,
        )  # fmt: skip

    def default_criterion(self) -> LossFunction:
        """Binary cross entropy of logits."""
        return BINARY_CROSS_ENTROPY

    def default_metrics(self, value: Any) -> list[Metric]:
        """The accuracy, and the area under the ROC of one question."""
        one = value.ndim == 1 or (value.ndim == 2 and value.shape[1] == 1)
        return [BinaryAccuracy(), BinaryAUROC()] if one else [BinaryAccuracy()]

    def fit(self, value: Any, target: Any) -> Any:
        """Answers of the shape and type of the logits, with NaN for missing ones."""
        target = shaped_as(self, value, target)
        return target.masked_fill(target == -100, math.nan)

    def present(self, value: Any, target: Any) -> Tensor:
        """All but NaN."""
        return ~torch.isnan(target)

    def check(self, value: Any, target: Any) -> None:
        """Looks at the range of answers."""
        known = target[~target.isnan()]
        wrong = known[(known < 0) | (known > 1)]
        if wrong.numel():
            raise DataError(
                f"output {self.name!r}: target {self.keys.target!r} must be 0 or 1, or a "
                f"probability; received {float(wrong[0]):g}. Mark missing answers with NaN or -100."
            )


def shaped_as(kind: Output, value: Tensor, target: Tensor) -> Tensor:
    """A target in the type of a value and in its shape, if that differs by dimensions of 1 only.

    Raises:
        DataError: It differs by more, and would be broadcast.
    """
    sizes = [[n for n in t.shape[1:] if n != 1] for t in (value, target)]
    if sizes[0] != sizes[1] or value.shape[:1] != target.shape[:1]:
        raise DataError(
            f"output {kind.name!r}: {type(kind).__name__} needs a target of the shape of its "
            f"value; received a value {describe(value)} and the target {kind.keys.target!r} "
            f"{describe(target)}. Reshape one of them."
        )
    wide = torch.promote_types(value.dtype, torch.float32)
    return target.reshape(value.shape).to(wide)

"""Metrics that compare predicted classes with true ones."""

from __future__ import annotations

import warnings
from typing import Final, Literal, final, get_args

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from estimator.handlers.base import ArgumentError, ArgumentTypeError, DataError, nearest
from estimator.metrics.base import SumMetric, shape_of, widest_float

Average = Literal["macro", "micro", "binary"]

_COUNTS: Final = {"correct": torch.int64, "count": torch.int64}


@final
class Accuracy(SumMetric):
    """The share of samples whose predicted class is the true one.

    Outputs (N, C, ...) with C > 1 are logits or probabilities, targets (N, ...) class indices; the
    prediction is the largest entry of dimension 1. Outputs (N,) or (N, 1, ...) hold one logit a
    sample, targets of that shape with or without the 1 are 0 or 1; the prediction is 1 above
    `threshold`.

    Args:
        threshold: For one entry a sample. The default suits logits; give 0.5 for probabilities.
        ignore_index: Targets with this value do not count; None counts all.
        name: See `Metric`.

    Example:
        >>> metric = Accuracy()
        >>> logits = torch.tensor([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]])
        >>> metric.update(logits, torch.tensor([0, 1, 1]))
        >>> round(metric.compute().item(), 3)
        0.667
    """

    higher_is_better = True
    _fields = _COUNTS

    def __init__(
        self, *, threshold: float = 0.0, ignore_index: int | None = None, name: str = "accuracy"
    ) -> None:
        super().__init__(name)
        self.threshold = threshold
        self.ignore_index = ignore_index

    def _terms(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | int]:
        hits = _predicted(self.name, outputs, targets, self.threshold) == targets
        if self.ignore_index is None:
            return hits.count_nonzero(), targets.numel()
        counted = targets != self.ignore_index
        return (hits & counted).count_nonzero(), counted.count_nonzero()

    def compute(self) -> Tensor:
        """Returns the share of correct predictions, from 0 to 1; NaN before any."""
        return self._ratio("correct", "count")


@final
class TopKAccuracy(SumMetric):
    """The share of samples whose true class is among the k highest outputs.

    Outputs (N, C, ...) with C >= k, targets (N, ...) class indices.

    Args:
        k: How many of the highest outputs count, at least 1.
        name: See `Metric`; None makes it `top<k>_accuracy`.

    Raises:
        ArgumentError: k is below 1.
        ArgumentTypeError: k is not an int.

    Example:
        >>> metric = TopKAccuracy(2)
        >>> metric.update(torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]), torch.tensor([1, 2]))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    higher_is_better = True
    _fields = _COUNTS

    def __init__(self, k: int, *, name: str | None = None) -> None:
        if not isinstance(k, int) or isinstance(k, bool):
            raise ArgumentTypeError(f"TopKAccuracy: k must be an int, received {k!r}.")
        if k < 1:
            raise ArgumentError(f"TopKAccuracy: k must be at least 1, received {k!r}.")
        super().__init__(name or f"top{k}_accuracy")
        self.k = k

    def _terms(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
        if _without_classes(outputs, 1) != targets.shape:
            raise _mismatch(self.name, outputs, targets)
        if outputs.shape[1] < self.k:
            raise DataError(
                f"{self.name}: outputs must have at least k={self.k} classes in dimension 1, "
                f"received {shape_of(outputs)}. Give a smaller k."
            )
        highest = outputs.detach().topk(self.k, dim=1, sorted=False).indices
        return (highest == targets.unsqueeze(1)).count_nonzero(), targets.numel()

    def compute(self) -> Tensor:
        """Returns the share of samples that hit, from 0 to 1; NaN before any."""
        return self._ratio("correct", "count")


@final
class F1(SumMetric):
    """The harmonic mean of precision and recall, from counts over all batches.

    For each class, F1 = 2 tp / (predicted + actual). Outputs and targets are those of `Accuracy`.

    Args:
        average: `"macro"`: the plain mean over the classes that occur in targets or predictions;
            `"micro"`: of the counts of all classes together; `"binary"`: of class 1 of two, and 0
            when it is neither there nor predicted. Values as of `sklearn.metrics.f1_score`.
        num_classes: C; None takes it from the first outputs (2 for one logit a sample).
        threshold: See `Accuracy`.
        name: See `Metric`; None makes it `f1` for macro, else `f1_<average>`.

    Raises:
        ArgumentError: `average` is unknown, or `num_classes` below 2.

    Example:
        >>> metric = F1("binary")
        >>> metric.update(torch.tensor([2.0, -1.0, 3.0]), torch.tensor([1, 1, 0]))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    higher_is_better = True
    _fields = dict.fromkeys(("true_positive", "predicted", "actual"), torch.int64)

    def __init__(
        self,
        average: Average = "macro",
        num_classes: int | None = None,
        *,
        threshold: float = 0.0,
        name: str | None = None,
    ) -> None:
        if average not in get_args(Average):
            hint = nearest(str(average), get_args(Average))
            raise ArgumentError(f"F1: average is unknown: {average!r}. {hint}")
        if num_classes is not None and num_classes < 2:
            raise ArgumentError(f"F1: num_classes must be at least 2, received {num_classes!r}.")
        default = "f1" if average == "macro" else f"f1_{average}"
        super().__init__(name or default, (num_classes or 0,))
        self.average = average
        self.num_classes = num_classes
        self.threshold = threshold

    def _terms(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        predicted = _predicted(self.name, outputs, targets, self.threshold)
        classes = 2 if predicted.dtype == torch.bool else outputs.shape[1]
        self._fit_classes(classes, outputs)
        guess, truth = predicted.long().flatten(), targets.long().flatten()
        # bincount would read the largest class to the host; adding into a known size does not.
        empty = torch.zeros(classes, dtype=torch.int64, device=outputs.device)
        one = torch.ones_like(truth)
        return (
            empty.scatter_add(0, truth, (guess == truth).long()),
            empty.scatter_add(0, guess, one),
            empty.scatter_add(0, truth, one),
        )

    def _fit_classes(self, classes: int, outputs: Tensor) -> None:
        known = len(self._sums["actual"])
        if self.average == "binary" and classes != 2:
            raise DataError(
                f"{self.name}: outputs must have the shape (N,), (N, 1) or (N, 2) with "
                f"average='binary', received {shape_of(outputs)}. Use 'macro' or 'micro'."
            )
        if known not in (0, classes):
            raise DataError(
                f"{self.name}: outputs must have {known} classes in dimension 1, as num_classes or "
                f"earlier batches say, received {shape_of(outputs)}. Give that width to each batch."
            )
        if not known:
            self._allocate((classes,))

    def compute(self) -> Tensor:
        """Returns the F1, from 0 to 1; NaN before any update."""
        hits, guesses, truths = self._sums.values()
        wide = widest_float(hits.device)
        occurring = guesses + truths
        if self.average == "micro":
            return 2 * hits.sum().to(wide) / occurring.sum()
        of_class = 2 * hits.to(wide) / occurring.clamp(min=1)
        if self.average == "macro":
            return of_class.sum() / occurring.count_nonzero()
        # The factor is 1, or 0 / 0 before any update, when class 1 is not there to be indexed.
        return of_class[1:].sum() * (truths.sum() / truths.sum())


@final
class Perplexity(SumMetric):
    """The exponential of the mean negative log likelihood of the true tokens.

    exp(-1/n sum log softmax(outputs)[target]) over the n targets that are not ignored. Outputs are
    logits, (N, C, ...) as `torch.nn.functional.cross_entropy` takes them, or with the classes
    last, (N, T, C); targets (N, ...) are class indices, and their shape says which it is. Where
    both fit, as in (N, T, T), dimension 1 is taken with a warning, unless `class_dim` says it.

    Args:
        ignore_index: Targets with this value do not count (padding).
        class_dim: 1 or -1 says where the classes are; None finds out.
        name: See `Metric`.

    Raises:
        ArgumentError: `class_dim` is another number.

    Example:
        >>> metric = Perplexity()
        >>> metric.update(torch.zeros(2, 7, 4), torch.tensor([[0, 1, 2, 3, 0, 1, -100]] * 2))
        >>> round(metric.compute().item(), 6)
        4.0
    """

    higher_is_better = False
    _fields = {"total": torch.float64, "count": torch.int64}

    def __init__(
        self, ignore_index: int = -100, *, class_dim: int | None = None, name: str = "perplexity"
    ) -> None:
        if class_dim not in (None, 1, -1):
            raise ArgumentError(
                "Perplexity: class_dim must be 1 (classes second), -1 (last) or None (found from "
                f"the shapes), received {class_dim!r}."
            )
        super().__init__(name)
        self.ignore_index = ignore_index
        self.class_dim = class_dim

    def _terms(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        # Half precision would round each token's likelihood to three digits.
        logits = outputs.detach().to(torch.promote_types(outputs.dtype, torch.float32))
        if self._classes_last(outputs, targets):
            logits, targets = logits.flatten(0, -2), targets.flatten()
        losses = cross_entropy(logits, targets, ignore_index=self.ignore_index, reduction="none")
        counted = targets != self.ignore_index
        return losses.sum(dtype=widest_float(losses.device)), counted.count_nonzero()

    def _classes_last(self, outputs: Tensor, targets: Tensor) -> bool:
        dims = (1, -1) if self.class_dim is None else (self.class_dim,)
        fitting = [dim for dim in dims if _without_classes(outputs, dim) == targets.shape]
        if not fitting:
            raise _mismatch(self.name, outputs, targets)
        if len(fitting) > 1 and outputs.ndim > 2:
            warnings.warn(
                f"{self.name}: outputs {shape_of(outputs)} and targets {shape_of(targets)} fit "
                "with the classes in dimension 1 and in the last; 1 is taken. Say it: class_dim=1.",
                stacklevel=2,
            )
        return fitting[0] == -1

    def compute(self) -> Tensor:
        """Returns the perplexity, at least 1; NaN before any counted token."""
        return self._ratio("total", "count").exp()


def _predicted(name: str, outputs: Tensor, targets: Tensor, threshold: float) -> Tensor:
    """Predicted classes, shaped as the targets: indices, or booleans for one logit a sample."""
    if outputs.ndim > 1 and outputs.shape[1] > 1:
        predicted = outputs.argmax(1)
    elif outputs.is_floating_point():
        predicted = outputs > threshold
        if predicted.shape[1:2] == (1,) and predicted.ndim == targets.ndim + 1:
            predicted = predicted.squeeze(1)
        elif predicted.ndim == 1 and targets.ndim == 2:
            predicted = predicted.unsqueeze(1)
    else:
        raise DataError(
            f"{name}: outputs with one entry a sample must be logits or probabilities, received "
            f"{shape_of(outputs)}. Give what the net returned, before a class is chosen."
        )
    # Without this, (N,) against (N, 1) would compare all with all.
    if predicted.shape != targets.shape:
        raise _mismatch(name, outputs, targets)
    return predicted


def _without_classes(outputs: Tensor, dim: int) -> tuple[int, ...] | None:
    sizes = list(outputs.shape)
    return (*sizes[:dim], *sizes[dim:][1:]) if outputs.ndim > 1 else None


def _mismatch(name: str, outputs: Tensor, targets: Tensor) -> DataError:
    return DataError(
        f"{name}: targets must be class indices, shaped as the outputs without their class "
        f"dimension, received outputs {shape_of(outputs)} and targets {shape_of(targets)}. Turn "
        "one-hot targets into indices with argmax(1), drop a dimension with squeeze(1)."
    )

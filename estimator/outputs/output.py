"""`Output`: one of a net's outputs, with its loss, its weights and its metrics."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from estimator.described import SelfDescribing
from estimator.handlers.base import ArgumentError, ArgumentTypeError, DataError
from estimator.loss_kinds import LossFunction, setting_of, without_reduction
from estimator.losses._base import ItemLoss
from estimator.metrics import Metric, MetricSet
from estimator.metrics.adapt import Spec
from estimator.outputs.learned_weight import LearnedWeight
from estimator.outputs.processor import OutputsProcessor
from estimator.outputs.terms import Keys, Terms, spread, weights_of
from estimator.processor import BatchProcessor, describe

Metrics: TypeAlias = Spec | Sequence[Spec] | None


class Output(SelfDescribing):
    """Base of the outputs that describe themselves.

    A net that takes a batch, a dict, and returns a dict of these is trained by `Estimator(net)`
    alone. The loss is the sum over the outputs of weight times mean loss, where the mean is over
    the items (samples, or positions of samples) whose target is there, each weighted by its
    sample; an output without any target in a batch adds 0. The name of an output leads its
    columns: `val_<name>_loss` is the mean over all items of all batches, without the weight. It is
    taken from what the net returned; a criterion with parameters of its own is then after its step.

    Args:
        value: What the net computed, with a row a sample.
        target: The batch's key of what it should be; None where it is not compared.
        criterion: A loss `(value, target)` with a setting `reduction` that takes "none", as those
            of torch and of `estimator.losses`; None is the default of the class.
        weight: Of the task in the whole loss: a number from 0 up, or a `LearnedWeight`.
        sample_weights: The batch's key of one weight a sample, (N,).
        mask: The batch's key of what says, with True, that the target is there: (N,), or of the
            target's shape. What a target itself says to be missing does not count either.
        metrics: In place of the default ones, in any form that an Estimator takes. With a `mask`
            they see the samples with a target only, which reads the mask to the host.

    Raises:
        ArgumentError: A weight below 0 or not finite.
        ArgumentTypeError: A weight or key of the wrong kind.
    """

    uncertainty_factor: ClassVar[float] = 1.0
    """k of `LearnedWeight`."""
    name: str = ""

    def __init__(
        self, value: Any, target: str | None = None, *, criterion: LossFunction | None = None,
        weight: float | LearnedWeight = 1.0, sample_weights: str | None = None,
        mask: str | None = None, metrics: Metrics = None,
    ) -> None:  # fmt: skip
        self.value = value
        self.keys = Keys(target, sample_weights, mask)
        self.criterion = self.default_criterion() if criterion is None else criterion
        self.weight = self._checked(weight)
        self.metrics = metrics

    def _checked(self, weight: object) -> Any:
        owner = type(self).__name__
        for argument, key in self.keys._asdict().items():
            if key is not None and not isinstance(key, str):
                raise ArgumentTypeError(
                    f"{owner}({argument}=...) must be a key of the batch; received "
                    f"{describe(key)}. Put the values into the batch, and name them here."
                )
        if isinstance(weight, LearnedWeight):
            return weight
        if not isinstance(weight, (int, float)) or isinstance(weight, bool):
            raise ArgumentTypeError(
                f"{owner}(weight=...) must be a number or a LearnedWeight; received {weight!r}."
            )
        if not 0 <= weight < math.inf:
            raise ArgumentError(f"{owner}(weight=...) must be from 0 up; received {weight!r}.")
        return float(weight)

    def kind(self, name: str) -> Output:
        """All of it but the value, under a name."""
        kind = copy.copy(self)
        kind.value, kind.name = None, name
        return kind

    def default_criterion(self) -> LossFunction | None:
        """The loss where none is given; None says that there is none."""
        return None

    def default_metrics(self, value: Any) -> list[Metric]:
        """The metrics where none are given.

        Args:
            value: Of a batch.
        """
        return []

    @property
    def has_loss(self) -> bool:
        """Whether it adds to the loss."""
        return self.criterion is not None

    def pick(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """What of a batch it is compared with, with missing targets marked in the target.

        Raises:
            DataError: The batch has not what it needs.
        """
        for argument, key in self.keys._asdict().items():
            if key is not None and key not in batch:
                raise DataError(
                    f"output {self.name!r}: {type(self).__name__}({argument}={key!r}) must name a "
                    f"key of the batch; received a batch with the keys {list(batch)}. Name one of "
                    "these, or let the loader yield it."
                )
        target, weights, mask = (None if key is None else batch[key] for key in self.keys)
        if target is not None:
            target = torch.as_tensor(target)
        if mask is not None:
            target = self.marked(target, torch.as_tensor(mask).bool())
        picked: dict[str, Any] = {} if target is None else {self.name: target}
        if weights is not None:
            picked[weights_of(self.name)] = torch.as_tensor(weights)
        return picked

    def marked(self, target: Any, mask: Tensor) -> Any:
        """A target in which NaN says what is missing.

        Args:
            target: As it is in the batch.
            mask: True where it is there.
        """
        if not target.is_floating_point():
            target = target.to(torch.get_default_dtype())
        return target.masked_fill(~spread(mask, target), math.nan)

    def fit(self, value: Any, target: Any) -> Any:
        """The target in the shape and type that the criterion compares with a value."""
        return target

    def present(self, value: Any, target: Any) -> Tensor:
        """Which items of a fitted target are there, as the target says itself."""
        return torch.ones_like(target, dtype=torch.bool)

    def filled(self, target: Any, present: Tensor) -> Any:
        """A fitted target with numbers that do no harm where it is missing."""
        return target.where(present, 0)

    def for_metrics(self, value: Any, target: Any) -> Any:
        """The fitted target as metrics compare it."""
        return target

    def item_weights(self, target: Any) -> Tensor | None:
        """Weights of single items by what their target is; None weighs all alike."""
        return None

    def check(self, value: Any, target: Any) -> None:
        """Looks at the first batch of a run.

        Raises:
            DataError: The target cannot be that of the value.
        """

    def terms(self, value: Any, targets: Mapping[str, Any]) -> Terms:
        """Losses of single items, 0 where the target is missing, and what they count.

        Args:
            value: Of a batch.
            targets: What `pick` gave, of all outputs.
        """
        target = self.fit(value, targets.get(self.name))
        present = self.present(value, target)
        known = self.filled(target, present)
        losses = self._losses(value, known)
        if losses.ndim == 0 or losses.shape[0] != present.shape[0]:
            raise DataError(
                f"output {self.name!r}: its criterion must give losses of single samples, (N,) or "
                f"(N, ...); {self.criterion!r} gave {describe(losses)} for {len(present)} "
                "samples. Give it a setting reduction that takes 'none', or return a LossOutput."
            )
        there = spread(present, losses)
        if isinstance(self.criterion, ItemLoss):
            counted = self.criterion.counted(value, known)
            there = there if counted is None else there & counted
        counts = there.to(torch.promote_types(losses.dtype, torch.float32))
        own = self.item_weights(known)
        if own is not None:
            own = spread(own, counts)
            # The criterion has multiplied by them, and the mean will.
            losses, counts = losses / own.where(own > 0, 1), counts * own
        weights = targets.get(weights_of(self.name))
        if weights is not None:
            counts = counts * self._of_samples(weights, counts)
        return Terms(torch.where(there, losses, 0), counts)

    def _losses(self, value: Any, target: Any) -> Tensor:
        assert self.criterion is not None
        if isinstance(self.criterion, ItemLoss):
            return self.criterion.items(value, target)
        single = self.criterion
        if setting_of(single).reduction != "none":
            single = without_reduction(single) or single
        losses: Tensor = single(value, target)
        return losses

    def _of_samples(self, weights: Tensor, counts: Tensor) -> Tensor:
        if weights.shape not in (counts.shape[:1], (len(counts), 1)):
            raise DataError(
                f"output {self.name!r}: sample_weights={self.keys.sample_weights!r} must be one a "
                f"sample, ({len(counts)},); received {describe(weights)}."
            )
        return spread(weights.flatten(), counts)

    def mean(self, value: Any, targets: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """The mean loss of a batch, 0 where no target is there, and what it is the mean of."""
        losses, counts = self.terms(value, targets)
        total = counts.sum()
        return (losses * counts).sum() / torch.where(total > 0, total, 1), total

    def per_sample(self, value: Any, targets: Mapping[str, Any]) -> Tensor:
        """The weighted loss of each sample, (N,): 0 where its target is missing."""
        losses, counts = self.terms(value, targets)
        there = (counts > 0).reshape(len(counts), -1)
        means = (losses.reshape(there.shape) * there).sum(1) / there.sum(1).clamp(min=1)
        return self.weighted(means, there.any(1))

    def weighted(self, losses: Tensor, there: Tensor) -> Tensor:
        """Losses with the weight of the task; a task without a target has none.

        Args:
            losses: Of any shape.
            there: Which of them have a target.
        """
        if isinstance(self.weight, LearnedWeight):
            return torch.where(there, self.weight(losses, self.uncertainty_factor), 0)
        return losses * self.weight if self.weight != 1.0 else losses

    @classmethod
    def judge(
        cls, outputs: Mapping[str, Any], processor: BatchProcessor
    ) -> tuple[BatchProcessor, MetricSet]:
        """What trains and measures a net that returned these outputs."""
        return OutputsProcessor.made_for(outputs, processor)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({describe(self.value)}, target={self.keys.target!r})"

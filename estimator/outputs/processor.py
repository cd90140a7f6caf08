"""How a net whose outputs describe themselves is trained and measured."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from estimator.described import SelfDescribing
from estimator.handlers.base import ArgumentError, DataError, nearest
from estimator.loss import Criterion, Losses
from estimator.loss_kinds import Count
from estimator.metrics import Metric, MetricSet, make_metric
from estimator.outputs.metrics import OutputLoss, OutputMetric, TotalLoss
from estimator.processor import BatchProcessor, describe

if TYPE_CHECKING:
    from estimator.outputs.output import Output


class OutputsCriterion(Criterion):
    """The sum of what the outputs of a net add to the loss.

    Args:
        kinds: The outputs without their values, by name; the processor keeps them up to date.
    """

    def __init__(self, kinds: dict[str, Output]) -> None:
        self.spec, self.kinds = None, kinds
        self.keys, self.parts = list(kinds), []
        self.single, self.by_position, self.sums = None, False, False

    def _judged(self, outputs: Mapping[str, Any]) -> Iterator[tuple[Output, Any]]:
        """The outputs that add to the loss, with their values."""
        for name, value in outputs.items():
            if self.kinds[name].has_loss:
                yield self.kinds[name], value

    @property
    def losses(self) -> list[Any]:
        """The criteria of all outputs."""
        return [kind.criterion for kind in self.kinds.values() if kind.has_loss]

    def modules(self) -> list[nn.Module]:
        """The criteria that are modules."""
        return [loss for loss in self.losses if isinstance(loss, nn.Module)]

    @property
    def names(self) -> list[str]:
        """Names of the parts."""
        return [f"{name}_loss" for name, kind in self.kinds.items() if kind.has_loss]

    @property
    def exact_in_groups(self) -> bool:
        """Whether a group of batches has exactly the gradient of its mean."""
        judged = [kind for kind in self.kinds.values() if kind.has_loss]
        return len(judged) < 2 or not any(kind.keys[1:] != (None, None) for kind in judged)

    def __call__(self, outputs: Any, targets: Any) -> Any:
        """The loss of a batch and its parts, which are without their weights."""
        parts: dict[str, Tensor] = {}
        weighted: list[Tensor] = []
        for kind, value in self._judged(outputs):
            mean, count = kind.mean(value, targets)
            parts[f"{kind.name}_loss"] = mean.detach()
            weighted.append(kind.weighted(mean, count > 0))
        if not weighted:
            raise DataError(
                f"a net must return an output with a loss; received {list(outputs)} without any. "
                "Return the ones with a loss in training and in validation."
            )
        return Losses(functools.reduce(operator.add, weighted), parts)

    def count(self, outputs: Any, targets: Any, samples: int) -> Count:
        """The weight of a batch: the items of its one loss, or the samples where there are more."""
        judged = list(self._judged(outputs))
        if len(judged) > 1:
            return samples
        ((kind, value),) = judged
        return kind.terms(value, targets).counts.sum()

    def per_sample(self, outputs: Any, targets: Any) -> Tensor:
        """The loss of each sample, (N,), over all tasks whose target it has."""
        judged = self._judged(outputs)
        return torch.stack([kind.per_sample(value, targets) for kind, value in judged]).sum(0)

    def check(self, outputs: Any, targets: Any) -> None:
        """Looks at the first batch of a run."""
        for kind, value in self._judged(outputs):
            kind.check(value, kind.fit(value, targets.get(kind.name)))


class OutputsProcessor(BatchProcessor):
    """Runs a net that returns outputs that describe themselves, and picks their targets.

    Args:
        kinds: The outputs without their values, by name.
    """

    def __init__(self, kinds: dict[str, Output]) -> None:
        self.kinds = kinds

    @classmethod
    def made_for(
        cls, outputs: Mapping[str, Any], processor: BatchProcessor
    ) -> tuple[OutputsProcessor, MetricSet]:
        """The processor and the metrics of a net.

        Args:
            outputs: What the net returned for a batch.
            processor: Of the Estimator.

        Raises:
            ArgumentError: The processor is one of the user's.
            DataError: Some of the outputs do not describe themselves.
        """
        if type(processor) is not BatchProcessor:
            raise ArgumentError(
                f"Estimator(processor=...) must be left out for a net that returns outputs of "
                f"estimator.outputs; received {type(processor).__name__}. Let the net return "
                "plain tensors, or leave it out."
            )
        _check_described(outputs)
        kinds = {name: output.kind(name) for name, output in outputs.items()}
        made = cls(kinds).bound(processor.net, OutputsCriterion(kinds), None)
        assert isinstance(made, OutputsProcessor)
        metrics: list[Metric] = []
        for name, kind in kinds.items():
            metrics += _metrics_of(kind, outputs[name].value)
        return made, _with_total(metrics, kinds)

    def split(self, batch: Any) -> tuple[Any, Any]:
        """The batch, or the parameters of the net in it, and what each output is compared with.

        Raises:
            DataError: The batch is no dict, or has not what an output needs.
        """
        if not isinstance(batch, Mapping):
            raise DataError(
                "a net that returns outputs of estimator.outputs needs batches that are dicts; "
                f"received {describe(batch)}."
            )
        targets: dict[str, Any] = {}
        for kind in self.kinds.values():
            targets |= kind.pick(batch)
        named = self.keywords or frozenset()
        others = [key for key in batch if key not in named] if named else []
        return self.inputs_of(batch, others), targets

    def forward(self, inputs: Any) -> Any:
        """Runs the net.

        Returns:
            The values of its outputs by name.

        Raises:
            DataError: It returned other outputs than for the first batch.
        """
        outputs = super().forward(inputs)
        _check_described(outputs)
        for name, output in outputs.items():
            known = self.kinds.get(name)
            if known is None or (type(output), output.keys) != (type(known), known.keys):
                first = (
                    "no such output" if known is None else f"{type(known).__name__} {known.keys}"
                )
                raise DataError(
                    f"{type(self.net).__name__} must return the outputs that it returned for the "
                    f"first batch of the run; received {name!r}: {type(output).__name__} "
                    f"{output.keys}, and for the first batch {first}. "
                    f"{nearest(name, self.kinds)}"
                )
            self.kinds[name] = output.kind(name)
        return {name: output.value for name, output in outputs.items()}

    @property
    def has_loss(self) -> bool:
        """Whether an output adds to the loss."""
        return any(kind.has_loss for kind in self.kinds.values())


def _check_described(outputs: Any) -> None:
    odd = outputs
    if isinstance(outputs, Mapping):
        odd = {
            name: value
            for name, value in outputs.items()
            if not isinstance(value, SelfDescribing) or not isinstance(name, str)
        }
        if not odd:
            return
    raise DataError(
        "a net whose outputs describe themselves must return a dict of them under names; "
        f"received {describe(odd)}. Make an EmbeddingOutput of what has no loss."
    )


def _with_total(metrics: list[Metric], kinds: dict[str, Output]) -> MetricSet:
    """The metrics of all outputs, and the loss that their losses add up to."""
    parts = [metric.name for metric in metrics if isinstance(metric, OutputLoss)]
    found = MetricSet([*metrics, *([TotalLoss(kinds)] if parts else [])])
    for name in parts:
        # The set has copies of its own.
        total, part = found["loss"], found[name]
        assert isinstance(total, TotalLoss) and isinstance(part, OutputLoss)
        total.parts.append(part)
    return found


def _metrics_of(kind: Output, value: Any) -> list[Metric]:
    found: list[Metric] = [OutputLoss(kind)] if kind.has_loss else []
    if kind.metrics is None:
        chosen, selects = kind.default_metrics(value), False
    else:
        given: Any = kind.metrics
        specs = given if isinstance(given, (list, tuple)) else [given]
        chosen, selects = [make_metric(spec) for spec in specs], kind.keys.mask is not None
    return found + [OutputMetric(kind, metric, selects=selects) for metric in chosen]

"""The metrics of outputs: what they are by default, and how any metric sees one output."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, final

import torch
from torch import Tensor

from estimator.metrics import AUROC, Metric
from estimator.metrics.base import SumMetric, widest_float

if TYPE_CHECKING:
    from estimator.outputs.output import Output

_MEAN = {"total": torch.float64, "count": torch.float64}
_COUNTS = {"total": torch.int64, "count": torch.int64}


@final
class OutputMetric(Metric):
    """A metric that sees one output and its target, called `<output>_<metric>`.

    A batch in which the net does not return the output counts nothing.

    Args:
        kind: The output.
        metric: The metric of its values and fitted targets.
        selects: Whether it sees only the samples that have a target.
    """

    def __init__(self, kind: Output, metric: Metric, *, selects: bool) -> None:
        self.kind, self.metric, self.selects = kind, metric, selects
        self.name = f"{kind.name}_{metric.name}"
        self.higher_is_better = metric.higher_is_better

    def __deepcopy__(self, memo: dict[int, Any]) -> OutputMetric:
        # A criterion may be a part of the net.
        return OutputMetric(self.kind, copy.deepcopy(self.metric, memo), selects=self.selects)

    def reset(self) -> None:
        """Forgets all batches."""
        self.metric.reset()

    def update(self, outputs: Any, targets: Any) -> None:
        """Passes on the output's part of a batch."""
        kind = self.kind
        if kind.name not in outputs:
            return
        value = outputs[kind.name]
        target = kind.fit(value, targets.get(kind.name))
        seen = kind.for_metrics(value, target)
        if self.selects:
            rows = kind.present(value, target)
            rows = rows.reshape(len(rows), -1).any(1)
            value, seen = value[rows], seen[rows]
            if not len(seen):
                return
        self.metric.update(value, seen)

    def compute(self) -> Tensor:
        """Returns the value over all batches."""
        return self.metric.compute()

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of the metric."""
        return self.metric.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state of the metric."""
        self.metric.load_state_dict(state)

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Takes the states of several processes together."""
        self.metric.merge(states)


@final
class OutputLoss(SumMetric):
    """The mean loss of one output over all its items, called `<output>_loss`.

    Args:
        kind: The output.
    """

    higher_is_better = False
    _fields = _MEAN

    def __init__(self, kind: Output) -> None:
        super().__init__(f"{kind.name}_loss")
        self.kind = kind

    def __deepcopy__(self, memo: dict[int, Any]) -> OutputLoss:
        twin = OutputLoss(self.kind)
        twin._sums, twin._device = copy.deepcopy((self._sums, self._device), memo)
        return twin

    def update(self, outputs: Any, targets: Any) -> None:
        """Adds the losses of a batch, where the net returns the output."""
        if self.kind.name in outputs:
            super().update(outputs, targets)

    def _terms(self, outputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
        losses, counts = self.kind.terms(outputs[self.kind.name], targets)
        wide = widest_float(losses.device)
        return (losses.to(wide) * counts).sum(), counts.sum(dtype=wide)

    def compute(self) -> Tensor:
        """Returns the mean loss; NaN before any target."""
        return self._ratio("total", "count")


@final
class TotalLoss(Metric):
    """The weighted sum of the mean losses of all outputs, each over all of its own items.

    A mean over batches would depend on which samples, and which missing targets, come together.

    Args:
        kinds: The outputs with their present weights, by name.

    Attributes:
        parts: The mean losses, which are kept up to date by themselves.
    """

    name = "loss"
    higher_is_better = False
    is_loss = True

    def __init__(self, kinds: dict[str, Output]) -> None:
        self.kinds = kinds
        self.parts: list[OutputLoss] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> TotalLoss:
        twin = TotalLoss(self.kinds)
        twin.parts = copy.deepcopy(self.parts, memo)
        return twin

    def reset(self) -> None:
        """The parts forget by themselves."""

    def update(self, outputs: Any, targets: Any) -> None:
        """The parts are updated by themselves."""

    def compute(self) -> Tensor:
        """Returns the loss, with the weights of the moment; tasks without a target add 0."""
        total = torch.zeros((), dtype=torch.float64)
        for part in self.parts:
            mean = part.compute()
            there = ~mean.isnan()
            value = self.kinds[part.kind.name].weighted(mean.where(there, 0), there)
            total = total.to(value.device, value.dtype) + value
        return total

    def state_dict(self) -> dict[str, Any]:
        """Returns nothing: the parts have the sums."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes nothing."""

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        """The parts of several processes come together by themselves."""


@final
class BinaryAccuracy(SumMetric):
    """The share of elements whose logit is on the side of 0 that their target says.

    Outputs are logits of any shape, targets of the same shape are from 0 to 1, and NaN where they
    do not count. A target between 0 and 1 is taken as the nearer of the two.

    Args:
        name: See `Metric`.
    """

    higher_is_better = True
    _fields = _COUNTS

    def __init__(self, *, name: str = "accuracy") -> None:
        super().__init__(name)

    def _terms(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        counted = ~targets.isnan()
        hits = ((outputs > 0) == (targets > 0.5)) & counted
        return hits.count_nonzero(), counted.count_nonzero()

    def compute(self) -> Tensor:
        """Returns the share, from 0 to 1; NaN before any target."""
        return self._ratio("total", "count")


@final
class BinaryAUROC(Metric):
    """The area under the ROC of targets of which some may be NaN, which do not count.

    A target between 0 and 1 is taken as the nearer of the two.

    Args:
        name: See `Metric`.
    """

    higher_is_better = True

    def __init__(self, *, name: str = "auroc") -> None:
        self.name, self._all = name, AUROC()

    def reset(self) -> None:
        """Forgets all batches."""
        self._all.reset()

    def update(self, outputs: Any, targets: Any) -> None:
        """Keeps logits and targets, of shape (N,) or (N, 1)."""
        self._all.update(outputs, targets)

    def compute(self) -> Tensor:
        """Returns the area; NaN where only one class is there."""
        state = self._all.state_dict()
        scores, targets = state["scores"], state["targets"]
        there, counted = ~targets.isnan(), AUROC()
        counted.load_state_dict({"scores": scores[there], "targets": (targets > 0.5)[there].long()})
        return counted.compute()

    def state_dict(self) -> dict[str, Any]:
        """Returns all logits and targets."""
        return self._all.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from the logits and targets of another."""
        self._all.load_state_dict(state)

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Takes the logits and targets of several processes together."""
        self._all.merge(states)


@final
class ErrorOfPresent(SumMetric):
    """The mean absolute error or the root of the mean squared one; NaN targets do not count.

    Args:
        name: "mae" or "rmse".
    """

    higher_is_better = False
    _fields = {"total": torch.float64, "count": torch.int64}

    def __init__(self, name: Literal["mae", "rmse"]) -> None:
        super().__init__(name)

    def _terms(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        counted = ~targets.isnan()
        error = outputs.detach().to(widest_float(outputs.device)) - targets
        error = error.abs() if self.name == "mae" else error.square()
        return error.where(counted, 0).sum(), counted.count_nonzero()

    def compute(self) -> Tensor:
        """Returns the error, in the unit of the targets; NaN before any target."""
        mean = self._ratio("total", "count")
        return mean if self.name == "mae" else mean.sqrt()

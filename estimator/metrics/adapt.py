"""From what users write to a `Metric`: names, functions, objects of torchmetrics."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Real
from typing import Any, TypeAlias, final

import torch
from torch import Tensor

from estimator.handlers.base import ArgumentError, ArgumentTypeError, DataError, nearest
from estimator.metrics.base import Metric, SumMetric, require_keys, shape_of, widest_float
from estimator.metrics.classification import F1, Accuracy, Perplexity, TopKAccuracy
from estimator.metrics.overlap import MeanIoU
from estimator.metrics.ranking import AUROC
from estimator.metrics.regression import MAE, MSE, RMSE

Spec: TypeAlias = str | Metric | Callable[..., Any]
"""One metric as users give it: a name, an object of ours or of torchmetrics, a function."""


@final
class FunctionMetric(SumMetric):
    """The mean of a function over all samples.

    Args:
        fn: Called as `fn(outputs, targets)`. It returns the mean over the batch (a 0-d tensor or a
            number), which is weighted by the number of samples, or one value a sample (N,). N is
            the first dimension of the first tensor in the targets, or else in the outputs.
        name: See `Metric`; None takes the function's own name.
        higher_is_better: See `Metric`.

    Raises:
        ArgumentError: No name is given and the function has none.

    Example:
        >>> def within_one(outputs, targets):
        ...     return (outputs - targets).abs() <= 1
        >>> metric = FunctionMetric(within_one, higher_is_better=True)
        >>> metric.update(torch.tensor([1.0, 5.0]), torch.tensor([2.0, 2.0]))
        >>> metric.name, metric.compute()
        ('within_one', tensor(0.5000, dtype=torch.float64))
    """

    _fields = {"total": torch.float64, "count": torch.int64}

    def __init__(
        self,
        fn: Callable[[Any, Any], Any],
        name: str | None = None,
        *,
        higher_is_better: bool | None = None,
    ) -> None:
        super().__init__(name or _own_name(fn))
        self.fn = fn
        self.higher_is_better = higher_is_better

    def __deepcopy__(self, memo: dict[int, Any]) -> FunctionMetric:
        # The function is shared: a bound method would take a whole net or data set along.
        memo[id(self.fn)] = self.fn
        twin = object.__new__(FunctionMetric)
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return twin

    def _terms(self, outputs: Any, targets: Any) -> tuple[Tensor, int]:
        value = self.fn(outputs, targets)
        sample = _first_batched((targets, outputs))
        if sample is None:
            raise DataError(
                f"{self.name}: neither targets nor outputs hold a tensor with a batch dimension, "
                "so the batch cannot be weighted by its samples. Return at least one such tensor "
                "from the net."
            )
        count = len(sample)
        if isinstance(value, Real):
            wide = widest_float(sample.device)
            value = torch.tensor(float(value), dtype=wide, device=sample.device)
        if not isinstance(value, Tensor) or value.shape not in ((), (count,)):
            received = shape_of(value) if isinstance(value, Tensor) else repr(value)
            raise DataError(
                f"{self.name}: the function must return the mean over the batch (a 0-d tensor or "
                f"a number) or one value for each of the {count} samples, received {received}. "
                "End it with .mean(), or with .mean(1) to keep the samples apart."
            )
        total = value.detach().to(widest_float(value.device))
        return (total.sum() if value.ndim else total * count), count

    def compute(self) -> Tensor:
        """Returns the mean over all samples; NaN before any update."""
        return self._ratio("total", "count")


@final
class TorchMetric(Metric):
    """A metric object of torchmetrics as one of ours.

    The object is copied, so that the user's stays as it is, and moves to the device of the
    outputs. Unlike its own `state_dict`, this one always holds its states.

    Args:
        metric: An object of `torchmetrics` that computes one number from `(outputs, targets)`.
        name: See `Metric`; None takes the name of the object's class.

    Raises:
        ArgumentTypeError: A collection of metrics.

    Example:
        >>> from torchmetrics.regression import MeanSquaredError
        >>> metric = TorchMetric(MeanSquaredError())
        >>> metric.update(torch.tensor([1.0, 5.0]), torch.tensor([2.0, 2.0]))
        >>> metric.name, metric.higher_is_better, metric.compute()
        ('MeanSquaredError', False, tensor(5., dtype=torch.float64))
    """

    def __init__(self, metric: Any, name: str | None = None) -> None:
        if not hasattr(metric, "higher_is_better"):
            raise ArgumentTypeError(
                "metrics: an object of torchmetrics must be a single metric, received a "
                f"{type(metric).__name__}. Give the metrics of a collection as a list: "
                "list(collection.values())."
            )
        self.name = name or type(metric).__name__
        self.metric = copy.deepcopy(metric)
        self.higher_is_better = metric.higher_is_better
        for part in self._parts():
            part.persistent(True)
            # Processes are brought together by `merge`; the object would do it once more.
            part.sync_on_compute = False
        self.reset()

    def reset(self) -> None:
        """Forgets all batches."""
        self.metric.reset()

    def update(self, outputs: Any, targets: Any) -> None:
        """Passes one batch on.

        Args:
            outputs: The first argument of the object's `update`.
            targets: The second.
        """
        if isinstance(outputs, Tensor):
            # Metrics that collect their inputs would keep the graph of every batch.
            outputs = outputs.detach()
            if outputs.device != self.metric.device:
                self.metric.to(outputs.device)
        self.metric.update(outputs, targets)

    def compute(self) -> Tensor:
        """Returns the object's value; NaN before any update.

        Raises:
            DataError: The object computes something else than one number.
        """
        wide = widest_float(self.metric.device)
        if not any(part.update_called for part in self._parts()):
            return torch.full((), torch.nan, dtype=wide, device=self.metric.device)
        value = self.metric.compute()
        if not isinstance(value, Tensor) or value.numel() != 1:
            received = shape_of(value) if isinstance(value, Tensor) else repr(value)
            raise DataError(
                f"{self.name}: a metric of torchmetrics must compute one number, received "
                f"{received}. Give it an average, as in average='macro', or wrap it in a function."
            )
        return value.detach().reshape(()).to(wide)

    def state_dict(self) -> dict[str, Any]:
        """Returns copies of the object's states, and how often each part was updated."""
        return {
            "states": dict(self.metric.state_dict()),
            "updates": [part._update_count for part in self._parts()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from the state of an equal metric.

        Args:
            state: What its `state_dict` returned.

        Raises:
            ArgumentError: Its keys are not those of this metric.
        """
        require_keys(self.name, state, ("states", "updates"))
        require_keys(self.name, state["states"], self.metric.state_dict())
        # Drops what was computed and cached from the old states.
        self.metric.reset()
        self.metric.load_state_dict(copy.deepcopy(state["states"]))
        # The states are taken over as they are: they may have been loaded on another device.
        self.metric.to(self.metric.device)
        for part, updates in zip(self._parts(), state["updates"], strict=True):
            part._update_count = updates

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Takes the states of several processes together, as the object's reductions say.

        Args:
            states: See `Metric`.
        """
        # A process without samples has nothing to say, and would count in a mean of states.
        states = [state for state in states if any(state["updates"])] or states[:1]
        merged = dict(states[0]["states"])
        updates = [sum(counts) for counts in zip(*(s["updates"] for s in states), strict=True)]
        for prefix, part in self.metric.named_modules():
            for name, reduction in getattr(part, "_reductions", {}).items():
                key = f"{prefix}.{name}".lstrip(".")
                merged[key] = _reduced([state["states"][key] for state in states], reduction)
        self.load_state_dict({"states": merged, "updates": updates})

    def _parts(self) -> list[Any]:
        """The metric and those that it wraps; a wrapper does not count its own updates."""
        return [part for part in self.metric.modules() if hasattr(part, "update_called")]


def make_metric(spec: Spec) -> Metric:
    """Makes a metric of what users give. Objects of theirs are copied, never changed.

    Args:
        spec: A name (`"accuracy"`, `"top5_accuracy"` with any number, `"mae"`, `"mse"`, `"rmse"`,
            `"f1"`, `"f1_macro"`, `"f1_micro"`, `"f1_binary"`, `"perplexity"`, `"auroc"`, `"iou"`),
            a `Metric`, an object of torchmetrics, or a function `(outputs, targets)`.

    Raises:
        ArgumentError: An unknown name.
        ArgumentTypeError: Something else, or a class where an object is needed.

    Example:
        >>> make_metric("top3_accuracy")
        TopKAccuracy(k=3, name='top3_accuracy')
    """
    if isinstance(spec, str):
        return _by_name(spec)
    if isinstance(spec, type):
        raise ArgumentTypeError(
            f"metrics: a metric must be an object, received the class {spec.__name__}. "
            f"Call it: {spec.__name__}()."
        )
    if isinstance(spec, Metric):
        metric = copy.deepcopy(spec)
        metric.reset()
        return metric
    if any(base.__module__.partition(".")[0] == "torchmetrics" for base in type(spec).__mro__):
        return TorchMetric(spec)
    if callable(spec):
        return FunctionMetric(spec)
    raise ArgumentTypeError(
        "metrics: a metric must be a name, a Metric, an object of torchmetrics or a function "
        f"(outputs, targets), received {spec!r}. A name such as 'accuracy' is the shortest."
    )


def _by_name(name: str) -> Metric:
    makers: dict[str, Callable[[], Metric]] = {
        "accuracy": Accuracy,
        "auroc": AUROC,
        "f1": F1,
        "f1_binary": partial(F1, "binary"),
        "f1_macro": partial(F1, "macro", name="f1_macro"),
        "f1_micro": partial(F1, "micro"),
        "iou": MeanIoU,
        "mae": MAE,
        "mse": MSE,
        "perplexity": Perplexity,
        "rmse": RMSE,
    }
    top = re.fullmatch(r"top([1-9]\d*)_accuracy", name)
    if top:
        return TopKAccuracy(int(top[1]))
    if name not in makers:
        hint = nearest(name, [*makers, "top5_accuracy"])
        raise ArgumentError(f"metrics: there is no metric called {name!r}. {hint}")
    return makers[name]()


def _reduced(values: list[Any], reduction: Callable[[Any], Any] | None) -> Any:
    """One state of several processes, put together as torchmetrics does."""
    if isinstance(values[0], list):
        return [item for value in values for item in value]
    stacked = torch.stack(values)
    return stacked if reduction is None else reduction(stacked)


def _own_name(fn: Callable[..., Any]) -> str:
    while isinstance(fn, partial):
        fn = fn.func
    name = getattr(fn, "__name__", type(fn).__name__)
    if name == "<lambda>":
        raise ArgumentError(
            "metrics: a metric needs a name for its column, and a lambda has none. Give it one: "
            "FunctionMetric(lambda outputs, targets: ..., name='my_metric')."
        )
    return str(name)


def _first_batched(tree: Any) -> Tensor | None:
    """The first tensor with a batch dimension in nested mappings and sequences."""
    if isinstance(tree, Tensor):
        return tree if tree.ndim else None
    if isinstance(tree, Mapping):
        tree = tuple(tree.values())
    if not isinstance(tree, (tuple, list)):
        return None
    return next((found for part in tree if (found := _first_batched(part)) is not None), None)

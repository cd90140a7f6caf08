"""The metrics of one pass over data, paired with the parts of outputs and targets that they see."""

from __future__ import annotations

import copy
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, final

import torch
from torch import Tensor

from estimator.handlers.base import ArgumentError, ArgumentTypeError, DataError, nearest
from estimator.metrics.adapt import FunctionMetric, Spec, TorchMetric, make_metric
from estimator.metrics.base import Metric, require_keys, shape_of

Specs: TypeAlias = Spec | Sequence[Spec]
"""One metric, or several that see the same outputs and targets."""

SetSpec: TypeAlias = Specs | Sequence[Specs | None] | Mapping[str, Specs] | None
"""All forms of the metrics of a run."""

Key: TypeAlias = str | int | None
"""Which part of outputs and targets a metric sees; None is the whole."""


@final
class MetricSet:
    """Several metrics under unique names, updated and computed together.

    Args:
        spec: None for no metrics; one metric in any form that `make_metric` takes, or a list of
            them, each of which sees the whole outputs and targets; or a dict `output name -> one
            or a list`, which see `outputs[name]` and `targets[name]` and are called
            `<name>_<metric>`.
        by_position: Pairs a list by position instead: entry i (one metric, a list of them, or
            None) sees `outputs[i]` and `targets[i]`, as `<i>_<metric>`. Other forms stay as above.

    Raises:
        ArgumentError: Two metrics have the same name, one is called `loss` as the loss's own
            column is, or a metric's name is unknown.
        ArgumentTypeError: Something that is no metric, or an output name that is not a string.

    Example:
        >>> metrics = MetricSet({"mask": "accuracy", "depth": ["mae", "rmse"]})
        >>> metrics.names
        ('mask_accuracy', 'depth_mae', 'depth_rmse')
        >>> outputs = {"mask": torch.tensor([2.0, -1.0]), "depth": torch.tensor([1.0, 5.0])}
        >>> targets = {"mask": torch.tensor([1, 1]), "depth": torch.tensor([1.0, 1.0])}
        >>> metrics.update(outputs, targets)
        >>> {name: round(value.item(), 3) for name, value in metrics.compute().items()}
        {'mask_accuracy': 0.5, 'depth_mae': 2.0, 'depth_rmse': 2.828}
    """

    def __init__(self, spec: SetSpec, *, by_position: bool = False) -> None:
        self._metrics: dict[str, Metric] = {}
        self._plan: list[tuple[Metric, Key]] = []
        self._graphless = True
        self._positions = len(spec) if by_position and isinstance(spec, (list, tuple)) else None
        for key, entry in _pairs(spec, by_position):
            self._add(make_metric(entry), key)

    def _add(self, metric: Metric, key: Key) -> None:
        name = metric.name if key is None else f"{key}_{metric.name}"
        if name in self._metrics:
            raise ArgumentError(
                f"metrics: two metrics are called {name!r}, and each needs its own column. Give "
                f"one another name, as in {type(metric).__name__}(..., name='other')."
            )
        if name == "loss" and not metric.is_loss:
            raise ArgumentError(
                "metrics: 'loss' is the name of the loss's own column. Give the metric another "
                f"name, as in {type(metric).__name__}(..., name='other')."
            )
        self._metrics[name] = metric
        self._plan.append((metric, key))
        # Metrics of ours have no parameters, so outputs without a graph stay without one; to
        # switch autograd off and on costs more than many a metric.
        ours = type(metric).__module__.startswith("estimator.metrics.")
        self._graphless &= ours and not isinstance(metric, (FunctionMetric, TorchMetric))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all metrics, in the order in which they were given."""
        return tuple(self._metrics)

    def higher_is_better(self, name: str) -> bool | None:
        """Returns the direction of a metric; None when it declares none.

        Args:
            name: One of `names`.

        Raises:
            ArgumentError: It is none of them.
        """
        if name not in self._metrics:
            hint = nearest(name, self._metrics)
            raise ArgumentError(f"name must be that of a metric, received {name!r}. {hint}")
        return self._metrics[name].higher_is_better

    def __getitem__(self, name: str) -> Metric:
        return self._metrics[name]

    def reset(self) -> None:
        """Forgets all batches."""
        for metric in self._metrics.values():
            metric.reset()

    def update(self, outputs: Any, targets: Any) -> None:
        """Takes in one batch, without an autograd graph and without a read to the host.

        Args:
            outputs: What the net returned.
            targets: The batch's targets, in the same structure where metrics are paired.
        """
        if self._graphless and isinstance(outputs, Tensor) and not outputs.requires_grad:
            self._update(outputs, targets)
        elif self._plan:
            with torch.no_grad():
                self._update(outputs, targets)

    def _update(self, outputs: Any, targets: Any) -> None:
        for metric, key in self._plan:
            if key is None:
                metric.update(outputs, targets)
            else:
                metric.update(outputs[key], targets[key])

    def compute(self) -> dict[str, Tensor]:
        """Returns the value of each metric by name, as 0-d tensors on their devices."""
        with torch.no_grad():
            return {name: metric.compute() for name, metric in self._metrics.items()}

    def copy(self) -> MetricSet:
        """Returns an independent set of the same metrics that has seen no batch."""
        # State made in inference mode could not be changed in place outside of it.
        with torch.inference_mode(False):
            twin = copy.deepcopy(self)
            twin.reset()
        return twin

    def state_dict(self) -> dict[str, Any]:
        """Returns a copy of each metric's state by name."""
        return {name: metric.state_dict() for name, metric in self._metrics.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from the state of an equal set.

        Args:
            state: What its `state_dict` returned.

        Raises:
            ArgumentError: The names, or the keys of one metric, are not those of this set.
        """
        require_keys("MetricSet", state, self._metrics)
        for name, metric in self._metrics.items():
            metric.load_state_dict(state[name])

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Takes the states of equal sets, of several processes, together as its own.

        Args:
            states: What their `state_dict` returned, in the order of the processes.
        """
        for name, metric in self._metrics.items():
            metric.merge([state[name] for state in states])

    def check_merge(self) -> None:
        """Checks that all metrics can be computed over several processes.

        Raises:
            ArgumentError: One of them does not say how.
        """
        for name, metric in self._metrics.items():
            if type(metric).merge is Metric.merge:
                raise ArgumentError(
                    f"metrics: {name!r} is computed over several processes here and must say how "
                    f"their states come together; {type(metric).__name__} does not. Give it a "
                    "method merge(states), or train in one process."
                )

    def check(self, outputs: Any, targets: Any) -> None:
        """Tries one batch on copies, and says what does not fit together.

        Args:
            outputs: What the net returned for it.
            targets: Its targets.

        Raises:
            DataError: Names or counts do not pair, or a metric refuses the batch.
        """
        if self._positions is not None:
            _check_count("outputs", outputs, self._positions)
            _check_count("targets", targets, self._positions)
        scratch = self.copy()
        for name, (metric, key) in zip(scratch.names, scratch._plan, strict=True):
            _check_one(name, metric, _part("outputs", outputs, key), _part("targets", targets, key))

    def __repr__(self) -> str:
        return f"MetricSet({list(self._metrics)})"


def _pairs(spec: SetSpec, by_position: bool) -> Iterator[tuple[Key, Spec]]:
    """Each metric as the user gave it, with the part of outputs and targets that it sees."""
    groups: Iterable[tuple[Key, Any]]
    if isinstance(spec, Mapping):
        groups = spec.items()
        for name in spec:
            if not isinstance(name, str):
                raise ArgumentTypeError(
                    f"metrics: a dict maps names of outputs to metrics, received the key {name!r}."
                    " Use strings, or a list to pair by position."
                )
    elif by_position and isinstance(spec, (list, tuple)):
        groups = enumerate(spec)
    else:
        groups = [(None, spec)]
    for key, group in groups:
        if group is None and not isinstance(spec, Mapping):
            continue
        for entry in group if isinstance(group, (list, tuple)) else (group,):
            yield key, entry


def _part(owner: str, whole: Any, key: Key) -> Any:
    if not isinstance(key, str):
        return whole if key is None else whole[key]
    if not isinstance(whole, Mapping):
        raise DataError(
            f"metrics: a dict of metrics needs a dict of {owner}, received {_describe(whole)}. "
            f"Return {{{key!r}: ...}} there, or give the metrics as a list."
        )
    if key not in whole:
        raise DataError(
            f"metrics: {owner} must have the key {key!r}, which a metric is paired with. "
            f"{nearest(key, map(str, whole))}"
        )
    return whole[key]


def _check_count(owner: str, whole: Any, count: int) -> None:
    if not isinstance(whole, (list, tuple)) or len(whole) != count:
        raise DataError(
            f"metrics: a list of {count} paired by position needs a list or tuple of {count} "
            f"{owner}, received {_describe(whole)}. Give one entry for each output, None where "
            "there is nothing to measure."
        )


def _check_one(name: str, metric: Metric, outputs: Any, targets: Any) -> None:
    received = f"received outputs {_describe(outputs)} and targets {_describe(targets)}"
    try:
        with torch.no_grad():
            metric.update(outputs, targets)
            value = metric.compute()
    except Exception as error:
        raise DataError(
            f"metrics: {name!r} must take the outputs and targets of a batch, {received}, and "
            f"raised {type(error).__name__}: {str(error).rstrip('.')}. Change the metric, or pair "
            "it with the part that it is for: metrics={'<name of output>': ...}."
        ) from error
    if not isinstance(value, Tensor) or value.ndim:
        raise DataError(
            f"metrics: {name!r} must compute a 0-d tensor, received {_describe(value)}. "
            f"Return one number from {type(metric).__name__}.compute()."
        )


def _describe(tree: Any) -> str:
    if isinstance(tree, Tensor):
        return shape_of(tree)
    if isinstance(tree, Mapping):
        return "{" + ", ".join(f"{key!r}: {_describe(part)}" for key, part in tree.items()) + "}"
    if isinstance(tree, (list, tuple)):
        return "[" + ", ".join(_describe(part) for part in tree) + "]"
    return reprlib.repr(tree)

"""What a metric is, and the base of all metrics that are sums."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from estimator.handlers.base import ArgumentError


class Metric(ABC):
    """A number over many batches, kept on the device until it is asked for.

    The loop calls `reset` before an epoch, `update` after each batch and `compute` at the end.
    `update` keeps no autograd graph and must not read the value of a tensor (no `item`, `float`,
    `bool`, `tolist`, `cpu`): on an accelerator that would wait for all queued work, once a step.

    Attributes:
        name: The column that the value gets in the history.
        higher_is_better: The direction of the metric; None when it has none.

    Example:
        >>> class Largest(Metric):
        ...     name = "largest"
        ...     higher_is_better = None
        ...
        ...     def __init__(self):
        ...         self.value = torch.tensor(float("nan"), dtype=torch.float64)
        ...
        ...     def reset(self):
        ...         self.value.fill_(float("nan"))
        ...
        ...     def update(self, outputs, targets):
        ...         self.value = self.value.to(outputs.device).fmax(outputs.detach().max())
        ...
        ...     def compute(self):
        ...         return self.value.clone()
        ...
        ...     def state_dict(self):
        ...         return {"value": self.value.clone()}
        ...
        ...     def load_state_dict(self, state):
        ...         self.value = state["value"].clone()
        >>> metric = Largest()
        >>> metric.update(torch.tensor([1.0, 3.0]), None)
        >>> metric.compute()
        tensor(3., dtype=torch.float64)
    """

    name: str
    higher_is_better: bool | None = None
    is_loss: ClassVar[bool] = False
    """Whether it is the loss itself, exact over samples, and so takes the column `loss`."""

    @abstractmethod
    def reset(self) -> None:
        """Forgets all batches."""

    @abstractmethod
    def update(self, outputs: Any, targets: Any) -> None:
        """Takes in one batch.

        Args:
            outputs: What the net returned, or the part of it that this metric was paired with.
            targets: The targets of the same samples.
        """

    @abstractmethod
    def compute(self) -> Tensor:
        """Returns the value over all batches since the last `reset`.

        Returns:
            A 0-d tensor on the device of the updates, float64 where that device has it; NaN
            before any update.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Returns a copy of the state, made of tensors, numbers, strings, lists and dicts."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state that `state_dict` of an equal metric returned.

        Args:
            state: That state. It is copied; its tensors may be on any device.

        Raises:
            ArgumentError: It has other keys or shapes than this metric's own.
        """

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Takes the states of several processes together as its own, in place of what it had.

        Each process updates its metric with its share of the samples; the value is that of one
        metric which has seen them all. Sums add up, collected samples are put one after another.

        Args:
            states: What `state_dict` returned on each process, in their order; tensors on the
                CPU. A process without samples gives the state after `reset`.

        Raises:
            ArgumentError: This metric does not say how its states come together.
        """
        raise ArgumentError(
            f"{type(self).__name__}.merge(states=...) must be written for a metric over several "
            "processes; it is not. Derive a merge() that adds up what state_dict() returns."
        )

    def __repr__(self) -> str:
        settings = (
            f"{parameter}={getattr(self, parameter)!r}"
            for parameter in inspect.signature(type(self)).parameters
            if hasattr(self, parameter)
        )
        return f"{type(self).__name__}({', '.join(settings)})"


class SumMetric(Metric):
    """Base of the metrics whose whole state is a few sums of one addend a batch.

    Integer counts and float64 sums make the value the same however the samples are split into
    batches. The tensors are made once and then only changed in place, by `reset` and
    `load_state_dict` too, so that a captured step may hold on to them.

    Args:
        name: See `Metric`.
        size: Shape of each sum. `(0,)` means that the first batch decides, through `_allocate`.
    """

    _fields: ClassVar[Mapping[str, torch.dtype]]

    def __init__(self, name: str, size: tuple[int, ...] = ()) -> None:
        self.name = name
        self._allocate(size)

    @abstractmethod
    def _terms(self, outputs: Any, targets: Any) -> tuple[Tensor, *tuple[Tensor | int, ...]]:
        """Returns what one batch adds to each field, in their order, free of autograd."""

    def reset(self) -> None:
        """Forgets all batches; the tensors stay where they are."""
        for total in self._sums.values():
            total.zero_()

    def update(self, outputs: Any, targets: Any) -> None:
        """Adds one batch.

        Args:
            outputs: See the class.
            targets: See the class.

        Raises:
            DataError: Their shapes do not fit together.
        """
        terms = self._terms(outputs, targets)
        if terms[0].device != self._device:
            self._move(terms[0].device)
        for total, term in zip(self._sums.values(), terms, strict=True):
            total.add_(term)

    def state_dict(self) -> dict[str, Any]:
        """Returns copies of the sums by name."""
        return {field: total.clone() for field, total in self._sums.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from the sums of an equal metric.

        Args:
            state: What its `state_dict` returned.

        Raises:
            ArgumentError: Its keys or shapes are not those of this metric.
        """
        owner = type(self).__name__
        require_keys(owner, state, self._sums)
        size = tuple(next(iter(self._sums.values())).shape)
        received, *others = {tuple(total.shape) for total in state.values()}
        unsized = len(received) == len(size) and 0 in (*received, *size)
        if others or not (received == size or unsized):
            raise ArgumentError(
                f"{owner}.load_state_dict: each sum must have the shape {size}, and the state has "
                f"{[received, *others]}. Load it into a {owner} that was made with the same "
                "arguments."
            )
        if received != size:
            self._allocate(received)
        for field, total in self._sums.items():
            total.copy_(state[field])

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Takes the added sums of several processes as its own.

        Args:
            states: See `Metric`.
        """
        first = next(iter(self._fields))
        # Where the first batch decides on the size, a process without a batch has none.
        sized = [state for state in states if state[first].numel()] or states[:1]
        self.load_state_dict({f: sum(state[f] for state in sized) for f in self._fields})

    def _allocate(self, size: tuple[int, ...]) -> None:
        # A tensor born in inference mode could never be changed in place outside of it.
        with torch.inference_mode(False):
            self._sums = {f: torch.zeros(size, dtype=kind) for f, kind in self._fields.items()}
        self._device = next(iter(self._sums.values())).device

    def _move(self, device: torch.device) -> None:
        with torch.inference_mode(False):
            for field, total in self._sums.items():
                kind = widest_float(device) if total.is_floating_point() else total.dtype
                self._sums[field] = total.to(device, kind)
        self._device = device

    def _ratio(self, over: str, under: str) -> Tensor:
        """One sum divided by another: NaN before any update, since 0 / 0 is."""
        total = self._sums[over]
        return total.to(widest_float(total.device)) / self._sums[under]


def widest_float(device: torch.device) -> torch.dtype:
    """The dtype of sums on a device: float64, but float32 on MPS, which has nothing wider."""
    return torch.float32 if device.type == "mps" else torch.float64


def require_keys(owner: str, state: Mapping[str, Any], expected: Iterable[str]) -> None:
    """Refuses a state whose keys are not exactly the expected ones, and lists the difference."""
    received, wanted = set(state), set(expected)
    if received == wanted:
        return
    raise ArgumentError(
        f"{owner}.load_state_dict: the state must have the keys {sorted(wanted)}; "
        f"missing: {sorted(wanted - received)}, unknown: {sorted(received - wanted)}. "
        f"Load a state that a {owner} with the same arguments has saved."
    )


def shape_of(tensor: Tensor) -> str:
    """Shape and dtype for a message, as in `(128, 10) float32`."""
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"

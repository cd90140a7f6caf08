"""The first samples of a batch, to run the net on after the batch is gone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from estimator.stats import TrainStats

ROWS = 4
"""Samples in an example: more than one, so that no code takes the batch for a single sample."""


class Example:
    """A copy of the first rows of a batch; those of a validation, where there is one."""

    def __init__(self) -> None:
        self.inputs: Any = None
        self.of = ""
        """The phase that it is of; empty while there is none."""

    def offer(self, stats: TrainStats) -> None:
        """Takes the present batch's inputs, where they are needed; stays on the device."""
        if self.of in (stats.phase, "validation") or not stats.batch_size:
            return
        self.inputs, self.of = first_rows(stats.inputs, stats.batch_size), stats.phase


def first_rows(value: Any, size: int) -> Any:
    """The same structure with the first samples alone, copied.

    Args:
        value: A batch, or its inputs.
        size: How many samples it has.
    """
    if isinstance(value, Tensor):
        cut = value[:ROWS] if value.shape[:1] == (size,) else value
        return cut.detach().clone()
    if isinstance(value, Mapping):
        return {key: first_rows(item, size) for key, item in value.items()}
    if hasattr(value, "_fields"):
        return type(value)(*(first_rows(item, size) for item in value))
    if isinstance(value, tuple):
        return tuple(first_rows(item, size) for item in value)
    if isinstance(value, list):
        texts = len(value) == size and not any(isinstance(item, Tensor) for item in value)
        return value[:ROWS] if texts else [first_rows(item, size) for item in value]
    return value

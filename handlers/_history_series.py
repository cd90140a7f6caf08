"""The history of a run by metric: its points over epochs, in training and in validation."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_COLUMN = re.compile(r"(train|val)_(.+)", re.DOTALL)

Rows = Sequence[Mapping[str, Any]]


class Series(NamedTuple):
    """A metric in one split; rows of the history that have no value of it are left out."""

    epochs: NDArray[np.float64]
    """Where each point is: between two epochs where it is of a validation inside one."""
    values: NDArray[np.float64]


def metrics_of(columns: Sequence[str]) -> list[str]:
    """The metrics that a history has, without "train_" and "val_", in its order."""
    found = [match[2] for column in columns if (match := _COLUMN.fullmatch(column))]
    return list(dict.fromkeys(found))


def series_of(rows: Rows, metric: str) -> dict[str, Series]:
    """The points of a metric by split, of those splits that have any."""
    places = epochs_of(rows)
    found = {}
    for split in ("train", "val"):
        values = [row.get(f"{split}_{metric}") for row in rows]
        there = [index for index, value in enumerate(values) if value is not None]
        if there:
            points = np.array([value for value in values if value is not None], np.float64)
            found[split] = Series(places[there], points)
    return found


def epochs_of(rows: Rows) -> NDArray[np.float64]:
    """How many epochs were trained at each row, also where it is of a part of one.

    Parts are reckoned by steps between the ends of epochs, after the last of them by the length of
    that epoch. Where no epoch has ended the unfinished first one ends with the last row.
    """
    whole = [(0, 0), *((row["step"], row["epoch"]) for row in rows if row["complete"])]
    if len(whole) == 1:
        whole.append((max([row["step"] for row in rows], default=1), 1))
    (step, epoch), (last_step, last_epoch) = whole[-2:]
    length = max(1, last_step - step) / max(1, last_epoch - epoch)
    ends, numbers = np.array(whole, float).T
    steps = np.array([row["step"] for row in rows], float)
    inside = np.interp(steps, ends, numbers)
    after = last_epoch + (steps - last_step) / length
    found: NDArray[np.float64] = np.where(steps > last_step, after, inside)
    return found

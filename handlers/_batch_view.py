"""What a batch holds of each sample, and the view of a batch that a transform gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from estimator.handlers.base import DataError


def lengths(value: Any, place: str = "batch") -> dict[str, int]:
    """The first dimension of each tensor of a nested batch, by its place."""
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return {place: len(value)} if value.ndim else {}
    if isinstance(value, Mapping):
        items = [(f"{place}[{key!r}]", item) for key, item in value.items()]
    elif isinstance(value, (tuple, list)):
        items = [(f"{place}[{i}]", item) for i, item in enumerate(value)]
    else:
        return {}
    return {p: n for where, item in items for p, n in lengths(item, where).items()}


def check_samples(before: Any, after: Any, transform: object) -> None:
    """Checks that a transform has left a batch its samples.

    Args:
        before: The batch that it got.
        after: What it returned.
        transform: What messages name.

    Raises:
        DataError: It changed the number of samples, or returned nothing.
    """
    had = lengths(before)
    samples = next(iter(had.values()), None)
    if after is None:
        raise DataError(
            f"{transform!r} must return the changed batch; it returned None. Does it end with a "
            "return?"
        )
    for place, length in lengths(after).items():
        expected = had.get(place, samples)
        if length != expected:
            raise DataError(
                f"{transform!r} must keep the number of samples; it got {expected} and returned "
                f"{length} in {place}. Drop or repeat samples in the loader, where losses, "
                "metrics and identities follow."
            )


class BatchView:
    """The parts of a batch that net and loss get, in the structure of the batch itself.

    Inputs and targets of a dict batch are shown as one dict under the keys of the batch, all
    others as one tuple, the targets last.

    Args:
        batch: As the loader gave it.
        inputs: What was made of it for the net.
        targets: What was made of it for the loss.
    """

    def __init__(self, batch: Any, inputs: Any, targets: Any) -> None:
        self.keys = frozenset(batch) if isinstance(batch, Mapping) else None
        self._places: tuple[Any, Any] | None = None
        if self.keys is not None:
            used: set[Any] = set()
            places = _located(inputs, batch, used), _located(targets, batch, used)
            self._places = None if None in places else places

    def fits(self, batch: Any) -> bool:
        """Whether the view is that of a batch with the same keys."""
        return self.keys == (frozenset(batch) if isinstance(batch, Mapping) else None)

    def show(self, inputs: Any, targets: Any) -> Any:
        """The view of a batch, for a transform."""
        if self._places is None:
            return (*inputs, targets) if isinstance(inputs, tuple) else (inputs, targets)
        view: dict[str, Any] = {}
        for place, value in zip(self._places, (inputs, targets), strict=True):
            view |= _named(place, value)
        return view

    def parts(self, view: Any, inputs: Any, targets: Any, transform: object) -> tuple[Any, Any]:
        """Inputs and targets, in the structure that they had, from a view that was changed.

        Raises:
            DataError: The view has not the structure that the transform got.
        """
        wanted = self.show(inputs, targets)
        if self._places is not None:
            missing = set(wanted) - set(view) if isinstance(view, Mapping) else wanted
        else:
            missing = not isinstance(view, (tuple, list)) or len(view) != len(wanted)
        if missing:
            raise DataError(
                f"{transform!r} must return the structure that it got, "
                f"{list(wanted) if isinstance(wanted, dict) else f'{len(wanted)} values'}; it "
                f"returned {list(view) if isinstance(view, Mapping) else type(view).__name__}."
            )
        if self._places is not None:
            first, second = self._places
            return _filled(first, view, inputs), _filled(second, view, targets)
        return (tuple(view[:-1]) if isinstance(inputs, tuple) else view[0]), view[-1]


def _located(value: Any, batch: Mapping[Any, Any], used: set[Any]) -> Any:
    """The keys that values have in a batch, in the structure of the values; None if unknown.

    Args:
        value: Inputs or targets.
        batch: As the loader gave it.
        used: Keys of values that were located, which are added to.
    """
    if isinstance(value, Mapping) and set(value) <= set(batch):
        used |= set(value)
        return {key: key for key in value}
    if isinstance(value, Mapping):  # by the names of outputs, such as targets of several tasks
        named = {key: _located(item, batch, used) for key, item in value.items()}
        return None if None in named.values() else named
    if isinstance(value, (tuple, list)):
        places = [_located(item, batch, used) for item in value]
        return None if None in places else places
    found = [key for key, item in batch.items() if item is value]
    # Once a run: on another device than the batch was, only its content tells which key it is.
    # Of several keys of one content, inputs and targets have one each.
    found = found or [key for key, item in batch.items() if _is_equal(item, value)]
    key = next((key for key in found if key not in used), next(iter(found), None))
    used.add(key)
    return key


def _is_equal(item: Any, value: Any) -> bool:
    if not isinstance(value, torch.Tensor) or not isinstance(item, (torch.Tensor, np.ndarray)):
        return False
    given = torch.as_tensor(item)
    return given.shape == value.shape and torch.equal(given.to(value), value)


def _named(place: Any, value: Any) -> dict[str, Any]:
    if isinstance(place, dict):
        pairs = [(place[key], value[key]) for key in value]
    elif isinstance(place, list):
        pairs = list(zip(place, value, strict=True))
    else:
        return {place: value}
    return {key: item for part, each in pairs for key, item in _named(part, each).items()}


def _filled(place: Any, view: Mapping[str, Any], like: Any) -> Any:
    if isinstance(place, dict):
        return {key: _filled(place[key], view, like[key]) for key in like}
    if isinstance(place, list):
        pairs = zip(place, like, strict=True)
        return type(like)(_filled(part, view, each) for part, each in pairs)
    return view[place]

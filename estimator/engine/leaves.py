"""Nested batches and outputs as flat lists of tensors, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from estimator.engine.cause import CannotTraceError, Cause


def flatten(value: Any, leaves: list[torch.Tensor]) -> Any:
    """Takes the tensors out of nested tuples, lists and dicts, and leaves their numbers there.

    Raises:
        CannotTraceError: There is something in it whose tensors cannot be seen.
    """
    if isinstance(value, torch.Tensor):
        leaves.append(value)
        return Leaf(len(leaves) - 1)
    if isinstance(value, Mapping) and type(value) is dict:
        return {key: flatten(item, leaves) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return _like(value, [flatten(item, leaves) for item in value])
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise CannotTraceError(
        Cause("E102", f"a batch or output holds a {type(value).__name__}, which is not looked into")
    )


class Leaf(int):
    """The number of a tensor in a flat list."""


def rebuild(form: Any, leaves: Sequence[Any]) -> Any:
    """The nested value that `flatten` took apart."""
    if isinstance(form, Leaf):
        return leaves[form]
    if isinstance(form, dict):
        return {key: rebuild(item, leaves) for key, item in form.items()}
    if isinstance(form, (tuple, list)):
        return _like(form, [rebuild(item, leaves) for item in form])
    return form


def _like(value: Any, items: list[Any]) -> Any:
    # A namedtuple's own constructor may want more of its items than a form can give.
    return value._make(items) if hasattr(value, "_make") else type(value)(items)

"""Nested outputs of many batches put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch


def concatenate(parts: Sequence[Any]) -> Any:
    """Joins the outputs of batches along their first dimension, in the structure of one batch.

    Args:
        parts: Outputs of the same structure: tensors, tuples, lists or dicts of them.

    Example:
        >>> concatenate([{"a": torch.zeros(2)}, {"a": torch.ones(1)}])
        {'a': tensor([0., 0., 1.])}
    """
    first = parts[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(list(parts)) if first.ndim else torch.stack(list(parts))
    if isinstance(first, Mapping):
        return {key: concatenate([part[key] for part in parts]) for key in first}
    if isinstance(first, (tuple, list)):
        items = [concatenate(column) for column in zip(*parts, strict=True)]
        return type(first)(*items) if hasattr(first, "_fields") else type(first)(items)
    return list(parts)

"""Nested batches and outputs: put together, and without their samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence

from estimator.handlers.base import DataError
from estimator.processor import describe


def concatenate(parts: Sequence[Any]) -> Any:
    """Joins the outputs of batches along their first dimension, in the structure of one batch.

    Args:
        parts: Outputs of the same structure: tensors, tuples, lists or dicts of them. 0-d tensors
            become a vector, and anything else a list, with one entry a batch.

    Raises:
        DataError: Outputs differ in their structure, or beyond their first dimension.

    Example:
        >>> concatenate([{"a": torch.zeros(2)}, {"a": torch.ones(1)}])
        {'a': tensor([0., 0., 1.])}
    """
    first = parts[0]
    for part in parts:
        if _form(part) != _form(first):
            raise DataError(
                "the outputs of all batches are joined along their first dimension and must be "
                f"alike beyond it; received {describe(first)} and {describe(part)}. Pad them to "
                "one length, or collect them in a handler's validation_batch_end."
            )
    if isinstance(first, torch.Tensor):
        return torch.cat(list(parts)) if first.ndim else torch.stack(list(parts))
    if isinstance(first, Mapping):
        return {key: concatenate([part[key] for part in parts]) for key in first}
    if _is_sequence(first):
        items = [concatenate(column) for column in zip(*parts, strict=True)]
        return type(first)(*items) if hasattr(first, "_fields") else type(first)(items)
    return list(parts)


def interleave(parts: Sequence[Any]) -> Any:
    """The outputs for a batch, from those that each process has for its share of it.

    Args:
        parts: By rank, of the same structure; of n processes, p has the samples p, p + n, ...

    Raises:
        DataError: Outputs that are no tensors with a row a sample.

    Example:
        >>> interleave([torch.tensor([0, 2, 4]), torch.tensor([1, 3])])
        tensor([0, 1, 2, 3, 4])
    """
    first = parts[0]
    if isinstance(first, torch.Tensor) and first.ndim:
        places = [torch.arange(len(part)) * len(parts) + i for i, part in enumerate(parts)]
        return torch.cat(list(parts))[torch.cat(places).argsort()]
    if isinstance(first, Mapping):
        return {key: interleave([part[key] for part in parts]) for key in first}
    if _is_sequence(first):
        items = [interleave(column) for column in zip(*parts, strict=True)]
        return type(first)(*items) if hasattr(first, "_fields") else type(first)(items)
    raise DataError(
        "outputs of several processes are put in the order of their samples, and must be tensors "
        f"with a row a sample; received {describe(first)}. Predict in one process."
    )


def without_samples(value: Any) -> Any:
    """The same nested structure, with no row left in any array."""
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return value[:0] if value.ndim else value
    if isinstance(value, Mapping):
        return {key: without_samples(item) for key, item in value.items()}
    if _is_sequence(value):
        items = [without_samples(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def _is_sequence(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and not isinstance(value, PackedSequence)


def _form(output: Any) -> object:
    """What the outputs of all batches have in common."""
    if isinstance(output, torch.Tensor):
        return output.shape[1:] if output.ndim else None
    if isinstance(output, Mapping):
        return set(output)
    return (type(output), len(output)) if _is_sequence(output) else type(output)

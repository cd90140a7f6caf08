"""Batches of named samples: taken apart, put together and cut, whatever structure they have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from estimator.handlers.base import DataError
from estimator.processor import UID, UidSample, batch_length, describe
from estimator.runtime import array_tensor


class Named(NamedTuple):
    """The content of a batch without identities, and the identity of each of its samples."""

    content: Any
    uids: list[Any]

    def public(self) -> Any:
        """The batch as users meet it: a dict with "sample_uid", or a pair with the identities."""
        return public(self.content, self.uids)

    def rows(self, start: int, stop: int) -> Named:
        """Some neighbouring samples."""
        return Named(_rows(self.content, start, stop), self.uids[start:stop])


def named(batch: Any, origin: str) -> Named:
    """Takes the identities out of a batch.

    Args:
        batch: A dict with "sample_uid", or a `UidSample`.
        origin: What messages call the sequence that it comes from.

    Raises:
        DataError: There is not one identity a sample.
    """
    content, uids = batch, None
    if type(batch) is UidSample:
        content, uids = batch
    elif isinstance(batch, Mapping) and UID in batch:
        content, uids = {k: v for k, v in batch.items() if k != UID}, batch[UID]
    if uids is None:
        raise DataError(
            f"batches of {origin} must bring the identity of each sample: a dict with a key "
            f"{UID!r}, or UidSample(batch, identities); received {describe(batch)}."
        )
    uids = uids.tolist() if isinstance(uids, (torch.Tensor, np.ndarray)) else list(uids)
    length = size_of(content)
    if length is not None and length != len(uids):
        raise DataError(
            f"batches of {origin} must have one identity a sample; received {len(uids)} for "
            f"{length} samples, the first of which is {uids[0] if uids else None!r}."
        )
    return Named(content, uids)


def public(content: Any, uids: Sequence[Any]) -> Any:
    """A batch with its identities: whole numbers as a tensor, words as a list."""
    numbers = all(type(uid) is int for uid in uids)
    names = torch.tensor(uids) if numbers else list(uids)
    return {**content, UID: names} if isinstance(content, dict) else UidSample(content, names)


def public_sample(content: Any, uid: Any) -> Any:
    """What a function gets as one sample: dicts say who they are, others are as they are."""
    return {**content, UID: uid} if isinstance(content, dict) else content


def bare(value: Any) -> Any:
    """What a function returned, without identities: samples keep those that they had."""
    if type(value) is UidSample:
        return value.sample
    if isinstance(value, Mapping):
        return {k: v for k, v in value.items() if k != UID}
    return value


def size_of(content: Any) -> int | None:
    """How many samples a batch has; None where nothing in it tells."""
    if is_words(content):
        return len(content)
    length = batch_length(content)
    if length is None and isinstance(content, np.ndarray):
        return len(content)
    parts = content.values() if isinstance(content, Mapping) else content
    if length is None and isinstance(parts, (list, tuple, type({}.values()))):
        return next((n for n in map(size_of, parts) if n is not None), None)
    return length


def is_words(value: Any) -> bool:
    """Whether a list or tuple is a column of words or other objects, and no structure."""
    nested = (torch.Tensor, np.ndarray, Mapping, list, tuple)
    return isinstance(value, (list, tuple)) and not any(isinstance(v, nested) for v in value)


def each(value: Any, function: Callable[[Any], Any]) -> Any:
    """The same nested structure, with the function's result in place of each column."""
    if isinstance(value, Mapping):
        return {key: each(item, function) for key, item in value.items()}
    if isinstance(value, (tuple, list)) and not is_words(value):
        items = [each(item, function) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return function(value)


def _rows(content: Any, start: int, stop: int) -> Any:
    return each(content, lambda column: column[start:stop])


def samples_of(content: Any, length: int) -> list[Any]:
    """The samples of a batch; its lists become tuples, as a dataset would give them."""
    if isinstance(content, Mapping):
        columns = [samples_of(column, length) for column in content.values()]
        return [dict(zip(content, row, strict=True)) for row in _across(columns, length)]
    if isinstance(content, (tuple, list)) and not is_words(content):
        columns = [samples_of(column, length) for column in content]
        return list(_across(columns, length))
    return list(content.unbind()) if isinstance(content, torch.Tensor) else list(content)


def _across(columns: Sequence[Sequence[Any]], length: int) -> Sequence[tuple[Any, ...]]:
    return list(zip(*columns, strict=True)) if columns else [()] * length


def joined(batches: Sequence[Named]) -> Named:
    """Several batches as one.

    Raises:
        DataError: They differ in their structure, or in the shape of their samples.
    """
    if len(batches) == 1:
        return batches[0]
    uids = [uid for batch in batches for uid in batch.uids]
    firsts = [batch.uids[0] for batch in batches]
    return Named(_columns([batch.content for batch in batches], firsts, "", whole=True), uids)


def collated(samples: Sequence[Any], uids: Sequence[Any]) -> Any:
    """A batch of samples: tensors, arrays and numbers are stacked, words stay in a list.

    Args:
        samples: Nested tuples and dicts of the same structure.
        uids: Their identities, for messages.

    Raises:
        DataError: Samples that differ in their structure or shape, or hold what has no batch.
    """
    return _columns(samples, uids, "", whole=False)


def _columns(parts: Sequence[Any], uids: Sequence[Any], key: str, *, whole: bool) -> Any:
    first = parts[0]
    if all(type(part) is torch.Tensor for part in parts):
        return _tensors(parts, uids, key, whole=whole)
    _check_alike(parts, uids, key, whole=whole)
    if isinstance(first, Mapping):
        return {
            name: _columns([part[name] for part in parts], uids, f"{key}[{name!r}]", whole=whole)
            for name in first
        }
    if isinstance(first, (tuple, list)) and not (whole and is_words(first)):
        items = [
            _columns(column, uids, f"{key}[{i}]", whole=whole)
            for i, column in enumerate(zip(*parts, strict=True))
        ]
        return type(first)(*items) if hasattr(first, "_fields") else type(first)(items)
    if isinstance(first, (list, tuple)):
        return [item for part in parts for item in part]
    return _column(parts, uids, key, whole=whole)


def _column(parts: Sequence[Any], uids: Sequence[Any], key: str, *, whole: bool) -> Any:
    first = parts[0]
    if isinstance(first, (str, bytes)):
        return list(parts)
    if isinstance(first, (bool, int, float, np.number, np.bool_)):
        return torch.tensor(parts)
    if not isinstance(first, (torch.Tensor, np.ndarray)):
        raise DataError(
            f"sample{key} must be a tensor, an array, a number, words, or a tuple or dict of "
            f"these; received {describe(first)} for the sample {uids[0]!r}. Check what the "
            "function returns."
        )
    tensors = [p if isinstance(p, torch.Tensor) else array_tensor(p) for p in parts]
    return _tensors(tensors, uids, key, whole=whole)


def _tensors(
    parts: Sequence[torch.Tensor], uids: Sequence[Any], key: str, *, whole: bool
) -> torch.Tensor:
    try:
        return torch.cat(list(parts)) if whole else torch.stack(list(parts))
    except RuntimeError:
        shapes = [tuple(part.shape[whole:]) for part in parts]
        odd = [at for at, shape in enumerate(shapes) if shape != shapes[0]]
        if not odd:
            raise
        raise DataError(
            f"sample{key} must have one shape in all samples of a batch; received {shapes[0]} for "
            f"{uids[0]!r} and {shapes[odd[0]]} for {uids[odd[0]]!r}. Resize or pad them, or pass a "
            "collate function that does."
        ) from None


def _check_alike(parts: Sequence[Any], uids: Sequence[Any], key: str, *, whole: bool) -> None:
    form = _form(parts[0], whole)
    for part, uid in zip(parts, uids, strict=True):
        if _form(part, whole) != form:
            raise DataError(
                f"sample{key} must have one structure in all samples; received "
                f"{describe(parts[0])} for {uids[0]!r} and {describe(part)} for {uid!r}."
            )


def _form(value: Any, whole: bool) -> object:
    if isinstance(value, Mapping):
        return set(value)
    if isinstance(value, (tuple, list)):
        return "words" if whole and is_words(value) else len(value)
    if isinstance(value, (bool, int, float, np.number, np.bool_)):
        return "number"
    return "array" if isinstance(value, (torch.Tensor, np.ndarray)) else type(value)

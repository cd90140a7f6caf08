"""How a batch is made of rows of tensors, where that is what a DataLoader would make of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Subset, TensorDataset

from estimator.loaders import Rows
from estimator.processor import UID, UidSample
from estimator.sampler import SeededDataset
from estimator.uids import UidDataset

Read = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Reading(NamedTuple):
    """How rows of tensors are read.

    Attributes:
        values: Rows of the data, from a tensor and the indices of the rows.
        numbers: The same for indices of a part and for identities.
    """

    values: Read
    numbers: Read


def read_rows(tensor: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Rows of a tensor, as a tensor of their own."""
    return tensor.index_select(0, rows)


ON_HOST = Reading(read_rows, read_rows)


def _as_they_are(rows: torch.Tensor, reading: Reading) -> torch.Tensor:
    return rows


class Taking(NamedTuple):
    """How the batches of a dataset are made.

    Attributes:
        make: Makes a batch of rows, which it reads as it is told.
        values: The tensors that the data is in.
        numbers: The tensors of indices and of identities.
        whole: The indices that rows of a part have in the whole.
        has_words: Whether there are columns of words, which no device holds.
    """

    make: Callable[[torch.Tensor, Reading], Any]
    values: tuple[torch.Tensor, ...] = ()
    numbers: tuple[torch.Tensor, ...] = ()
    whole: Callable[[torch.Tensor, Reading], torch.Tensor] = _as_they_are
    has_words: bool = False


def taking(dataset: Any, device: torch.device | None = None) -> Taking | None:
    """How batches of a dataset are made of its tensors.

    Args:
        dataset: A TensorDataset or arrays, whole or a part, with identities or without.
        device: Where tensors may lie, besides on the host.

    Returns:
        None for data that has to be asked for each sample.
    """
    if type(dataset) is SeededDataset:
        inner = taking(dataset.dataset, device)
        return None if inner is None else inner._replace(whole=_as_they_are)
    if type(dataset) is UidDataset:
        return _named(dataset, device)
    if type(dataset) is Subset:
        return _part(dataset, device)
    if type(dataset) is TensorDataset:
        return _columns(dataset.tensors, device)
    if type(dataset) is Rows:
        return _column(dataset.arrays, device)
    return None


def _part(dataset: Subset[Any], device: torch.device | None) -> Taking | None:
    inner, whole = taking(dataset.dataset, device), dataset.dataset
    indices = torch.as_tensor(dataset.indices, dtype=torch.int64, device="cpu")
    # Negative ones count from the end, others raise: an indexed read does neither on a device.
    if inner is None or not _inside(indices, whole):
        return None
    make, further = inner.make, inner.whole

    def first(rows: torch.Tensor, reading: Reading) -> torch.Tensor:
        return reading.numbers(indices, rows)

    return inner._replace(
        make=lambda rows, reading: make(first(rows, reading), reading),
        numbers=(indices, *inner.numbers),
        whole=lambda rows, reading: further(first(rows, reading), reading),
    )


def _inside(indices: torch.Tensor, dataset: Dataset[Any]) -> bool:
    samples: int = len(dataset)  # type: ignore[arg-type]  # those that are gathered have one
    return not len(indices) or (int(indices.min()) >= 0 and int(indices.max()) < samples)


def _named(dataset: UidDataset, device: torch.device | None) -> Taking | None:
    inner = taking(dataset.dataset, device)
    if inner is None:
        return None
    make, paired, given = inner.make, dataset.paired, dataset.uids is not None
    names = _identities(dataset.uids) if given else Taking(inner.whole)
    if names is None or (given and len(dataset.uids) != len(dataset)):  # type: ignore[arg-type]  # given
        return None
    name = names.make

    def named(rows: torch.Tensor, reading: Reading) -> Any:
        batch = make(rows, reading)
        known, is_dict = type(batch) is UidSample, isinstance(batch, dict)
        if not given and (known or (is_dict and UID in batch)):
            return batch
        batch, uids = batch.sample if known else batch, name(rows, reading)
        if isinstance(batch, dict) and not paired:
            return {**batch, UID: uids}
        return UidSample(batch, tuple(uids) if isinstance(uids, list) else uids)

    return Taking(
        named, inner.values, (*inner.numbers, *names.numbers),
        has_words=inner.has_words or names.has_words,
    )  # fmt: skip


def _identities(uids: Any) -> Taking | None:
    """How given identities are taken: numbers as a tensor of them, words as a list."""
    if isinstance(uids, (list, tuple, range)):
        kinds = set(map(type, uids))
        if kinds == {str}:
            return _words(uids, list)
        uids = torch.tensor(uids) if kinds == {int} else None
    if isinstance(uids, np.ndarray) and uids.ndim == 1:
        if uids.dtype.kind == "U":
            return _words(uids, list)
        uids = torch.tensor(uids) if uids.dtype.kind == "i" else None
    if not _plain(uids, None) or uids.ndim != 1:
        return None
    return Taking(lambda rows, reading: reading.numbers(uids, rows), numbers=(uids,))


def _words(words: Any, within: type) -> Taking:
    """A column of words, which the collate function leaves in a list or a tuple."""

    def take(rows: torch.Tensor, reading: Reading) -> Any:
        return within(words[row] for row in rows.tolist())

    return Taking(take, has_words=True)


def _column(arrays: Any, device: torch.device | None, within: type = list) -> Taking | None:
    if isinstance(arrays, Mapping):
        names = list(arrays)
        columns = [_column(array, device) for array in arrays.values()]
        return _joined(columns, lambda parts: dict(zip(names, parts, strict=True)))
    if type(arrays) is tuple:
        return _joined([_column(array, device, tuple) for array in arrays], lambda parts: parts)
    if isinstance(arrays, np.ndarray) and arrays.dtype.kind == "U" and arrays.ndim == 1:
        return _words(arrays, within)
    if not _plain(arrays, device):
        return None
    return Taking(lambda rows, reading: reading.values(arrays, rows), (arrays,))


def _columns(tensors: tuple[Any, ...], device: torch.device | None) -> Taking | None:
    if not all(_plain(tensor, device) for tensor in tensors):
        return None

    def take(rows: torch.Tensor, reading: Reading) -> list[torch.Tensor]:
        read = reading.values
        return [read(tensor, rows) for tensor in tensors]

    return Taking(take, tensors)


def _joined(
    columns: Sequence[Taking | None], structure: Callable[[list[Any]], Any]
) -> Taking | None:
    found = [column for column in columns if column is not None]
    if len(found) < len(columns):
        return None
    makes = [column.make for column in found]
    return Taking(
        lambda rows, reading: structure([make(rows, reading) for make in makes]),
        tuple(tensor for column in found for tensor in column.values),
        has_words=any(column.has_words for column in found),
    )


def _plain(value: Any, device: torch.device | None) -> bool:
    if type(value) is not torch.Tensor or (value.device.type != "cpu" and value.device != device):
        return False
    return value.layout is torch.strided and not value.requires_grad

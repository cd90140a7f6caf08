"""In-memory data by one indexed gather a batch, in the order of the DataLoader it replaces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
)

from estimator.loaders import Rows, is_stock
from estimator.processor import UidSample
from estimator.sampler import ResumableSampler, SeededDataset, torch_seed
from estimator.uids import UidCollate, UidDataset


class Picked(NamedTuple):
    """A batch that is not gathered yet, so that a captured step can gather it itself.

    Attributes:
        rows: Indices into data that is on the device already, of shape (batch size,).
        take: Makes the batch from them.
    """

    rows: torch.Tensor
    take: Callable[[torch.Tensor], Any]


class Gathered:
    """The batches of a DataLoader over tensors, without its work on single samples.

    Values, structure, order and draws from random streams are those of the loader. Each epoch
    looks at the loader anew, whose dataset may have other rows by then.

    Args:
        loader: A loader that `gathered` accepts.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader
        self._begun = False

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        loader, take = self.loader, _taker_for(self.loader)
        if take is None:
            return iter(loader)
        # A loader seeds its workers when they start, whether or not there are any.
        if not (self._begun and loader.num_workers and loader.persistent_workers):
            torch.empty((), dtype=torch.int64).random_(generator=loader.generator)
        self._begun = True
        return map(take, _index_batches(loader.batch_sampler))


def _index_batches(sampler: Any) -> Iterator[torch.Tensor]:
    if isinstance(sampler, ResumableSampler):
        return sampler.tensors()
    order = _order(sampler.sampler) if type(sampler) is BatchSampler else None
    if order is None:
        return map(torch.tensor, sampler)
    whole = len(order) - len(order) % sampler.batch_size if sampler.drop_last else len(order)
    return iter(order[:whole].split(sampler.batch_size) if whole else ())


def _order(sampler: Any) -> torch.Tensor | None:
    """The epoch's indices at once, drawn as the sampler draws them; None for other samplers."""
    if type(sampler) is SequentialSampler:
        return torch.arange(len(sampler))
    # A generator of the sampler's own is drawn from again when the epoch is over.
    if type(sampler) is not RandomSampler or sampler.generator is not None or sampler.replacement:
        return None
    samples = len(sampler.data_source)
    if sampler.num_samples != samples:
        return None
    return torch.randperm(samples, generator=torch.Generator().manual_seed(torch_seed()))


def gathered(data: Any) -> Gathered | None:
    """The fast way through a DataLoader; None where it is not known to give the same batches.

    Args:
        data: What is gone through.
    """
    fast = isinstance(data, DataLoader) and _taker_for(data) is not None
    return Gathered(data) if fast else None


def _taker_for(loader: DataLoader[Any]) -> Callable[[torch.Tensor], Any] | None:
    """Makes a batch of the loader's rows from their indices; None where only the loader can."""
    if not is_stock(loader) or loader.batch_sampler is None:
        return None
    collate = loader.collate_fn
    if isinstance(collate, UidCollate) and isinstance(loader.dataset, UidDataset):
        collate = collate.collate
    if collate is not default_collate or loader.worker_init_fn is not None:
        return None
    if loader.pin_memory and torch.accelerator.is_available():
        return None
    return _taker(loader.dataset)


def _taker(dataset: Any) -> Callable[[torch.Tensor], Any] | None:
    if type(dataset) is SeededDataset:
        return _taker(dataset.dataset)
    if type(dataset) is UidDataset:
        return _with_uids(dataset)
    if type(dataset) is Subset:
        inner, indices = _taker(dataset.dataset), torch.as_tensor(dataset.indices)
        return None if inner is None else lambda rows: inner(indices[rows])
    if type(dataset) is TensorDataset:
        tensors = dataset.tensors
        if all(map(_plain, tensors)):
            return lambda rows: [t.index_select(0, rows) for t in tensors]
    if type(dataset) is Rows and _all_plain(dataset.arrays):
        arrays = dataset.arrays
        return lambda rows: _gather(arrays, rows)
    return None


def _with_uids(dataset: UidDataset) -> Callable[[torch.Tensor], Any] | None:
    inner = _taker(dataset.dataset)
    probe = dataset.dataset
    chain = []
    while isinstance(probe, Subset):
        chain.append(torch.as_tensor(probe.indices))
        probe = probe.dataset
    # Samples that are dicts take their identity in; those, and given ones, stay with the loader.
    if inner is None or dataset.uids is not None or type(probe) is not TensorDataset:
        return None

    def take(rows: torch.Tensor) -> UidSample:
        uids = rows
        for indices in chain:
            uids = indices[uids]
        return UidSample(inner(rows), uids)

    return take


def _plain(value: Any) -> bool:
    if type(value) is not torch.Tensor or value.device.type != "cpu":
        return False
    return value.layout is torch.strided and not value.requires_grad


def _all_plain(arrays: Any) -> bool:
    if isinstance(arrays, dict):
        return all(map(_all_plain, arrays.values()))
    if type(arrays) is tuple:
        return all(map(_all_plain, arrays))
    return _plain(arrays)


def _gather(arrays: Any, rows: torch.Tensor) -> Any:
    if isinstance(arrays, dict):
        return {key: _gather(item, rows) for key, item in arrays.items()}
    if isinstance(arrays, tuple):
        return [_gather(item, rows) for item in arrays]
    return arrays.index_select(0, rows)

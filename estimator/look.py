"""A first look at what a DataLoader will yield, which takes nothing from it."""

from __future__ import annotations

import copy
from collections.abc import Sized
from typing import Any

from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
)

from estimator.loaders import is_stock
from estimator.sampler import ResumableSampler


def look(loader: DataLoader[Any]) -> Any:
    """A batch made from the dataset itself, as the loader would; None where that is not known."""
    dataset: Any = loader.dataset
    own_batches = loader.batch_size is None and loader.batch_sampler is not None
    indices, size = _indices(loader), loader.batch_size
    if isinstance(loader.batch_sampler, ResumableSampler):
        own_batches, size = False, loader.batch_sampler.batch_size
    if indices is None or own_batches or not is_stock(loader):
        return None
    if loader.num_workers:
        if loader.worker_init_fn is not None:  # it may open what the dataset reads from
            return None
        dataset = _twin(dataset)
    if size is None:
        return loader.collate_fn(dataset[indices[0]])
    wanted = list(indices[:size])
    several = getattr(dataset, "__getitems__", None)
    return loader.collate_fn(several(wanted) if several else [dataset[i] for i in wanted])


def _indices(loader: DataLoader[Any]) -> Any:
    """Indices that the loader may ask its dataset for; None where only its sampler knows."""
    dataset, sampler = loader.dataset, loader.sampler
    if isinstance(dataset, IterableDataset) or not isinstance(dataset, Sized):
        return None
    if isinstance(sampler, SubsetRandomSampler):
        return sampler.indices
    stock = isinstance(sampler, (SequentialSampler, RandomSampler, DistributedSampler))
    return range(len(dataset)) if stock else None


def _twin(dataset: Any) -> Any:
    """A copy that keeps to itself the files that it opens: forked workers must not share them."""
    if not hasattr(dataset, "__dict__"):  # a list, for one
        return dataset
    twin = copy.copy(dataset)
    for name, value in vars(dataset).items():
        if isinstance(value, Dataset):
            setattr(twin, name, _twin(value))
        elif isinstance(value, list) and value and all(isinstance(v, Dataset) for v in value):
            setattr(twin, name, [_twin(each) for each in value])
    return twin

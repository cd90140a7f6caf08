"""Batches dealt to several processes: each sample once, and the same number of batches for all."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from estimator.distributed import World
from estimator.handlers.base import DataError
from estimator.loaders import is_stock, loader_like
from estimator.sampler import ResumableSampler, Share, torch_seed


class Dealt(NamedTuple):
    """The part of a batch that one process has."""

    batch: Any
    share: Share


def deal(data: Any, argument: str, world: World) -> DataLoader[Any]:
    """A loader of this process's part of each batch; what the user gave is not changed.

    A batch has the samples that it would have in one process, so `batch_size` is that of all
    processes together. A DistributedSampler has dealt its samples already: there it is that of
    one process.

    Args:
        data: A DataLoader of torch's own parts.
        argument: What messages call it.
        world: The processes.

    Raises:
        DataError: Data that has no indices to deal, or a sampler of another kind.
    """
    if not isinstance(data, DataLoader) or not is_stock(data) or data.batch_sampler is None:
        raise _not_dealt(argument, type(data).__name__)
    if isinstance(data.dataset, IterableDataset):
        raise _not_dealt(argument, type(data.dataset).__name__)
    sampler = _resumable(data, argument, world)
    sampler.rank, sampler.world_size = world.rank, world.size
    # The order is one for all.
    sampler.seed = world.first(lambda: sampler.seed)
    # DataLoader's own words for "the batch_sampler decides".
    undecided: dict[str, Any] = {"batch_size": 1, "sampler": None, "drop_last": False}
    return loader_like(data, data.dataset, batch_sampler=sampler, **undecided)


def _resumable(loader: DataLoader[Any], argument: str, world: World) -> ResumableSampler:
    batches, sampler = loader.batch_sampler, loader.sampler
    if isinstance(batches, ResumableSampler):
        return copy.copy(batches)
    dataset: Any = loader.dataset
    shuffle, size, seed = False, loader.batch_size, 0
    if type(sampler) is DistributedSampler:
        shuffle, seed = sampler.shuffle, sampler.seed
        size = None if size is None else size * world.size
    elif type(sampler) is RandomSampler:
        whole = not sampler.replacement and sampler.num_samples == len(dataset)
        shuffle, seed = whole, torch_seed()
    known = shuffle or type(sampler) in (DistributedSampler, SequentialSampler)
    if type(batches) is not BatchSampler or size is None or not known:
        raise _not_dealt(argument, f"a {type(sampler).__name__}")
    return ResumableSampler(dataset, size, shuffle=shuffle, drop_last=loader.drop_last, seed=seed)


def _not_dealt(argument: str, received: str) -> DataError:
    return DataError(
        f"{argument} is dealt to several processes sample by sample, and must be arrays, a Dataset "
        "with a length, or a DataLoader over one with torch's own sequential, random or "
        f"distributed sampler, or a ResumableSampler; received {received}. Pass the Dataset "
        "itself, or DataLoader(dataset, batch_sampler=ResumableSampler(dataset, batch_size))."
    )


def with_shares(batches: Iterable[Any], sampler: ResumableSampler) -> Iterator[Dealt]:
    """Batches of one process, each with its share of what all processes have.

    Args:
        batches: What the loader yields.
        sampler: The one that dealt them, from where it begins.
    """
    for number, batch in enumerate(batches, sampler.start):
        yield Dealt(batch, sampler.share(number))

"""Where a run stands in its training data, and how to come back to that place."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import torch
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from estimator.handlers.base import DataError
from estimator.loaders import is_stock
from estimator.randomness import random_states
from estimator.sampler import ResumableSampler

Kind = Literal["sampler", "state", "again", "ends"]
_STOCK = (
    *(SequentialSampler, RandomSampler, SubsetRandomSampler),
    *(WeightedRandomSampler, DistributedSampler),
)


def kind_of(data: Iterable[Any]) -> Kind:
    """How a place inside an epoch of this data can be found again.

    Returns:
        "sampler": a `ResumableSampler` begins where it is told. "state": the loader has a
        `state_dict` of its own. "again": a list of batches, or a DataLoader of torch's own parts,
        whose batches are fetched again from the epoch's beginning and dropped. "ends": only
        between two epochs.
    """
    if isinstance(data, DataLoader) and isinstance(data.batch_sampler, ResumableSampler):
        return "sampler"
    if hasattr(data, "state_dict") and hasattr(data, "load_state_dict"):
        return "state"
    if isinstance(data, (list, tuple)):
        return "again"
    if isinstance(data, DataLoader) and is_stock(data):
        if isinstance(data.dataset, IterableDataset) or data.batch_sampler is None:
            return "ends"
        sampler = getattr(data.batch_sampler, "sampler", None)
        stock = type(data.batch_sampler) is torch.utils.data.BatchSampler
        return "again" if stock and isinstance(sampler, _STOCK) else "ends"
    return "ends"


def set_epoch(data: Any, epoch: int, start: int = 0) -> None:
    """Tells samplers that ask for it which epoch comes."""
    batch_sampler = getattr(data, "batch_sampler", None)
    if isinstance(batch_sampler, ResumableSampler):
        batch_sampler.set_epoch(epoch, start)
        return
    for part in (getattr(data, "sampler", None), batch_sampler):
        if part is not None and hasattr(part, "set_epoch"):
            part.set_epoch(epoch)


def generators(data: Any) -> list[torch.Generator]:
    """The random generators that a loader and its samplers own, each once."""
    batch_sampler = getattr(data, "batch_sampler", None)
    inner = getattr(batch_sampler, "sampler", None)
    parts = (data, getattr(data, "sampler", None), batch_sampler, inner)
    found = [getattr(part, "generator", None) for part in parts]
    unique = {id(g): g for g in found if isinstance(g, torch.Generator)}
    return list(unique.values())


def loader_state(data: Any, device: torch.device) -> dict[str, Any]:
    """All random states that decide which batches an epoch of this loader has."""
    return {
        "streams": random_states(device),
        "generators": [generator.get_state() for generator in generators(data)],
    }


def set_generators(data: Any, states: list[torch.Tensor], argument: str) -> None:
    """Puts a loader's own generators where they were.

    Raises:
        DataError: It has another number of them than it had.
    """
    own = generators(data)
    if len(own) != len(states):
        raise DataError(
            f"{argument} must have the generators that it had when the checkpoint was made: "
            f"{len(states)}; received a loader with {len(own)}. Build it as in that run."
        )
    for generator, state in zip(own, states, strict=True):
        generator.set_state(state)


def after_batches(batches: Iterator[Any], done: int, argument: str) -> Iterator[Any]:
    """The rest of an epoch that is gone through again from its beginning.

    Args:
        batches: The epoch, from its beginning.
        done: Batches that are not to come again.
        argument: What messages call the data.

    Raises:
        DataError: It has fewer.
    """
    seen = sum(1 for _ in itertools.islice(batches, done))
    if seen < done:
        raise DataError(
            f"{argument} must yield the {done} batches that the epoch had before the checkpoint; "
            f"it ended after {seen}. Resume with the data of that run."
        )
    return batches

"""Validation data that is a fraction of the training data."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    random_split,
)

from estimator.gather import Gathered
from estimator.handlers.base import ArgumentError
from estimator.loaders import as_dataset, length_of, loader_like
from estimator.sampler import ResumableSampler


def split_fraction(train: Any, fraction: float, seed: int | None) -> tuple[Any, Any]:
    """Splits training data once: `fraction` of its samples become validation data.

    Args:
        train: Arrays, a Dataset, or a DataLoader over one that goes through it once an epoch.
        fraction: Share of the samples, between 0 and 1.
        seed: Of the split; None is 0, so that the same samples are held out each time.

    Returns:
        The training and the validation data.

    Raises:
        ArgumentError: The fraction is not between 0 and 1, or leaves one side empty, or `train`
            cannot be split.
        ArgumentTypeError: `train` is a DataLoader with an `__iter__` of its own.
    """
    if isinstance(train, Gathered):
        train = train.loader
    is_loader = isinstance(train, DataLoader)
    dataset: Any = train.dataset if is_loader else as_dataset(train, "fit(train=...)")
    if isinstance(dataset, IterableDataset) or length_of(dataset) is None:
        raise ArgumentError(
            f"fit(val={fraction!r}) splits a train that has a length and indices: arrays, a "
            f"Dataset or a DataLoader over one; received {type(train).__name__}. Pass "
            "validation data of its own; of a sequence, such as subsample_uids gives."
        )
    samples = len(dataset)
    held = round(samples * fraction) if 0 < fraction < 1 else 0
    if not 0 < held < samples:
        raise ArgumentError(
            f"fit(val=...) as a fraction must leave samples on both sides; received {fraction!r} "
            f"of {samples} samples. Choose a number between 0 and 1 that holds one or more of each."
        )
    generator = torch.Generator().manual_seed(0 if seed is None else seed)
    parts: list[Subset[Any]] = random_split(dataset, [samples - held, held], generator=generator)
    return _split_loader(train, *parts) if is_loader else (parts[0], parts[1])


def _split_loader(
    loader: DataLoader[Any], train: Subset[Any], val: Subset[Any]
) -> tuple[DataLoader[Any], DataLoader[Any]]:
    batches = loader.batch_sampler
    if isinstance(batches, ResumableSampler):
        return _split_resumable(loader, batches, train, val)
    sampler, samples = loader.sampler, len(train) + len(val)
    order: Sampler[int] = SequentialSampler(train)
    whole = isinstance(sampler, SequentialSampler)
    if isinstance(sampler, RandomSampler):
        whole = not sampler.replacement and sampler.num_samples == samples
        order = RandomSampler(train, generator=sampler.generator)
    if not whole or loader.batch_size is None:
        raise ArgumentError(
            "fit(val=<fraction>) splits a DataLoader with a batch size, whose sampler takes each "
            f"sample once an epoch; received batch_size={loader.batch_size} and "
            f"{type(sampler).__name__}. Split the dataset beforehand."
        )
    held_out = {"sampler": SequentialSampler(val), "drop_last": False, "generator": None}
    return loader_like(loader, train, sampler=order), loader_like(loader, val, **held_out)


def _split_resumable(
    loader: DataLoader[Any], sampler: ResumableSampler, train: Subset[Any], val: Subset[Any]
) -> tuple[DataLoader[Any], DataLoader[Any]]:
    size = sampler.batch_size
    order = ResumableSampler(
        train, size, shuffle=sampler.shuffle, drop_last=sampler.drop_last, seed=sampler.seed
    )
    held_out = ResumableSampler(val, size, shuffle=False)
    return (
        loader_like(loader, train, batch_sampler=order),
        loader_like(loader, val, batch_sampler=held_out),
    )

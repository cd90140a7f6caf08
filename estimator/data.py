"""From what the user passes as data to batches that can be gone through again and again."""

from __future__ import annotations

import contextlib
import copy
import itertools
import pickle
import random
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    random_split,
)

from estimator.handlers.base import ArgumentError, ArgumentTypeError, DataError
from estimator.loaders import as_dataset, is_stock, loader_like
from estimator.uids import UidDataset


@contextlib.contextmanager
def random_state_kept() -> Iterator[Callable[[], bool]]:
    """Leaves the global random streams of Python, NumPy and torch as they were.

    Yields:
        A function that says whether anything was drawn from them on the CPU so far.
    """
    python, numpy, before = random.getstate(), np.random.get_state(), _random_state()
    accelerators = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=accelerators):
        try:
            yield lambda: _random_state() != before
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _random_state() -> tuple[object, ...]:
    numpy = pickle.dumps(np.random.get_state(legacy=False)["state"])
    return random.getstate(), numpy, torch.get_rng_state().numpy().tobytes()


class Source:
    """Batches of one data argument, epoch after epoch.

    Args:
        data: A DataLoader, any iterable of batches, a Dataset, or arrays.
        argument: What messages call it, such as "fit(train=...)".
        batch_size: Samples a batch, for arrays and Datasets.
        shuffle: Whether those are shuffled each epoch.
        uids: Whether a handler needs identities, which arrays and Datasets then get.

    Raises:
        ArgumentError: There is no data, or arrays of different lengths.
        ArgumentTypeError: Nothing that can be gone through.
    """

    def __init__(
        self, data: Any, argument: str, *, batch_size: int = 32, shuffle: bool = False,
        uids: bool = False,
    ) -> None:  # fmt: skip
        if data is None:
            raise ArgumentError(
                f"{argument} needs data: a DataLoader, an iterable of batches, a Dataset or "
                "arrays (x, y); received None."
            )
        dataset = as_dataset(data, argument)
        if dataset is not None:
            data = _loader(dataset, argument, batch_size, shuffle, uids)
        if not isinstance(data, Iterable) or isinstance(data, (str, bytes, Mapping)):
            raise ArgumentTypeError(
                f"{argument} must be a DataLoader, an iterable of batches, a Dataset or arrays "
                f"(x, y); received {reprlib.repr(data)}."
            )
        self.data: Iterable[Any] = data
        self.argument = argument
        self.takes_batch_size = dataset is not None
        self.one_shot = isinstance(data, Iterator)
        self.batches = _length(data)
        self._held: Iterator[Any] | None = None

    def epoch(self) -> Iterator[Any]:
        """An iterator over the batches of one epoch."""
        held, self._held = self._held, None
        return iter(self.data) if held is None else held

    def first(self) -> Any:
        """The first batch of the coming epoch, which stays in that epoch.

        Raises:
            DataError: There is none.
        """
        iterator = iter(self.data)
        batch = next(iterator, self)
        if batch is self:
            raise self.empty()
        self._held = itertools.chain([batch], iterator)
        return batch

    def sample(self) -> Any:
        """A batch for a look, with nothing taken from loaders, streams or random states.

        Returns:
            The batch, or None where a look would cost something: a stream's batch, the start of
            workers, or a step of a sampler that is not torch's own.

        Raises:
            DataError: There is none.
        """
        if self.batches == 0:
            raise self.empty()
        with random_state_kept() as drawn:
            if isinstance(self.data, DataLoader):
                return _look(self.data)
            batch = self.first()
            if drawn() and not self.one_shot:
                # These draws belong where the epoch begins: it goes through the data anew.
                self._held = None
            return batch

    def empty(self) -> DataError:
        """The error of a loader that yields nothing."""
        return DataError(
            f"{self.argument} must yield at least one batch an epoch; it yielded none. Check the "
            "length of the data, drop_last, and whether an iterator was used up before."
        )


def _look(loader: DataLoader[Any]) -> Any:
    """A batch made from the dataset itself, as the loader would; None where that is not known."""
    dataset: Any = loader.dataset
    own_batches = loader.batch_size is None and loader.batch_sampler is not None
    indices = _indices(loader)
    if indices is None or own_batches or not is_stock(loader):
        return None
    if loader.num_workers:
        if loader.worker_init_fn is not None:  # it may open what the dataset reads from
            return None
        dataset = _twin(dataset)
    if loader.batch_size is None:
        return loader.collate_fn(dataset[indices[0]])
    wanted = list(indices[: loader.batch_size])
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


def _loader(
    dataset: Dataset[Any], argument: str, batch_size: int, shuffle: bool, uids: bool
) -> DataLoader[Any]:
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        function = argument.partition("(")[0]
        raise ArgumentError(
            f"{function}(batch_size=...) must be a whole number from 1 up; received {batch_size!r}."
        )
    if isinstance(dataset, IterableDataset):
        return DataLoader(dataset, batch_size)
    if not _length(dataset):
        raise ArgumentError(
            f"{argument} as a Dataset must have a length, above 0; received "
            f"{type(dataset).__name__} of length {_length(dataset)}. Derive from IterableDataset "
            "where the length is not known."
        )
    return DataLoader(UidDataset(dataset) if uids else dataset, batch_size, shuffle=shuffle)


def _length(data: Any) -> int | None:
    try:
        return len(data)
    except (TypeError, NotImplementedError):  # streams and loaders over them have none
        return None


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
    is_loader = isinstance(train, DataLoader)
    dataset: Any = train.dataset if is_loader else as_dataset(train, "fit(train=...)")
    if isinstance(dataset, IterableDataset) or _length(dataset) is None:
        raise ArgumentError(
            f"fit(val={fraction!r}) splits a train that has a length and indices: arrays, a "
            f"Dataset or a DataLoader over one; received {type(train).__name__}. Pass "
            "validation data of its own."
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

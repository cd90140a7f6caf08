"""From what the user passes as data to batches that can be gone through again and again."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
    random_split,
)

from estimator.handlers.base import ArgumentError, ArgumentTypeError, DataError
from estimator.processor import UID, UidSample, describe
from estimator.runtime import array_tensor


@contextlib.contextmanager
def random_state_kept() -> Iterator[None]:
    """Leaves the global random streams of Python, NumPy and torch as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    accelerators = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=accelerators):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


class _Columns(Dataset[dict[str, torch.Tensor]]):
    """A dict of tensors as a dataset of dicts."""

    def __init__(self, columns: dict[str, torch.Tensor]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: column[index] for name, column in self.columns.items()}


class UidDataset(Dataset[Any]):
    """A dataset whose samples say who they are; made by `with_uids`.

    Args:
        dataset: A map-style dataset.
        uids: One identity a sample, integers or strings; None takes the indices.
    """

    def __init__(self, dataset: Dataset[Any], uids: Sequence[Any] | None = None) -> None:
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
            raise ArgumentTypeError(
                "with_uids(data=...) must be a dataset with a length, whose samples have an "
                f"index; received {type(dataset).__name__}. Let a stream yield dicts with a "
                f"{UID!r} of its own."
            )
        if uids is not None and len(uids) != len(dataset):
            raise ArgumentError(
                f"with_uids(uids=...) must hold one identity a sample; received {len(uids)} for "
                f"{len(dataset)} samples."
            )
        self.dataset, self.uids = dataset, uids

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]  # the constructor has seen its length

    def __getitem__(self, index: int) -> Any:
        sample = self.dataset[index]
        uid = index if self.uids is None else self.uids[index]
        return {**sample, UID: uid} if isinstance(sample, Mapping) else UidSample(sample, uid)


class _UidCollate:
    """Keeps a user's own collate function from seeing the identities."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, samples: list[Any]) -> Any:
        if not isinstance(samples[0], UidSample):
            return self.collate(samples)
        uids = default_collate([sample.sample_uid for sample in samples])
        return UidSample(self.collate([sample.sample for sample in samples]), uids)


def with_uids(data: Any, uids: Sequence[Any] | None = None) -> Any:
    """Gives every sample an identity, for handlers that follow single samples.

    Args:
        data: A map-style dataset, or a DataLoader over one (needed where the loader has a
            collate function of its own).
        uids: One identity a sample, integers or strings; None takes the dataset's indices.

    Returns:
        Data of the same kind; dict samples get a key "sample_uid".

    Raises:
        ArgumentError: The number of identities is not that of the samples.
        ArgumentTypeError: `data` has no length or no indices.

    Example:
        >>> loader = DataLoader(with_uids(TensorDataset(torch.zeros(4, 2), torch.zeros(4))), 2)
        >>> [batch.sample_uid.tolist() for batch in loader]
        [[0, 1], [2, 3]]
    """
    if isinstance(data, DataLoader):
        return _rebuilt(data, UidDataset(data.dataset, uids), _UidCollate(data.collate_fn))
    return UidDataset(data, uids)


def _rebuilt(
    loader: DataLoader[Any], dataset: Dataset[Any], collate: Callable[[list[Any]], Any]
) -> DataLoader[Any]:
    """A DataLoader like `loader` over another dataset of the same indices."""
    workers: dict[str, Any] = {}
    if loader.num_workers:
        workers = {
            "prefetch_factor": loader.prefetch_factor,
            "persistent_workers": loader.persistent_workers,
            "multiprocessing_context": loader.multiprocessing_context,
        }
    if loader.batch_sampler is None:
        workers |= {"batch_size": None, "sampler": loader.sampler}
    else:
        workers |= {"batch_sampler": loader.batch_sampler}
    return DataLoader(
        dataset,
        num_workers=loader.num_workers,
        collate_fn=collate,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        generator=loader.generator,
        **workers,
    )


def _is_array(value: Any) -> bool:
    return isinstance(value, (torch.Tensor, np.ndarray)) and value.ndim > 0


def as_dataset(data: Any, argument: str) -> Dataset[Any] | None:
    """The dataset that arrays or a Dataset make; None for loaders and other iterables.

    Raises:
        ArgumentError: Arrays of different lengths, or without samples.
    """
    if isinstance(data, Dataset):
        return data
    if _is_array(data):
        return TensorDataset(*_equally_long([data], argument))
    if isinstance(data, (tuple, list)) and data and all(map(_is_array, data)):
        return TensorDataset(*_equally_long(data, argument))
    if isinstance(data, Mapping) and data and all(map(_is_array, data.values())):
        return _Columns(dict(zip(data, _equally_long(list(data.values()), argument), strict=True)))
    return None


def _equally_long(arrays: Sequence[Any], argument: str) -> list[torch.Tensor]:
    lengths = [len(array) for array in arrays]
    if len(set(lengths)) != 1:
        raise ArgumentError(
            f"{argument}: arrays must have one row a sample, the same number in each; received "
            f"{', '.join(map(describe, arrays))}. Check the first dimension."
        )
    return [a if isinstance(a, torch.Tensor) else array_tensor(a) for a in arrays]


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
                f"(x, y); received {type(data).__name__}: {describe(data)}."
            )
        self.data: Iterable[Any] = data
        self.argument = argument
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
        """A first batch for a look, with nothing taken from loaders, streams or random states.

        Returns:
            The batch, or None where a look would cost the stream a batch.
        """
        if not isinstance(self.data, DataLoader):
            with random_state_kept():
                return self.first()
        dataset = self.data.dataset
        if isinstance(dataset, IterableDataset) or not isinstance(dataset, Sized):
            return None
        if len(dataset) == 0:
            raise self.empty()
        with random_state_kept():
            if self.data.batch_size is None:
                return self.data.collate_fn(dataset[0]) if self.data.batch_sampler is None else None
            wanted = range(min(self.data.batch_size, len(dataset)))
            return self.data.collate_fn([dataset[i] for i in wanted])

    def empty(self) -> DataError:
        """The error of a loader that yields nothing."""
        return DataError(
            f"{self.argument} must yield at least one batch an epoch; it yielded none. Check the "
            "length of the data, drop_last, and whether an iterator was used up before."
        )


def _loader(
    dataset: Dataset[Any], argument: str, batch_size: int, shuffle: bool, uids: bool
) -> DataLoader[Any]:
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ArgumentError(
            f"fit(batch_size=...) must be a whole number from 1 up; received {batch_size!r}."
        )
    if isinstance(dataset, IterableDataset):
        return DataLoader(dataset, batch_size)
    if not len(dataset):  # type: ignore[arg-type]  # map-style datasets have a length
        raise ArgumentError(f"{argument} must hold at least one sample; received none.")
    if uids and not isinstance(dataset, UidDataset):
        dataset = _identified(dataset)
    return DataLoader(dataset, batch_size, shuffle=shuffle)


def _identified(dataset: Dataset[Any]) -> Dataset[Any]:
    if isinstance(dataset, Subset):
        if isinstance(dataset.dataset, UidDataset):
            return dataset
        # A part keeps the identities of the whole, so that they name the same sample everywhere.
        return UidDataset(dataset, list(dataset.indices))
    return UidDataset(dataset)


def _length(data: Any) -> int | None:
    try:
        return len(data)
    except TypeError:  # streams and loaders over them have none
        return None


def split_fraction(train: Any, fraction: float, seed: int | None) -> tuple[Any, Any]:
    """Splits training data once: `fraction` of its samples become validation data.

    Args:
        train: Arrays, a Dataset, or a DataLoader over one with a stock sampler.
        fraction: Share of the samples, between 0 and 1.
        seed: Of the split; None is 0, so that the same samples are held out each time.

    Returns:
        The training and the validation data.

    Raises:
        ArgumentError: The fraction is not between 0 and 1, or leaves one side empty, or `train`
            cannot be split.
    """
    dataset = (
        train.dataset if isinstance(train, DataLoader) else as_dataset(train, "fit(train=...)")
    )
    if dataset is None or isinstance(dataset, IterableDataset):
        raise ArgumentError(
            f"fit(val={fraction!r}) splits a train that has a length and indices: arrays, a "
            f"Dataset or a DataLoader over one; received {type(train).__name__}. Pass "
            "validation data of its own."
        )
    held = round(len(dataset) * fraction) if 0 < fraction < 1 else 0
    if not 0 < held < len(dataset):
        raise ArgumentError(
            f"fit(val=...) as a fraction must leave samples on both sides; received {fraction!r} "
            f"of {len(dataset)} samples. Choose a number between 0 and 1."
        )
    generator = torch.Generator().manual_seed(0 if seed is None else seed)
    parts = random_split(dataset, [len(dataset) - held, held], generator=generator)
    if not isinstance(train, DataLoader):
        return parts[0], parts[1]
    return _over(train, parts[0]), _over(train, parts[1], shuffle=False)


def _over(loader: DataLoader[Any], part: Subset[Any], *, shuffle: bool | None = None) -> Any:
    if not isinstance(loader.sampler, (RandomSampler, SequentialSampler)) or not loader.batch_size:
        raise ArgumentError(
            "fit(val=<fraction>) can split a DataLoader with a stock sampler and batch size only; "
            f"received sampler {type(loader.sampler).__name__}. Split the dataset beforehand."
        )
    if shuffle is None:
        shuffle = isinstance(loader.sampler, RandomSampler)
    return DataLoader(
        part,
        loader.batch_size,
        shuffle=shuffle,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        drop_last=loader.drop_last and shuffle,
        worker_init_fn=loader.worker_init_fn,
        generator=loader.generator if shuffle else None,
        persistent_workers=loader.persistent_workers,
    )

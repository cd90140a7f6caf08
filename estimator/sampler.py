"""Batches in an order that can be found again at any place, and random transformations with it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sized
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import Dataset, Sampler

from estimator.handlers.base import ArgumentError, ArgumentTypeError

_MASK = (1 << 64) - 1


def mixed(*numbers: int) -> int:
    """A seed of 64 bits from several numbers; neighbours get seeds that share nothing.

    The mixing function is SplitMix64 (Steele, Lea, Flood, 2014, "Fast Splittable Pseudorandom
    Number Generators").
    """
    state = 0
    for number in numbers:
        state = (state ^ number) + 0x9E3779B97F4A7C15 & _MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state


class Indices(list[int]):
    """The indices of a batch, and the seed of its random transformations."""

    seed: int = 0


class Share(NamedTuple):
    """How many samples of a batch this process has, and how many all processes have."""

    here: int
    everywhere: int


class ResumableSampler(Sampler[list[int]]):
    """Batches of indices that depend on (seed, epoch) alone, so that any place can be found again.

    It is the `batch_sampler` of a DataLoader. `fit` tells it the epoch and where to begin, so a
    run that was stopped inside an epoch goes on with the next batch. With several processes it
    fixes each batch as one process would have it, then deals it out by turns: no sample is taken
    twice, all processes have the same number of batches, and the order does not depend on how
    many there are. A process whose share is empty gets the batch's first sample, with a share of 0.

    Args:
        data: The dataset, or the number of its samples.
        batch_size: Samples of a batch, over all processes together.
        shuffle: Whether each epoch has an order of its own.
        drop_last: Whether a last batch with fewer samples is left out.
        seed: Of the order and of the transformations; None draws one from torch's stream.
        rank: This process; None asks `torch.distributed`, and is 0 without it.
        world_size: How many processes; None asks `torch.distributed`, and is 1 without it.

    Raises:
        ArgumentError: A size that is not above 0, or a rank outside the world.
        ArgumentTypeError: `data` has no length.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> sampler = ResumableSampler(5, 2, shuffle=False)
        >>> [batch.tolist() for batch in DataLoader(torch.arange(5), batch_sampler=sampler)]
        [[0, 1], [2, 3], [4]]
        >>> sampler.set_epoch(0, start=2)
        >>> list(sampler), len(sampler)
        ([[4]], 3)
    """

    def __init__(
        self, data: Sized | int, batch_size: int, *, shuffle: bool = True, drop_last: bool = False,
        seed: int | None = 0, rank: int | None = None, world_size: int | None = None,
    ) -> None:  # fmt: skip
        if not isinstance(data, (int, Sized)):
            raise ArgumentTypeError(
                "ResumableSampler(data=...) must be a dataset with a length, or a number of "
                f"samples; received {type(data).__name__}."
            )
        self.samples = data if isinstance(data, int) else len(data)
        self.batch_size, self.shuffle, self.drop_last = batch_size, shuffle, drop_last
        joined = dist.is_available() and dist.is_initialized()
        self.rank = (dist.get_rank() if joined else 0) if rank is None else rank
        size = dist.get_world_size() if joined else 1
        self.world_size = size if world_size is None else world_size
        for name, number in (("data", self.samples), ("batch_size", batch_size)):
            if not isinstance(number, int) or isinstance(number, bool) or number < 1:
                raise ArgumentError(
                    f"ResumableSampler({name}=...) must be a whole number from 1 up; received "
                    f"{number!r}."
                )
        if not 0 <= self.rank < self.world_size:
            raise ArgumentError(
                "ResumableSampler(rank=..., world_size=...) needs 0 <= rank < world_size; "
                f"received {self.rank} of {self.world_size}."
            )
        self.seed = torch_seed() if seed is None else seed
        self.epoch = self.start = 0

    def __len__(self) -> int:
        """Batches of a whole epoch, wherever it begins."""
        full, rest = divmod(self.samples, self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Says which epoch comes, and how many of its batches are done already."""
        self.epoch, self.start = epoch, start

    def share(self, batch: int) -> Share:
        """The sizes of a batch, by its place in the epoch."""
        size = min(self.batch_size, self.samples - batch * self.batch_size)
        return Share(len(range(self.rank, size, self.world_size)), size)

    def __iter__(self) -> Iterator[list[int]]:
        seed = mixed(self.seed, self.epoch)
        whole: Any = self._order(seed).tolist() if self.shuffle else range(self.samples)
        for number in range(self.start, len(self)):
            indices = Indices(self._dealt(whole, number))
            indices.seed = mixed(seed, number, self.rank)
            yield indices

    def tensors(self, device: torch.device | None = None) -> Iterator[torch.Tensor]:
        """The same batches as tensors of indices, for data that is gathered and not transformed.

        Args:
            device: Where the order of an epoch goes, in one copy; None is the host.
        """
        whole = self._order(mixed(self.seed, self.epoch)).to(device)
        return (self._dealt(whole, number) for number in range(self.start, len(self)))

    def _order(self, seed: int) -> torch.Tensor:
        if not self.shuffle:
            return torch.arange(self.samples)
        return torch.randperm(self.samples, generator=torch.Generator().manual_seed(seed))

    def _dealt(self, whole: Any, number: int) -> Any:
        """This process's share of a batch, or the batch's first sample where that is empty."""
        batch = whole[number * self.batch_size : (number + 1) * self.batch_size]
        share = batch[self.rank :: self.world_size]
        return share if len(share) else batch[:1]


def torch_seed() -> int:
    """A seed drawn from torch's global stream."""
    return int(torch.empty((), dtype=torch.int64).random_())


class SeededDataset(Dataset[Any]):
    """Seeds the random transformations of each batch, in whichever process it is loaded.

    Together with a `ResumableSampler`, augmentation depends on (seed, epoch, batch) alone: it is
    the same with any number of workers, and after a resume. The global streams of Python, NumPy
    and torch are seeded for the length of a batch, and are afterwards as they were.

    Args:
        dataset: A map-style dataset.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> class Noise(Dataset):
        ...     def __getitem__(self, index):
        ...         return torch.rand(())
        >>> sampler = ResumableSampler(4, 2, seed=1)
        >>> loader = DataLoader(SeededDataset(Noise()), batch_sampler=sampler)
        >>> torch.equal(torch.cat(list(loader)), torch.cat(list(loader)))
        True
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        return self.dataset[index]

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """The samples of a batch, made with the batch's seed where the sampler gives one."""
        if not isinstance(indices, Indices):
            return self._samples(indices)
        python, numpy = random.getstate(), np.random.get_state()
        generator = torch.default_generator
        torch_state = generator.get_state()
        random.seed(indices.seed)
        np.random.seed(indices.seed & 0xFFFFFFFF)
        generator.manual_seed(indices.seed)
        try:
            return self._samples(indices)
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            generator.set_state(torch_state)

    def _samples(self, indices: list[int]) -> list[Any]:
        several = getattr(self.dataset, "__getitems__", None)
        return list(several(indices)) if several else [self.dataset[i] for i in indices]

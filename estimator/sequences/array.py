"""`SequenceArray`: arrays in memory, batch by batch."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from estimator.gather import Gathered
from estimator.handlers.base import ArgumentError, ArgumentTypeError, DataError
from estimator.loaders import as_dataset
from estimator.processor import UID, describe
from estimator.sampler import ResumableSampler
from estimator.sequences.base import Sequence
from estimator.sequences.batches import each
from estimator.taking import taking
from estimator.uids import UidDataset, Uids, check_uids


class SequenceArray(Sequence, Gathered):
    """Batches of arrays, each made by one indexed read an array, in which every sample has a name.

    It is data for `fit`, `evaluate` and `predict`, and can be gone through by itself. Each pass
    is an epoch with an order of its own, which depends on (seed, epoch) alone and is the one that
    `fit((x, y), batch_size=...)` has with the same seed. `fit` counts its own epochs, goes on
    inside of one, and deals batches to several processes as it does with arrays.

    Args:
        arrays: A dict or tuple of tensors and NumPy arrays, whose parts may be nested tuples and
            dicts, or a single one; one row a sample. Columns of words are arrays of text.
        batch_size: Samples of a batch.
        shuffle: Whether each epoch has an order of its own.
        uids: One identity a sample, integers or strings; None is the index of the sample, or what
            a dict has under "sample_uid".
        drop_last: Whether a last batch with fewer samples is left out.
        seed: Of the order; None draws one from torch's stream, if there is something to shuffle.
        sampler: What draws the batches, such as a `BalancedSampler`, in place of `batch_size`,
            `shuffle`, `drop_last` and `seed`.

    Raises:
        ArgumentError: Arrays of different lengths or without rows, a batch size below 1 or that
            leaves no batch, or another number of identities than of samples.
        ArgumentTypeError: No arrays, or such that no rows of them can be read at once.

    Example:
        >>> letters = {"code": torch.tensor([97, 98, 99]), "label": torch.tensor([0, 1, 1])}
        >>> sequence = SequenceArray(letters, batch_size=2, uids=["a", "b", "c"])
        >>> [(batch["code"].tolist(), batch["sample_uid"]) for batch in sequence]
        [([97, 98], ['a', 'b']), ([99], ['c'])]
    """

    def __init__(
        self, arrays: Any, batch_size: int = 32, *, shuffle: bool = False,
        uids: Uids | None = None,
        drop_last: bool = False, seed: int | None = None, sampler: ResumableSampler | None = None,
    ) -> None:  # fmt: skip
        dataset = _dataset(arrays)
        samples = len(dataset)  # type: ignore[arg-type]  # arrays have one
        _check_sizes(samples, batch_size, drop_last)
        _check_sampler(sampler, samples)
        if uids is not None:
            check_uids(uids, samples, "SequenceArray")
        named = UidDataset(dataset, _numbers_as_tensor(uids))
        if taking(named) is None:
            raise ArgumentTypeError(
                "SequenceArray(arrays=..., uids=...) must be strided tensors on the host without "
                "a graph, arrays of numbers, or one-dimensional arrays of text; identities must be "
                f"all integers or all strings; received {describe(arrays)}"
                f"{'' if uids is None else ' and uids ' + describe(uids)}. Convert them, or pass a "
                "DataLoader."
            )
        seed = 0 if seed is None and not shuffle else seed
        if sampler is None:
            sampler = ResumableSampler(
                samples, batch_size, shuffle=shuffle, drop_last=drop_last, seed=seed
            )
        # `fit` deals to several processes; by itself each goes through the whole.
        self.sampler = copy.copy(sampler)
        self.sampler.rank, self.sampler.world_size = 0, 1
        loader = DataLoader(named, batch_sampler=self.sampler, generator=torch.Generator())
        Gathered.__init__(self, loader)
        self._arrays = arrays
        self._uids = _listed(arrays, uids, samples)

    def __len__(self) -> int:
        return len(self.sampler)

    def _batches(self, epoch: int, start: int) -> Iterator[Any]:
        self.sampler.set_epoch(epoch, start)
        return Gathered.__iter__(self)

    def _sizes(self) -> list[int]:
        return [self.sampler.share(number).everywhere for number in range(len(self))]

    def subsample(self, n: int) -> SequenceArray:
        """`n` samples, evenly spread over all; a sampler of its own is left behind."""
        samples = len(self._uids)
        if not isinstance(n, int) or not 1 <= n <= samples:
            raise ArgumentError(
                f"subsample(n=...) must be a whole number from 1 to {samples}; received {n!r}."
            )
        return self._part([i * samples // n for i in range(n)], shuffle=self.sampler.shuffle)

    def subsample_uids(self, uids: Iterable[Any]) -> SequenceArray:
        """The samples of these identities, in the order given.

        Raises:
            ArgumentError: There is no sample of such an identity.
        """
        places = {uid: row for row, uid in enumerate(self._uids)}
        chosen = [uid.item() if hasattr(uid, "item") else uid for uid in uids]
        unknown = [uid for uid in chosen if uid not in places]
        if unknown or not chosen:
            raise ArgumentError(
                "subsample_uids(uids=...) must be identities of samples, one or more; received "
                f"{unknown[:8] if unknown else chosen!r}, which this data has not."
            )
        return self._part([places[uid] for uid in chosen], shuffle=False)

    def _part(self, rows: list[int], *, shuffle: bool) -> SequenceArray:
        size = min(self.sampler.batch_size, len(rows))
        return SequenceArray(
            each(self._arrays, lambda array: array[rows]), size, shuffle=shuffle,
            uids=[self._uids[row] for row in rows], seed=self.sampler.seed,
        )  # fmt: skip

    def state_dict(self) -> dict[str, int]:
        """The place after the last batch that was given, for passes outside of `fit`."""
        whole = self._done == len(self)
        place = {"epoch": self._epoch + whole, "done": 0 if whole else self._done}
        return {**place, **self._size(), "seed": self.sampler.seed}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Lets the next pass go on at a place.

        Raises:
            DataError: The data is not of the size that it had.
        """
        known = {name: state[name] for name in self._size()}
        if known != self._size():
            raise DataError(
                f"SequenceArray must be of the size that it had when its state was taken: {known}; "
                f"received {self._size()}. Make it of the same arrays and batch size."
            )
        self._epoch, self._done, self.sampler.seed = state["epoch"], state["done"], state["seed"]
        self._goes_on = True

    def _size(self) -> dict[str, int]:
        return {"samples": self.sampler.samples, "batch_size": self.sampler.batch_size}


def _dataset(arrays: Any) -> Dataset[Any]:
    given = isinstance(arrays, Dataset)
    dataset = None if given else as_dataset(arrays, "SequenceArray(arrays=...)")
    if dataset is None:
        raise ArgumentTypeError(
            "SequenceArray(arrays=...) must be a dict or a tuple of tensors or NumPy arrays with "
            f"one row a sample; received {describe(arrays)}. Put arrays of a list into a tuple; "
            "for a Dataset make a DataLoader."
        )
    return dataset


def _numbers_as_tensor(uids: Uids | None) -> Uids | None:
    if isinstance(uids, (list, tuple, range)) and all(type(uid) is int for uid in uids):
        return torch.tensor(uids)
    return uids


def _listed(arrays: Any, uids: Uids | None, samples: int) -> list[Any]:
    """The identity of each sample."""
    brought = arrays[UID] if isinstance(arrays, Mapping) and UID in arrays else range(samples)
    given: Any = brought if uids is None else uids
    return given.tolist() if hasattr(given, "tolist") else list(given)


def _check_sampler(sampler: ResumableSampler | None, samples: int) -> None:
    if sampler is None:
        return
    if not isinstance(sampler, ResumableSampler):
        raise ArgumentTypeError(
            "SequenceArray(sampler=...) must be a sampler of batches, such as "
            f"BalancedSampler(labels, 32); received {type(sampler).__name__}. Give a DataLoader "
            "samplers of another kind."
        )
    drawn_from = getattr(sampler, "population", sampler.samples)
    if drawn_from != samples:
        raise ArgumentError(
            f"SequenceArray(sampler=...) must draw from the {samples} samples that the arrays "
            f"have; received one that draws from {drawn_from}."
        )


def _check_sizes(samples: int, batch_size: object, drop_last: bool) -> None:
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise ArgumentError(
            "SequenceArray(batch_size=...) must be a whole number from 1 up; received "
            f"{batch_size!r}."
        )
    if not samples or (drop_last and samples < batch_size):
        raise ArgumentError(
            "SequenceArray(arrays=...) must have samples for one batch or more; received "
            f"{samples}, with batch_size={batch_size} and drop_last={drop_last}."
        )

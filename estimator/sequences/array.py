"""`SequenceArray`: arrays in memory, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from estimator.gather import Gathered
from estimator.handlers.base import ArgumentError, ArgumentTypeError, DataError
from estimator.loaders import as_dataset
from estimator.processor import describe
from estimator.sampler import ResumableSampler
from estimator.taking import taking
from estimator.uids import UidDataset, Uids, check_uids


class SequenceArray(Gathered):
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
        drop_last: bool = False, seed: int | None = None,
    ) -> None:  # fmt: skip
        dataset = _dataset(arrays)
        samples = len(dataset)  # type: ignore[arg-type]  # arrays have one
        _check_sizes(samples, batch_size, drop_last)
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
        # `fit` deals to several processes; by itself each goes through the whole.
        self.sampler = ResumableSampler(
            samples, batch_size, shuffle=shuffle, drop_last=drop_last, seed=seed, rank=0,
            world_size=1,
        )  # fmt: skip
        super().__init__(DataLoader(named, batch_sampler=self.sampler, generator=torch.Generator()))
        self._epoch = self._done = 0
        self._goes_on = False

    def __iter__(self) -> Iterator[Any]:
        if self._done and not self._goes_on:
            self._epoch, self._done = self._epoch + 1, 0
        self._goes_on = False
        self.sampler.set_epoch(self._epoch, self._done)
        for batch in super().__iter__():
            self._done += 1
            yield batch
        self._epoch, self._done = self._epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        """The place after the last batch that was given, for passes outside of `fit`."""
        whole = self._done == len(self)
        place = {"epoch": self._epoch + whole, "done": 0 if whole else self._done}
        return {**place, **self._sizes(), "seed": self.sampler.seed}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Lets the next pass go on at a place.

        Raises:
            DataError: The data is not of the size that it had.
        """
        known = {name: state[name] for name in self._sizes()}
        if known != self._sizes():
            raise DataError(
                f"SequenceArray must be of the size that it had when its state was taken: {known}; "
                f"received {self._sizes()}. Make it of the same arrays and batch size."
            )
        self._epoch, self._done, self.sampler.seed = state["epoch"], state["done"], state["seed"]
        self._goes_on = True

    def _sizes(self) -> dict[str, int]:
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

"""`with_uids`: samples that say who they are, for handlers that follow single ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, default_collate

from estimator.handlers.base import ArgumentError, ArgumentTypeError
from estimator.loaders import as_dataset, loader_like
from estimator.processor import UID, UidSample

Uids = Sequence[Any] | np.ndarray[Any, Any] | torch.Tensor
"""One identity a sample, integers or strings."""


class UidDataset(Dataset[Any]):
    """A dataset whose samples say who they are; made by `with_uids`.

    Args:
        dataset: A map-style dataset.
        uids: One identity a sample, integers or strings. None keeps those that samples bring, and
            gives others their index: in the whole dataset, where `dataset` is a part of one.
        paired: Whether dict samples, too, stay as they are beside their identity, for a collate
            function that is not to meet another key.

    Raises:
        ArgumentError: The number of identities is not that of the samples.
        ArgumentTypeError: `dataset` has no length or no indices, or `uids` have no order.
    """

    def __init__(self, dataset: Any, uids: Uids | None = None, *, paired: bool = False) -> None:
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
            raise ArgumentTypeError(
                "with_uids(data=...) must be a dataset with a length, whose samples have an "
                f"index; received {type(dataset).__name__}. Let a stream yield dicts with a "
                f"{UID!r} of its own."
            )
        if uids is not None:
            check_uids(uids, len(dataset), "with_uids")
        self.dataset, self.uids, self.paired = dataset, uids, paired

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        return self._named(self.dataset[index], index)

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """Several samples at once, which the loader asks for; many datasets do it faster."""
        whole = getattr(self.dataset, "__getitems__", None)
        samples = whole(indices) if whole else [self.dataset[index] for index in indices]
        return [self._named(each, i) for each, i in zip(samples, indices, strict=True)]

    def _named(self, sample: Any, index: Any) -> Any:
        known = isinstance(sample, UidSample)
        if self.uids is None and (known or (isinstance(sample, Mapping) and UID in sample)):
            return sample
        sample, uid = sample.sample if known else sample, self._uid(index)
        if isinstance(sample, Mapping) and not self.paired:
            return {**sample, UID: uid}
        return UidSample(sample, uid)

    def _uid(self, index: Any) -> Any:
        if isinstance(index, list):  # a sampler of batches, in a loader that does not collate
            return [self._uid(each) for each in index]
        return _whole_index(self.dataset, index) if self.uids is None else self.uids[index]


def check_uids(uids: Any, samples: int, function: str) -> None:
    """Checks that there is one identity a sample.

    Args:
        uids: As the user gave them.
        samples: How many there have to be.
        function: What messages call the call that got them.

    Raises:
        ArgumentError: There are more or fewer.
        ArgumentTypeError: They have no order.
    """
    ordered = hasattr(uids, "__len__") and hasattr(uids, "__getitem__")
    if not ordered or isinstance(uids, (str, bytes, Mapping)):
        raise ArgumentTypeError(
            f"{function}(uids=...) must be a list, array or tensor of identities; received "
            f"{type(uids).__name__}. Pass list(...) of them, in the order of the samples."
        )
    if len(uids) != samples:
        raise ArgumentError(
            f"{function}(uids=...) must hold one identity a sample; received {len(uids)} for "
            f"{samples} samples."
        )


def _whole_index(dataset: Any, index: int) -> int:
    """The index that a part's sample has in the whole, so that parts share no identity."""
    while isinstance(dataset, Subset):
        dataset, index = dataset.dataset, dataset.indices[index]
    return int(index)


class UidCollate:
    """Keeps a collate function from seeing the identities."""

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self.collate = collate

    def __call__(self, samples: Any) -> Any:
        """Collates samples, and their identities by themselves."""
        if isinstance(samples, UidSample):  # one that is not to be put together with others
            batch, uids = self.collate(samples.sample), samples.sample_uid
        elif isinstance(samples, list) and isinstance(samples[0], UidSample):
            batch = self.collate([sample.sample for sample in samples])
            uids = default_collate([sample.sample_uid for sample in samples])
        else:
            return self.collate(samples)
        return {**batch, UID: uids} if type(batch) is dict else UidSample(batch, uids)


def with_uids(data: Any, uids: Uids | None = None) -> Any:
    """Gives every sample an identity, for handlers that follow single samples.

    Args:
        data: A map-style dataset, arrays, or a DataLoader (needed where the loader has a collate
            function of its own, which then sees nothing of the identities).
        uids: One identity a sample, integers or strings. None keeps a "sample_uid" that dict
            samples bring, and gives others their index: in the whole dataset for a Subset.

    Returns:
        A dataset or a DataLoader; dict samples and batches get a key "sample_uid", all others are
        pairs `(sample, sample_uid)`.

    Raises:
        ArgumentError: The number of identities is not that of the samples.
        ArgumentTypeError: `data` has no length or no indices, or `uids` have no order.

    Example:
        >>> import torch
        >>> loader = DataLoader(with_uids((torch.zeros(4, 2), torch.zeros(4))), batch_size=2)
        >>> [batch.sample_uid.tolist() for batch in loader]
        [[0, 1], [2, 3]]
    """
    if isinstance(data, DataLoader):
        named = UidDataset(data.dataset, uids, paired=True)
        return loader_like(data, named, collate_fn=UidCollate(data.collate_fn))
    dataset = as_dataset(data, "with_uids(data=...)")
    return UidDataset(data if dataset is None else dataset, uids)

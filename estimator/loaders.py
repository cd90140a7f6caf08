"""Datasets from arrays, and DataLoaders like another one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from estimator.handlers.base import ArgumentError, ArgumentTypeError
from estimator.processor import describe
from estimator.runtime import array_tensor


class Rows(Dataset[Any]):
    """Nested arrays of one length as a dataset of their rows."""

    def __init__(self, arrays: Any, length: int) -> None:
        self.arrays, self.length = arrays, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return _each(self.arrays, lambda array: array[index])


def as_dataset(data: Any, argument: str) -> Dataset[Any] | None:
    """The dataset that arrays or a Dataset make; None for loaders and other iterables.

    Args:
        data: An array, a tuple `(x, y)` or a dict of arrays, whose parts may be nested tuples and
            dicts; or a Dataset. A list holds batches, so that it is never taken for arrays.
        argument: What messages call it.

    Raises:
        ArgumentError: Arrays of different lengths.
    """
    if isinstance(data, Dataset):
        return data
    if not _made_of_arrays(data):
        return None
    arrays = list(_leaves(data))
    if len({len(array) for array in arrays}) != 1:
        raise ArgumentError(
            f"{argument}: arrays must have one row a sample, the same number in each; received "
            f"{describe(data)}. Check the first dimension, and put batches into a list."
        )
    rows = _each(data, _tensor)
    flat = rows if isinstance(rows, tuple) else (rows,)
    if all(isinstance(column, torch.Tensor) for column in flat):
        return TensorDataset(*flat)
    return Rows(rows, len(arrays[0]))


def _made_of_arrays(value: Any) -> bool:
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return value.ndim > 0
    if isinstance(value, Mapping):
        value = tuple(value.values())
    return isinstance(value, tuple) and bool(value) and all(map(_made_of_arrays, value))


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if not isinstance(value, tuple):
        yield value
        return
    for item in value:
        yield from _leaves(item)


def _each(value: Any, function: Callable[[Any], Any]) -> Any:
    """The same nested structure, with the function's result in place of each array."""
    if isinstance(value, Mapping):
        return {key: _each(item, function) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(_each(item, function) for item in value)
    return function(value)


def _tensor(array: Any) -> Any:
    # Words, such as identities, have no tensor.
    is_number = isinstance(array, np.ndarray) and array.dtype.kind in "biufc"
    return array_tensor(array) if is_number else array


def is_stock(loader: DataLoader[Any]) -> bool:
    """Whether a loader's batches are what DataLoader makes of its dataset, and nothing else."""
    return type(loader).__iter__ is DataLoader.__iter__


def length_of(data: Any) -> int | None:
    """How many items something says it has; None where it does not say."""
    try:
        return len(data)
    except (TypeError, NotImplementedError):  # streams and loaders over them have none
        return None


def loader_like(loader: DataLoader[Any], dataset: Dataset[Any], **changes: Any) -> DataLoader[Any]:
    """A DataLoader with the settings of `loader` over another dataset of the same indices.

    Args:
        loader: Whose settings are taken, sampler and generator included.
        dataset: What is loaded.
        **changes: Arguments of DataLoader that are to differ.

    Raises:
        ArgumentTypeError: `loader` is of a class with an `__iter__` of its own.
    """
    if not is_stock(loader):
        raise ArgumentTypeError(
            f"a {type(loader).__name__} cannot be made again over another dataset, since it has "
            "an __iter__ of its own. Wrap or split the dataset before the loader is made."
        )
    settings: dict[str, Any] = {
        name: getattr(loader, name)
        for name in (
            "num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn",
            "multiprocessing_context", "generator", "prefetch_factor", "persistent_workers",
            "pin_memory_device", "in_order",
        )
    }  # fmt: skip
    if loader.batch_size is None and loader.batch_sampler is not None:
        settings["batch_sampler"] = loader.batch_sampler
    else:
        settings |= {name: getattr(loader, name) for name in ("batch_size", "sampler", "drop_last")}
    return DataLoader(dataset, **(settings | changes))

"""What a reservoir gives its workers: pieces of the source's batches, and functions of samples."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from estimator.handlers.base import ArgumentError, DataError
from estimator.sampler import mixed
from estimator.sequences.base import Sequence
from estimator.sequences.batches import Named, named
from estimator.sequences.map import SequenceMap
from estimator.sequences.work import Task


def batch_size_of(source: Sequence) -> int:
    """Samples of the largest batch.

    Raises:
        ArgumentError: That is not known, or there are no batches.
    """
    sizes = source._sizes()
    if not sizes:
        raise ArgumentError(
            "SequenceAsyncReservoir(source=...) must know its batches and have one or more; "
            f"received a {type(source).__name__} of {None if sizes is None else 0}. Give a "
            "sequence of your own a _sizes that tells them."
        )
    return max(sizes)


def functions_of(
    source: Sequence, fn: Callable[[Any], Any] | None
) -> tuple[Sequence, Callable[[Any], Any]]:
    """The source, and all that is to be done to its samples in workers."""
    functions = [] if fn is None else [fn]
    while type(source) is SequenceMap and not (
        source.workers or source.batched or source.collate_fn
    ):
        functions.insert(0, source.fn)
        source = source.source
    return source, _Chain(functions)


class _Chain:
    """Functions of a sample, one after the other."""

    def __init__(self, functions: list[Callable[[Any], Any]]) -> None:
        self.functions = functions

    def __call__(self, sample: Any) -> Any:
        for function in self.functions:
            sample = function(sample)
        return sample


def tasks_of(source: Sequence, chunk: int, seed: int) -> Iterator[Task]:
    """Pieces of the source's batches, epoch after epoch."""
    origin = type(source).__name__
    for epoch in itertools.count():
        count = 0
        for number, given in enumerate(source._batches(epoch, 0)):
            batch: Named = named(given, origin)
            for at in range(0, len(batch.uids), chunk):
                count += 1
                yield Task(batch.rows(at, at + chunk), mixed(seed, epoch, number), at)
        if not count:
            raise DataError(f"{origin} must yield at least one batch an epoch; it yielded none.")

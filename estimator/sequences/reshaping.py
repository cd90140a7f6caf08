"""Sequences with batches of other sizes or another make, and the same samples."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

from estimator.handlers.base import ArgumentError, ArgumentTypeError, DataError
from estimator.sequences.base import Sequence
from estimator.sequences.batches import (
    Named,
    bare,
    is_words,
    joined,
    named,
    public_sample,
    samples_of,
    size_of,
)


class _Reshaped(Sequence):
    """What makes other batches of those of a source."""

    def __init__(self, source: Sequence, n: int) -> None:
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            raise ArgumentError(
                f"{type(self).__name__}(n=...) must be a whole number from 1 up; received {n!r}."
            )
        self.source, self.n = source, n

    def _batches(self, epoch: int, start: int) -> Iterator[Any]:
        origin = type(self.source).__name__
        given = (named(batch, origin) for batch in self.source._batches(epoch, 0))
        return (batch.public() for batch in islice(self._reshaped(given), start, None))

    def _sizes(self) -> list[int] | None:
        sizes = self.source._sizes()
        return None if sizes is None else self._resized(sizes)

    def _keeps_order(self) -> bool:
        return self.source._keeps_order()

    def _over(self, choose: Callable[[Sequence], Sequence]) -> Sequence:
        return type(self)(choose(self.source), self.n)

    @abstractmethod
    def _reshaped(self, batches: Iterator[Named]) -> Iterator[Named]:
        """The batches that are made of an epoch's."""

    @abstractmethod
    def _resized(self, sizes: list[int]) -> list[int]:
        """Their sizes."""


class SequenceBatch(_Reshaped):
    """Each `n` batches joined into one; made by `.batch(n)`."""

    def _reshaped(self, batches: Iterator[Named]) -> Iterator[Named]:
        while parts := list(islice(batches, self.n)):
            yield joined(parts)

    def _resized(self, sizes: list[int]) -> list[int]:
        return [sum(sizes[at : at + self.n]) for at in range(0, len(sizes), self.n)]


class SequenceRebatch(_Reshaped):
    """Batches of exactly `n` samples; made by `.rebatch(n)`."""

    def __init__(self, source: Sequence, n: int, *, drop_last: bool = False) -> None:
        super().__init__(source, n)
        self.drop_last = drop_last

    def _over(self, choose: Callable[[Sequence], Sequence]) -> Sequence:
        return SequenceRebatch(choose(self.source), self.n, drop_last=self.drop_last)

    def _reshaped(self, batches: Iterator[Named]) -> Iterator[Named]:
        parts: list[Named] = []
        held = 0
        for batch in batches:
            parts.append(batch)
            held += len(batch.uids)
            if held >= self.n:
                whole, full = joined(parts), held - held % self.n
                for at in range(0, full, self.n):
                    yield whole.rows(at, at + self.n)
                parts = [whole.rows(full, held)] if held > full else []
                held -= full
        if parts and not self.drop_last:
            yield joined(parts)

    def _resized(self, sizes: list[int]) -> list[int]:
        full, rest = divmod(sum(sizes), self.n)
        return [self.n] * full + ([rest] if rest and not self.drop_last else [])


class SequenceSubBatch(_Reshaped):
    """Batches cut into ones of at most `n` samples; made by `.sub_batch(n)`."""

    def _reshaped(self, batches: Iterator[Named]) -> Iterator[Named]:
        for batch in batches:
            for at in range(0, len(batch.uids), self.n):
                yield batch.rows(at, at + self.n)

    def _resized(self, sizes: list[int]) -> list[int]:
        return [min(self.n, size - at) for size in sizes for at in range(0, size, self.n)]


class SequenceMaxSamples(_Reshaped):
    """Epochs of at most `n` samples; made by `.max_samples(n)`."""

    def _reshaped(self, batches: Iterator[Named]) -> Iterator[Named]:
        left = self.n
        for batch in batches:
            yield batch if len(batch.uids) <= left else batch.rows(0, left)
            left -= len(batch.uids)
            if left <= 0:
                return

    def _resized(self, sizes: list[int]) -> list[int]:
        left, found = self.n, []
        for size in sizes:
            if left > 0:
                found.append(min(size, left))
            left -= size
        return found


class SequenceCollate(_Reshaped):
    """Batches made anew by a function of their samples; made by `.collate(fn)`.

    Raises:
        ArgumentTypeError: `fn` cannot be called.
    """

    def __init__(self, source: Sequence, fn: Callable[[list[Any]], Any]) -> None:
        super().__init__(source, 1)
        if not callable(fn):
            raise ArgumentTypeError(
                f"collate(fn=...) must be a function of a list of samples; received {fn!r}."
            )
        self.fn = fn

    def _batches(self, epoch: int, start: int) -> Iterator[Any]:
        origin = type(self.source).__name__
        given = (named(batch, origin) for batch in self.source._batches(epoch, start))
        return (batch.public() for batch in self._reshaped(given))

    def _over(self, choose: Callable[[Sequence], Sequence]) -> Sequence:
        return SequenceCollate(choose(self.source), self.fn)

    def _reshaped(self, batches: Iterator[Named]) -> Iterator[Named]:
        for content, uids in batches:
            yield Named(collated_by(self.fn, samples_of(content, len(uids)), uids), uids)

    def _resized(self, sizes: list[int]) -> list[int]:
        return sizes


def collated_by(fn: Callable[[list[Any]], Any], samples: list[Any], uids: list[Any]) -> Any:
    """The batch that a user's collate function makes of samples, without identities.

    Raises:
        DataError: It returns nothing, or another number of samples.
    """
    given = [public_sample(sample, uid) for sample, uid in zip(samples, uids, strict=True)]
    return checked_batch(fn(given), uids, "collate")


def checked_batch(batch: Any, uids: list[Any], function: str) -> Any:
    """A batch that a user's function returned, without identities.

    Args:
        batch: What it returned.
        uids: The identities of the samples that it got.
        function: What messages call it.

    Raises:
        DataError: It is None or empty, or has another number of samples.
    """
    content = bare(batch)
    length = size_of(content)
    is_nothing = batch is None or (isinstance(content, (dict, list, tuple)) and not content)
    if is_nothing or (length is not None and length != len(uids)):
        received = repr(batch) if is_nothing else f"{length} of them"
        raise DataError(
            f"{function} must return a batch of the {len(uids)} samples that it got, from "
            f"{uids[0]!r} to {uids[-1]!r}; received {received}. Return one row a sample in each "
            "tensor."
        )
    return content


def check_columns(content: Any, uids: list[Any]) -> None:
    """Checks that each column of a batch that a user's function returned has all samples.

    Raises:
        DataError: One has another number of rows.
    """
    parts: Any = content.items() if isinstance(content, Mapping) else ()
    if isinstance(content, (tuple, list)) and not is_words(content):
        parts = enumerate(content)
    for key, column in parts:
        length = size_of(column)
        if length not in (None, len(uids)):
            raise DataError(
                f"fn must return a batch of the {len(uids)} samples that it got, from {uids[0]!r} "
                f"to {uids[-1]!r}; received {length} rows in batch[{key!r}]."
            )

"""`Sequence`: batches that can be gone through again and again, and chained into a pipeline."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Unpack

from estimator.handlers.base import ArgumentTypeError, DataError

if TYPE_CHECKING:
    from estimator.sequences.map import SequenceMap
    from estimator.sequences.options import JobOptions
    from estimator.sequences.reservoir import SequenceAsyncReservoir


class Sequence(ABC):
    """Batches whose samples have identities; the base of all sequences.

    It is data for `fit`, `evaluate` and `predict`, and can be gone through by itself. Each pass is
    an epoch of its own. A pass that is left early is over: the next one begins anew, with nothing
    left over from it. Methods make new sequences and change none.

    A class of your own yields batches in `_batches`, and says in `_sizes` how many samples each of
    them has. Batches are dicts with a key "sample_uid", or `UidSample(batch, uids)`.

    Example:
        >>> import torch
        >>> from estimator.sequences import SequenceArray
        >>> numbers = SequenceArray({"x": torch.arange(5.0)}, batch_size=2)
        >>> doubled = numbers.map(lambda sample: {"x": 2 * sample["x"]}).rebatch(3)
        >>> [(batch["x"].tolist(), batch["sample_uid"].tolist()) for batch in doubled]
        [([0.0, 2.0, 4.0], [0, 1, 2]), ([6.0, 8.0], [3, 4])]
    """

    _epoch = 0
    _done = 0
    _goes_on = False
    _pass: object = None

    @abstractmethod
    def _batches(self, epoch: int, start: int) -> Iterator[Any]:
        """The batches of an epoch, from one on; it depends on no other pass."""

    @abstractmethod
    def _sizes(self) -> list[int] | None:
        """Samples of each batch of an epoch; None where that is not known."""

    def _keeps_order(self) -> bool:
        """Whether a pass of an epoch that is gone through again gives the same batches."""
        return True

    def _over(self, choose: Callable[[Sequence], Sequence]) -> Sequence:
        """The same steps over a choice of the samples at the source."""
        raise ArgumentTypeError(
            f"the samples of a {type(self).__name__} cannot be chosen. Choose at a SequenceArray, "
            "or give the class a subsample and a subsample_uids."
        )

    def __len__(self) -> int:
        sizes = self._sizes()
        if sizes is None:
            raise TypeError(f"this {type(self).__name__} does not know how many batches it has")
        return len(sizes)

    def __iter__(self) -> Iterator[Any]:
        if self._done and not self._goes_on:
            self._epoch, self._done = self._epoch + 1, 0
        self._goes_on, self._pass = False, object()
        this = self._pass
        for batch in self._batches(self._epoch, self._done):
            if self._pass is this:  # another pass counts for itself
                self._done += 1
            yield batch
        if self._pass is this:
            self._epoch, self._done = self._epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """The place after the last batch that was given."""
        sizes = self._sizes()
        batches = None if sizes is None else len(sizes)
        whole = self._done == batches
        place = {"epoch": self._epoch + whole, "done": 0 if whole else self._done}
        return {**place, "batches": batches}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Lets the next pass go on at a place.

        Raises:
            DataError: The data is not of the size that it had.
        """
        sizes = self._sizes()
        batches = None if sizes is None else len(sizes)
        if batches != state["batches"]:
            raise DataError(
                f"{type(self).__name__} must have the {state['batches']} batches that it had when "
                f"its state was taken; received one of {batches}. Make it of the same data."
            )
        if state["done"] and not self._keeps_order():
            warnings.warn(
                "an epoch goes on whose batches came in no fixed order (ordered=False): some of "
                "its samples may come twice, others not at all. ordered=True goes on exactly.",
                stacklevel=2,
            )
        self._epoch, self._done, self._goes_on = state["epoch"], state["done"], True

    def map(
        self, fn: Callable[[Any], Any], *, workers: int = 0, ordered: bool = True,
        batched: bool = False, collate: Callable[[list[Any]], Any] | None = None,
        **options: Unpack[JobOptions],
    ) -> SequenceMap:  # fmt: skip
        """Applies a function to each sample, in this process or in others; see `SequenceMap`."""
        from estimator.sequences.map import SequenceMap

        return SequenceMap(
            self, fn, workers=workers, ordered=ordered, batched=batched, collate=collate, **options
        )

    def async_reservoir(
        self, *, capacity: int, workers: int = 1, max_reuse: int = 4, max_age: int | None = None,
        fn: Callable[[Any], Any] | None = None, **options: Any,
    ) -> SequenceAsyncReservoir:  # fmt: skip
        """Draws batches from samples that workers renew meanwhile; see `SequenceAsyncReservoir`."""
        from estimator.sequences.reservoir import SequenceAsyncReservoir

        return SequenceAsyncReservoir(
            self, fn, capacity=capacity, workers=workers, max_reuse=max_reuse, max_age=max_age,
            **options,
        )  # fmt: skip

    def batch(self, n: int) -> Sequence:
        """Joins each `n` batches into one; the last one may have fewer."""
        from estimator.sequences.reshaping import SequenceBatch

        return SequenceBatch(self, n)

    def rebatch(self, n: int, *, drop_last: bool = False) -> Sequence:
        """Makes batches of exactly `n` samples, whatever those of this sequence have.

        Args:
            n: Samples of a batch.
            drop_last: Whether a last batch with fewer samples is left out.
        """
        from estimator.sequences.reshaping import SequenceRebatch

        return SequenceRebatch(self, n, drop_last=drop_last)

    def sub_batch(self, n: int) -> Sequence:
        """Cuts each batch into ones of at most `n` samples; no sample is lost."""
        from estimator.sequences.reshaping import SequenceSubBatch

        return SequenceSubBatch(self, n)

    def collate(self, fn: Callable[[list[Any]], Any]) -> Sequence:
        """Makes each batch anew from the list of its samples.

        After `map`, the function gets what the mapped one returned, in its worker: samples may
        then differ in shape, such as sentences that are to be padded.
        """
        from estimator.sequences.reshaping import SequenceCollate

        return SequenceCollate(self, fn)

    def max_samples(self, n: int) -> Sequence:
        """Ends each epoch after `n` samples."""
        from estimator.sequences.reshaping import SequenceMaxSamples

        return SequenceMaxSamples(self, n)

    def subsample(self, n: int) -> Sequence:
        """The same pipeline over `n` samples, evenly spread over those at the source."""
        return self._over(lambda source: source.subsample(n))

    def subsample_uids(self, uids: Iterable[Any]) -> Sequence:
        """The same pipeline over the samples of these identities, in the order given.

        Raises:
            ArgumentError: There is no sample of such an identity.
        """
        chosen = list(uids)
        return self._over(lambda source: source.subsample_uids(chosen))

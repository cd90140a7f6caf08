"""`SequenceAsyncReservoir`: batches drawn from samples that workers renew meanwhile."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any, Unpack

import numpy as np

from estimator.handlers.base import ArgumentError, ArgumentTypeError, DataError
from estimator.sampler import mixed
from estimator.sequences.base import Sequence
from estimator.sequences.batches import public, samples_of
from estimator.sequences.fields import Fields, StoreWork, Target, layout_of, stored_in
from estimator.sequences.map import Drops
from estimator.sequences.options import JobOptions, check_whole, jobs
from estimator.sequences.pool import Pool, Session
from estimator.sequences.reservoir_report import ReservoirReport
from estimator.sequences.reservoir_source import batch_size_of, functions_of, tasks_of
from estimator.sequences.slots import Slots
from estimator.sequences.work import Failure, Outcome

CHUNK = 8
"""Samples of a task where that is enough, so that a message to a worker is for several."""
MOST_AHEAD = 16
"""Tasks that a worker has at most: each takes a file and a message, of which a pipe holds some."""


class SequenceAsyncReservoir(Sequence):
    """Batches of random samples that workers make, each drawn `max_reuse` times at most.

    For augmentation that is slower than training: in place of waiting, training sees a sample up
    to `max_reuse` times, spread over many batches, while workers make new ones ("data echoing",
    Choi et al., 2019, arXiv 1907.05550). Where workers are fast enough, each sample is drawn once.

    Workers write to places of shared memory that nobody reads, and what is drawn changes between
    two batches only, within an epoch too. A pass has as many batches as one of the source, all of
    the size of its first, and goes on with what the pass before has left.

    Args:
        source: Where the samples come from, epoch after epoch.
        fn: Of one sample, as in `SequenceMap`; it has to be importable. None takes samples as they
            are. The function of a `SequenceMap` without workers runs in these workers, before it.
        capacity: Samples that can be drawn at a time; a quarter of the data, or 50 batches, do.
        workers: Processes.
        max_reuse: How often a sample is drawn at most.
        max_age: For how many batches a sample may be drawn; None is for as many as it lasts.
        min_fill: Samples that have to be there for a draw, so that batches are mixed well; None is
            half of the capacity, or a batch where that is more.
        deterministic: Whether batches depend on the seed alone, and not on the speed of workers:
            each batch waits for the samples due then, which is slower. For tests.
        **options: `on_error`, `max_drops`, `seed`, `timeout` and `start_method`, as in `Jobs`.

    Raises:
        ArgumentError: A number out of its range, or a source that does not know its length.
        ArgumentTypeError: `fn` cannot be called, or cannot be sent to a process.

    Example:
        >>> import torch
        >>> from estimator.sequences import SequenceArray
        >>> numbers = SequenceArray({"x": torch.arange(8.0)}, batch_size=4)
        >>> with numbers.async_reservoir(capacity=8, max_reuse=2) as reservoir:
        ...     batches = [batch["x"].shape for batch in reservoir]
        >>> batches, reservoir.report().batches
        ([torch.Size([4]), torch.Size([4])], 2)
    """

    def __init__(
        self, source: Sequence, fn: Callable[[Any], Any] | None = None, *, capacity: int,
        workers: int = 1, max_reuse: int = 4, max_age: int | None = None,
        min_fill: int | None = None, deterministic: bool = False, **options: Unpack[JobOptions],
    ) -> None:  # fmt: skip
        self.settings = jobs("SequenceAsyncReservoir", workers, options)
        if fn is not None and not callable(fn):
            raise ArgumentTypeError(
                f"SequenceAsyncReservoir(fn=...) must be a function; received {fn!r}."
            )
        self.source, self.fn, self.workers = source, fn, workers
        self.batch_size = batch_size_of(source)
        self.capacity, self.max_reuse, self.max_age = capacity, max_reuse, max_age
        check_whole("SequenceAsyncReservoir", "capacity", capacity, self.batch_size)
        half = max(self.batch_size, capacity // 2)
        self.min_fill = half if min_fill is None else min_fill
        self.deterministic = deterministic
        self._check()
        self._state: _State | None = None
        self._report = ReservoirReport(capacity, max_reuse)

    def _check(self) -> None:
        for name in ("workers", "max_reuse"):
            check_whole("SequenceAsyncReservoir", name, getattr(self, name), 1)
        check_whole("SequenceAsyncReservoir", "min_fill", self.min_fill, self.batch_size)
        if self.max_age is not None:
            check_whole("SequenceAsyncReservoir", "max_age", self.max_age, 0)
        if self.min_fill > self.capacity:
            raise ArgumentError(
                "SequenceAsyncReservoir(min_fill=...) must be at most the capacity; received "
                f"{self.min_fill} of {self.capacity}."
            )
        if self.max_reuse > 8:
            warnings.warn(
                f"max_reuse={self.max_reuse} draws samples so often that accuracy may suffer; "
                "up to 4 it hardly does. Use more workers.",
                stacklevel=3,
            )

    def __enter__(self) -> SequenceAsyncReservoir:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the workers and frees the memory; another pass begins with an empty reservoir."""
        if self._state is not None:
            self._state.report_to(self._report)
            self._state.close()
        self._state = None

    def report(self) -> ReservoirReport:
        """How often samples were drawn, how old they were, and how long training waited."""
        if self._state is not None:
            self._state.report_to(self._report)
        return self._report

    @property
    def failures(self) -> list[Failure]:
        """The samples that were left out since the workers were started."""
        return [] if self._state is None else self._state.drops.failures

    def _sizes(self) -> list[int] | None:
        return [self.batch_size] * len(self.source)

    def _over(self, choose: Callable[[Sequence], Sequence]) -> Sequence:
        chosen = choose(self.source)
        return chosen if self.fn is None else chosen.map(self.fn, **vars(self.settings))

    def _batches(self, epoch: int, start: int) -> Iterator[Any]:
        try:
            for _ in range(start, len(self)):
                if self._state is None:
                    self._state = _State(self)
                yield self._state.next_batch()
        except GeneratorExit:
            raise  # The pass is left; the next one goes on with what there is.
        except BaseException:  # Ctrl-C may come in the middle of a message
            self.close()
            raise


class _State:
    """The workers of a reservoir and what they have made."""

    def __init__(self, owner: SequenceAsyncReservoir) -> None:
        size, workers, settings = owner.batch_size, owner.workers, owner.settings
        self.size, self.min_fill, self.max_reuse = size, owner.min_fill, owner.max_reuse
        self.deterministic = owner.deterministic
        least = -(-size // (workers * MOST_AHEAD))
        self.chunk = max(1, least, min(CHUNK, size // (2 * workers)))
        # While a batch is trained on, workers fill as many places as it takes away.
        ahead = max(2, -(-size // (self.chunk * workers)))
        spare = 2 * self.chunk * workers * ahead
        self.slots = Slots(
            owner.capacity, spare, max_reuse=owner.max_reuse, max_age=owner.max_age,
            seed=mixed(settings.seed, 1),
        )  # fmt: skip
        self.uids = np.empty(owner.capacity + spare, dtype=object)
        source, fn = functions_of(owner.source, owner.fn)
        self.tasks = tasks_of(source, self.chunk, settings.seed)
        self.drops = Drops(settings, "SequenceAsyncReservoir")
        self.samples, self.barren = sum(source._sizes() or []), 0
        self.pool = Pool(StoreWork(fn), workers, settings, "SequenceAsyncReservoir", ahead=ahead)
        self.memory: list[Fields] = []
        self._end = weakref.finalize(self, _end, self.pool, self.memory)
        self.session = Session(self.pool)
        self.targets: dict[int, list[int]] = {}
        self.early: dict[int, Outcome] = {}
        self.given = self.due = self.drawn = self.batches = 0
        self.stalls, self.stall_seconds, self.start_seconds = 0, 0.0, 0.0

    def close(self) -> None:
        """Ends the workers and frees the memory."""
        self.session.close()
        self._end()

    def _begin(self) -> None:
        """Has a first sample made, whose like all others must be."""
        began = perf_counter()
        while True:
            task = next(self.tasks)
            self.session.submit(self.given, task)
            self.given += 1
            self.session.wait()
            (outcome,) = self.session.taken().values()
            self._heed(outcome)
            if outcome.batch.uids:
                break
        content, uids = outcome.batch
        layout = layout_of(content, uids[0], len(self.uids))
        self.memory.append(Fields(layout))
        failures = list[Failure]()
        slots = self.slots.take(len(uids))
        made = stored_in(self.memory[0], slots, samples_of(content, len(uids)), uids, failures)
        self._take_in(slots, Outcome(made, failures))
        self.due = self.given
        self.start_seconds += perf_counter() - began

    def next_batch(self) -> Any:
        """Draws a batch, after the reservoir was renewed by what workers have made."""
        if not self.memory:
            self._begin()
        self.pool.collect()
        self._renew()
        if self._lacks():
            began = perf_counter()
            while self._lacks():
                self.session.wait()
                self._renew()
            waited = perf_counter() - began
            if self.batches:
                self.stalls, self.stall_seconds = self.stalls + 1, self.stall_seconds + waited
            else:
                self.start_seconds += waited
        rows = self.slots.draw(self.size)
        self.batches += 1
        self.drawn += self.size
        return public(self.memory[0].read(rows), self.uids[rows.numpy()].tolist())

    def _lacks(self) -> bool:
        return len(self.slots.live) < self.min_fill or self._behind() > 0

    def _behind(self) -> int:
        """Samples that have to be renewed before a draw whose result is to be known."""
        if not self.deterministic:
            return 0
        due = self.min_fill + self.batches * self.size // self.max_reuse
        return due - self.slots.admitted

    def _renew(self) -> None:
        self.early |= self.session.taken()
        for number in sorted(self.early):
            if self.deterministic and number != self.due:
                break
            self.due += 1
            self._take_in(self.targets.pop(number), self.early.pop(number))
        self.slots.retire()
        if self.deterministic:
            # One by one, since those that are too old now are as if they had never been.
            while self._lacks() and self.slots.filled:
                self.slots.admit(1)
        else:
            self.slots.admit()
        self._give()

    def _take_in(self, slots: list[int], outcome: Outcome) -> None:
        used, uids = outcome.batch.content or [], outcome.batch.uids
        for slot, uid in zip(used, uids, strict=True):
            self.uids[slot] = uid
        self.slots.fill(used)
        self.slots.give_back(set(slots) - set(used))
        self._heed(outcome)

    def _heed(self, outcome: Outcome) -> None:
        self.drops.add(outcome.failures)
        self.barren = 0 if outcome.batch.uids else self.barren + len(outcome.failures)
        if self.barren >= self.samples:
            raise DataError(
                f"SequenceAsyncReservoir: none of the {self.samples} samples of an epoch could be "
                f"made; the last was {outcome.failures[-1].uid!r}: {outcome.failures[-1].error}\n"
                "Correct fn; a greater max_drops= does not help."
            )

    def _give(self) -> None:
        while self.pool.room > 0 and self.slots.free >= self.chunk:
            task = next(self.tasks)
            slots = self.slots.take(len(task.batch.uids))
            self.targets[self.given] = slots
            target = Target(self.memory[0].layout, slots)
            self.session.submit(self.given, task._replace(into=target))
            self.given += 1

    def report_to(self, report: ReservoirReport) -> None:
        """Writes the numbers down."""
        report.batches, report.samples, report.fresh = self.batches, self.drawn, self.slots.admitted
        report.reuse_counts = self.slots.reuse_counts.tolist()
        report.age_counts = self.slots.age_counts.tolist()
        report.stalls, report.stall_seconds = self.stalls, self.stall_seconds
        report.start_seconds, report.fill = self.start_seconds, len(self.slots.live)
        report.dropped, report.restarts = len(self.drops.failures), self.pool.restarts


def _end(pool: Pool, memory: list[Fields]) -> None:
    """Ends the workers, then frees the memory, which they write to until then."""
    try:
        pool.close()
    finally:
        while memory:
            memory.pop().close()

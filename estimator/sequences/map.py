"""`SequenceMap`: a function of each sample, in this process or in others."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from itertools import islice
from typing import Any, Unpack

from estimator.handlers.base import ArgumentTypeError, DataError
from estimator.randomness import random_state_kept
from estimator.sampler import mixed
from estimator.sequences.base import Sequence
from estimator.sequences.batches import named
from estimator.sequences.options import JobOptions, Jobs, jobs
from estimator.sequences.pool import AHEAD, Pool, Session
from estimator.sequences.work import Failure, Outcome, Task, Work


class SequenceMap(Sequence):
    """A function applied to each sample of another sequence; made by `.map(fn)`.

    Batches keep their samples, their order and their identities. Each sample finds the random
    streams of Python, NumPy and torch seeded by (seed, epoch, its place), so that a pass gives the
    same with any number of workers. A worker that dies is replaced, and its batches are made anew.
    The workers stay for later passes, until `close`, the end of a `with`, or that of this object.

    Args:
        source: Where the samples come from.
        fn: Of one sample: a dict with "sample_uid", or a tuple, as the source's arrays are. It
            returns a sample of any other structure. With workers it has to be importable.
        workers: Processes; 0 works in this one.
        ordered: Whether batches come in their order; False gives each as soon as it is there. A
            run that goes on in the middle of such an epoch cannot know which it has had.
        batched: Whether `fn` takes and returns whole batches, with the same number of samples.
        collate: Makes a batch of a list of samples; None stacks them.
        **options: `on_error`, `max_drops`, `seed`, `timeout` and `start_method`, as in `Jobs`.

    Raises:
        ArgumentError: An option out of its range.
        ArgumentTypeError: `fn` cannot be called.

    Example:
        >>> import torch
        >>> from estimator.sequences import SequenceArray
        >>> numbers = SequenceArray({"x": torch.arange(4.0)}, batch_size=2)
        >>> noisy = numbers.map(lambda sample: {"x": sample["x"] + torch.rand(())}, seed=1)
        >>> first, second = list(noisy), list(noisy)
        >>> torch.equal(first[0]["x"], second[0]["x"])
        False
    """

    def __init__(
        self, source: Sequence, fn: Callable[[Any], Any], *, workers: int = 0,
        ordered: bool = True, batched: bool = False,
        collate: Callable[[list[Any]], Any] | None = None, **options: Unpack[JobOptions],
    ) -> None:  # fmt: skip
        self.settings: Jobs = jobs("SequenceMap", workers, options)
        for name, function in (("fn", fn), ("collate", collate)):
            if not callable(function) and (name == "fn" or function is not None):
                raise ArgumentTypeError(
                    f"SequenceMap({name}=...) must be a function; received {function!r}."
                )
        self.source, self.fn, self.workers = source, fn, workers
        self.ordered, self.batched, self.collate_fn = ordered, batched, collate
        self.failures: list[Failure] = []
        """The samples that the latest pass has left out."""
        self._pool: Pool | None = None

    def __enter__(self) -> SequenceMap:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the workers; another pass starts new ones."""
        if self._pool is not None:
            self._pool.close()
        self._pool = None

    @property
    def restarts(self) -> int:
        """Workers that died and were replaced since they were started."""
        return 0 if self._pool is None else self._pool.restarts

    def collate(self, fn: Callable[[list[Any]], Any]) -> Sequence:
        """The same, with batches that a function makes of the list of mapped samples."""
        if self.collate_fn is not None:
            return super().collate(fn)
        return self._like(self.source, collate=fn)

    def _like(self, source: Sequence, **changes: Any) -> SequenceMap:
        made: dict[str, Any] = {
            "workers": self.workers, "ordered": self.ordered, "batched": self.batched,
            "collate": self.collate_fn, **vars(self.settings),
        }  # fmt: skip
        return SequenceMap(source, self.fn, **(made | changes))

    def _over(self, choose: Callable[[Sequence], Sequence]) -> Sequence:
        return self._like(choose(self.source))

    def _sizes(self) -> list[int] | None:
        return self.source._sizes()

    def _keeps_order(self) -> bool:
        return (self.ordered or not self.workers) and self.source._keeps_order()

    def _ready_pool(self) -> Pool:
        if self._pool is None or not self._pool.is_open:
            self._pool = Pool(self._work(), self.workers, self.settings, "SequenceMap")
        return self._pool

    def _work(self) -> Work:
        return Work(self.fn, batched=self.batched, collate=self.collate_fn)

    def _batches(self, epoch: int, start: int) -> Iterator[Any]:
        if self.settings.drops:
            # How many batches came to nothing before that place is known by making them again.
            return islice(self._made(epoch, 0), start, None)
        return self._made(epoch, start)

    def _made(self, epoch: int, start: int) -> Iterator[Any]:
        drops = Drops(self.settings, "SequenceMap")
        self.failures = drops.failures
        outcomes = self._in_workers if self.workers else self._here
        try:
            with closing(outcomes(self._tasks(epoch, start))) as made:
                for outcome in made:
                    drops.add(outcome.failures)
                    if outcome.batch.uids:
                        yield outcome.batch.public()
        except GeneratorExit:
            raise  # The pass is left; the workers go on with the next.
        except BaseException:  # Ctrl-C may come in the middle of a message
            self.close()
            raise

    def _tasks(self, epoch: int, start: int) -> Iterator[Task]:
        origin, seed = type(self.source).__name__, self.settings.seed
        for number, batch in enumerate(self.source._batches(epoch, start), start):
            yield Task(named(batch, origin), mixed(seed, epoch, number))

    def _here(self, tasks: Iterator[Task]) -> Generator[Outcome]:
        work = self._work()
        for task in tasks:
            with random_state_kept():
                outcome = work(task, lambda row: None)
            yield outcome

    def _in_workers(self, tasks: Iterator[Task]) -> Generator[Outcome]:
        pool = self._ready_pool()
        session = Session(pool)
        given = due = 0
        made: dict[int, Outcome] = {}
        try:
            while True:
                pool.collect()
                # More than they work on, so that they go on while one batch is waited for.
                while pool.room > 0 and given - due < self.workers * (AHEAD + 1):
                    task = next(tasks, None)
                    if task is None:
                        break
                    session.submit(given, task)
                    given += 1
                if given == due:
                    if pool.room > 0:
                        return
                    session.wait(lambda: pool.room > 0)  # another pass has all the workers
                    continue
                made |= session.taken()
                number = due if self.ordered else next(iter(made), due)
                if number in made:
                    due += 1
                    yield made.pop(number)
                else:
                    session.wait()
        finally:
            session.close()


class Drops:
    """Samples that are left out, as long as that is allowed.

    Args:
        settings: Whether and how many.
        owner: What messages call the sequence.
    """

    def __init__(self, settings: Jobs, owner: str) -> None:
        self.settings, self.owner = settings, owner
        self.failures: list[Failure] = []

    def add(self, failures: list[Failure]) -> None:
        """Heeds samples that failed.

        Raises:
            DataError: None may fail, or not that many.
        """
        for failure in failures:
            self.failures.append(failure)
            if not self.settings.drops:
                raise DataError(
                    f"{self.owner}: the sample {failure.uid!r} could not be made: "
                    f'{failure.error}. Correct it, or leave such samples out with on_error="drop".'
                    f"\n\n{failure.trace}"
                )
            if len(self.failures) > self.settings.max_drops:
                raise DataError(
                    f"{self.owner}: {len(self.failures)} samples could not be made, more than "
                    f"max_drops={self.settings.max_drops}; the last was {failure.uid!r}: "
                    f"{failure.error}\n\n{failure.trace}"
                )
            if len(self.failures) == 1:
                warnings.warn(
                    f"{self.owner} leaves out the sample {failure.uid!r}: {failure.error}. "
                    "Others that fail are in .failures, without a warning.",
                    stacklevel=2,
                )

"""What is done to the samples of a job, in whichever process that is."""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from estimator.sampler import mixed
from estimator.sequences.batches import (
    Named,
    bare,
    collated,
    public,
    public_sample,
    samples_of,
)
from estimator.sequences.reshaping import check_columns, checked_batch, collated_by


class Task(NamedTuple):
    """Samples to work on.

    Attributes:
        batch: The samples.
        seed: From which the random streams of each are seeded.
        first: The row of the first of them in the batch that they are a piece of.
        into: Where results go, for work that knows of such a place.
    """

    batch: Named
    seed: int
    first: int = 0
    into: Any = None


class Failure(NamedTuple):
    """A sample that could not be made.

    Attributes:
        uid: Its identity.
        error: What was raised, in one line without a full stop.
        trace: The traceback as text.
    """

    uid: Any
    error: str
    trace: str = ""


class Outcome(NamedTuple):
    """What became of a task: its samples, as far as they could be made, and the others."""

    batch: Named
    failures: list[Failure]


def seed_streams(seed: int) -> None:
    """Seeds the global random streams of Python, NumPy and torch on the CPU."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)


def failure(uid: Any, error: Exception) -> Failure:
    """An exception as text, since not every one can be sent to another process."""
    line = f"{type(error).__name__}: {error}".rstrip(".")
    return Failure(uid, line, "".join(traceback.format_exception(error)))


class Work:
    """Applies a function to the samples of a task.

    Args:
        fn: Of one sample; of a batch where `batched`.
        batched: Whether the function takes and returns whole batches.
        collate: Makes a batch of a list of samples; None stacks them.
    """

    def __init__(
        self, fn: Callable[[Any], Any], *, batched: bool = False,
        collate: Callable[[list[Any]], Any] | None = None,
    ) -> None:  # fmt: skip
        self.fn, self.batched, self.collate = fn, batched, collate

    def __call__(self, task: Task, at: Callable[[int], None]) -> Outcome:
        """Does the work.

        Args:
            task: What is to be done.
            at: Told the row of the sample that is worked on.
        """
        if self.batched:
            return self._whole(task)
        samples, uids, failures = applied(self.fn, task, at)
        if not uids:
            return Outcome(Named(None, []), failures)
        try:
            if self.collate is None:
                content = collated(samples, uids)
            else:
                content = collated_by(self.collate, samples, uids)
        except Exception as error:
            return Outcome(Named(None, []), [*failures, *(failure(uid, error) for uid in uids)])
        return Outcome(Named(content, uids), failures)

    def _whole(self, task: Task) -> Outcome:
        content, uids = task.batch
        seed_streams(task.seed)
        try:
            result = checked_batch(self.fn(_given(content, uids)), uids, "fn")
            check_columns(result, uids)
            if self.collate is not None:
                result = collated_by(self.collate, samples_of(result, len(uids)), uids)
        except Exception as error:
            return Outcome(Named(None, []), [failure(uid, error) for uid in uids])
        return Outcome(Named(result, uids), [])


def _given(content: Any, uids: list[Any]) -> Any:
    return public(content, uids) if isinstance(content, dict) else content


def applied(
    fn: Callable[[Any], Any], task: Task, at: Callable[[int], None]
) -> tuple[list[Any], list[Any], list[Failure]]:
    """The samples that a function makes of those of a task, their identities, and the failures."""
    content, uids = task.batch
    made: list[Any] = []
    names: list[Any] = []
    failures: list[Failure] = []
    for row, sample in enumerate(samples_of(content, len(uids))):
        at(row)
        seed_streams(mixed(task.seed, task.first + row))
        try:
            result = bare(fn(public_sample(sample, uids[row])))
            if result is None:
                raise TypeError("fn returned None in place of a sample")
        except Exception as error:
            failures.append(failure(uids[row], error))
        else:
            made.append(result)
            names.append(uids[row])
    return made, names, failures

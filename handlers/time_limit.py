"""`TimeLimitHandler`: a run that ends in time."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING

from estimator.handlers.base import ArgumentError, ArgumentTypeError, Band, EventHandler

if TYPE_CHECKING:
    from estimator.stats import TrainStats


class TimeLimitHandler(EventHandler):
    """Stops a run after the batch, or the epoch's validation, in which its time ran out.

    The clock starts with `fit`, not with this object, and anew in a run that resumes: each job of
    a chain has the whole limit. What follows the stop (saving, the last handlers) is not in the
    limit, so leave a margin where a job is killed at a fixed time.

    Args:
        seconds: The limit, in seconds of wall clock or as a `datetime.timedelta`.
        band: When it runs within an event; None is `Band.DECIDE`.

    Raises:
        ArgumentTypeError: `seconds` is neither a number nor a timedelta.
        ArgumentError: `seconds` is not above 0, or not finite.

    Example:
        >>> import torch
        >>> from estimator import Estimator
        >>> est = Estimator(torch.nn.Linear(2, 1), loss=torch.nn.MSELoss())
        >>> data = torch.randn(64, 2), torch.randn(64, 1)
        >>> stats = est.fit(data, epochs=1000, trainers="sgd", device="cpu", progress=False,
        ...                 handlers=[TimeLimitHandler(0.001)])
        >>> stats.stopped
        'TimeLimitHandler: the limit of 0.001 s has passed'
    """

    band = Band.DECIDE

    def __init__(self, seconds: float | timedelta, *, band: Band | None = None) -> None:
        super().__init__(band=band)
        limit = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
        if not isinstance(limit, (int, float)) or isinstance(limit, bool):
            raise ArgumentTypeError(
                "TimeLimitHandler(seconds=...) must be a number or a datetime.timedelta; "
                f"received {seconds!r}. Write TimeLimitHandler(3600), for example."
            )
        if not (math.isfinite(limit) and limit > 0):
            raise ArgumentError(
                "TimeLimitHandler(seconds=...) must be a finite time above 0; "
                f"received {seconds!r}. Leave the handler out for a run without a limit."
            )
        self.seconds = seconds
        self._limit = float(limit)
        self._began = 0.0

    def train_begin(self, stats: TrainStats) -> None:
        """Starts the clock of a run that resumes; that of a fresh one runs since `fit` began."""
        self._began = stats.elapsed if stats.samples else 0.0

    def batch_end(self, stats: TrainStats) -> None:
        """Asks for the stop once the limit has passed."""
        passed = stats.elapsed - self._began
        if passed >= self._limit and stats.error is None and not _at_target(stats):
            stats.stop(f"TimeLimitHandler: the limit of {self._limit:g} s has passed")

    def epoch_end(self, stats: TrainStats) -> None:
        """Asks after the validation too, lest the next epoch begin for a single batch."""
        self.batch_end(stats)


def _at_target(stats: TrainStats) -> bool:
    # A run that has reached its end by itself is not to be reported as stopped.
    by_epochs = stats.epochs is not None and stats.epoch >= stats.epochs
    return by_epochs or (stats.iterations is not None and stats.step >= stats.iterations)

"""`Validation`: when a run validates, and on what."""

from __future__ import annotations

from estimator.data import Source
from estimator.handlers.base import Every
from estimator.stats import TrainStats


class Validation:
    """The validations of a run.

    Args:
        stats: The run.
        source: The data.
        every: When; the end of a run that reached its target is validated in any case.
    """

    def __init__(self, stats: TrainStats, source: Source, every: Every) -> None:
        self.stats, self.source, self.every = stats, source, every

    def begin(self) -> None:
        """Starts to count from where the run stands."""
        self._clock = self.every.clock(self.stats)

    def due_after_batch(self, *, is_last: bool) -> bool:
        """Whether a validation follows the present batch.

        Args:
            is_last: Whether the batch is the epoch's last one.
        """
        stats = self.stats
        if self.every.unit != "epochs":
            due = stats.stepped and self._clock.due(stats)
        else:
            due = is_last and self._clock.due_at(stats.epoch + 1)
        final = is_last and stats.epochs is not None and stats.epoch + 1 >= stats.epochs
        return due or final or (stats.iterations is not None and stats.step >= stats.iterations)

    def due_at_end(self, *, is_final: bool) -> bool:
        """Whether a validation is due now that the epoch's batches are done.

        Args:
            is_final: Whether the run has trained what it was asked to.
        """
        stats = self.stats
        epochs_due = self.every.unit == "epochs" and self._clock.due(stats)
        due = epochs_due or stats.validation_due or (is_final and stats.stopped is None)
        return due and stats.validated_at != stats.step

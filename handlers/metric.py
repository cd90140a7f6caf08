"""`MetricHandler`: keeps the metrics up to date."""

from __future__ import annotations

from typing import TYPE_CHECKING

from estimator.handlers.base import Band, EventHandler

if TYPE_CHECKING:
    from estimator.stats import TrainStats


class MetricHandler(EventHandler):
    """Resets the metrics at the beginning of an epoch or validation and updates them each batch.

    Every run has one; pass your own to replace it. Nets with several outputs whose pairing with
    targets is not by key or position override `update_metrics`.

    Args:
        band: When it runs within an event; OBSERVE by default.

    Example:
        >>> class FirstOutput(MetricHandler):
        ...     def update_metrics(self, stats):
        ...         stats.metrics.update(stats.outputs[0], stats.targets)
    """

    band = Band.OBSERVE

    def __init__(self, *, band: Band | None = None) -> None:
        super().__init__(band=band)

    def update_metrics(self, stats: TrainStats) -> None:
        """Updates `stats.metrics` with this batch's outputs and targets."""
        stats.metrics.update(stats.outputs, stats.targets)

    def epoch_begin(self, stats: TrainStats) -> None:
        """Forgets the last epoch."""
        stats.metrics.reset()

    def batch_end(self, stats: TrainStats) -> None:
        """Counts a training batch, unless this process has no sample of it."""
        if stats.error is None and stats.batch_size != 0:
            self.update_metrics(stats)

    def validation_begin(self, stats: TrainStats) -> None:
        """Forgets the last validation."""
        stats.metrics.reset()

    def validation_batch_end(self, stats: TrainStats) -> None:
        """Counts a batch of validation or `evaluate`."""
        if stats.phase != "predict" and stats.batch_size != 0:
            self.update_metrics(stats)

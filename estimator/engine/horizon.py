"""How much a run has still to do."""

from __future__ import annotations

from estimator.step import Step


def batches_left(step: Step, *, evaluating: bool) -> float | None:
    """Batches that a run has still to compute; None where nobody knows yet.

    Args:
        step: Of the run.
        evaluating: Whether batches of passes without gradients are meant, else of training.
    """
    stats = step.stats
    if evaluating:
        passes = stats.epochs - stats.epoch if stats.epochs is not None else 1
        return (stats.batches or 0) * max(passes, 1) - (stats.batch_index or 0)
    if stats.iterations is not None:
        return (stats.iterations - stats.step) * step.accumulation.size
    if stats.batches is None or stats.epochs is None:
        return float("inf") if stats.epoch else None
    return stats.batches * (stats.epochs - stats.epoch) - stats.batches_done

"""`evaluate` and `predict`: passes outside of a training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch

from estimator import loop
from estimator.checks import ask_net
from estimator.data import Source
from estimator.dispatch import Dispatch
from estimator.distributed import join
from estimator.engine.options import Engine
from estimator.fitting import new_run, warn_of_batch_size
from estimator.handlers.base import ArgumentError, EventHandler
from estimator.predicting import Predicting
from estimator.residence import Residence
from estimator.run import Run
from estimator.runtime import Runtime

if TYPE_CHECKING:
    from estimator.estimator import Estimator


def run_pass(
    est: Estimator, data: Any, phase: Literal["evaluate", "predict"],
    handlers: list[EventHandler], batch_size: int,
) -> Run:  # fmt: skip
    """Goes through data without training, on the device where the net is.

    Args:
        est: Whose net runs.
        data: As the user gave it.
        phase: What for.
        handlers: All handlers of the pass.
        batch_size: Samples a batch, for arrays and Datasets.

    Returns:
        With the results in its stats, or the outputs of each batch in `evaluation.collected`.
    """
    hooks = Dispatch(handlers)
    placed = next(iter(est.net.parameters()), torch.empty(0))
    last = est.train_stats.runtime if est.train_stats is not None else None
    precision = last.precision if last is not None else None
    runtime = Runtime(placed.device, precision, join(placed.device))
    run = new_run(est, hooks, runtime)
    if phase == "predict":
        run.step.processor = Predicting(est.processor)
        run.evaluation.collected = []
    source = Source(
        data, f"{phase}(data=...)", batch_size=batch_size, uids=run.step.needs_uids,
        world=run.runtime.world, residence=Residence(placed.device, Engine(data="host")),
    )  # fmt: skip
    warn_of_batch_size(batch_size, source)
    try:
        if phase == "evaluate":
            _find_judge(run, source)
        run.begin()
        loop.evaluate(run, source, phase)
    finally:
        source.release()
        run.step.leave()
    return run


def _find_judge(run: Run, source: Source) -> None:
    """Makes sure that there is a loss or a metric; a net may bring them along."""
    if not run.step.processor.has_loss:
        ask_net(run, source.first(), training=False)
    if not run.step.processor.has_loss and not run.train_metrics.names:
        raise ArgumentError(
            "evaluate needs something to measure; this Estimator has loss=None and "
            "metrics=None. Give it one of them, or a net that returns outputs of "
            "estimator.outputs for batches that are dicts."
        )

"""`evaluate` and `predict`: passes outside of a training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch

from estimator import loop
from estimator.data import Source
from estimator.dispatch import Dispatch
from estimator.distributed import join
from estimator.engine.options import Engine
from estimator.fitting import new_run, warn_of_batch_size
from estimator.handlers.base import EventHandler
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
    run.begin()
    try:
        loop.evaluate(run, source, phase)
    finally:
        run.step.leave()
    return run

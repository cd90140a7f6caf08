"""One `fit` from its arguments to its result: what surrounds the loop."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from estimator import loop
from estimator.choosing import Handlers, run_handlers
from estimator.distributed import join
from estimator.fitting import FitOptions, Trainers, build_run
from estimator.interrupt import interruptible
from estimator.modes import modes_kept
from estimator.notices import notice
from estimator.run_folder import RunFolder, kept, open_run
from estimator.runtime import find_device
from estimator.stats import TrainStats

if TYPE_CHECKING:
    from estimator.estimator import Estimator


def run_training(
    est: Estimator, train: Any, val: Any, options: FitOptions, trainers: Trainers,
    handlers: Handlers, *, run: str | os.PathLike[str] | RunFolder | None,
) -> TrainStats:  # fmt: skip
    """Trains the net of an Estimator; the arguments are those of `fit`."""
    world = join(find_device(options.device))
    folder = open_run(run, options.resume, world)
    # A look at the data starts workers, which inherit what signals do.
    with modes_kept(est.net), interruptible() as came, kept(folder):
        chosen = run_handlers(est.handlers, handlers, options.progress, folder)
        built = build_run(est, train, val, options, trainers, chosen, world=world, folder=folder)
        est.train_stats, est._hooks, est._step = built.stats, built.hooks, built.step
        if options.resume and built.finished():
            show = options.progress and world.rank == 0
            notice(f"Nothing left to train: {built.stats!r}.", show=show)
        built.listen(came)
        with built.going_on():
            loop.train(built)
    return built.stats

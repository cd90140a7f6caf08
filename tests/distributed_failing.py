"""A run of two processes of which one fails; as a script, one of the two."""

from __future__ import annotations

import sys
from pathlib import Path

from distributed_jobs import RANK, fit, new_net
from torch import nn

from estimator import Estimator
from estimator.handlers import CSVLogHandler, EventHandler
from estimator.stats import TrainStats


class Fails(EventHandler):
    """Raises in the last process alone."""

    def batch_begin(self, stats: TrainStats) -> None:
        if stats.step == 20 and RANK == 1:
            raise ArithmeticError("this process cannot go on")


if __name__ == "__main__":
    est = Estimator(new_net(), nn.CrossEntropyLoss())
    fit(est, handlers=[Fails(), CSVLogHandler(Path(sys.argv[1]) / "history.csv")])

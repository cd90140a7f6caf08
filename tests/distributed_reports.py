"""A run with all reports, in one process or in several."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from distributed_jobs import classifier, fit

from estimator import report


def reported(folder: Path) -> None:
    """Two fits with a run folder, of which the second goes on with the first."""
    os.chdir(folder)
    for epochs in (2, 3):
        fit(
            classifier(metrics=["accuracy"]), run="job", resume=True, epochs=epochs,
            handlers=report.full(["low", "middle", "high"]),
        )  # fmt: skip


if __name__ == "__main__":
    reported(Path(sys.argv[1]))

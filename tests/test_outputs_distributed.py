"""Two processes train and measure outputs that describe themselves as one does."""

from __future__ import annotations

from pathlib import Path

from distributed_jobs import difference, ended, results, torchrun
from distributed_outputs import job


def test_two_processes_train_and_measure_as_one(tmp_path: Path) -> None:
    ended(torchrun("distributed_outputs.py", tmp_path))
    first, last = results(tmp_path, "outputs")
    assert difference(first, last) == 0.0
    assert difference(first, job()) < 1e-7

"""`run.json` says how a run ended, and of a killed one that it never did."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from test_run_folder import fit, record

from estimator import TrainStats
from estimator.handlers import EventHandler


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Failing(EventHandler):
    """Ends the run in some way when the first epoch ends."""

    def __init__(self, ending: Any) -> None:
        super().__init__()
        self.ending = ending

    def epoch_end(self, stats: TrainStats) -> None:
        self.ending(stats)


def fails(stats: TrainStats) -> None:
    raise ValueError("a reason")


def breaks_off(stats: TrainStats) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("ending", "outcome", "reason"),
    [
        (lambda stats: stats.stop("seen enough"), "stopped", "seen enough"),
        (lambda stats: signal.raise_signal(signal.SIGTERM), "interrupted", "SIGTERM"),
        (fails, "failed", "ValueError: a reason"),
        (breaks_off, "interrupted", "KeyboardInterrupt"),
    ],
)
def test_the_record_says_how_a_run_ended(ending: Any, outcome: str, reason: str) -> None:
    try:
        fit(run="mnist", handlers=Failing(ending))
    except (ValueError, KeyboardInterrupt):
        assert outcome in ("failed", "interrupted")
    found = record("runs/mnist_r0")
    assert found["outcome"] == outcome and reason in found["reason"]


class LateFailing(EventHandler):
    """Fails after all others are done."""

    def train_end(self, stats: TrainStats) -> None:
        raise OSError("too late")


def test_an_error_at_the_very_end_counts() -> None:
    with pytest.raises(OSError, match="too late"):
        fit(run="mnist", handlers=LateFailing())
    assert record("runs/mnist_r0")["reason"] == "OSError: too late"


def test_a_killed_run_still_says_that_it_is_running(tmp_path: Path) -> None:
    script = """
        import os, signal, torch
        from estimator import Estimator
        from estimator.handlers.base import EventHandler
        class Kill(EventHandler):
            def epoch_begin(self, stats):
                if stats.epoch == 1:
                    os.kill(os.getpid(), signal.SIGKILL)
        x = torch.randn(8, 2)
        Estimator(torch.nn.Linear(2, 1), torch.nn.MSELoss()).fit(
            (x, x[:, :1]), epochs=3, trainers="sgd", device="cpu", run="killed", handlers=Kill())
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    ended = subprocess.run([sys.executable, "script.py"], timeout=120, check=False)
    found = record("runs/killed_r0")
    assert ended.returncode == -signal.SIGKILL
    assert (found["outcome"], found["epoch"], found["ended"]) == ("running", 1, None)

"""What a handler has to honour in a run that is stopped and goes on."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from estimator.handlers.base import Band, EventHandler
from estimator.handlers.checkpoint import CheckpointHandler
from estimator.stats import TrainStats
from estimator.testing._rehearsal import Rehearsal, Rehearsed
from estimator.testing._watch import Probe, difference

_REASON = "planned by HandlerContract"


class ResumeRules(Rehearsal):
    """Tests of one promise: a run that goes on is one that was never stopped.

    Each trains with a `CheckpointHandler`, stops, and goes on with a new handler in a new
    Estimator. Weights, history (times left out) and the handler's last state are those of a run
    that nothing disturbed.
    """

    def test_goes_on_inside_an_epoch(self, tmp_path: Path) -> None:
        """A cut epoch is no epoch: what it was to decide or to count comes with its end."""

        def stop(stats: TrainStats) -> None:
            if stats.epoch == 1 and stats.batch_index == 1:
                stats.stop(_REASON)

        self._compare_resumed(tmp_path, Probe("batch_end", stop, band=Band.PREPARE), "in an epoch")

    def test_goes_on_after_an_epoch(self, tmp_path: Path) -> None:
        """What the finished epochs have left is there when the next one begins."""
        probe = Probe("epoch_end", lambda stats: stats.stop(_REASON), band=Band.PREPARE)
        self._compare_resumed(tmp_path, probe, "at an epoch's end")

    def test_goes_on_after_a_validation_that_was_given_up(self, tmp_path: Path) -> None:
        """A validation that a signal ends has no results: nothing is decided or counted by it."""
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("this rule raises a signal: run it in the main thread")
        for number in (1, 2):

            def interrupt(stats: TrainStats, number: int = number) -> None:
                if stats.epoch == number and stats.interrupted is None:
                    signal.raise_signal(signal.SIGINT)

            probe = Probe("validation_batch_end", interrupt, band=Band.PREPARE)
            self._compare_resumed(tmp_path, probe, f"in validation {number}")

    def _compare_resumed(self, tmp_path: Path, stop: Probe, where: str) -> None:
        whole = self._end_of_run(tmp_path)
        files, saves = (Path(mkdtemp(dir=tmp_path)) for _ in range(2))
        handler = self.make(files)
        cut = self._run(stop, handler, CheckpointHandler(saves)).stats
        planned = cut.interrupted is not None or cut.stopped == _REASON
        assert planned, f"{handler!r}: the run must come as far as its stop {where}; it is {cut!r}"
        handler = self.make(files)
        resumed = self._run(handler, CheckpointHandler(saves), resume=saves)
        changed = difference(_left(handler, resumed), whole)
        rule = f"a run that is stopped {where} and goes on must be one that was never stopped"
        assert not changed, f"{handler!r}: {rule}; {changed}"

    def _end_of_run(self, tmp_path: Path) -> dict[str, Any]:
        handler = self._new(tmp_path)
        saver = CheckpointHandler(mkdtemp(dir=tmp_path))
        return _left(handler, self._run(handler, saver))


def _left(handler: EventHandler, run: Rehearsed) -> dict[str, Any]:
    rows = run.stats.history.rows
    return {
        "stopped": run.stats.stopped,
        "weights and buffers": run.est.net.state_dict(),
        "history": [{name: row[name] for name in row if name != "time"} for row in rows],
        "state of the handler": handler.state_dict(),
    }

"""How several processes come to stop, to save and to tell the time alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from estimator.interrupt import Interruption

if TYPE_CHECKING:
    from estimator.run import Run
    from estimator.stats import TrainStats, When


class Agreement:
    """Called once a batch, where handlers have decided and before they save.

    What one process asks for takes effect on all of them at the same step: a stop, and a signal
    that came to it. They share the first one's clock too, so that what is due by the clock is due
    for all. It is one message of two numbers; only when somebody asks, a second says for what.

    Args:
        run: Of several processes.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.world = run, run.runtime.world
        self.asked: list[tuple[str, When]] = []
        run.heard = Interruption()
        run.stats.ask_with(lambda reason, when: self.asked.append((reason, when)))

    def __call__(self, stats: TrainStats) -> None:
        """Comes to an agreement, unless this process is about to fail."""
        if stats.error is not None:
            return
        signal = self.run.interruption.signal if self.run.heard.signal is None else None
        asks = bool(self.asked) or signal is not None
        time = stats.own_clock() if self.world.rank == 0 else 0.0
        someone, now = self.world.most([float(asks), time])
        stats.set_clock(now)
        if someone:
            self._settle(stats, signal)

    def __repr__(self) -> str:
        return "agree with the other processes"

    def _settle(self, stats: TrainStats, signal: str | None) -> None:
        requests, self.asked = self.asked, []
        gathered = self.world.gather((signal, requests))
        for sent, _ in gathered:
            if self.run.heard.signal is None:
                self.run.heard.signal = sent
        self.run.heed_signal()
        for _, others in gathered:
            for reason, when in others:
                stats.accept_stop(reason, when)

"""The climb from the eager step to a faster one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from estimator.engine.cause import Cause
from estimator.engine.trace import CannotTraceError, Traced

if TYPE_CHECKING:
    from estimator.engine.replay import ReplayStep

_WARM, _ROUNDS = 3, 12
_FASTER = 0.97


class Rung(NamedTuple):
    """What is known of one shape of batches, for the report."""

    status: str
    eager_us: float | None
    replay_us: float | None
    seconds: float


class Ladder:
    """The climb of one shape of batches from the eager step to the replayed one.

    A few eager steps are timed; if the run is long enough the step is traced, checked against
    the next real batch for equal bits, and then both take turns until the clock has decided.

    Args:
        step: Whose batches they are.
        by_name: Whether the tier was asked for, so that no clock decides.
    """

    def __init__(self, step: ReplayStep, by_name: bool) -> None:
        self.step, self.by_name = step, by_name
        self.seen = 0
        self.traced: Traced | None = None
        self.proven = self.settled = self.replays = False
        self.fresh = False
        """Whether the program is of this very batch, which proves less than another one."""
        self.seconds = 0.0
        self.times: dict[bool, list[float]] = {False: [], True: []}
        self.cause: Cause | None = None

    def choose(self) -> bool:
        """Whether the coming batch is replayed."""
        self.seen += 1
        self.fresh = False
        if self.settled and (self.proven or not self.replays):
            return self.replays
        if self.traced is None:
            if (self.by_name or self.seen > _WARM) and self._pays():
                self._trace()
            return False
        if not self.proven:
            return False
        if self.by_name:
            self._settle(True)
            return True
        if min(map(len, self.times.values())) >= _ROUNDS:
            eager, replay = (sorted(self.times[tier])[_ROUNDS // 2] for tier in (False, True))
            self._settle(replay < _FASTER * eager)
            return self.replays
        return len(self.times[True]) <= len(self.times[False])

    def _settle(self, replays: bool) -> None:
        self.settled, self.replays = True, replays
        # Where most batches stay eager, the others are not worth a look at each.
        if not replays and 2 * self.seen > self.step.seen:
            self.step.is_off = True

    def doubt(self) -> None:
        """Asks for another proof: numbers that the program cannot see may have changed."""
        self.proven = False

    def refuse(self, cause: Cause) -> None:
        """Stays with the eager step, and tells why."""
        self.cause = cause
        self._settle(False)
        self.step.refused(cause)

    def _pays(self) -> bool:
        if self.by_name:
            return True
        mean = sum(self.times[False]) / len(self.times[False])
        left = self.step.steps_left() * self.seen / max(self.step.seen, 1)
        # The gain is taken for a third of the step, which most small nets exceed.
        if left * mean / 3 > 2 * self.step.cost:
            return True
        self.cause = Cause("E109", "the run is too short to pay for it")
        self._settle(False)
        return False

    def _trace(self) -> None:
        began = time.perf_counter()
        try:
            self.traced, self.fresh = self.step.trace(), True
        except CannotTraceError as error:
            self.refuse(error.cause)
        self.seconds = time.perf_counter() - began
        self.step.cost = self.seconds

    def report(self) -> Rung:
        """What is known so far."""
        eager, replay = (
            sorted(times)[len(times) // 2] * 1e6 if times else None for times in self.times.values()
        )
        chosen = "chosen (verified, equal bits)" if self.replays else "not faster"
        status = chosen if self.settled else "not decided yet"
        return Rung(str(self.cause) if self.cause else status, eager, replay, self.seconds)

"""The climb from the eager step to a faster one."""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from estimator.engine.cause import CannotTraceError, Cause

if TYPE_CHECKING:
    from estimator.engine.climb import Climb
    from estimator.engine.trace import Traced

_WARM, _ROUNDS = 3, 12
_FASTER = 0.97
# The saving that has to be in sight, as a multiple of what it costs to try.
_WORTH = {"replay": 2, "compile": 3}


class Rung(NamedTuple):
    """What is known of one tier, for the report."""

    tier: str
    status: str
    microseconds: float | None
    seconds: float


class Ladder:
    """The climb of one shape of batches from the eager step to faster ones.

    A few eager steps are timed; if the run is long enough the step is written down, checked
    against the next real batch, and then both take turns until the clock has decided. The winner
    meets the next tier in the same way.

    Args:
        climb: Whose batches they are.
        tiers: What is tried, one after the other.
        by_name: Whether a tier was asked for, so that no clock decides.
    """

    def __init__(self, climb: Climb, tiers: tuple[str, ...], *, by_name: bool) -> None:
        self.climb, self.by_name = climb, by_name
        self.waiting = list(tiers)
        self.seen = 0
        self.tier, self.present = "eager", None
        self.rival_tier = ""
        self.rival: Traced | None = None
        self.unproven: list[Traced] = []
        self.fresh = False
        """Whether the rival is of this very batch, which proves less than another one."""
        self.times: dict[str, list[float]] = {"eager": []}
        self.statuses: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self._now = "eager"

    present: Traced | None
    """The program in use; None for the eager step."""

    @property
    def settled(self) -> bool:
        """Whether nothing is left to try."""
        return self.rival is None and not self.waiting

    @property
    def replays(self) -> bool:
        """Whether batches are computed by a program."""
        return self.present is not None

    def choose(self) -> Traced | None:
        """The program for the coming batch; None for the eager step."""
        self.seen += 1
        self.fresh = False
        if self.waiting and self.rival is None:
            self._climb()
        if self.unproven:
            self._now = "eager"
            return None
        if self.rival is None:
            self._now = self.tier
            return self.present
        if self.by_name or self._decided():
            self._crown(self.rival if self.by_name or self._faster() else self.present)
            self._now = self.tier
            return self.present
        rounds, own = len(self.times[self.rival_tier]), len(self.times[self.tier])
        self._now = self.rival_tier if rounds <= own else self.tier
        return self.rival if rounds <= own else self.present

    def timed(self, seconds: float) -> None:
        """Takes the time of the batch that was chosen for."""
        self.times[self._now].append(seconds)

    def to_prove(self) -> Traced | None:
        """A program that the present batch, which is computed eagerly, is to be a proof of."""
        return self.unproven[0] if self.unproven and not self.fresh else None

    def doubt(self) -> None:
        """Asks for other proofs: numbers that no program sees may have changed."""
        self.unproven = [each for each in (self.present, self.rival) if each is not None]

    def refuse(self, cause: Cause, traced: Traced) -> None:
        """Gives up the program that is tried, or the one in use, and tells why."""
        self._give_up(self.tier if traced is self.present else self.rival_tier, cause)

    def _give_up(self, tier: str, cause: Cause) -> None:
        self.statuses[tier] = str(cause)
        if tier == self.tier:
            self.tier, self.present, self.waiting = "eager", None, []
        self.rival = None
        self.unproven = []
        self.climb.refused(cause)
        self._look_down()

    def _climb(self) -> None:
        tier = self.waiting[0]
        if not self.by_name and (
            len(self.times[self.tier]) < _WARM or self.climb.batches_left() is None
        ):
            return
        del self.waiting[0]
        if not self._pays(tier):
            self.statuses[tier] = str(Cause("E109", "the run is too short to pay for it"))
            self._look_down()
            return
        began = time.perf_counter()
        try:
            self.rival, self.rival_tier = self.climb.make(tier, self.present), tier
        except CannotTraceError as error:
            self._give_up(tier, error.cause)
        else:
            self.unproven.append(self.rival)
            self.fresh = True
            self.times[tier] = []
            if self.present is not None:
                self.times[self.tier] = []
        self.seconds[tier] = self.climb.costs[tier] = time.perf_counter() - began

    def _pays(self, tier: str) -> bool:
        if self.by_name:
            return True
        mean, left = median(self.times[self.tier]), self.climb.batches_left()
        assert left is not None
        # The gain is taken for a third of the step, which most small nets exceed.
        saving = left * self.seen / max(self.climb.seen, 1) * mean / 3
        return saving > _WORTH[tier] * self.climb.costs[tier]

    def _decided(self) -> bool:
        return min(len(self.times[self.tier]), len(self.times[self.rival_tier])) >= _ROUNDS

    def _faster(self) -> bool:
        mine, other = (median(self.times[tier]) for tier in (self.tier, self.rival_tier))
        return other < _FASTER * mine

    def _crown(self, winner: Traced | None) -> None:
        if winner is self.rival:
            self.tier, self.present = self.rival_tier, self.rival
        else:
            self.statuses[self.rival_tier] = "not faster"
        self.rival = None
        self._look_down()

    def _look_down(self) -> None:
        # Where most batches stay eager, the others are not worth a look at each.
        if self.settled and not self.replays and 2 * self.seen > self.climb.seen:
            self.climb.is_off = True

    def report(self, exact: bool) -> list[Rung]:
        """What is known so far.

        Args:
            exact: Whether proofs are of equal bits.
        """
        rungs = []
        known = "equal bits" if exact else "close values"
        for tier, times in self.times.items():
            status = self.statuses.get(tier, "")
            if tier == self.tier and tier != "eager":
                status = f"chosen (verified, {known})"
            elif self.rival is not None and tier == self.rival_tier:
                status = "not decided yet"
            us = median(times) * 1e6 if times else None
            rungs.append(Rung(tier, status, us, self.seconds.get(tier, 0.0)))
        rest = (tier for tier in self.statuses if tier not in self.times)
        return rungs + [Rung(t, self.statuses[t], None, self.seconds.get(t, 0.0)) for t in rest]

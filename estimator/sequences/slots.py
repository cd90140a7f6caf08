"""Which places of a reservoir hold samples that may be drawn, and which may be written to."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import torch


class Slots:
    """The places of a reservoir: free ones, filled ones that wait, and live ones that are drawn.

    A place is written to only between `take` and `fill`, when it is not live: no draw ever sees
    a sample that is half written. What is live changes in `retire` and `admit` alone.

    Args:
        capacity: How many are live at most.
        spare: How many there are besides.
        max_reuse: How often a sample is drawn at most.
        max_age: For how many turns it may be drawn; None is for ever.
        seed: Of the draws.
    """

    def __init__(
        self, capacity: int, spare: int, *, max_reuse: int, max_age: int | None, seed: int
    ) -> None:
        self.capacity, self.max_reuse, self.max_age = capacity, max_reuse, max_age
        self.turn = 0
        self.live = torch.empty(0, dtype=torch.int64)
        self.uses, self.born = torch.zeros(2, capacity + spare, dtype=torch.int64).unbind()
        self.reuse_counts = torch.zeros(max_reuse + 1, dtype=torch.int64)
        self.age_counts = torch.zeros(64, dtype=torch.int64)
        self.admitted = 0
        self._free = list(range(capacity + spare))
        self._filled: deque[int] = deque()
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def free(self) -> int:
        """Places that can be taken."""
        return len(self._free)

    @property
    def filled(self) -> int:
        """Samples that wait for a place among the live ones."""
        return len(self._filled)

    def take(self, count: int) -> list[int]:
        """Places to write to, which nobody reads until they are filled."""
        taken, self._free = self._free[:count], self._free[count:]
        return taken

    def fill(self, slots: Iterable[int]) -> None:
        """Says that places have a whole sample."""
        self._filled.extend(slots)

    def give_back(self, slots: Iterable[int]) -> None:
        """Says that places have none and are not written to any more."""
        self._free.extend(slots)

    def retire(self) -> None:
        """Ends the use of samples that were drawn often enough, or are too old."""
        over = self.uses[self.live] >= self.max_reuse
        if self.max_age is not None:
            over |= self.turn - self.born[self.live] > self.max_age
        self._end(over)

    def admit(self, most: int | None = None) -> None:
        """Makes samples that wait live, in their order.

        Where there is no room they take the places of those that were drawn most often, then of
        the oldest; one that was never drawn keeps its place.

        Args:
            most: How many at most; None is all.
        """
        wanted = len(self._filled) if most is None else min(most, len(self._filled))
        lacking = wanted - (self.capacity - len(self.live))
        if lacking > 0:
            self._end(self._most_used(lacking))
        count = min(wanted, self.capacity - len(self.live))
        fresh = torch.tensor([self._filled.popleft() for _ in range(count)], dtype=torch.int64)
        self.uses[fresh], self.born[fresh] = 0, self.turn
        self.live = torch.cat([self.live, fresh])
        self.admitted += count

    def draw(self, count: int) -> torch.Tensor:
        """Different live places, at random; each counts as used once more."""
        order = torch.randperm(len(self.live), generator=self._generator)
        drawn = self.live[order[:count]]
        self.uses[drawn] += 1
        ages = self.turn - self.born[drawn]
        self.age_counts += torch.bincount((ages + 1).log2().long(), minlength=64)
        self.turn += 1
        return drawn

    def _most_used(self, count: int) -> torch.Tensor:
        uses, born = self.uses[self.live], self.born[self.live]
        order = (uses * (self.turn + 1) - born).argsort(descending=True, stable=True)[:count]
        over = torch.zeros(len(self.live), dtype=torch.bool)
        over[order] = True
        return over & (uses > 0)

    def _end(self, over: torch.Tensor) -> None:
        ended = self.live[over]
        if len(ended):
            self.reuse_counts += torch.bincount(
                self.uses[ended].clamp(max=self.max_reuse), minlength=self.max_reuse + 1
            )
            self._free.extend(ended.tolist())
            self.live = self.live[~over]

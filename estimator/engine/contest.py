"""The clock between eager and recorded steps."""

from __future__ import annotations

from statistics import median
from typing import Any

from estimator.engine.capture import Recorder

_BLOCK, _ROUNDS = 10, 20
_FASTER = 0.97


class Contest:
    """Lets eager and recorded batches take turns, and times both on the device.

    Args:
        recorder: Whose clock it is.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.marks: dict[bool, list[tuple[Any, Any]]] = {False: [], True: []}
        self.times: dict[bool, float] = {}

    @property
    def is_over(self) -> bool:
        """Whether there are enough batches of both."""
        return sum(map(len, self.marks.values())) >= 2 * _ROUNDS

    def turn(self) -> bool:
        """Whether the coming batch is a recorded one."""
        # In blocks: a replay that is queued would hide how long the next eager step takes.
        return bool(sum(map(len, self.marks.values())) // _BLOCK % 2)

    def add(self, replayed: bool, began: Any) -> None:
        """Notes a batch that began at a mark and ends here."""
        self.marks[replayed].append((began, self.recorder.mark()))

    def is_won(self) -> bool:
        """Whether recorded batches are faster; waits for the device once."""
        for tier, pairs in self.marks.items():
            self.times[tier] = median(self.recorder.seconds(pairs))
        return self.times[True] < _FASTER * self.times[False]

    def microseconds(self) -> list[float | None]:
        """Of an eager and of a recorded batch; None before it is over."""
        return [self.times[t] * 1e6 if t in self.times else None for t in (False, True)]

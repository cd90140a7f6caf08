"""When a program or a recording is to be proven again."""

from __future__ import annotations

import time

_FIRST_PROOFS, _SELDOM = 3, 50


class Doubt:
    """Whether numbers that no look can see may have changed since the last proof.

    After each of the first epochs another proof is asked for, then as often as costs little.
    """

    def __init__(self) -> None:
        self.is_raised = False
        self._proofs, self._began, self._ended = 0, 0.0, 0.0

    def begin_epoch(self) -> None:
        """Asks for a proof, where one is due."""
        since, cost = time.perf_counter() - self._ended, self._ended - self._began
        self.is_raised |= self._proofs <= _FIRST_PROOFS or since > _SELDOM * cost

    def begin(self) -> None:
        """Notes when a proof begins."""
        self._began = time.perf_counter()

    def end(self) -> None:
        """Notes when it ends."""
        self._ended = time.perf_counter()
        self._proofs += 1

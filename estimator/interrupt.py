"""Ctrl-C: the first ends the run in order, the second at once."""

from __future__ import annotations

import contextlib
import itertools
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from estimator.stats import TrainStats


@contextlib.contextmanager
def interruptible(stats: TrainStats) -> Iterator[None]:
    """Turns the first Ctrl-C into a stop after the present batch, for the length of a fit.

    Signals belong to the main thread, so a fit in another one is left as it is. The handler that
    was there before is put back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    times = itertools.count()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if next(times):
            raise KeyboardInterrupt
        # A run that was to finish its epoch first ends after its batch too.
        stats.stop("interrupted by Ctrl-C")

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)

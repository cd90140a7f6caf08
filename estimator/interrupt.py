"""Signals that ask a run to end: the first ends it in order, the second at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")


class Interruption:
    """The flag that a signal raises, which the run looks at once a batch.

    Attributes:
        signal: Name of the signal that came, such as "SIGTERM"; None when none did.
    """

    signal: str | None = None

    @property
    def reason(self) -> str:
        """Why the run stops, for its log."""
        return f"interrupted by {'Ctrl-C' if self.signal == 'SIGINT' else self.signal}"


@contextlib.contextmanager
def interruptible() -> Iterator[Interruption]:
    """Turns the first SIGINT (Ctrl-C), SIGTERM or SIGUSR1 into a flag, for the length of a fit.

    A second one does what it did before: Ctrl-C raises KeyboardInterrupt, SIGTERM ends the
    process. Signals belong to the main thread, so a fit in another one is left as it is. The
    handlers that were there before are put back.

    Yields:
        What the first signal is written to.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        if interruption.signal is None:
            interruption.signal = signal.Signals(number).name
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            signal.signal(number, before[number])
            signal.raise_signal(number)

    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    # A handler that was not set from Python is None here, and cannot be put back.
    before = {n: h for n in numbers if (h := signal.getsignal(n)) is not None}
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

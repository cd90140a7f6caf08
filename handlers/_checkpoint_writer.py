"""A thread for the writing of checkpoints, so that training need not wait for a disk."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Writer:
    """Does one task at a time in a thread of its own. A failure waits until someone asks.

    It has neither a queue nor a lock, so that a process which forks meanwhile, as loaders do for
    their workers, takes nothing along that only this thread could release.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, task: Callable[[], None]) -> None:
        """Begins a task; the one before it has to be collected."""
        assert self._thread is None, "one write at a time"

        def run() -> None:
            try:
                task()
            except BaseException as error:
                self._error = error

        # No daemon: even at the end of the interpreter a file that was begun is finished.
        self._thread = threading.Thread(target=run, name="checkpoint-writer")
        self._thread.start()

    def collect(self, *, wait: bool) -> None:
        """Raises what the last task raised, as soon as it is done.

        Args:
            wait: Whether to wait until it is done.
        """
        thread = self._thread
        if thread is None:
            return
        if wait:
            try:
                thread.join()
            except KeyboardInterrupt:
                # Who is impatient still gets a whole file: the folder is let go after this.
                thread.join()
                raise
        if thread.is_alive():
            return
        self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

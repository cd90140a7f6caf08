"""`Handle`: takes back what `Estimator.add` attached."""

from __future__ import annotations

from collections.abc import Callable

from estimator.handlers.base import EventHandler


class Handle:
    """Takes a handler away again: call `remove`, or use it in a `with` statement.

    Args:
        handler: What was attached.
        remove: How to take it away.
    """

    def __init__(self, handler: EventHandler, remove: Callable[[EventHandler], None]) -> None:
        self.handler = handler
        self._remove = remove

    def remove(self) -> None:
        """Takes the handler away; a second call does nothing."""
        self._remove(self.handler)

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()

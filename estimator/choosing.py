"""Which handlers a run has: those attached, those given, and the defaults."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from estimator.dispatch import as_handler
from estimator.handlers.base import EventHandler
from estimator.handlers.logging import LoggingHandler
from estimator.handlers.metric import MetricHandler
from estimator.handlers.progress import ProgressHandler
from estimator.run_folder import OpenRun
from estimator.stats import TrainStats

HandlerLike = EventHandler | Callable[[TrainStats], Any]
Handlers = HandlerLike | Iterable[HandlerLike] | None


def chosen_handlers(attached: list[EventHandler], given: Handlers) -> list[EventHandler]:
    """All handlers of a pass, with a MetricHandler if none is among them; makes a new list.

    Args:
        attached: Those of `Estimator.add`, which come first.
        given: One or several for this pass.
    """
    if given is None:
        given = []
    listed: list[Any] = [given]
    if isinstance(given, Iterable) and not isinstance(given, str):
        listed = list(given)
    chosen = [*attached, *map(as_handler, listed)]
    if not any(isinstance(handler, MetricHandler) for handler in chosen):
        chosen.insert(0, MetricHandler())
    return chosen


def run_handlers(
    attached: list[EventHandler], given: Handlers, progress: bool, folder: OpenRun | None = None
) -> list[EventHandler]:
    """All handlers of a fit: with `progress`, one that shows it unless there is one already.

    Args:
        attached: Those of `Estimator.add`, which come first.
        given: One or several for this fit.
        progress: Whether a bar, or a line an epoch where there is no terminal, is wanted.
        folder: Of the run, which brings handlers of its own.
    """
    chosen = chosen_handlers(attached, given)
    shown = any(isinstance(handler, (LoggingHandler, ProgressHandler)) for handler in chosen)
    if progress and not shown:
        bar = ProgressHandler()
        chosen.append(bar if bar.visible else LoggingHandler())
    return chosen if folder is None else folder.with_defaults(chosen, show=progress)

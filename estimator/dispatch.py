"""From a list of handlers to the calls that each event makes."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from estimator.faults import advise
from estimator.handlers.base import EVENTS, Band, Clock, EventHandler, HandlerError, nearest
from estimator.spelling import meant_event

if TYPE_CHECKING:
    from estimator.stats import TrainStats

Hook = Callable[["TrainStats"], Any]
_IN_A_BATCH = ("batch_begin", "forward_end", "backward_end", "batch_end")
_AGREED = ("batch_end", "validation_batch_end", "validation_end", "epoch_end")


class FunctionHandler(EventHandler):
    """A function marked with `on`, as a handler."""

    def __init__(self, function: Callable[[TrainStats], Any]) -> None:
        super().__init__()
        self.function = function

    def __repr__(self) -> str:
        return str(getattr(self.function, "__name__", repr(self.function)))


def as_handler(candidate: Any) -> EventHandler:
    """Returns the handler that an object is or makes.

    Raises:
        HandlerError: A class in place of an object, a function without `on`, an object that is
            no handler, or a handler with a method that looks like a misspelt event.
    """
    if inspect.isclass(candidate) and issubclass(candidate, EventHandler):
        raise HandlerError(
            f"handlers must be objects; received the class {candidate.__name__}. Call it: "
            f"{candidate.__name__}(...)."
        )
    if isinstance(candidate, EventHandler):
        _check_spelling(type(candidate))
        return candidate
    if getattr(candidate, "estimator_events", None):
        return FunctionHandler(candidate)
    if callable(candidate):
        raise HandlerError(
            f"a function becomes a handler by naming its event; received {candidate!r}. "
            'Decorate it: @on("batch_end", every=100).'
        )
    raise HandlerError(
        f"handlers must derive from EventHandler or be functions marked with @on; received "
        f"{candidate!r}."
    )


def _check_spelling(kind: type[EventHandler]) -> None:
    for name in dir(kind):
        if name.startswith("_") or hasattr(EventHandler, name):
            continue
        method = getattr(kind, name)
        if not callable(method) or hasattr(method, "estimator_events"):
            continue
        event = meant_event(name)
        if event is not None:
            raise HandlerError(
                f"{kind.__name__}.{name} looks like a misspelt event and would never be called. "
                f"Rename it to {event}, or begin its name with an underscore. "
                f"{nearest(name, EVENTS)}"
            )


class Dispatch:
    """The handlers of a run in order, and for each event a tuple of the calls to make.

    Built once a run: an event that no handler overrides is an empty tuple.

    Args:
        handlers: In the order of the user's list; bands come first.

    Raises:
        HandlerError: The same object is there twice.
    """

    agree: Hook | None = None
    """What several processes do before the PERSIST band, so that they save and stop alike."""
    is_going_on: bool = False
    """Whether events are fired: handlers then join and leave between two epochs."""
    is_first: bool = True
    """Whether handlers that only write or report are called in this process."""

    train_end: tuple[Hook, ...]
    epoch_end: tuple[Hook, ...]
    validation_end: tuple[Hook, ...]
    batch_begin: tuple[Hook, ...]
    forward_end: tuple[Hook, ...]
    backward_end: tuple[Hook, ...]
    batch_end: tuple[Hook, ...]
    validation_batch_end: tuple[Hook, ...]
    error: tuple[Hook, ...]

    def __init__(self, handlers: Iterable[EventHandler]) -> None:
        self.handlers: list[EventHandler] = []
        self._joining: list[EventHandler] = []
        self._leaving: list[EventHandler] = []
        self._calls: dict[int, dict[str, list[Hook]]] = {}
        self._clocks: dict[int, list[Clock]] = {}
        for handler in handlers:
            self._insert(handler)

    def _insert(self, handler: EventHandler) -> None:
        if any(handler is other for other in self.handlers):
            raise HandlerError(
                f"each handler may be given once; received {handler!r} twice. Make a second object."
            )
        self.handlers.append(handler)
        self.handlers.sort(key=lambda handler: handler.band)

    def bind(self, stats: TrainStats, calls: Mapping[str, list[list[float]]] | None = None) -> None:
        """Makes the tuples; schedules count from where the run stands.

        Args:
            stats: The run.
            calls: Where a run resumes: the place of each schedule of `on`.
        """
        self.stats = stats
        self._calls = {id(h): self._calls_of(h) for h in self.handlers}
        self._assemble()
        for name, handler in self.named().items():
            before = (calls or {}).get(name, [])
            for clock, place in zip(self._clocks[id(handler)], before, strict=bool(before)):
                # A checkpoint is made before the late bands see the event, which may be theirs.
                clock.resume(*place[: 1 + (handler.band < Band.PERSIST)])

    def calls(self) -> dict[str, list[list[float]]]:
        """The place of each schedule of `on`, by handler."""
        named = {name: self._clocks[id(h)] for name, h in self.named().items()}
        return {name: [clock.place() for clock in own] for name, own in named.items() if own}

    def _calls_of(self, handler: EventHandler) -> dict[str, list[Hook]]:
        clocks = self._clocks[id(handler)] = []
        calls = {event: list(_hooks(handler, event, self.stats, clocks)) for event in EVENTS}
        if handler.first_process_only and not self.is_first:
            return {event: [] for event in EVENTS}
        return calls

    def _assemble(self) -> None:
        for event in EVENTS:
            early = [h for h in self.handlers if h.band < Band.PERSIST]
            late = self.handlers[len(early) :]
            if event == "train_end":
                # The last step is saved before anyone puts other weights into the net.
                savers = [h for h in late if h.band == Band.PERSIST]
                early, late = savers + early, late[len(savers) :]
            agreed = [self.agree] if self.agree is not None and event in _AGREED else []
            calls = [self._hooks_of(early, event), agreed, self._hooks_of(late, event)]
            setattr(self, event, tuple(itertools.chain(*calls)))

    def _hooks_of(self, handlers: list[EventHandler], event: str) -> list[Hook]:
        return [hook for handler in handlers for hook in self._calls[id(handler)][event]]

    def join_later(self, handler: EventHandler) -> None:
        """Lets a handler in at the next epoch, so that it gets a begin for each end."""
        self._joining.append(handler)

    def leave_later(self, handler: EventHandler) -> None:
        """Takes a handler out at the next epoch, so that it gets an end for each begin."""
        if any(handler is other for other in self._joining):
            self._joining = [h for h in self._joining if h is not handler]
        else:
            self._leaving.append(handler)

    def change_shift(self) -> None:
        """Lets handlers out and in, between two epochs."""
        leaving, self._leaving = self._leaving, []
        joining, self._joining = self._joining, []
        for handler in leaving:
            self.handlers = [h for h in self.handlers if h is not handler]
            calls = self._calls.pop(id(handler))
            self._assemble()
            self.end(calls["train_end"])
        for handler in joining:
            self._insert(handler)
            calls = self._calls[id(handler)] = self._calls_of(handler)
            self._assemble()
            for hook in calls["train_begin"]:
                hook(self.stats)

    @property
    def needs(self) -> set[str]:
        """What the handlers want the loop to compute."""
        needs = {need for handler in self.handlers for need in handler.needs}
        # What a handler of ours does is known; others may go on with the graph, or set layers.
        events = set().union(*(_own_events(handler) for handler in self.handlers))
        needs |= {"graph"} if "forward_end" in events else set()
        needs |= {"gradients"} if getattr(self, "backward_end", ()) else set()
        changes = any(_changes_batches(handler) for handler in self.handlers)
        return needs | ({"watch"} if changes or events & set(_IN_A_BATCH) else set())

    def named(self) -> dict[str, EventHandler]:
        """The handlers by unique name: class name, with #1, #2 for the next of a kind."""
        named: dict[str, EventHandler] = {}
        for handler in self.handlers:
            kind = type(handler).__name__
            same = sum(1 for name in named if name.partition("#")[0] == kind)
            named[f"{kind}#{same}" if same else kind] = handler
        return named

    def begin(self, event: str) -> None:
        """Fires an event."""
        for hook in getattr(self, event):
            hook(self.stats)

    def end(self, hooks: Iterable[Hook]) -> None:
        """Fires the end of a level; all its handlers get it even when one of them raises."""
        pending = iter(hooks)
        try:
            for hook in pending:
                hook(self.stats)
        except BaseException as error:
            self.fail(error)
            self._unwind(pending, error)
            raise

    def fail(self, error: BaseException, end: str | None = None) -> None:
        """Tells the handlers of an exception on its way, then closes a level.

        Args:
            error: The exception; only the first of a run fires `error`.
            end: The end event of the level that it leaves.
        """
        if self.stats.error is None:
            self.stats.error = error
            advise(error, self.stats)
            self._unwind(iter(self.error), error)
        if end is not None:
            self._unwind(iter(getattr(self, end)), error)

    def _unwind(self, hooks: Iterator[Hook], error: BaseException) -> None:
        for hook in hooks:
            try:
                hook(self.stats)
            except BaseException as second:
                # The first exception is the one to see; a second one must not hide it.
                error.add_note(f"While it passed, {hook!r} raised {second!r}.")


def _hooks(
    handler: EventHandler, event: str, stats: TrainStats, clocks: list[Clock]
) -> Iterator[Hook]:
    if isinstance(handler, FunctionHandler):
        sources: list[Any] = [handler.function]
    else:
        kind = type(handler)
        names = [n for n in dir(kind) if getattr(getattr(kind, n, None), "estimator_events", ())]
        sources = [getattr(handler, name) for name in names]
        method = getattr(handler, event)
        overridden = getattr(kind, event) is not getattr(EventHandler, event)
        if (overridden and event not in names) or event in vars(handler):
            yield method
    for source in sources:
        for marked_event, schedule in source.estimator_events:
            if marked_event == event and schedule is None:
                yield source
            elif marked_event == event:
                clocks.append(schedule.clock(stats))
                yield _scheduled(source, clocks[-1])


def _own_events(handler: EventHandler) -> set[str]:
    """The events inside a batch that a handler which is not of this library acts at."""
    kind = type(handler)
    if kind.__module__.startswith("estimator.handlers."):
        return set()
    if isinstance(handler, FunctionHandler):
        marked: Iterable[Any] = [handler.function]
    else:
        marked = [getattr(kind, name, None) for name in dir(kind)]
    events = {event for each in marked for event, _ in getattr(each, "estimator_events", ())}
    overridden = {e for e in _IN_A_BATCH if getattr(kind, e) is not getattr(EventHandler, e)}
    return overridden | (events & set(_IN_A_BATCH))


def _changes_batches(handler: EventHandler) -> bool:
    """Whether a handler may replace what the net gets, which a recorded gather would not see."""
    own = type(handler).batch_begin is not EventHandler.batch_begin
    return own and handler.band is Band.PREPARE


def _scheduled(hook: Hook, clock: Clock) -> Hook:
    def when_due(stats: TrainStats) -> None:
        if clock.due(stats):
            hook(stats)

    when_due.__qualname__ = f"{getattr(hook, '__qualname__', hook)}, {clock.every}"
    return when_due

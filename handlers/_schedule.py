"""When a handler acts: `Every`, its short forms, and the decorator `on`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from estimator.handlers._errors import ArgumentError, ArgumentTypeError, nearest

if TYPE_CHECKING:
    from estimator.stats import TrainStats

EVENTS = (
    "train_begin",
    "epoch_begin",
    "batch_begin",
    "forward_end",
    "backward_end",
    "batch_end",
    "validation_begin",
    "validation_batch_end",
    "validation_end",
    "epoch_end",
    "error",
    "train_end",
)

_UNIT_OF_EVENT = {
    "batch_begin": "steps",
    "forward_end": "steps",
    "backward_end": "steps",
    "batch_end": "steps",
    "epoch_begin": "epochs",
    "epoch_end": "epochs",
}

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Every:
    """A schedule: every n steps, epochs, seconds or calls of one event.

    Counts are of finished units since the run began (a resumed run goes on counting), so
    `Every(steps=100)` is due at the optimizer steps 100, 200, 300.

    Args:
        steps: Optimizer steps.
        epochs: Epochs.
        seconds: Wall-clock seconds since the handler started.
        calls: Times that the event fired, for events with no unit of their own.
        kind: "every" n units, "once" when n units are finished, or at each event "after" n units.

    Raises:
        ArgumentError: Not exactly one unit, a unit that is not above zero, or an unknown kind.

    Example:
        >>> Every(steps=100)
        every(steps=100)
        >>> every(epochs=2) == Every(epochs=2)
        True
    """

    steps: int | None = None
    epochs: int | None = None
    seconds: float | None = None
    calls: int | None = None
    kind: Literal["every", "once", "after"] = "every"

    def __post_init__(self) -> None:
        units = {unit: getattr(self, unit) for unit in ("steps", "epochs", "seconds", "calls")}
        given = [f"{unit}={n!r}" for unit, n in units.items() if n is not None]
        if len(given) != 1:
            raise ArgumentError(
                "Every takes exactly one of steps, epochs, seconds and calls; "
                f"received {', '.join(given) or 'none'}. Write Every(steps=100), for example."
            )
        counts = (int, float) if self.unit == "seconds" else int
        number = self.n
        if not isinstance(number, counts) or isinstance(number, bool) or not number > 0:
            raise ArgumentError(
                f"Every({self.unit}=...) must be a number above 0"
                f"{'' if self.unit == 'seconds' else ' without a fraction'}; received {number!r}."
            )
        if self.kind not in ("every", "once", "after"):
            raise ArgumentError(
                f"Every(kind=...) must be 'every', 'once' or 'after'; received {self.kind!r}."
            )

    def __repr__(self) -> str:
        return f"{self.kind}({self.unit}={self.n})"

    @property
    def unit(self) -> str:
        """The unit given: "steps", "epochs", "seconds" or "calls"."""
        # Asked for in each batch.
        if self.steps is not None:
            return "steps"
        if self.epochs is not None:
            return "epochs"
        return "calls" if self.calls is not None else "seconds"

    @property
    def n(self) -> float:
        """The number of units."""
        number: float = getattr(self, self.unit)
        return number

    def clock(self, stats: TrainStats, place: Sequence[float] | None = None) -> Clock:
        """Starts to count from where the run stands.

        Args:
            stats: The run.
            place: What `Clock.place` gave in a run that goes on.
        """
        clock = Clock(self, stats)
        if place is not None:
            clock.resume(*place)
        return clock


class Clock:
    """Tells when an `Every` is due; one for each handler and run.

    Args:
        every: The schedule.
        stats: The run at the moment from which to count.
    """

    __slots__ = ("_asked", "_next", "_start", "calls", "every")

    def __init__(self, every: Every, stats: TrainStats) -> None:
        self.every = every
        self.calls = 0
        self._start = stats.elapsed
        self._asked = self._count(stats)
        self._next: float = self._after(self._asked)

    def _count(self, stats: TrainStats) -> float:
        unit = self.every.unit
        if unit == "steps":
            return stats.step
        if unit == "epochs":
            return stats.epoch
        return self.calls if unit == "calls" else stats.elapsed - self._start

    def _after(self, count: float) -> float:
        n = self.every.n
        if self.every.kind == "every":
            return (count // n + 1) * n
        if self.every.kind == "once":
            return n if count < n else float("inf")
        return n if self.every.unit == "seconds" else n + 1

    def place(self) -> list[float]:
        """How often it was asked, and at which count for the last time."""
        return [self.calls, self._asked]

    def resume(self, calls: float, asked: float | None = None) -> None:
        """Goes on from the `place` of a run that was stopped; seconds count anew.

        Args:
            calls: How often it was asked.
            asked: At which count for the last time, so that what fell due since then is still to
                come; None where nothing is owed.
        """
        self.calls = int(calls)
        if self.every.unit == "calls":
            asked = calls
        if asked is not None and self.every.unit != "seconds":
            self._asked = asked
            self._next = self._after(asked)

    def due_at(self, count: float) -> bool:
        """Whether the schedule will be due when `count` units are finished."""
        return count >= self._next

    def due(self, stats: TrainStats) -> bool:
        """Whether the schedule has come round since it was last due."""
        self.calls += 1
        count = self._asked = self._count(stats)
        if count < self._next:
            return False
        if self.every.kind != "after":
            self._next = self._after(count)
        return True


def every(
    steps: int | None = None, *, epochs: int | None = None, seconds: float | None = None
) -> Every:
    """Due each time that n more units are finished; `every(100)` counts optimizer steps."""
    return Every(steps, epochs, seconds)


def once(
    steps: int | None = None, *, epochs: int | None = None, seconds: float | None = None
) -> Every:
    """Due one time, when n units are finished."""
    return Every(steps, epochs, seconds, kind="once")


def after(
    steps: int | None = None, *, epochs: int | None = None, seconds: float | None = None
) -> Every:
    """Due at each event that comes after n finished units."""
    return Every(steps, epochs, seconds, kind="after")


def check_in_epochs(every: Every | None, argument: str) -> Every | None:
    """Returns a schedule that a handler was given, which has to count epochs.

    Args:
        every: The schedule; None is none.
        argument: What messages call it, such as "ErrorsHandler(every=...)".

    Raises:
        ArgumentError: It counts something else.
        ArgumentTypeError: It is no schedule.
    """
    if every is None:
        return None
    schedule = check_every(every, argument)
    if schedule.unit != "epochs":
        raise ArgumentError(
            f"{argument} must count epochs, since what is shown is a pass over the data; received "
            f"{schedule!r}. Write every(epochs=5)."
        )
    return schedule


def check_every(schedule: object, argument: str, default: Every | None = None) -> Every:
    """Returns the schedule that a handler was given.

    Args:
        schedule: What the user passed.
        argument: How the message names it, such as "CheckpointHandler(every=...)".
        default: Stands in for None; without one, None is refused too.

    Raises:
        ArgumentTypeError: It is not an `Every`.
    """
    if schedule is None and default is not None:
        return default
    if not isinstance(schedule, Every):
        raise ArgumentTypeError(
            f"{argument} must be an Every; received {schedule!r}. Write every(100) for "
            "optimizer steps, every(epochs=2) or every(seconds=60)."
        )
    return schedule


def schedule_for(event: str, schedule: int | Every | None) -> Every | None:
    """Reads the `every=` of `on`: a plain number counts in the unit of its event."""
    if not isinstance(schedule, int) or isinstance(schedule, bool):
        return None if schedule is None else check_every(schedule, f"on({event!r}, every=...)")
    unit = _UNIT_OF_EVENT.get(event, "calls")
    return Every(
        steps=schedule if unit == "steps" else None,
        epochs=schedule if unit == "epochs" else None,
        calls=schedule if unit == "calls" else None,
    )


def on(event: str, *, every: int | Every | None = None) -> Callable[[F], F]:
    """Marks a function or a method as the handler of one event.

    Args:
        event: The event's name, one of `EVENTS`.
        every: How often; a number counts steps in batch events, epochs in epoch events and calls
            in all others. None means each time.

    Raises:
        ArgumentError: There is no such event.

    Example:
        >>> @on("batch_end", every=100)
        ... def show(stats):
        ...     print(stats.step, float(stats.loss))
    """
    if event not in EVENTS:
        raise ArgumentError(
            f"on(event=...): no event is called {event!r}. {nearest(event, EVENTS)}"
        )
    schedule = schedule_for(event, every)

    def mark(function: F) -> F:
        marks = getattr(function, "estimator_events", ())
        vars(function)["estimator_events"] = (*marks, (event, schedule))
        return function

    return mark

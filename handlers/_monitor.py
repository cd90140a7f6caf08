"""`Monitor`: one comparator for every handler that follows a value."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from estimator.handlers._errors import ArgumentError, ArgumentTypeError, MonitorError, nearest

if TYPE_CHECKING:
    from estimator.stats import TrainStats

Mode = Literal["min", "max"]


class Monitor:
    """Follows one value of the run and says when it got better.

    The direction comes from what produces the value (a loss is better lower, a metric says so
    itself) or from `mode`; it is never guessed from a name. NaN is never an improvement.

    Args:
        name: "val_<name>" or "train_<name>", such as "val_loss".
        mode: "min" or "max"; None takes the direction that the value declares.
        min_delta: What a change must exceed to count as an improvement.
        relative: Whether `min_delta` is a fraction of the best value's magnitude.

    Raises:
        ArgumentError: An unknown mode, or a `min_delta` that is negative or not finite.

    Example:
        >>> monitor = Monitor("val_loss", mode="min", min_delta=0.1)
        >>> monitor.improves(0.85, 1.0), monitor.improves(0.95, 1.0)
        (True, False)
    """

    def __init__(
        self, name: str, *, mode: Mode | None = None, min_delta: float = 0.0, relative: bool = False
    ) -> None:
        if not isinstance(name, str):
            raise ArgumentTypeError(
                f"monitor must be the name of a value, such as 'val_loss'; received {name!r}."
            )
        if mode not in (None, "min", "max"):
            raise ArgumentError(
                f"mode must be 'min', 'max' or None (the value's own direction); received {mode!r}."
            )
        if not (math.isfinite(min_delta) and min_delta >= 0):
            raise ArgumentError(f"min_delta must be a number from 0 up; received {min_delta!r}.")
        self.name = name
        self.min_delta = min_delta
        self.relative = relative
        self._mode = mode
        self._higher: bool | None = None if mode is None else mode == "max"

    def __repr__(self) -> str:
        return f"Monitor({self.name!r}, mode={self._mode!r})"

    @property
    def event(self) -> Literal["validation_end", "epoch_end"]:
        """The event at which the value is fresh."""
        return "validation_end" if self.name.startswith("val_") else "epoch_end"

    @property
    def higher_is_better(self) -> bool:
        """The direction; known from `resolve` on, or from the start where `mode` was given."""
        assert self._higher is not None, "resolve() comes first"
        return self._higher

    def resolve(self, stats: TrainStats, owner: str) -> None:
        """Checks at train_begin that the value can appear in this run, and takes its direction.

        Args:
            stats: The run.
            owner: Who monitors, for the message.

        Raises:
            MonitorError: The name cannot appear, or it declares no direction and `mode` is None.
        """
        if self.name not in stats.monitors:
            why = ""
            if self.name.startswith("val_") and not any(
                m.startswith("val_") for m in stats.monitors
            ):
                why = "This run has no validation data (pass val= to fit). "
            raise MonitorError(
                f"{owner}(monitor={self.name!r}): no such value appears in this run. "
                f"{why}{nearest(self.name, stats.monitors)}"
            )
        declared = stats.monitors[self.name]
        if self._mode is None and declared is None:
            raise MonitorError(
                f"{owner}(monitor={self.name!r}): this value does not say which direction is "
                "better; received mode=None. Pass mode='min' or mode='max'."
            )
        self._higher = declared if self._mode is None else self._mode == "max"

    def improves(self, value: float, best: float | None) -> bool:
        """Whether `value` beats `best` by more than `min_delta`; anything but NaN beats None."""
        if math.isnan(value):
            return False
        if best is None:
            return True
        # A fraction of an infinite best is no number, and would never be beaten again.
        fraction = self.relative and math.isfinite(best)
        margin = self.min_delta * abs(best) if fraction else self.min_delta
        return value > best + margin if self.higher_is_better else value < best - margin

    def observe(self, stats: TrainStats) -> float:
        """Reads the fresh value and keeps `stats.best` of this name up to date."""
        value = stats.value(self.name)
        held = stats.best.get(self.name)
        beats = held is None or (
            value > held.value if self.higher_is_better else value < held.value
        )
        if beats and not math.isnan(value):
            stats.set_best(self.name, value)
        return value

"""What a handler is. A handler is one file that imports nothing of this library but this module.

The loop calls these events, in this order, with the run's `TrainStats` as the only argument:

    train_begin
      epoch_begin
        batch_begin           inputs and targets are on the device; PREPARE may replace them
          forward_end         outputs and loss exist
          backward_end        gradients exist, unscaled and complete (once per optimizer step)
        batch_end             counters advanced, metrics updated on the device
        validation_begin      when a validation is due
          validation_batch_end
        validation_end
      epoch_end               this epoch's row of the history is complete
    error                     when an exception is on its way
    train_end                 always

Every begin gets its end. After an exception the open levels get theirs with `stats.error` set.
"""

from __future__ import annotations

import enum
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from estimator.handlers._errors import (
    ArgumentError,
    ArgumentTypeError,
    DataError,
    EstimatorError,
    FolderError,
    HandlerError,
    MissingExtraError,
    MonitorError,
    nearest,
    require,
)
from estimator.handlers._folder import writable_folder
from estimator.handlers._monitor import Mode, Monitor
from estimator.handlers._reporting import own_folder, reporting
from estimator.handlers._schedule import (
    EVENTS,
    Clock,
    Every,
    after,
    check_every,
    check_in_epochs,
    every,
    on,
    once,
)
from estimator.handlers._section import (
    Picture,
    SampleCard,
    Section,
    Table,
    write_section,
    write_whole,
)

if TYPE_CHECKING:
    import torch

    from estimator.stats import TrainStats

__all__ = [
    "EVENTS",
    "ArgumentError",
    "ArgumentTypeError",
    "Band",
    "Clock",
    "DataError",
    "EstimatorError",
    "EventHandler",
    "Every",
    "FolderError",
    "HandlerError",
    "MissingExtraError",
    "Mode",
    "Monitor",
    "MonitorError",
    "Picture",
    "SampleCard",
    "Section",
    "Table",
    "after",
    "check_every",
    "check_in_epochs",
    "every",
    "nearest",
    "on",
    "once",
    "own_folder",
    "reporting",
    "require",
    "writable_folder",
    "write_section",
    "write_whole",
]


class Band(enum.IntEnum):
    """When a handler runs within one event: lower bands first, then the order of the list.

    Deciding before saving is what makes a resumed run equal to one that was never stopped.
    """

    PREPARE = 100
    OBSERVE = 200
    DECIDE = 300
    PERSIST = 400
    REPORT = 500


class EventHandler:
    """Base of all handlers: override the events you need.

    Events that a handler does not override cost nothing. The same object may serve a second `fit`
    or a second Estimator, so what belongs to one run is set up in `train_begin`. Attributes that
    a resumed run needs are listed in `state_names`.

    Args:
        band: When this handler runs within an event; None keeps the class's own band.

    Example:
        >>> class PrintLoss(EventHandler):
        ...     def epoch_end(self, stats):
        ...         print(stats.epoch, stats["train_loss"][-1])
    """

    band: Band = Band.DECIDE
    first_process_only: ClassVar[bool] = False
    """Whether only the first of several processes calls it, as suits what writes or reports."""
    own_state: ClassVar[bool] = False
    """Whether each of several processes has a state of its own; if not, the first one's counts."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """What the loop computes for this handler: "sample_losses", "uids"."""
    provides: ClassVar[Mapping[str, bool | None]] = {}
    """Names this handler puts into `stats.train` or `stats.val`, and whether higher is better."""
    state_names: ClassVar[tuple[str, ...]] = ()
    """Attributes that `state_dict` saves: numbers, strings, tensors, lists and dicts."""

    def __init__(self, *, band: Band | None = None) -> None:
        if band is not None:
            if not isinstance(band, Band):
                raise ArgumentTypeError(
                    f"{type(self).__name__}(band=...) must be a Band; received {band!r}. "
                    f"There are: {', '.join(f'Band.{b.name}' for b in Band)}."
                )
            self.band = band

    def train_begin(self, stats: TrainStats) -> None:
        """Before the first epoch."""

    def epoch_begin(self, stats: TrainStats) -> None:
        """Before an epoch's first batch."""

    def batch_begin(self, stats: TrainStats) -> None:
        """A batch is on the device; `stats.inputs` and `stats.targets` may be replaced."""

    def forward_end(self, stats: TrainStats) -> None:
        """`stats.outputs` and `stats.loss` exist."""

    def backward_end(self, stats: TrainStats) -> None:
        """Gradients are complete and unscaled, before clipping and the optimizer step."""

    def batch_end(self, stats: TrainStats) -> None:
        """Counters have advanced."""

    def validation_begin(self, stats: TrainStats) -> None:
        """Before a validation, an `evaluate` or a `predict`."""

    def validation_batch_end(self, stats: TrainStats) -> None:
        """One batch of validation is done."""

    def validation_end(self, stats: TrainStats) -> None:
        """`stats.val` holds the results."""

    def epoch_end(self, stats: TrainStats) -> None:
        """`stats.history` holds this epoch's row."""

    def error(self, stats: TrainStats) -> None:
        """`stats.error` is on its way to the caller."""

    def train_end(self, stats: TrainStats) -> None:
        """Always the last event, however the run ended."""

    def validated_weights(self) -> Mapping[str, torch.Tensor]:
        """Weights that validation sees in place of the net's own, by the net's names; none here."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs of this handler; plain values and tensors only."""
        return {name: getattr(self, name) for name in self.state_names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave.

        Raises:
            ArgumentError: The names are not exactly this handler's.
        """
        unknown = sorted(set(state) - set(self.state_names))
        missing = sorted(set(self.state_names) - set(state))
        if unknown or missing:
            raise ArgumentError(
                f"{type(self).__name__}.load_state_dict(state=...) must hold exactly "
                f"{sorted(self.state_names)}; unknown: {unknown}, missing: {missing}. "
                "Load the state of the same handler class and version."
            )
        for name in self.state_names:
            setattr(self, name, state[name])

    def __repr__(self) -> str:
        arguments = []
        for name, parameter in inspect.signature(type(self).__init__).parameters.items():
            if name == "self" or not hasattr(self, name):
                continue
            value = getattr(self, name)
            default = type(self).band if name == "band" else parameter.default
            if value is not default and value != default:
                arguments.append(f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join(arguments)})"

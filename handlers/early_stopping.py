"""`EarlyStoppingHandler`: ends a run that no longer gets better."""

from __future__ import annotations

import copy
import logging
import math
from typing import TYPE_CHECKING, Any, Literal

import torch

from estimator.handlers.base import (
    ArgumentError,
    Band,
    DataError,
    EventHandler,
    Mode,
    Monitor,
)

if TYPE_CHECKING:
    from estimator.stats import TrainStats

_LOG = logging.getLogger("estimator")


class EarlyStoppingHandler(EventHandler):
    """Stops the run when a value has not improved for `patience` measurements in a row.

    A "val_" name is measured at each validation, a "train_" name at each finished epoch. A value
    improves on the best one so far when it beats it by more than `min_delta`, whatever its sign.
    The best value and the count go on in a resumed run; the arguments are always those given here.
    A run that this handler had stopped stops again at once, unless they have become wider.

    Args:
        monitor: The value to follow, such as "val_loss".
        patience: At how many bad measurements in a row to stop, from 1 up.
        min_delta: What a change must exceed to count as an improvement.
        relative: Whether `min_delta` is a fraction of the best value's magnitude.
        mode: "min" or "max"; None takes the direction that the value declares.
        baseline: A value that has to be beaten from the first measurement on.
        restore_best: Whether to put the weights and buffers with which the best value was
            measured back into the net when the run ends, by this handler or not, but for an
            error. Holds two copies of them, and one in each checkpoint.
        nan: What a value that is not finite means: it is "bad", it does not count ("ignore"),
            or it ends the run at once ("stop", or "raise" with an error). It is never the best.
        band: When it runs within an event; DECIDE by default.

    Raises:
        ArgumentError: An argument has a value out of its range.

    Example:
        >>> import torch
        >>> from estimator import Estimator
        >>> data = (torch.randn(8, 2), torch.randn(8, 1))
        >>> stopper = EarlyStoppingHandler("val_loss", patience=2, min_delta=100.0)
        >>> stats = Estimator(torch.nn.Linear(2, 1), torch.nn.MSELoss()).fit(
        ...     data, data, epochs=10, device="cpu", handlers=[stopper], progress=False
        ... )
        >>> stats.epoch
        3
        >>> stats.stopped.endswith("patience=2 is used up")
        True
    """

    band = Band.DECIDE
    state_names = ("best", "best_epoch", "best_step", "bad", "nonfinite", "weights")

    def __init__(
        self,
        monitor: str = "val_loss",
        *,
        patience: int = 1,
        min_delta: float = 0.0,
        relative: bool = False,
        mode: Mode | None = None,
        baseline: float | None = None,
        restore_best: bool = False,
        nan: Literal["bad", "ignore", "stop", "raise"] = "bad",
        band: Band | None = None,
    ) -> None:
        super().__init__(band=band)
        if not isinstance(patience, int) or isinstance(patience, bool) or patience < 1:
            raise ArgumentError(
                "EarlyStoppingHandler(patience=...) must be a number from 1 up, without a "
                f"fraction; received {patience!r}. 1 stops at the first bad measurement."
            )
        if baseline is not None and not math.isfinite(baseline):
            raise ArgumentError(
                "EarlyStoppingHandler(baseline=...) must be a finite number or None; "
                f"received {baseline!r}."
            )
        if nan not in ("bad", "ignore", "stop", "raise"):
            raise ArgumentError(
                "EarlyStoppingHandler(nan=...) must be 'bad', 'ignore', 'stop' or 'raise'; "
                f"received {nan!r}."
            )
        self._monitor = Monitor(monitor, mode=mode, min_delta=min_delta, relative=relative)
        self.monitor, self.mode = monitor, mode
        self.min_delta, self.relative = min_delta, relative
        self.patience = patience
        self.baseline = baseline
        self.restore_best = restore_best
        self.nan = nan
        self._reset()

    def _reset(self) -> None:
        self.best: float | None = None
        self.best_epoch = self.best_step = 0
        self.bad = 0
        self.nonfinite: str | None = None
        self.weights: dict[str, Any] | None = None
        self._measured: dict[str, Any] | None = None
        self._epoch = 0
        self._reason: str | None = None

    def train_begin(self, stats: TrainStats) -> None:
        """Checks the monitored name; a run that begins anew forgets the last one."""
        self._monitor.resolve(stats, "EarlyStoppingHandler")
        if stats.samples == 0:
            self._reset()
        if not self.restore_best:
            self.weights = None
        self._epoch, self._reason = stats.epoch, None
        if self.bad >= self.patience:
            self._stop_impatient(stats)
        elif self.nonfinite is not None and self.nan == "stop":
            self._stop(stats, self.nonfinite)

    def epoch_begin(self, stats: TrainStats) -> None:
        """Notes which epoch this is."""
        self._epoch = stats.epoch

    def validation_begin(self, stats: TrainStats) -> None:
        """Keeps the weights that the validation is about to measure.

        They need not be those that are in the net when its result is known: an average may stand
        in for them only as long as the validation lasts.
        """
        if self._follows("validation_end") and stats.phase == "validation" and self.restore_best:
            self._measured = _copy_state(stats.net)

    def validation_end(self, stats: TrainStats) -> None:
        """Decides on a "val_" value."""
        if self._follows("validation_end") and stats.phase == "validation":
            if stats.error is None:
                self._decide(stats, stats.val)
            self._measured = None

    def epoch_end(self, stats: TrainStats) -> None:
        """Decides on a "train_" value, unless the epoch was cut short."""
        finished = stats.error is None and stats.epoch > self._epoch
        if finished and self._follows("epoch_end"):
            self._decide(stats, stats.train)

    def train_end(self, stats: TrainStats) -> None:
        """Says whether this handler ended the run, and puts the best weights back."""
        self._measured = None
        if stats.error is not None:
            return
        if self._reason is not None:
            _LOG.info("%s", self._reason)
        if self.restore_best:
            self._restore(stats)

    def _follows(self, event: str) -> bool:
        return self._monitor.event == event

    def _decide(self, stats: TrainStats, results: dict[str, float]) -> None:
        # A validation without batches measures nothing.
        if self.monitor.partition("_")[2] not in results:
            return
        value = self._monitor.observe(stats)
        bar = self.baseline if self.best is None else self.best
        if math.isfinite(value) and self._monitor.improves(value, bar):
            self.best, self.best_epoch, self.best_step = value, stats.epoch, stats.step
            self.bad = 0
            if self.restore_best:
                self.weights = self._measured or _copy_state(stats.net)
        elif math.isfinite(value) or self.nan == "bad":
            self.bad += 1
            if self.bad >= self.patience:
                self._stop_impatient(stats)
        elif self.nan != "ignore":
            self._end_nonfinite(stats, value)

    def _end_nonfinite(self, stats: TrainStats, value: float) -> None:
        what = f"{self.monitor} is {value} at epoch {stats.epoch}, step {stats.step}"
        if self.nan == "raise":
            raise DataError(
                f"EarlyStoppingHandler(monitor={self.monitor!r}, nan='raise'): {what}. "
                "Lower the learning rate, clip gradients, or look at the data of this epoch."
            )
        self.nonfinite = f"{what} (nan='stop')"
        self._stop(stats, self.nonfinite)

    def _stop_impatient(self, stats: TrainStats) -> None:
        self._stop(stats, f"{self._missed()}; patience={self.patience} is used up")

    def _missed(self) -> str:
        if self.best is not None:
            return (
                f"{self.monitor} did not improve on {self.best:.6g} "
                f"(epoch {self.best_epoch}, step {self.best_step})"
            )
        bar = "a finite value" if self.baseline is None else f"the baseline {self.baseline:.6g}"
        return f"{self.monitor} did not reach {bar}"

    def _stop(self, stats: TrainStats, why: str) -> None:
        self._reason = f"EarlyStoppingHandler: {why}"
        stats.stop(self._reason)

    def _restore(self, stats: TrainStats) -> None:
        if self.weights is None:
            _LOG.warning(
                "EarlyStoppingHandler(restore_best=True): no value of %s was good enough to be "
                "the best; the last weights stay.",
                self.monitor,
            )
            return
        stats.net.load_state_dict(self.weights)
        _LOG.info(
            "EarlyStoppingHandler put back the weights of epoch %d, step %d (%s %.6g).",
            *(self.best_epoch, self.best_step, self.monitor, self.best),
        )


def _copy_state(net: torch.nn.Module) -> dict[str, Any]:
    """Parameters and buffers, on their devices."""
    return copy.deepcopy(net.state_dict())

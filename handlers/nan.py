"""`NaNHandler`: ends a run whose loss is no longer finite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from estimator.handlers.base import (
    ArgumentError,
    Band,
    Clock,
    DataError,
    EventHandler,
    Every,
    check_every,
)

if TYPE_CHECKING:
    from estimator.stats import TrainStats

EVERY_100_STEPS = Every(steps=100)
_NEVER = torch.iinfo(torch.int64).max


class NaNHandler(EventHandler):
    """Finds the first step whose loss was NaN or infinite, and ends the run.

    Each batch is checked on the device; the host reads the finding only where `every` is due,
    before each validation and at the end of each epoch, so a step never waits for it. With
    several losses the message names those that were bad at the first bad step.

    Args:
        action: "stop" asks the run to end; "raise" ends it with an error.
        every: When to read the finding; 100 steps by default.
        band: When it runs within an event; DECIDE by default, so before a checkpoint.

    Raises:
        ArgumentError: An unknown action.

    Example:
        >>> import torch
        >>> from estimator import Estimator
        >>> data = (torch.full((8, 2), float("inf")), torch.randn(8, 1))
        >>> stats = Estimator(torch.nn.Linear(2, 1), torch.nn.MSELoss()).fit(
        ...     data, epochs=3, device="cpu", handlers=[NaNHandler()], progress=False
        ... )
        >>> stats.stopped
        'NaNHandler: the loss was not finite, first at step 1'
    """

    band = Band.DECIDE

    def __init__(
        self,
        action: Literal["stop", "raise"] = "stop",
        *,
        every: Every = EVERY_100_STEPS,
        band: Band | None = None,
    ) -> None:
        super().__init__(band=band)
        if action not in ("stop", "raise"):
            raise ArgumentError(
                f"NaNHandler(action=...) must be 'stop' or 'raise'; received {action!r}."
            )
        self.action = action
        self.every = check_every(every, "NaNHandler(every=...)")
        self._clock: Clock | None = None
        self._first: dict[tuple[str, ...], torch.Tensor] = {}

    def train_begin(self, stats: TrainStats) -> None:
        """Starts the schedule."""
        self._clock = self.every.clock(stats)

    def batch_end(self, stats: TrainStats) -> None:
        """Checks the loss on the device, and reads the finding where the schedule is due."""
        if stats.error is not None or stats.loss is None or self._clock is None:
            return
        names = ("loss", *stats.losses)
        losses = torch.stack([stats.loss, *stats.losses.values()])
        # The parts may change from step to step, as where two nets take turns.
        first = self._first.get(names)
        if first is None:
            first = torch.full(losses.shape, _NEVER, device=losses.device)
        # A batch inside an accumulation group belongs to the step that its group will make.
        step = stats.step + (not stats.stepped)
        self._first[names] = torch.where(losses.isfinite(), first, first.clamp(max=step))
        if self._clock.due(stats):
            self._read(stats)

    def validation_begin(self, stats: TrainStats) -> None:
        """Reads the finding."""
        if stats.phase == "validation":
            self._read(stats)

    def epoch_end(self, stats: TrainStats) -> None:
        """Reads the finding."""
        if stats.error is None:
            self._read(stats)

    def train_end(self, stats: TrainStats) -> None:
        """Lets the device memory go."""
        self._first = {}
        self._clock = None

    def _read(self, stats: TrainStats) -> None:
        found = [
            (step, name)
            for names, first in self._first.items()
            for name, step in zip(names, first.tolist(), strict=True)
            if step != _NEVER
        ]
        if not found:
            return
        step = min(step for step, _ in found)
        bad = sorted({name for at, name in found if at == step} - {"loss"})
        inside = f" (in {', '.join(bad)})" if bad else ""
        what = f"NaNHandler: the loss was not finite, first at step {step}{inside}"
        if self.action == "raise":
            raise DataError(
                f"{what}. Lower the learning rate, clip gradients, or look at the data of the step."
            )
        stats.stop(what)

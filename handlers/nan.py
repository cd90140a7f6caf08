"""`NaNHandler`: ends a run whose loss is no longer finite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

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
_WAITING = 64


class NaNHandler(EventHandler):
    """Finds the first step whose loss was NaN or infinite, and ends the run.

    Each batch is checked on the device; the host reads the finding only where `every` is due,
    before each validation and at the end of each epoch, so a step never waits for it. With
    several losses the message names those that were bad at the first bad step. A resumed run goes
    on with what was not read before.

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
    own_state = True
    state_names = ("looks", "finding", "place")

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
        self.finding: str | None = None
        self.place: list[float] | None = None
        self.looks: list[tuple[str, list[int], torch.Tensor]] = []
        self._clock: Clock | None = None
        self._waiting: list[tuple[int, torch.Tensor, dict[str, torch.Tensor]]] = []

    def train_begin(self, stats: TrainStats) -> None:
        """Starts the schedule; stops a run that was to stop here, and was stopped by another."""
        if stats.samples == 0:
            self.looks, self.finding, self.place = [], None, None
        self._waiting = []
        self.looks = [(name, steps, first.to(stats.device)) for name, steps, first in self.looks]
        self._clock = self.every.clock(stats, self.place)
        if self.finding is not None:
            stats.stop(self.finding)

    def batch_end(self, stats: TrainStats) -> None:
        """Keeps the losses, and reads the finding where the schedule is due."""
        if stats.error is not None or stats.loss is None or self._clock is None:
            return
        # A batch inside an accumulation group belongs to the step that its group will make.
        self._waiting.append((stats.step + (not stats.stepped), stats.loss, stats.losses))
        if len(self._waiting) == _WAITING:
            self._look()
        if self._clock.due(stats):
            self._read(stats)

    def validation_begin(self, stats: TrainStats) -> None:
        """Reads the finding."""
        if stats.phase == "validation":
            self._read(stats)

    def epoch_end(self, stats: TrainStats) -> None:
        """Reads the finding, but for an epoch that a stop cut: a run that goes on reads later."""
        cut = stats.batches_done > 0 and stats.stopped is not None
        if stats.error is None and not (cut and self.action == "stop"):
            self._read(stats)

    def train_end(self, stats: TrainStats) -> None:
        """Lets the losses go."""
        if stats.error is None:
            self.state_dict()
        else:
            self._waiting, self.looks = [], []
        self._clock = None

    def state_dict(self) -> dict[str, Any]:
        """What was found on the device and is not read yet."""
        self._look()
        if self._clock is not None:
            self.place = self._clock.place()
        return {**super().state_dict(), "looks": list(self.looks)}

    def _look(self) -> None:
        """Finds on the device, for many batches at once, which is the first bad one."""
        columns: dict[str, tuple[list[int], list[torch.Tensor]]] = {}
        for step, loss, parts in self._waiting:
            for name, value in {"loss": loss, **parts}.items():
                steps, values = columns.setdefault(name, ([], []))
                steps.append(step)
                values.append(value)
        for name, (steps, values) in columns.items():
            finite = torch.stack(values).isfinite()
            place = torch.arange(len(steps), device=finite.device)
            first = torch.where(finite, len(steps), place).amin()
            self.looks.append((name, steps, first))
        self._waiting = []

    def _read(self, stats: TrainStats) -> None:
        self._look()
        looks, self.looks = self.looks, []
        if not looks:
            return
        places = torch.stack([first for _, _, first in looks]).tolist()
        found = [
            (steps[place], name)
            for (name, steps, _), place in zip(looks, places, strict=True)
            if place < len(steps)
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
        # A stop that came first leaves this one to the run that goes on.
        self.finding = None if stats.stopped is None else what
        stats.stop(what)

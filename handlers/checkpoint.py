"""`CheckpointHandler`: durable, verified checkpoints, and the two functions that find them."""

from __future__ import annotations

import logging
import math
import os
from typing import TYPE_CHECKING

from estimator.handlers._checkpoint_files import best_checkpoint, load_checkpoint
from estimator.handlers._checkpoint_manifest import new_run
from estimator.handlers._checkpoint_store import CheckpointStore
from estimator.handlers._parts import own_part
from estimator.handlers.base import (
    ArgumentError,
    Band,
    Clock,
    EventHandler,
    Every,
    Mode,
    Monitor,
    check_every,
    own_folder,
)

if TYPE_CHECKING:
    from estimator.stats import TrainStats

__all__ = ["CheckpointHandler", "best_checkpoint", "load_checkpoint"]

_LOG = logging.getLogger("estimator")


class CheckpointHandler(EventHandler):
    """Saves the whole run so that nothing but a lost disk can lose it.

    A checkpoint is one file, written under a temporary name, flushed to the disk and renamed;
    then `manifest.json`, which lists the checkpoints with their sha256, is replaced the same way;
    only then are older files deleted. A save that falls on the step of a validation, or on an
    epoch's last batch, waits for the results. A run that ended well has its last step saved, as
    it was before a handler put other weights into the net at the end of training. Weights that
    hold NaN are not saved, since they would push good ones out.

    The folder may hold several runs, one after the other: a run never deletes or overwrites
    files that are not its own, and a resumed run goes on as the same run. Of several processes
    the first one writes, and one file holds what all of them need. While it trains it
    holds a lock on the folder, which the system drops however the process ends. Where the
    manifest is lost, the content of the files tells what there is.

    When a signal ends the run, `interrupted.json` is written after the last checkpoint: `signal`,
    `epoch`, `step`, `checkpoint` (the file's name) and `time` (UTC). The next run in the folder
    removes it. A launcher can tell by it a run that is to go on, whatever the exit status.

    Args:
        folder: Where the files are; made at the beginning of training. None is `checkpoints/` in
            the run folder.
        every: When to save, in epochs, steps or seconds; None means every epoch.
        monitor: A value such as "val_loss". Its improvements are saved as well.
        mode: "min" or "max"; None takes the direction that the value declares.
        keep_last: How many of the newest checkpoints stay, from 1 up.
        keep_best: How many with the best monitored values stay besides, from 0 up.
        background: Whether files are written in a thread of their own. Training then waits only
            for a copy of the state in the host's memory, and for a write that is still going on;
            a failed write ends the run at the next batch, and the run's end waits for the last.
        band: When it runs within an event; PERSIST by default.

    Raises:
        ArgumentError: A number out of its range, a schedule in calls, or `mode` or `keep_best`
            without `monitor`.

    Example:
        >>> import tempfile, torch
        >>> from estimator import Estimator, Trainer
        >>> folder = tempfile.TemporaryDirectory()
        >>> data = (torch.randn(8, 2), torch.randn(8, 1))
        >>> saver = CheckpointHandler(folder.name, monitor="val_loss", keep_last=1)
        >>> stats = Estimator(torch.nn.Linear(2, 1), torch.nn.MSELoss()).fit(
        ...     data, data, epochs=3, device="cpu", handlers=[saver], progress=False
        ... )
        >>> best_checkpoint(folder.name).name
        'step_00000003.pt'
        >>> load_checkpoint(folder.name)["net"]["weight"].shape
        torch.Size([1, 2])
        >>> folder.cleanup()
    """

    band = Band.PERSIST
    state_names = ("run_id",)
    place = "checkpoints"
    """Its folder within a run folder."""

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        every: Every | None = None,
        monitor: str | None = None,
        mode: Mode | None = None,
        keep_last: int = 3,
        keep_best: int = 1,
        background: bool = False,
        band: Band | None = None,
    ) -> None:
        super().__init__(band=band)
        self.folder = folder
        self.every = check_every(every, "CheckpointHandler(every=...)", Every(epochs=1))
        if self.every.unit == "calls":
            raise ArgumentError(
                "CheckpointHandler(every=...) must be in epochs, steps or seconds; "
                f"received {every!r}."
            )
        self.keep_last = _count(keep_last, "keep_last", 1)
        self.keep_best = _count(keep_best, "keep_best", 0)
        if monitor is None and (mode is not None or keep_best > 1):
            raise ArgumentError(
                "CheckpointHandler(monitor=...) must name the value to which mode and keep_best "
                f"refer; received monitor=None with mode={mode!r}, keep_best={keep_best!r}. "
                "Pass monitor='val_loss', for example."
            )
        self.monitor = monitor
        self.mode = mode
        self.background = background
        self.run_id = ""
        self._monitor = None if monitor is None else Monitor(monitor, mode=mode)
        self._store: CheckpointStore | None = None
        self._clock: Clock | None = None
        self._epoch = 0
        self._wanted = False
        self._seen: tuple[int, int, float] | None = None

    def train_begin(self, stats: TrainStats) -> None:
        """Prepares and locks the folder, and finds what this run has saved there before.

        Raises:
            FolderError: The folder cannot be written, or another run writes there.
            DataError: Its manifest is damaged or of another schema.
            MonitorError: The monitored value cannot appear in this run.
        """
        if self._monitor is not None:
            self._monitor.resolve(stats, "CheckpointHandler")
        world = stats.world
        folder = world.first(
            lambda: own_folder(self.folder, stats, self.place, "CheckpointHandler").absolute()
        )
        run = world.first(lambda: self.run_id or new_run())
        self._store = CheckpointStore(
            folder,
            run,
            keep_last=self.keep_last,
            keep_best=self.keep_best,
            monitor=self._monitor,
            background=self.background,
            world=world,
        )
        self._store.release_after(stats.step, stats.samples)
        self.run_id = run
        self._clock = self.every.clock(stats)
        self._epoch, self._wanted, self._seen = stats.epoch, False, None

    def epoch_begin(self, stats: TrainStats) -> None:
        """Notes which epoch this is."""
        self._epoch = stats.epoch

    def batch_end(self, stats: TrainStats) -> None:
        """Saves where the schedule is due and no result of this very step is still to come."""
        if stats.error is not None or self._store is None or self._clock is None:
            return
        self._store.collect(wait=False)
        if self.every.unit != "epochs" and self._clock.due(stats):
            self._wanted = True
        last = stats.batches is not None and stats.batch_index == stats.batches - 1
        more_to_come = last or stats.validation_due or _over(stats)
        # Inside an accumulation group a checkpoint has to hold the gradients as well.
        if self._wanted and stats.stepped and not more_to_come:
            self._save(stats, self._store)

    def validation_end(self, stats: TrainStats) -> None:
        """Saves with the value of this validation; at the end of an epoch, `epoch_end` does."""
        if stats.error is not None or stats.phase != "validation" or self._store is None:
            return
        self._look(stats, "validation_end", self._store)
        inside = stats.epoch == self._epoch and not _over(stats)
        if inside and (self._wanted or self._store.holds(stats.step, stats.samples)):
            self._save(stats, self._store)

    def epoch_end(self, stats: TrainStats) -> None:
        """Saves where the schedule is due, and where the run is over."""
        if stats.error is not None or self._store is None or self._clock is None:
            return
        self._store.collect(wait=False)
        saved = self._store.holds(stats.step, stats.samples)
        if stats.epoch > self._epoch:
            self._look(stats, "epoch_end", self._store)
            due = self.every.unit == "epochs" and self._clock.due(stats)
            # A file of this step was written before the epoch was known to end with it.
            self._wanted |= due or saved
        if self._wanted or (_over(stats) and not saved):
            self._save(stats, self._store)

    def train_end(self, stats: TrainStats) -> None:
        """Saves the last step of a run that did not fail, if it has no file yet.

        Raises:
            FolderError: A checkpoint could not be written, and nothing else ended the run.
        """
        store, self._store, self._clock = self._store, None, None
        try:
            if store is not None and stats.error is None:
                self._finish(stats, store)
        finally:
            self.run_id = ""
            if store is not None:
                store.close(stats.error)

    def _finish(self, stats: TrainStats, store: CheckpointStore) -> None:
        if not store.holds(stats.step, stats.samples):
            self._save(stats, store)
        if stats.interrupted is not None:
            store.collect(wait=True)
            store.mark(stats.interrupted, epoch=stats.epoch, step=stats.step)

    def _look(self, stats: TrainStats, event: str, store: CheckpointStore) -> None:
        """Reads the monitored value, if this is its event and it was measured."""
        if self._monitor is None or self._monitor.event != event:
            return
        results = stats.val if event == "validation_end" else stats.train
        if self._monitor.name.partition("_")[2] not in results:
            return
        value = self._monitor.observe(stats)
        if math.isfinite(value):
            improves = self._monitor.improves(value, store.best_value())
            self._wanted |= self.keep_best > 0 and improves
            self._seen = stats.step, stats.samples, value

    def _save(self, stats: TrainStats, store: CheckpointStore) -> None:
        self._wanted = False
        damaged = any(bool(own_part(p).isnan().any()) for p in stats.net.parameters())
        if any(stats.world.most([damaged])):
            _LOG.warning(
                "CheckpointHandler: step %d is not saved, the weights hold NaN.", stats.step
            )
            return
        place = stats.step, stats.samples
        store.save(
            stats.snapshot(),
            epoch=stats.epoch,
            step=stats.step,
            samples=stats.samples,
            value=self._seen[2] if self._seen is not None and self._seen[:2] == place else None,
        )


def _count(number: object, argument: str, least: int) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or number < least:
        raise ArgumentError(
            f"CheckpointHandler({argument}=...) must be a number from {least} up, without a "
            f"fraction; received {number!r}."
        )
    return number


def _over(stats: TrainStats) -> bool:
    """Whether the run ends with the present epoch, as far as is known."""
    reached = stats.epoch == stats.epochs or stats.step == stats.iterations
    return stats.stopped is not None or reached

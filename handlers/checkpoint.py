"""`CheckpointHandler`: durable, verified checkpoints, and the two functions that find them."""

from __future__ import annotations

import logging
import math
import os
import uuid
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

from estimator.handlers._checkpoint_files import (
    Entry,
    best_checkpoint,
    free_name,
    load_checkpoint,
    read_manifest,
    sweep,
    write_manifest,
    write_state,
)
from estimator.handlers.base import (
    ArgumentError,
    Band,
    Clock,
    EventHandler,
    Every,
    Mode,
    Monitor,
    check_every,
    writable_folder,
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
    files that are not its own, and a resumed run goes on as the same run.

    Args:
        folder: Where the files are; made at the beginning of training.
        every: When to save, in epochs, steps or seconds; None means every epoch.
        monitor: A value such as "val_loss". Its improvements are saved as well.
        mode: "min" or "max"; None takes the direction that the value declares.
        keep_last: How many of the newest checkpoints stay, from 1 up.
        keep_best: How many with the best monitored values stay besides, from 0 up.
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

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        every: Every | None = None,
        monitor: str | None = None,
        mode: Mode | None = None,
        keep_last: int = 3,
        keep_best: int = 1,
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
        self.run_id = ""
        self._monitor = None if monitor is None else Monitor(monitor, mode=mode)
        self._folder: Path | None = None
        self._clock: Clock | None = None
        self._entries: list[Entry] = []
        self._epoch = 0
        self._wanted = False
        self._seen: tuple[int, float] | None = None

    def train_begin(self, stats: TrainStats) -> None:
        """Prepares the folder, and finds what this run has saved there before."""
        if self._monitor is not None:
            self._monitor.resolve(stats, "CheckpointHandler")
        folder = writable_folder(self.folder, "CheckpointHandler(folder=...)")
        sweep(folder)
        self._entries = read_manifest(folder)
        self.run_id = self.run_id or _new_id()
        self._release_later(stats.step)
        self._clock = self.every.clock(stats)
        self._epoch, self._wanted, self._seen = stats.epoch, False, None
        self._folder = folder

    def _release_later(self, step: int) -> None:
        """Gives up checkpoints from beyond the step from which the run goes on.

        They are of a future that this run may not have, so they neither count for it nor are
        its to delete.
        """
        other = _new_id()
        for entry in self._mine():
            if entry["step"] > step:
                entry["run"], entry["best"] = other, False

    def epoch_begin(self, stats: TrainStats) -> None:
        """Notes which epoch this is."""
        self._epoch = stats.epoch

    def batch_end(self, stats: TrainStats) -> None:
        """Saves where the schedule is due and no result of this very step is still to come."""
        if stats.error is not None or self._clock is None:
            return
        if self.every.unit != "epochs" and self._clock.due(stats):
            self._wanted = True
        last = stats.batches is not None and stats.batch_index == stats.batches - 1
        more_to_come = last or stats.validation_due or _over(stats)
        # Inside an accumulation group there are gradients, which a checkpoint does not hold.
        if self._wanted and stats.stepped and not more_to_come:
            self._save(stats)

    def validation_end(self, stats: TrainStats) -> None:
        """Saves with the value of this validation; at the end of an epoch, `epoch_end` does."""
        if stats.error is not None or stats.phase != "validation":
            return
        self._look(stats, "validation_end")
        inside = stats.epoch == self._epoch and not _over(stats)
        if inside and (self._wanted or self._holds(stats.step)):
            self._save(stats)

    def epoch_end(self, stats: TrainStats) -> None:
        """Saves where the schedule is due, and where the run is over."""
        if stats.error is not None or self._clock is None:
            return
        saved = self._holds(stats.step)
        if stats.epoch > self._epoch:
            self._look(stats, "epoch_end")
            due = self.every.unit == "epochs" and self._clock.due(stats)
            # A file of this step was written before the epoch was known to end with it.
            self._wanted |= due or saved
        if self._wanted or (_over(stats) and not saved):
            self._save(stats)

    def train_end(self, stats: TrainStats) -> None:
        """Saves the last step of a run that did not fail, if it has no file yet."""
        if stats.error is None and self._folder is not None and not self._holds(stats.step):
            self._save(stats)
        self._folder = self._clock = None
        self.run_id = ""

    def _mine(self) -> list[Entry]:
        return [entry for entry in self._entries if entry["run"] == self.run_id]

    def _holds(self, step: int) -> bool:
        return any(entry["step"] == step for entry in self._mine())

    def _ranked(self) -> list[Entry]:
        """This run's checkpoints that have a value, best first, the earlier of equals first."""
        if self._monitor is None:
            return []
        pairs = [
            (e["value"], e)
            for e in self._mine()
            if e["value"] is not None and e["monitor"] == self.monitor
        ]
        pairs.sort(key=itemgetter(0), reverse=self._monitor.higher_is_better)
        return [entry for _, entry in pairs]

    def _look(self, stats: TrainStats, event: str) -> None:
        """Reads the monitored value, if this is its event and it was measured."""
        if self._monitor is None or self._monitor.event != event:
            return
        results = stats.val if event == "validation_end" else stats.train
        if self._monitor.name.partition("_")[2] not in results:
            return
        value = self._monitor.observe(stats)
        if math.isfinite(value):
            ranked = self._ranked()
            best = ranked[0]["value"] if ranked else None
            self._wanted |= self.keep_best > 0 and self._monitor.improves(value, best)
            self._seen = stats.step, value

    def _save(self, stats: TrainStats) -> None:
        self._wanted = False
        if any(bool(p.isnan().any()) for p in stats.net.parameters()):
            _LOG.warning(
                "CheckpointHandler: step %d is not saved, the weights hold NaN.", stats.step
            )
            return
        assert self._folder is not None, "train_begin comes first"
        name = free_name(self._folder, stats.step, self._entries)
        value = self._seen[1] if self._seen is not None and self._seen[0] == stats.step else None
        entry = Entry(
            file=name,
            sha256=write_state(self._folder / name, stats.snapshot()),
            run=self.run_id,
            epoch=stats.epoch,
            step=stats.step,
            monitor=self.monitor,
            value=value,
            best=False,
        )
        self._list(entry)

    def _list(self, entry: Entry) -> None:
        """Makes the manifest with a new checkpoint durable, then deletes what it dropped."""
        assert self._folder is not None, "train_begin comes first"
        replaced = [e for e in self._mine() if e["step"] == entry["step"]]
        self._entries = [e for e in self._entries if e not in replaced] + [entry]
        ranked, mine = self._ranked()[: self.keep_best], self._mine()
        for e in mine:
            e["best"] = e in ranked[:1]
        dropped = [e for e in mine[: -self.keep_last] if e not in ranked]
        self._entries = [e for e in self._entries if e not in dropped]
        write_manifest(self._folder, self._entries)
        for e in replaced + dropped:
            try:
                (self._folder / e["file"]).unlink(missing_ok=True)
            except OSError as error:
                _LOG.warning("CheckpointHandler: %s cannot be deleted (%s).", e["file"], error)


def _count(number: object, argument: str, least: int) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or number < least:
        raise ArgumentError(
            f"CheckpointHandler({argument}=...) must be a number from {least} up, without a "
            f"fraction; received {number!r}."
        )
    return number


def _new_id() -> str:
    return uuid.uuid4().hex[:8]


def _over(stats: TrainStats) -> bool:
    """Whether the run ends with the present epoch, as far as is known."""
    reached = stats.epoch == stats.epochs or stats.step == stats.iterations
    return stats.stopped is not None or reached

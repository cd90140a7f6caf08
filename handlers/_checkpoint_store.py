"""The checkpoints of one folder: which there are, which stay, and who may write them."""

from __future__ import annotations

import contextlib
import datetime
import functools
import logging
from collections.abc import Mapping
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estimator.handlers._checkpoint_disk import free_name, sweep, write_json, write_state
from estimator.handlers._checkpoint_lock import FolderLock
from estimator.handlers._checkpoint_manifest import (
    MANIFEST,
    SCHEMA,
    Entry,
    new_run,
    read_manifest,
    scan,
    unlisted,
)
from estimator.handlers._checkpoint_state import check_plain, host_copy
from estimator.handlers._checkpoint_writer import Writer
from estimator.handlers.base import FolderError, Monitor

if TYPE_CHECKING:
    from estimator.distributed import World

MARKER = "interrupted.json"
_LOG = logging.getLogger("estimator")


class CheckpointStore:
    """A folder of checkpoints, locked for the length of a run.

    All that is decided (names, what is listed, what is dropped) is decided in the thread that
    trains, and the list is replaced and never changed in place. A write that goes on in the
    background reads the list that it was given and fills in one sha256, which nobody reads
    before the write is collected. A write that failed ends the run: nothing is listed after it.

    Args:
        folder: An existing folder that can be written.
        run: The run that writes.
        keep_last: How many of its newest checkpoints stay.
        keep_best: How many with the best values of `monitor` stay besides.
        monitor: Whose values rank the checkpoints; resolved.
        background: Whether files are written in a thread of their own.
        world: The processes that save together. The first one reads and writes; the others know
            what is listed, and get its errors.

    Raises:
        FolderError: Another run writes there.
        DataError: The manifest there is damaged or of another schema.
    """

    def __init__(
        self,
        folder: Path,
        run: str,
        *,
        keep_last: int,
        keep_best: int,
        monitor: Monitor | None,
        background: bool,
        world: World,
    ) -> None:
        self._folder, self._run, self._world = folder, run, world
        self._keep_last, self._keep_best = keep_last, keep_best
        self._monitor = monitor
        self._writer = Writer() if background and world.rank == 0 else None
        self._lock: FolderLock | None = None
        self._entries = world.first(self._opened)

    def _opened(self) -> list[Entry]:
        self._lock = FolderLock(self._folder)
        try:
            sweep(self._folder)
            entries = self._found()
            (self._folder / MARKER).unlink(missing_ok=True)
        except BaseException:
            self._lock.release()
            raise
        return entries

    def _found(self) -> list[Entry]:
        entries = read_manifest(self._folder)
        if not entries:
            entries = scan(self._folder)
            if entries:
                self._write_manifest(entries)
        for path in unlisted(self._folder, entries, self._run):
            path.unlink(missing_ok=True)
        return entries

    def _write_manifest(self, entries: list[Entry]) -> None:
        write_json(self._folder / MANIFEST, {"schema": SCHEMA, "checkpoints": entries})

    def release_after(self, step: int, samples: int) -> None:
        """Gives up checkpoints from beyond the place from which the run goes on.

        They are of a future that this run may not have, so they neither count for it nor are
        its to delete.
        """
        other = new_run()
        for entry in self._mine():
            if (entry["step"], entry["samples"]) > (step, samples):
                entry["run"], entry["best"] = other, False

    def _mine(self) -> list[Entry]:
        return [entry for entry in self._entries if entry["run"] == self._run]

    def holds(self, step: int, samples: int) -> bool:
        """Whether this run has a checkpoint of this place."""
        return any((e["step"], e["samples"]) == (step, samples) for e in self._mine())

    def best_value(self) -> float | None:
        """The best monitored value among this run's checkpoints."""
        ranked = self._ranked(self._mine())
        return ranked[0]["value"] if ranked else None

    def _ranked(self, entries: list[Entry]) -> list[Entry]:
        """Those that have a value, best first, the earlier of equals first."""
        if self._monitor is None:
            return []
        name = self._monitor.name
        pairs = [
            (e["value"], e) for e in entries if e["value"] is not None and e["monitor"] == name
        ]
        pairs.sort(key=itemgetter(0), reverse=self._monitor.higher_is_better)
        return [entry for _, entry in pairs]

    def save(
        self,
        state: Mapping[str, Any],
        *,
        epoch: int,
        step: int,
        samples: int,
        value: float | None,
    ) -> None:
        """Writes a checkpoint, or begins to, once the one before it is written.

        All processes call it together, and go on once the first one has done it.

        Args:
            state: It may share memory with the run.
            epoch: Finished epochs.
            step: Finished optimizer steps.
            samples: Training samples seen.
            value: What was monitored at this place; None where nothing was.

        Raises:
            DataError: The state holds something that a safe load refuses.
            FolderError: It cannot be written, or the one before it could not.
        """
        entry = Entry(
            file="",
            sha256="",
            run=self._run,
            epoch=epoch,
            step=step,
            samples=samples,
            monitor=None if self._monitor is None else self._monitor.name,
            value=value,
            best=False,
        )
        self._entries = self._world.first(lambda: self._saved(state, entry))

    def _saved(self, state: Mapping[str, Any], entry: Entry) -> list[Entry]:
        """The list with a checkpoint that is written, or is being written."""
        self.collect(wait=True)
        check_plain(state)
        known = (e["file"] for e in self._entries)
        entry["file"] = free_name(self._folder, entry["step"], known)
        kept, dropped = self._plan(entry)
        if self._writer is None:
            self._write(state, entry, kept, dropped)
        else:
            task = functools.partial(self._write, host_copy(state), entry, kept, dropped)
            self._writer.start(task)
        return kept

    def _plan(self, entry: Entry) -> tuple[list[Entry], list[str]]:
        """The list with a new checkpoint, and the files that are then no longer on it."""
        place = entry["step"], entry["samples"]
        before = [e for e in self._mine() if (e["step"], e["samples"]) != place]
        mine = [*before, entry]
        best = self._ranked(mine)[: self._keep_best]
        for e in mine:
            e["best"] = e in best[:1]
        stay = [e for e in mine if e in mine[-self._keep_last :] or e in best]
        kept = [e for e in self._entries if e["run"] != self._run or e in stay] + [entry]
        return kept, [e["file"] for e in self._entries if e not in kept]

    def _write(
        self, state: Mapping[str, Any], entry: Entry, kept: list[Entry], dropped: list[str]
    ) -> None:
        """Makes file and manifest durable, in this order, then deletes what was dropped."""
        path = self._folder / entry["file"]
        entry["sha256"] = write_state(path, state)
        try:
            self._write_manifest(kept)
        except FolderError:
            # What no manifest lists would never be deleted, and the disk may be full.
            with contextlib.suppress(OSError):
                manifest = self._folder / MANIFEST
                if not (manifest.exists() and path.name.encode() in manifest.read_bytes()):
                    path.unlink()
            raise
        for name in dropped:
            try:
                (self._folder / name).unlink(missing_ok=True)
            except OSError as error:
                _LOG.warning("CheckpointHandler: %s cannot be deleted (%s).", name, error)

    def collect(self, *, wait: bool) -> None:
        """Raises what went wrong with a write in the background.

        Args:
            wait: Whether to wait for the write that is going on.
        """
        if self._writer is not None:
            self._writer.collect(wait=wait)

    def mark(self, signal: str, *, epoch: int, step: int) -> None:
        """Writes the file that says a signal ended the run, and where it can go on."""
        mine = self._mine()
        content = {
            "signal": signal,
            "epoch": epoch,
            "step": step,
            "checkpoint": mine[-1]["file"] if mine else None,
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        self._world.first(lambda: write_json(self._folder / MARKER, content))

    def close(self, failure: BaseException | None) -> None:
        """Ends the writing and lets the next run in.

        Args:
            failure: What ended the run. A write that fails as well is noted with it, and raised
                where there is none.
        """
        try:
            if failure is None:
                self._world.first(lambda: self.collect(wait=True))
            else:
                # The others are elsewhere when one fails.
                self.collect(wait=True)
        except Exception as error:
            if failure is None:
                raise
            failure.add_note(f"The last checkpoint could not be written either: {error}")
        finally:
            if self._lock is not None:
                self._lock.release()

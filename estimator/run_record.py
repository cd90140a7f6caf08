"""`run.json` and the history of a run, from its first moment to its last."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sized
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from estimator.environment import command, commit, copy_sources, machine, versions
from estimator.handlers.base import Band, EventHandler, reporting, write_whole

if TYPE_CHECKING:
    from estimator.data import Source
    from estimator.run import Run
    from estimator.stats import TrainStats

RECORD = "run.json"
SCHEMA = 1


@final
class RunRecord(EventHandler):
    """Writes what a run is and how it ended, so that a killed one is seen to be: it says "running".

    `run.json` is written when training begins, at the end of each epoch and in the end;
    `history.json` at the end of each epoch. Both are whole at any time.

    Args:
        folder: The run folder.
        sources: Whether the program's own Python files are copied.
        goes_on: Whether the run may go on with one that the folder holds.
    """

    band = Band.PERSIST
    first_process_only = True

    def __init__(self, folder: Path, *, sources: bool, goes_on: bool) -> None:
        super().__init__()
        self.folder, self.sources, self.goes_on = folder, sources, goes_on
        self.arguments: dict[str, str] = {}
        self._facts: dict[str, Any] = {}
        self._stats: TrainStats | None = None

    def train_begin(self, stats: TrainStats) -> None:
        """Writes all that is known beforehand."""
        self._stats = stats
        before = self._before() if self.goes_on else {}
        now = _now()
        resumed = list(before.get("resumed", []))
        if before:
            resumed.append({"time": now, "epoch": stats.epoch, "step": stats.step})
        self._facts = {
            "schema": SCHEMA, "name": self.folder.name, "started": before.get("started", now),
            "arguments": self.arguments, "monitors": dict(stats.monitors), "resumed": resumed,
            "versions": versions(), "machine": machine(stats.device), "git": commit(),
            "command": command(),
        }  # fmt: skip
        # Without this file nothing tells what the folder is, so an error here is the user's.
        self._write(stats, "running", None)
        if self.sources:
            with reporting(stats, "the copy of the sources"):
                copy_sources(self.folder / "sources")

    def epoch_end(self, stats: TrainStats) -> None:
        """Writes how far the run is."""
        if stats.error is None:
            self._update(stats, "running", None)

    def train_end(self, stats: TrainStats) -> None:
        """Writes how training ended, for those that read it from the folder."""
        if self._facts:
            self._update(stats, *_outcome(stats, stats.error))

    def close(self, error: BaseException | None) -> None:
        """Writes the outcome once all handlers are done; removes what a run left that never began.

        Args:
            error: What ended the run, if anything did.
        """
        stats = self._stats
        if self._facts and stats is not None:
            self._update(stats, *_outcome(stats, error))
        elif (self.folder / RECORD).is_file() and not (self.folder / RECORD).stat().st_size:
            (self.folder / RECORD).unlink()
            if not os.listdir(self.folder):
                self.folder.rmdir()
        self._stats, self._facts = None, {}

    def _before(self) -> dict[str, Any]:
        try:
            found = json.loads((self.folder / RECORD).read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _update(self, stats: TrainStats, outcome: str, reason: str | None) -> None:
        with reporting(stats, RECORD):
            self._write(stats, outcome, reason)
        with reporting(stats, "history.json"):
            draft = self.folder / ".history.json.part"
            stats.history.to_json(draft)
            draft.replace(self.folder / "history.json")

    def _write(self, stats: TrainStats, outcome: str, reason: str | None) -> None:
        content = self._facts | {
            "outcome": outcome, "reason": reason, "epoch": stats.epoch, "step": stats.step,
            "updated": _now(), "ended": None if outcome == "running" else _now(),
            "seconds": round(stats.elapsed, 3), "missing": dict(stats.missing),
        }  # fmt: skip
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        write_whole(self.folder / RECORD, text.encode("utf-8", "replace") + b"\n")


def about(run: Run) -> dict[str, str]:
    """What a run trains, and on what, as text for those who compare runs."""
    assert run.train_source is not None
    sources = [run.train_source, *([run.validation.source] if run.validation else [])]
    parameters = sum(each.numel() for each in run.net.parameters())
    return {
        **{source.argument[4:-5]: _size(source) for source in sources},
        "parameters": str(parameters),
    }


def described(value: object) -> str:
    """A setting as text that is the same in every process: without addresses in memory."""
    if isinstance(value, str):
        return value
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(value))
    text = re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>", r"\1", text)
    return text.replace("functools.partial(", "partial(")


def _size(source: Source) -> str:
    dataset = getattr(source.data, "dataset", None)
    samples = len(dataset) if isinstance(dataset, Sized) else None
    counts = (("batches", source.batches), ("samples", samples))
    known = [f"{count} {what}" for what, count in counts if count is not None]
    return ", ".join([type(source.data).__name__, *known])


def _outcome(stats: TrainStats, error: BaseException | None) -> tuple[str, str | None]:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", "KeyboardInterrupt"
    if error is not None:
        return "failed", f"{type(error).__name__}: {error}"
    if stats.interrupted is not None:
        return "interrupted", stats.stopped
    return ("completed", None) if stats.stopped is None else ("stopped", stats.stopped)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

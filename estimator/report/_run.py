"""One run as its folder tells it."""

from __future__ import annotations

import math
import os
import platform
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from estimator.history import History
from estimator.report._files import Unreadable, read_history, read_json
from estimator.report._words import as_number

SCHEMA = 1
ENDED = ("completed", "stopped", "interrupted", "failed")
TIMES = frozenset(("epoch", "step", "time", "complete"))


@dataclass(frozen=True)
class Run:
    """A run folder, read without trust: what is absent or damaged is said, and never raised.

    Args:
        name: Its name; the folder's where `run.json` tells none.
        folder: Where it is.
        outcome: "running", "completed", "stopped", "interrupted" or "failed", as `run.json` says;
            "killed" where that says "running" and the process is gone from this machine;
            "damaged" where `run.json` cannot be used.
        reason: Why it ended, or what is damaged; "" where nothing is known.
        record: What `run.json` holds; empty where it is damaged.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = read_run(Path(folder))
        >>> run.outcome, run.reason
        ('damaged', 'run.json: it is not there')
    """

    name: str
    folder: Path
    outcome: str
    reason: str = ""
    record: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def arguments(self) -> dict[str, str]:
        """What `fit` was given, and the configuration, by flat names."""
        return {name: str(value) for name, value in self.mapping("arguments").items()}

    @property
    def monitors(self) -> dict[str, bool | None]:
        """Columns that can be monitored, and whether higher is better; None is not declared."""
        found = self.mapping("monitors")
        return {name: v if isinstance(v, bool) else None for name, v in found.items()}

    @property
    def missing(self) -> dict[str, str]:
        """Reports that could not be written, and why."""
        return {name: str(why) for name, why in self.mapping("missing").items()}

    @property
    def columns(self) -> list[str]:
        """The columns of the history that are results: losses, metrics and learning rates."""
        return [column for column in self.history.columns if column not in TIMES]

    @property
    def history(self) -> History:
        """The table of the run, read when it is first asked for; empty where it is damaged."""
        return self._history[0]

    @property
    def history_problem(self) -> str:
        """What is wrong with the files of the history; "" where nothing is."""
        return self._history[1]

    @cached_property
    def _history(self) -> tuple[History, str]:
        return read_history(self.folder)

    def number(self, name: str) -> float | None:
        """A finite number of `run.json`; None where there is none of that name."""
        found = self.record.get(name)
        number = None if isinstance(found, str) else as_number(found)
        return number if number is not None and math.isfinite(number) else None

    def text(self, name: str) -> str:
        """A text of `run.json`; "" where there is none of that name."""
        found = self.record.get(name)
        return found if isinstance(found, str) else ""

    def mapping(self, name: str) -> dict[str, Any]:
        """An object of `run.json`; empty where there is none of that name."""
        found = self.record.get(name)
        return dict(found) if isinstance(found, dict) else {}

    def higher_is_better(self, column: str) -> bool | None:
        """The direction of a column: as `run.json` says, and lower for losses; else None."""
        declared = self.monitors.get(column)
        if declared is None and column.endswith("loss"):
            return False
        return declared

    def last(self, column: str) -> float | None:
        """The column's latest value; None without any. It may be NaN or infinite."""
        values = [value for _, value in self._values(column)]
        return values[-1] if values else None

    def best(self, column: str, higher: bool) -> tuple[float, float | None] | None:
        """The column's best finite value and its epoch; None without any.

        Args:
            column: Of the history.
            higher: Whether higher is better.
        """
        values = [(value, epoch) for epoch, value in self._values(column) if math.isfinite(value)]
        if not values:
            return None
        return (max if higher else min)(values, key=lambda found: found[0])

    def _values(self, column: str) -> list[tuple[float | None, float]]:
        found = ((row.get("epoch"), as_number(row.get(column))) for row in self.history.rows)
        return [(epoch, value) for epoch, value in found if value is not None]


def read_run(folder: Path) -> Run:
    """Reads `run.json` of a folder, one file; the history waits until it is asked for."""
    name = folder.resolve().name
    try:
        record = read_json(folder / "run.json")
    except Unreadable as error:
        return Run(name, folder, "damaged", f"run.json: {error}")
    if record.get("schema") != SCHEMA:
        found = f"schema {record.get('schema')!r:.40}, and this version reads {SCHEMA}"
        return Run(name, folder, "damaged", f"run.json: {found}")
    outcome, reason = record.get("outcome"), record.get("reason")
    if isinstance(record.get("name"), str) and record["name"]:
        name = record["name"]
    if outcome == "running" and _is_gone(record.get("machine")):
        why = "run.json says that it is running, and its process is gone"
        return Run(name, folder, "killed", why, record)
    if outcome != "running" and outcome not in ENDED:
        return Run(name, folder, "damaged", f"run.json: unknown outcome {outcome!r:.40}", record)
    return Run(name, folder, outcome, reason if isinstance(reason, str) else "", record)


def _is_gone(machine: object) -> bool:
    if not isinstance(machine, dict):
        return False
    pid, here = machine.get("pid"), (platform.node(), socket.gethostname())
    # 0 and numbers below it mean groups of processes.
    if machine.get("host") not in here or not isinstance(pid, int) or isinstance(pid, bool):
        return False
    # On Windows os.kill ends the process, whatever the signal.
    if pid <= 0 or sys.platform == "win32":
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        # It runs, for another user.
        return False
    return False

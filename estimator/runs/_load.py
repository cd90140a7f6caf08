"""Reading many runs, and finding the best one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from estimator.handlers.base import ArgumentError, FolderError, Mode, MonitorError, nearest
from estimator.report._run import Run, read_run

_SIGNS = ("history.csv", "history.json", "trainer.txt")
"""Files that tell a run folder which has lost its run.json from any other folder."""


def load(folder: str | os.PathLike[str] = "runs") -> list[Run]:
    """All runs of a folder, by name: its subfolders, and itself where it is a run folder.

    One file is read for each run; a history is read when it is first asked for. Nothing that is
    wrong with a run raises: it is listed with the outcome "damaged", or "killed" where its process
    is gone.

    Args:
        folder: Where `fit(run="name")` made the run folders.

    Raises:
        FolderError: There is no such folder.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "mnist_r0").mkdir(), Path(folder, "mnist_r0", "run.json").touch()
        ...     [(run.name, run.outcome) for run in load(folder)]
        [('mnist_r0', 'damaged')]
    """
    place = Path(folder)
    if not place.is_dir():
        raise FolderError(
            f"load(folder=...) must be a folder with run folders in it; received {str(folder)!r}, "
            "which is no folder. Pass the folder in which fit(run=...) made its own."
        )
    with os.scandir(place) as entries:
        inside = sorted(place / entry.name for entry in entries if entry.is_dir())
    return [run for each in (place, *inside) if (run := _run_in(each)) is not None]


def _run_in(folder: Path) -> Run | None:
    run = read_run(folder)
    if run.record or (folder / "run.json").exists():
        return run
    return run if any((folder / name).exists() for name in _SIGNS) else None


def best(runs: Sequence[Run], monitor: str, mode: Mode | None = None) -> Run:
    r"""The run whose history has the best value of a column; runs without any are passed over.

    Args:
        runs: What `load` gave.
        monitor: A column of the histories, such as "val_accuracy".
        mode: "min" or "max"; None takes the direction that the runs declare.

    Raises:
        ArgumentError: `mode` is unknown.
        MonitorError: No run has a finite value of that name, or its direction is not known.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name, loss in ("a", 0.5), ("b", 0.25):
        ...         place = Path(folder, name)
        ...         place.mkdir()
        ...         _ = (place / "history.csv").write_text(f"epoch,val_loss\n1,{loss}\n")
        ...     best(load(folder), "val_loss").name
        'b'
    """
    higher = direction(runs, monitor, mode, "best(monitor=...)")
    found = [(value[0], run) for run in runs if (value := run.best(monitor, higher)) is not None]
    if not found:
        there = {column for run in runs for column in run.columns}
        raise MonitorError(
            f"best(monitor={monitor!r}): no run has a finite value of that name. "
            f"{nearest(str(monitor), there)}"
        )
    return (max if higher else min)(found, key=lambda each: each[0])[1]


def direction(runs: Sequence[Run], column: str, mode: Mode | None, owner: str) -> bool:
    """Whether higher is better in a column, as `mode` says or as all runs agree.

    Args:
        runs: Those that are compared.
        column: Of their histories.
        mode: "min", "max" or None.
        owner: The argument, for messages.
    """
    if mode not in (None, "min", "max"):
        raise ArgumentError(
            f"mode must be 'min', 'max' or None (the direction that the runs declare); "
            f"received {mode!r}."
        )
    if mode is not None:
        return mode == "max"
    declared = {run.higher_is_better(column) for run in runs if column in run.columns} - {None}
    if len(declared) > 1:
        raise MonitorError(
            f"{owner}: the runs disagree on whether higher is better in {column!r}. "
            "Pass mode='min' or mode='max'."
        )
    if not declared and any(column in run.columns for run in runs):
        raise MonitorError(
            f"{owner}: no run says whether higher is better in {column!r}. "
            "Pass mode='min' or mode='max'."
        )
    return True in declared

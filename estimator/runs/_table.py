"""The table of a comparison: what differs between runs, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from estimator.report._run import Run
from estimator.report._words import as_number

Value = str | int | float | None
_ALWAYS = ("run", "outcome", "epoch", "seconds")


class Compared(NamedTuple):
    """Rows by column, in the order of the runs."""

    columns: list[str]
    rows: list[dict[str, Value]]
    same: dict[str, str]
    """Settings that all runs share."""
    results: dict[str, str]
    """The column of the history behind each column of results."""


_LONG = "handlers"


def compared(runs: Sequence[Run]) -> Compared:
    """Lays the runs side by side; those that are damaged have empty cells."""
    settings = [_settings(run) for run in runs]
    # A run that cannot be read says nothing about its settings.
    told = [found for found, run in zip(settings, runs, strict=True) if run.record]
    names = list(dict.fromkeys(name for found in told for name in found))
    different = [name for name in names if len({found.get(name) for found in told}) > 1]
    same = {name: told[0][name] for name in names if name not in different}
    metrics = _metrics(runs)
    results = {f"{kind} {metric}": metric for metric in metrics for kind in ("best", "last")}
    taken = {*_ALWAYS, *results}
    heads = {name: f"{name} (setting)" if name in taken else name for name in different}
    directions = {metric: _direction(runs, metric) for metric in metrics}
    rows = [
        _row(run, {heads[name]: found.get(name) for name in different}, directions)
        for run, found in zip(runs, settings, strict=True)
    ]
    # A list of handlers is long, and would push what they are compared for out of sight.
    brief, long = ([heads[n] for n in heads if (n == _LONG) == which] for which in (False, True))
    columns = ["run", "outcome", *brief, "epoch", "seconds", *results, *long]
    empty = {column for column in results if all(row[column] is None for row in rows)}
    shown = [column for column in columns if column not in empty]
    return Compared(shown, rows, same, results)


def _settings(run: Run) -> dict[str, str]:
    found = dict(run.arguments)
    seed = run.record.get("seed")
    if seed is not None:
        found.setdefault("seed", str(seed))
    for part, name in (("git", "commit"), ("machine", "device")):
        value = run.mapping(part).get(name)
        if value is not None:
            found.setdefault(name, str(value))
    return found


def _metrics(runs: Sequence[Run]) -> list[str]:
    """Results in any history, those of validation first."""
    found = dict.fromkeys(
        column
        for run in runs
        for column in run.columns
        if column != "lr" and not column.startswith("lr_")
    )
    return sorted(found, key=lambda column: not column.startswith("val_"))


def _direction(runs: Sequence[Run], metric: str) -> bool | None:
    """What the runs that know it agree on, so that one without run.json is compared as well."""
    declared = {run.higher_is_better(metric) for run in runs} - {None}
    return declared.pop() if len(declared) == 1 else None


def _row(
    run: Run, settings: dict[str, str | None], directions: dict[str, bool | None]
) -> dict[str, Value]:
    row: dict[str, Value] = {"run": run.name, "outcome": run.outcome, **settings}
    epoch = run.number("epoch")
    row |= {"epoch": None if epoch is None else int(epoch), "seconds": run.number("seconds")}
    for metric, higher in directions.items():
        best = None if higher is None else run.best(metric, higher)
        row |= {f"best {metric}": best and best[0], f"last {metric}": run.last(metric)}
    return row


def rank(value: Value, higher: bool) -> tuple[int, float, str]:
    """What a cell is sorted by: numbers, then texts, and last what is missing or no number."""
    number = as_number(value) if not isinstance(value, str) else _read(value)
    if number is None:
        return (2, 0.0, "") if value is None else (1, 0.0, str(value))
    if math.isnan(number):
        return (2, 0.0, "")
    return (0, -number if higher else number, "")


def _read(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None

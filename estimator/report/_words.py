"""Values as a reader sees them: cells of tables, numbers, times."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

MOST_TEXT = 400
MOST_CELLS = 20_000
MOST_COLUMNS = 200
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class Cell(NamedTuple):
    """A value in a table."""

    text: str
    key: str = ""
    """What it is sorted by; "" is a missing value, which comes last."""
    full: str = ""
    """The whole value, where the text is shorter."""
    link: str = ""


class Column(NamedTuple):
    """A head of a table."""

    name: str
    numeric: bool


class TableView(NamedTuple):
    """A table as the page shows it."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    folded: bool = False


def as_number(value: object) -> float | None:
    """The number that a value of a report stands for; None for anything else."""
    if isinstance(value, str):
        return _NOT_FINITE.get(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def shown(value: object) -> str:
    """A value in few characters."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else str_of(value)
    return text if len(text) <= MOST_TEXT else text[: MOST_TEXT - 1] + "…"


def str_of(value: object) -> str:
    """The value as text; a whole number that is too long for Python to write is said to be so."""
    try:
        return str(value)
    except ValueError:
        return "a number of thousands of digits"


def cell(value: object, link: str = "") -> Cell:
    """A value with what it is sorted by."""
    text, number = shown(value), as_number(value)
    if number is None:
        return Cell(text, "" if value is None else text, "", link)
    if math.isnan(number):
        return Cell(text, "", "", link)
    full = str_of(value)
    if full == text:
        return Cell(text, text, "", link)
    return Cell(text, repr(number), full[:MOST_TEXT], link)


def table(
    title: str,
    columns: Sequence[Any],
    rows: Sequence[Any],
    *,
    folded: bool = False,
    where: str = "",
    most: int = MOST_CELLS,
) -> TableView:
    """A table of a bounded number of cells, which says what it leaves out.

    Args:
        title: What it is of.
        columns: Names.
        rows: Sequences of values; what is none is left out.
        folded: Whether it opens on demand.
        where: A file that holds all of it, for the note.
        most: Cells, at most.
    """
    heads = [shown(column) for column in columns[:MOST_COLUMNS]]
    fitting = rows[: most // max(1, len(heads))]
    kept = [list(row[: len(heads)]) for row in fitting if isinstance(row, (list, tuple))]
    for row in kept:
        row += [None] * (len(heads) - len(row))
    left = []
    if len(columns) > len(heads):
        left.append(f"{len(heads)} of {len(columns)} columns")
    if len(rows) > len(kept):
        left.append(f"{len(kept)} of {len(rows)} rows")
    note = f"Shown: {', '.join(left)}.{f' All are in {where}.' if where else ''}" if left else ""
    return TableView(
        title,
        [Column(name, _numeric(row[i] for row in kept)) for i, name in enumerate(heads)],
        [[cell(value) for value in row] for row in kept],
        note,
        folded,
    )


def _numeric(values: Iterable[object]) -> bool:
    there = [value for value in values if value is not None]
    return bool(there) and all(as_number(value) is not None for value in there)


def duration(seconds: float) -> str:
    """Seconds in the two units that matter.

    Example:
        >>> duration(0.5), duration(75), duration(90061)
        ('0.50 s', '1 min 15 s', '1 d 1 h')
    """
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    units = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    place = next(i for i, (size, _) in enumerate(units) if seconds >= size)
    (large, name), (small, other) = units[place], units[place + 1]
    return f"{seconds // large:.0f} {name} {seconds % large // small:.0f} {other}"

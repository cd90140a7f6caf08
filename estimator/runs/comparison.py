"""`Comparison`: many runs side by side, as a table, a text and a page."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from estimator.handlers.base import ArgumentError, Mode, nearest, writable_folder, write_whole
from estimator.report._charts import Chart, chart
from estimator.report._contents import over_time, unit_of
from estimator.report._render import fragment, rendered
from estimator.report._run import Run
from estimator.report._sections import SectionView
from estimator.report._words import Cell, TableView, shown, table
from estimator.runs._load import direction
from estimator.runs._table import Value, compared, rank

_MOST_LINES = 10
_MOST_CELLS = 60_000
_MOST_CHARTS = 40
_POINTS = 150
_WIDEST = 40


class Comparison:
    """Runs side by side: what differs between their settings, and their last and best values.

    Iterating gives the runs in the order of the rows.

    Args:
        runs: What `load` gave, or any of them.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     print(Comparison([Run("a", Path(folder), "damaged", "run.json: it is empty")]))
        run  outcome  epoch  seconds
        a    damaged  –      –
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = list(runs)
        self._table = compared(self.runs)

    @property
    def columns(self) -> list[str]:
        """Names: "run", "outcome", settings that differ, "epoch", "seconds", then results."""
        return list(self._table.columns)

    @property
    def rows(self) -> list[dict[str, Value]]:
        """One row a run, by column; None is a cell without a value."""
        return [{name: row[name] for name in self._table.columns} for row in self._table.rows]

    @property
    def same(self) -> dict[str, str]:
        """Settings that all runs share."""
        return dict(self._table.same)

    def __len__(self) -> int:
        return len(self.runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    def sort(self, by: str, mode: Mode | None = None) -> Comparison:
        """The same runs, ranked by a column; what has no value there comes last.

        Args:
            by: A column; the name of a result alone, such as "val_accuracy", means its best value,
                or its last where no best is known.
            mode: "min" puts low values first, "max" high ones. None takes the direction that the
                runs declare for results, and "min" for all other columns.

        Raises:
            ArgumentError: There is no such column, or `mode` is unknown.
            MonitorError: The direction of a result is not known, and `mode` is None.
        """
        known = self._table.columns
        names = [name for name in (by, f"best {by}", f"last {by}") if name in known]
        if not names:
            raise ArgumentError(
                f"sort(by=...): no column is called {by!r}. {nearest(str(by), known)}"
            )
        column = names[0]
        metric = self._table.results.get(column)
        chosen = "min" if metric is None and mode is None else mode
        higher = direction(self.runs, metric or column, chosen, f"sort(by={by!r})")
        pairs = sorted(
            zip(self._table.rows, self.runs, strict=True),
            key=lambda pair: rank(pair[0][column], higher),
        )
        return Comparison([run for _, run in pairs])

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Writes the table with full precision; a cell without a value is empty."""
        with open(path, "w", newline="", encoding="utf-8", errors="replace") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(
                {name: "" if value is None else value for name, value in row.items()}
                for row in self.rows
            )
        return Path(path)

    def __str__(self) -> str:
        cells = [self.columns]
        cells += [[shown(row[name]) for name in self.columns] for row in self.rows]
        flat = [[" ".join(cell.split())[:_WIDEST] for cell in line] for line in cells]
        widths = [max(map(len, column)) for column in zip(*flat, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in flat
        )

    def __repr__(self) -> str:
        return f"Comparison({len(self)} runs: {', '.join(self.columns)})"

    def to_html(self) -> str:
        """The table as an HTML fragment with every value escaped, for a notebook or a page.

        Raises:
            MissingExtraError: Jinja2 is not installed.
        """
        return fragment("table", self._view("Runs"))

    _repr_html_ = to_html

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """Writes `comparison.html`: the table, and the curves of the first runs over each other.

        Args:
            folder: Where the page goes; rows link to the pages of their runs from there.

        Returns:
            The page, one file that opens offline.

        Raises:
            FolderError: The folder cannot be written.
            MissingExtraError: Jinja2 is not installed.
        """
        place = writable_folder(folder, "Comparison.write(folder=...)")
        sections = [self._runs_section(place), self._curves_section(), self._same_section()]
        sections += self._trouble_section()
        for number, section in enumerate(sections, start=1):
            section.name = f"section-{number}"
        now = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
        page = rendered("comparison.html", count=len(self), sections=sections, written=now)
        return write_whole(place / "comparison.html", page)

    def _view(self, title: str, place: Path | None = None) -> TableView:
        columns = [_numbers([row[name] for row in self.rows]) for name in self.columns]
        rows = list(zip(*columns, strict=True))
        view = table(title, self.columns, rows, most=_MOST_CELLS)
        if place is None:
            return view
        linked = [
            [_linked(cells[0], run, place), *cells[1:]]
            for cells, run in zip(view.rows, self.runs, strict=False)
        ]
        return view._replace(rows=linked)

    def _runs_section(self, place: Path) -> SectionView:
        section = SectionView("Runs", 100)
        if self.runs:
            section.tables = [self._view("", place)]
        else:
            section.note = "There are no runs."
        return section

    def _curves_section(self) -> SectionView:
        metrics = dict.fromkeys(self._table.results.values())
        charts = [found for metric in metrics if (found := self._chart(metric)) is not None]
        section = SectionView("Curves", 200, charts=charts[:_MOST_CHARTS])
        drawn = sum(len(run.history) > 0 for run in self.runs)
        if drawn > _MOST_LINES:
            section.text = f"The first {_MOST_LINES} of {drawn} runs, in the order of the table."
        if len(charts) > _MOST_CHARTS:
            section.note = f"{_MOST_CHARTS} of {len(charts)} charts are shown."
        if not charts:
            section.note = "There are no values yet."
        return section

    def _chart(self, metric: str) -> Chart | None:
        runs = [run for run in self.runs if len(run.history) > 0][:_MOST_LINES]
        units = {unit_of(run.history) for run in runs}
        unit = units.pop() if len(units) == 1 else "step"
        lines = [
            over_time(run.history, [(metric, run.name, slot)], unit)[1][0]
            for slot, run in enumerate(runs)
        ]
        lower = all(run.higher_is_better(metric) is False for run in runs)
        return chart(metric, lines, unit, may_be_log=lower, most=_POINTS)

    def _same_section(self) -> SectionView:
        section = SectionView("What all runs share", 300)
        rows = sorted(self.same.items())
        section.tables = [table("", ["setting", "value"], rows)] if rows else []
        section.note = "" if rows else "No setting is the same in all runs."
        return section

    def _trouble_section(self) -> list[SectionView]:
        rows = [[run.name, run.outcome, run.reason] for run in self.runs if run.reason]
        rows += [
            [run.name, run.outcome, run.history_problem]
            for run in self.runs
            if run.outcome != "damaged" and run.history_problem
        ]
        if not rows:
            return []
        section = SectionView("Ends and damage", 400)
        section.tables = [table("", ["run", "outcome", "why"], rows)]
        return [section]


def _numbers(values: list[Value]) -> list[Value]:
    """A column of texts as numbers, where each of them is one, so that it is sorted as such."""
    try:
        return [float(value) if isinstance(value, str) else value for value in values]
    except ValueError:
        return values


def _linked(cell: Cell, run: Run, place: Path) -> Cell:
    page = run.folder / "report.html"
    if not page.is_file():
        return cell
    try:
        path = Path(os.path.relpath(page.resolve(), place.resolve())).as_posix()
    except ValueError:
        # Another drive has no path from here.
        return cell
    return cell._replace(link="./" + quote(os.fsencode(path)))


def compare(runs: Sequence[Run]) -> Comparison:
    """Lays runs side by side: what differs between their settings, and what came of it.

    Args:
        runs: What `load` gave, or any of them.

    Example:
        >>> compare([]).columns
        ['run', 'outcome', 'epoch', 'seconds']
    """
    return Comparison(runs)

"""The parts of the page that a run itself tells: outcome, curves, arguments, environment, log."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from estimator.history import History
from estimator.report._album import Gap
from estimator.report._charts import Chart, Series, chart
from estimator.report._files import NO_HISTORY, Unreadable, read_csv, read_tail
from estimator.report._run import TIMES, Run
from estimator.report._sections import SectionView, Tile
from estimator.report._words import TableView, as_number, duration, shown, table

LEARNING_RATE = 600
_MOST_CHARTS = 60
_MOST_TILES = 9
_MOST_ROWS = 500
_MOST_LINES = 12
_LOG_BYTES = 40_000
_MOST_GAPS = 300


def outcome(run: Run) -> SectionView:
    """How the run ended, how long it took and how good it got."""
    seconds = run.number("seconds")
    tiles = [
        Tile(name, shown(int(value)), "")
        for name, value in (("Epochs", run.number("epoch")), ("Steps", run.number("step")))
        if value is not None
    ]
    if seconds is not None:
        tiles.append(Tile("Time", duration(seconds), ""))
    for column in _monitored(run)[: _MOST_TILES - len(tiles)]:
        found = run.best(column, run.higher_is_better(column) is True)
        if found is not None:
            when = "" if found[1] is None else f"epoch {shown(found[1])}"
            tiles.append(Tile(f"Best {column}", f"{found[0]:.4g}", when, repr(found[0])))
    view = SectionView("Outcome", 100, _told(run), tiles=tiles)
    view.tables = [found for found in (_results(run), _resumed(run)) if found is not None]
    return view


def _told(run: Run) -> str:
    lines = [run.reason] if run.reason else []
    for name, verb in (("started", "Started"), ("ended", "Ended")):
        if run.text(name):
            lines.append(f"{verb} {moment(run.text(name))}.")
    return "\n".join(lines)


def moment(text: str) -> str:
    """A time of `run.json` for people; what is no time is returned as it is."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return shown(text)
    if found.tzinfo is None:
        return f"{found:%Y-%m-%d %H:%M:%S}"
    return f"{found.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _monitored(run: Run) -> list[str]:
    """Columns with a direction: those of validation, or of training where there is none."""
    known = [c for c in run.columns if run.higher_is_better(c) is not None]
    return [c for c in known if c.startswith("val_")] or known


def _results(run: Run) -> TableView | None:
    words = {True: "higher", False: "lower", None: "not declared"}
    rows = []
    for column in run.columns:
        if _is_rate(column):
            continue
        higher = run.higher_is_better(column)
        best = None if higher is None else run.best(column, higher)
        value, epoch = best if best is not None else (None, None)
        rows.append([column, words[higher], value, epoch, run.last(column)])
    columns = ["name", "better", "best", "at epoch", "last"]
    return table("Best and last values", columns, rows) if rows else None


def _resumed(run: Run) -> TableView | None:
    found = run.record.get("resumed")
    kept = [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
    columns = ["time", "epoch", "step"]
    rows = [[moment(str(r.get("time"))), r.get("epoch"), r.get("step")] for r in kept]
    return table("Resumed", columns, rows) if rows else None


def curves(run: Run) -> SectionView:
    """A chart for each result, training beside validation, and all rows as a table."""
    view = SectionView("Curves", 200)
    names = [column for column in run.columns if not _is_rate(column)]
    groups: dict[str, list[str]] = {}
    for column in names:
        groups.setdefault(_metric(column), []).append(column)
    drawn = [_metric_chart(run, metric, columns) for metric, columns in groups.items()]
    charts = [found for found in drawn if found is not None]
    view.charts = charts[:_MOST_CHARTS]
    notes = (
        [f"{_MOST_CHARTS} of {len(charts)} charts are shown."] if len(charts) > _MOST_CHARTS else []
    )
    if run.history_problem:
        notes.append(f"{run.history_problem[:1].upper()}{run.history_problem[1:]}.")
    elif not charts:
        notes.append("There are no values yet.")
    view.note = " ".join(notes)
    view.tables = _history_table(run.history)
    return view


def _metric(column: str) -> str:
    side, _, rest = column.partition("_")
    return rest if side in ("train", "val") and rest else column


def _metric_chart(run: Run, metric: str, columns: Sequence[str]) -> Chart | None:
    slots = {f"train_{metric}": ("train", 0), f"val_{metric}": ("val", 1)}
    lower = all(run.higher_is_better(column) is False for column in columns)
    named = [(column, *slots.get(column, (column, 2))) for column in sorted(columns)]
    return history_chart(metric, run.history, named, may_be_log=lower)


def history_chart(
    title: str, history: History, lines: Sequence[tuple[str, str, int]], *, may_be_log: bool
) -> Chart | None:
    """Columns of a history over its epochs, or its steps where a row ends inside an epoch.

    Args:
        title: What the columns are of.
        history: The table.
        lines: Column, name and colour of each line.
        may_be_log: Whether values of several decades get a logarithmic axis.
    """
    unit, drawn = over_time(history, lines)
    return chart(title, drawn, unit, may_be_log=may_be_log)


def over_time(
    history: History, lines: Sequence[tuple[str, str, int]], unit: str = ""
) -> tuple[str, list[Series]]:
    """The unit of x, and the lines over it; `unit` is given where several runs share a chart."""
    unit = unit or unit_of(history)
    rows = sorted(
        ((x, row) for row in history.rows if (x := _place(row.get(unit))) is not None),
        key=lambda found: found[0],
    )
    xs = [x for x, _ in rows]
    return unit, [
        Series(name, xs, [as_number(row.get(column)) for _, row in rows], slot)
        for column, name, slot in lines
    ]


def unit_of(history: History) -> str:
    """What counts the rows: "epoch", or "step" where one ends inside an epoch."""
    whole = "complete" not in history or all(history["complete"])
    return "epoch" if whole and "epoch" in history else "step"


def _place(value: object) -> float | None:
    number = as_number(value)
    return number if number is not None and math.isfinite(number) else None


def _history_table(history: History) -> list[TableView]:
    rows = [[row.get(column) for column in history.columns] for row in history.rows]
    if not rows:
        return []
    stride = 1 + (len(rows) - 1) // _MOST_ROWS
    # The last row is the one that is asked for most.
    chosen = rows[::-1][::stride][::-1]
    title = "All values" if stride == 1 else f"Values of each {stride}th row"
    found = table(title, history.columns, chosen, folded=True, where="history.csv")
    return [found]


def _is_rate(column: str) -> bool:
    return column == "lr" or column.startswith("lr_")


def learning_rate(run: Run) -> SectionView | None:
    """The rates that LRRecorderHandler recorded, or those of the history; None without any."""
    try:
        history, _ = read_csv(run.folder / "lr_recorder" / "lr.csv")
    except Unreadable:
        history = run.history
    names = [c for c in history.columns if c not in TIMES and _is_recorded(c, history, run)]
    if not names:
        return None
    lines = [(name, name, i) for i, name in enumerate(names[:_MOST_LINES])]
    unit = "step" if "step" in history else "epoch"
    _, drawn = over_time(history, lines, unit)
    found = chart("learning rate", drawn, unit, may_be_log=True)
    if found is None:
        return None
    more = f"{_MOST_LINES} of {len(names)} rates are shown." if len(names) > _MOST_LINES else ""
    return SectionView("Learning rate", LEARNING_RATE, charts=[found], note=more)


def _is_recorded(column: str, history: History, run: Run) -> bool:
    return history is not run.history or _is_rate(column)


def arguments(run: Run) -> SectionView:
    """What `fit` was given."""
    rows = sorted(run.arguments.items())
    if run.record.get("seed") is not None and "seed" not in run.arguments:
        rows.append(("seed", shown(run.record["seed"])))
    view = SectionView("Arguments", 880)
    view.tables = [table("", ["argument", "value"], rows, where="run.json")] if rows else []
    view.note = "" if rows else "run.json holds no arguments."
    return view


def environment(run: Run) -> SectionView:
    """Versions, machine, commit and command."""
    rows: list[list[object]] = []
    for part in ("versions", "machine", "git"):
        rows += [[f"{part}: {name}", value] for name, value in run.mapping(part).items()]
    command = run.record.get("command")
    if isinstance(command, list):
        rows.append(["command", " ".join(str(word) for word in command)])
    view = SectionView("Environment", 900)
    view.tables = [table("", ["what", "value"], rows, where="run.json")] if rows else []
    view.note = "" if rows else "run.json holds no environment."
    return view


def log(run: Run) -> SectionView | None:
    """The last lines of the log; None where there is none."""
    text = read_tail(run.folder / "trainer.txt", _LOG_BYTES).strip("\n")
    if not text:
        return None
    return SectionView("Log", 920, "The last lines of trainer.txt.", log=text)


def damage(run: Run) -> list[Gap]:
    """The files of the run itself that are there and cannot be used, or not as a whole."""
    found = []
    if run.outcome == "damaged" and (run.folder / "run.json").exists():
        found.append(Gap("what run.json holds", run.reason.removeprefix("run.json: ")))
    if run.history_problem and run.history_problem != NO_HISTORY:
        found.append(Gap("some of the history", run.history_problem))
    return found


def warning(gaps: int) -> str:
    """What the outcome says of reports that are missing; "" where none is."""
    verb = "report is" if gaps == 1 else "reports are"
    return f"{gaps} {verb} missing: see the end of the page." if gaps else ""


def missing(unwritten: Mapping[str, str], gaps: Sequence[Gap]) -> SectionView:
    """What could not be written by the run, or shown by the page."""
    rows = [*unwritten.items(), *((gap.what, gap.why) for gap in gaps)]
    view = SectionView("Missing reports", 950)
    if not rows:
        view.text = "Nothing is missing."
        return view
    view.text = "These could not be written during the run, or not be shown here."
    view.tables = [table("", ["what", "why"], rows[:_MOST_GAPS])]
    if len(rows) > _MOST_GAPS:
        view.note = f"{_MOST_GAPS} of {len(rows)} are shown."
    return view

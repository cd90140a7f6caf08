"""`LRRecorderHandler`: table and picture of every learning rate."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from estimator.handlers.base import (
    Band,
    Clock,
    EventHandler,
    Every,
    Section,
    Table,
    check_every,
    own_folder,
    reporting,
    require,
    write_section,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch.utils.tensorboard import SummaryWriter

    from estimator.stats import TrainStats

_SECONDS_BETWEEN_FILES, _TIMES_BETWEEN_FILES = 10.0, 100
_MOST_MARKERS = 60
_MOST_POINTS = 5000
_MOST_LABELS = 20
_MOST_ROWS = 50

Row = tuple[int, int, list[list[float]]]
"""Epoch, step, and for each trainer the rates of its parameter groups."""


class LRRecorderHandler(EventHandler):
    """Records the learning rate of every trainer and parameter group that the step really used.

    Writes `<folder>/lr.csv` (columns `epoch` and `step`, both finished counts, then `<trainer>`, or
    `<trainer>/group<i>` where a trainer has several parameter groups; full precision) and
    `<folder>/lr.png`. Both are replaced as a whole, so that each is complete at any time: at the
    first `epoch_end`, at one that comes ten seconds (and a hundred times what it took) after the
    last, and at `train_end`, also after an exception. A group that is added during the run has
    empty cells before.

    A rate that a tensor holds is read from its device at each recording; floats cost nothing.

    Args:
        folder: Where the files go; None is `lr_recorder/` in the run folder.
        every: When to record; None records at each epoch_end.
        tensorboard: Whether to write `lr/<trainer>/group<i>` to `<folder>/tensorboard` too.
        band: When this handler runs within an event. OBSERVE, so that a checkpoint of the same
            event holds the row.

    Raises:
        ArgumentTypeError: `every` is not an `Every`.
        MissingExtraError: At train_begin, when matplotlib is not installed.

    Example:
        >>> import tempfile, torch
        >>> from estimator import Estimator
        >>> est = Estimator(torch.nn.Linear(2, 1), loss=torch.nn.MSELoss())
        >>> data = torch.randn(8, 2), torch.randn(8, 1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     stats = est.fit(data, epochs=2, trainers="sgd", device="cpu", progress=False,
        ...                     handlers=LRRecorderHandler(folder))
        ...     lines = Path(folder, "lr.csv").read_text("utf-8").splitlines()
        >>> lines
        ['epoch,step,trainer', '1,1,0.001', '2,2,0.001']
    """

    band = Band.OBSERVE
    first_process_only = True
    state_names = ("rows", "place")

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        every: Every | None = None,
        tensorboard: bool = False,
        band: Band | None = None,
    ) -> None:
        super().__init__(band=band)
        self.folder = folder
        self.every = None if every is None else check_every(every, "LRRecorderHandler(every=...)")
        self.tensorboard = tensorboard
        self._names: list[str] = []
        self.rows: list[Row] = []
        self.place: list[float] | None = None
        self._cut = False
        self._path: Path | None = None
        self._clock: Clock | None = None
        self._board: SummaryWriter | None = None
        self._next_files = 0.0

    def train_begin(self, stats: TrainStats) -> None:
        """Starts the table, or goes on with the one that a checkpoint held."""
        require("matplotlib", "report", "LRRecorderHandler")
        self._path = own_folder(self.folder, stats, "lr_recorder", "LRRecorderHandler")
        self._next_files, self._cut = 0.0, False
        self._names = list(stats.trainers)
        self.rows = list(self.rows) if stats.samples else []
        self.place = self.place if stats.samples else None
        self._clock = None if self.every is None else self.every.clock(stats, self.place)
        if self.tensorboard:
            self._open_board(self._path / "tensorboard", stats.step)

    def _open_board(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What carries the present step may be the row of an epoch that a stop cut.
        self._board = SummaryWriter(str(folder), purge_step=step)
        for row in self.rows:
            if row[1] >= step:
                self._show(row)

    def batch_end(self, stats: TrainStats) -> None:
        """Records where the schedule counts steps or seconds."""
        if self._clock is None or self._clock.every.unit == "epochs" or stats.error is not None:
            return
        if self._clock.due(stats):
            self._record(stats)

    def epoch_end(self, stats: TrainStats) -> None:
        """Records where the schedule counts epochs, and writes the files from time to time."""
        if stats.error is not None:
            return
        if self._clock is None or (self._clock.every.unit == "epochs" and self._clock.due(stats)):
            self._record(stats)
            # A run that goes on through a cut epoch has its row at its end.
            self._cut = stats.batches_done > 0
        if stats.elapsed >= self._next_files:
            began = perf_counter()
            self._write_files(stats)
            # Drawing takes a tenth of a second, which may be more than an epoch.
            pause = max(_SECONDS_BETWEEN_FILES, _TIMES_BETWEEN_FILES * (perf_counter() - began))
            self._next_files = stats.elapsed + pause

    def _record(self, stats: TrainStats) -> None:
        rates = [list(trainer.lrs) for trainer in stats.trainers.values()]
        self.rows.append((stats.epoch, stats.step, rates))
        self._show(self.rows[-1])

    def _show(self, row: Row) -> None:
        if self._board is not None:
            for name, groups in zip(self._names, row[2], strict=True):
                for index, rate in enumerate(groups):
                    self._board.add_scalar(f"lr/{name}/group{index}", rate, row[1])

    def train_end(self, stats: TrainStats) -> None:
        """Writes the files, however the run ended."""
        self._keep_place()
        try:
            if self._path is not None:
                self._write_files(stats)
        finally:
            if self._board is not None:
                self._board.close()
            self._path = self._clock = self._board = None

    def state_dict(self) -> dict[str, Any]:
        """The rows; what TensorBoard got is on the disk before a checkpoint counts on it."""
        if self._board is not None:
            self._board.flush()
        self._keep_place()
        return {"rows": self.rows[: len(self.rows) - self._cut], "place": self.place}

    def _keep_place(self) -> None:
        if self._clock is not None:
            self.place = self._clock.place()

    def _write_files(self, stats: TrainStats) -> None:
        assert self._path is not None
        columns, table = _table(self._names, self.rows)
        with reporting(stats, "the learning rates"):
            _replace(self._path / "lr.csv", lambda path: _write_csv(path, columns, table))
            if table:
                _replace(self._path / "lr.png", lambda path: _draw(path, columns, table))
                write_section(self._path, "lr", _section(columns, table), stats)


def _section(columns: list[str], table: Cells) -> Section:
    thinned = [*table[: -1 : 1 + len(table) // _MOST_ROWS], table[-1]]
    return Section(
        "Learning rate", 600,
        tables=[Table("Rates that steps used (all of them are in lr.csv)", columns, thinned)],
    )  # fmt: skip


Cells = list[list[float | None]]


def _table(names: list[str], rows: list[Row]) -> tuple[list[str], Cells]:
    """Heads and cells; what makes a trainer have several columns may come after its first row."""
    widths = [max((len(rates[i]) for *_, rates in rows), default=1) for i in range(len(names))]
    columns = ["epoch", "step"]
    for name, width in zip(names, widths, strict=True):
        columns += [name] if width == 1 else [f"{name}/group{i}" for i in range(width)]
    table: Cells = []
    for epoch, step, rates in rows:
        cells: list[float | None] = [epoch, step]
        for groups, width in zip(rates, widths, strict=True):
            cells += groups + [None] * (width - len(groups))
        table.append(cells)
    return columns, table


def _replace(target: Path, write: Callable[[Path], None]) -> None:
    """Puts a new file in the place of the old one, so that no reader meets half of it."""
    fresh = target.with_name(f".{target.name}.part")
    write(fresh)
    os.replace(fresh, target)


def _write_csv(path: Path, columns: list[str], table: Cells) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(table)


def _draw(path: Path, columns: list[str], table: Cells) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    drawn = [*table[: -1 : 1 + len(table) // _MOST_POINTS], table[-1]]
    for place, column in enumerate(columns[2:], start=2):
        points = np.array([row for row in drawn if row[place] is not None], float)
        axes.plot(
            points[:, 1],
            points[:, place],
            label=column,
            # A rate holds for the steps up to the one that it was recorded at.
            drawstyle="steps-pre",
            # Lines that lie on each other stay visible.
            linestyle=("-", "--", "-.", ":")[place % 4 - 2],
            marker="o" if len(points) <= _MOST_MARKERS else None,
            markersize=4,
        )
    axes.set(xlabel="Optimizer step", ylabel="Learning rate", title="Learning rate")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.grid(alpha=0.3)
    if _spans_decades(drawn):
        axes.set_yscale("log")
    _add_legend(axes)
    figure.savefig(path, format="png")


def _spans_decades(table: Cells) -> bool:
    rates = [rate for row in table for rate in row[2:] if rate is not None]
    return min(rates) > 0 and max(rates) > 100 * min(rates)


def _add_legend(axes: Axes) -> None:
    lines = axes.get_lines()
    shown = lines[:: 1 + (len(lines) - 1) // _MOST_LABELS]
    title = None if len(shown) == len(lines) else f"{len(shown)} of {len(lines)} lines"
    axes.legend(
        handles=shown, title=title, loc="upper left", bbox_to_anchor=(1, 1), fontsize="small"
    )

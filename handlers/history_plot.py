"""`HistoryPlotHandler`: each metric over the epochs as a picture and a table."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from estimator.handlers._figures import new_figure, titled, write_figure
from estimator.handlers._file_stem import file_stem
from estimator.handlers._history_series import Series, metrics_of, series_of
from estimator.handlers.base import (
    Band,
    Clock,
    EventHandler,
    Every,
    check_in_epochs,
    own_folder,
    reporting,
    require,
    write_whole,
)

if TYPE_CHECKING:
    from estimator.stats import TrainStats

_MOST_MARKERS = 60
_MOST_POINTS = 5000
_COLOURS = {"train": "tab:blue", "val": "tab:orange"}


class HistoryPlotHandler(EventHandler):
    """Draws each metric of the history over the epochs, training and validation in one picture.

    Writes `<metric>.png` and `<metric>.csv` ("loss.png" for `train_loss` and `val_loss`). The
    table has the rows of the history with `epoch`, `step`, `train` and `val`, in full precision
    and with an empty cell for a value that a row has not. In the picture a validation inside an
    epoch stands between the epochs. A value that is not finite is a gap in its line, with a cross
    of the line's colour at the bottom.

    Args:
        folder: Where the files go; None is "history" in the run folder.
        every: When to write, in epochs; None writes at the end of the run only. The end is always
            written, also after an exception.
        band: When it runs within an event; REPORT by default.

    Raises:
        ArgumentError: `every` does not count epochs.
        MissingExtraError: matplotlib or Pillow is not installed.

    Example:
        >>> import tempfile, torch
        >>> from estimator import Estimator
        >>> est = Estimator(torch.nn.Linear(2, 1), loss=torch.nn.MSELoss(), metrics=["mae"])
        >>> data = torch.randn(8, 2), torch.randn(8, 1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     plots = HistoryPlotHandler(folder)
        ...     stats = est.fit(data, data, epochs=2, device="cpu", handlers=plots, progress=False)
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['loss.csv', 'loss.png', 'mae.csv', 'mae.png']
    """

    band = Band.REPORT
    first_process_only = True

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        every: Every | None = None,
        band: Band | None = None,
    ) -> None:
        super().__init__(band=band)
        for module in ("matplotlib.figure", "PIL"):
            require(module, "report", "HistoryPlotHandler")
        self.folder = folder
        self.every = check_in_epochs(every, "HistoryPlotHandler(every=...)")
        self._folder: Path | None = None
        self._clock: Clock | None = None
        self._drawn = 0

    def train_begin(self, stats: TrainStats) -> None:
        """Makes the folder."""
        self._folder = own_folder(self.folder, stats, "history", "HistoryPlotHandler")
        self._clock = None if self.every is None else self.every.clock(stats)
        self._drawn = 0

    def epoch_end(self, stats: TrainStats) -> None:
        """Writes when that is due."""
        if stats.error is None and self._clock is not None and self._clock.due(stats):
            self._write(stats)

    def train_end(self, stats: TrainStats) -> None:
        """Writes what was not written yet."""
        if self._folder is not None and self._drawn != len(stats.history):
            self._write(stats)
        self._folder = self._clock = None

    def _write(self, stats: TrainStats) -> None:
        assert self._folder is not None
        rows, self._drawn = stats.history.rows, len(stats.history)
        for metric in metrics_of(stats.history.columns):
            series = series_of(rows, metric)
            if not series:
                continue
            stem = file_stem(metric)
            with reporting(stats, f"the history of {metric}"):
                write_whole(self._folder / f"{stem}.csv", _as_table(rows, metric))
                _draw(self._folder / f"{stem}.png", series, metric)


def _as_table(rows: list[Any], metric: str) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["epoch", "step", "train", "val"])
    for row in rows:
        values = [row.get(f"{split}_{metric}") for split in ("train", "val")]
        if values != [None, None]:
            writer.writerow([row["epoch"], row["step"], *values])
    return text.getvalue().encode("utf-8")


def _draw(path: Path, series: dict[str, Series], metric: str) -> None:
    ticker = require("matplotlib.ticker", "report", "HistoryPlotHandler")
    figure = new_figure(8, 4.5)
    axes = figure.add_subplot()
    lost = [_draw_line(axes, split, line) for split, line in series.items()]
    titled(axes, metric, x="epoch", y=metric if len(metric) < 40 else "")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    ends = np.concatenate([line.epochs for line in series.values()])
    if np.ptp(ends) < 2:
        axes.set_xlim(ends.min() - 1, ends.max() + 1)
    axes.grid(alpha=0.3)
    if any(lost):
        axes.plot([], [], "x", color="0.3", label="not finite")
    axes.legend()
    write_figure(path, figure)


def _draw_line(axes: Any, split: str, line: Series) -> bool:
    """Draws one line; says whether it has points that are not finite."""
    finite = np.isfinite(line.values)
    colour = _COLOURS[split]
    # Every so manieth point is enough for the pixels of a line; gaps are marked in any case.
    step = -(-len(finite) // _MOST_POINTS)
    values = np.where(finite, line.values, np.nan)[::step]
    marker = "." if len(finite) <= _MOST_MARKERS else ""
    axes.plot(line.epochs[::step], values, color=colour, marker=marker, label=split)
    # A point between two gaps has no line that would show it.
    known = np.pad(finite, 1)
    alone = finite & ~known[:-2] & ~known[2:]
    axes.plot(line.epochs[alone], line.values[alone], ".", color=colour)
    bottom = axes.get_xaxis_transform()
    lost = line.epochs[~finite]
    height = np.full(len(lost), 0.02 if split == "train" else 0.05)
    axes.plot(lost, height, "x", color=colour, transform=bottom, clip_on=False)
    return len(lost) > 0

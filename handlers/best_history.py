"""`BestHistoryHandler`: the best value of each metric, and when it was."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from estimator.handlers.base import Band, EventHandler, own_folder, reporting, write_whole

if TYPE_CHECKING:
    from estimator.stats import TrainStats


class _Best(NamedTuple):
    value: float
    epoch: int
    step: int


class BestHistoryHandler(EventHandler):
    """Keeps the best value of every column of the history whose direction is known.

    Writes, whole and at each epoch's end and at the end of the run, also after an exception:

    - `best_history.txt`: a line for each column, as `val_loss=0.1234, epoch=7, step=3283`, with
      six digits; then the columns that have values but no direction, since a metric has not said
      whether higher is better.
    - `best_history.json`: `best`, an object by column with `value` in full precision, `epoch`,
      `step` and `higher_is_better`; and `unknown`, the names of the other columns.

    Of equal values the first counts. Values that are not finite do not count; a
    column without any other is left out. Of training the means over whole epochs count, or where
    no epoch was finished those of its parts. `epoch` is the number
    of finished epochs, so that of a validation inside the third epoch it is 2.

    Args:
        folder: Where the files go; None is the run folder.
        band: When it runs within an event; REPORT by default.

    Example:
        >>> import tempfile, torch
        >>> from estimator import Estimator
        >>> est = Estimator(torch.nn.Linear(2, 1), loss=torch.nn.MSELoss())
        >>> data = torch.randn(8, 2), torch.randn(8, 1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     best = BestHistoryHandler(folder)
        ...     stats = est.fit(data, data, epochs=2, device="cpu", handlers=best, progress=False)
        ...     lines = Path(folder, "best_history.txt").read_text("utf-8").splitlines()
        >>> [line.partition("=")[0] for line in lines]
        ['train_loss', 'val_loss']
    """

    band = Band.REPORT
    first_process_only = True

    def __init__(
        self, folder: str | os.PathLike[str] | None = None, *, band: Band | None = None
    ) -> None:
        super().__init__(band=band)
        self.folder = folder
        self._folder: Path | None = None

    def train_begin(self, stats: TrainStats) -> None:
        """Makes the folder."""
        self._folder = own_folder(self.folder, stats, "", "BestHistoryHandler")

    def epoch_end(self, stats: TrainStats) -> None:
        """Writes both files."""
        if self._folder is not None:
            self._write(self._folder, stats)

    def train_end(self, stats: TrainStats) -> None:
        """Writes them once more, with a row that came since."""
        self.epoch_end(stats)
        self._folder = None

    def _write(self, folder: Path, stats: TrainStats) -> None:
        rows = stats.history.rows
        best: dict[str, _Best] = {}
        unknown = []
        for column in stats.history.columns:
            if not column.startswith(("train_", "val_")):
                continue
            better = stats.monitors.get(column)
            if better is None:
                unknown += [column] if any(row.get(column) is not None for row in rows) else []
            elif (found := _best(rows, column, higher=better)) is not None:
                best[column] = found
        with reporting(stats, "best_history.txt"):
            write_whole(folder / "best_history.txt", _as_text(best, unknown).encode("utf-8"))
            told = {
                column: {**found._asdict(), "higher_is_better": stats.monitors[column]}
                for column, found in best.items()
            }
            text = json.dumps({"best": told, "unknown": unknown}, indent=1, allow_nan=False)
            write_whole(folder / "best_history.json", text.encode("utf-8") + b"\n")


def _best(rows: Sequence[Mapping[str, Any]], column: str, *, higher: bool) -> _Best | None:
    found: _Best | None = None
    if column.startswith("train_"):
        # A mean over part of an epoch says something else, unless there is no other.
        rows = [row for row in rows if row["complete"]] or rows
    for row in rows:
        value = row.get(column)
        if value is None or not math.isfinite(value):
            continue
        if found is None or (value > found.value if higher else value < found.value):
            found = _Best(value, row["epoch"], row["step"])
    return found


def _as_text(best: Mapping[str, _Best], unknown: Sequence[str]) -> str:
    lines = [
        f"{' '.join(column.split())}={found.value:.6g}, epoch={found.epoch}, step={found.step}"
        for column, found in best.items()
    ]
    if unknown:
        names = ", ".join(" ".join(column.split()) for column in unknown)
        lines.append(f"# whether higher is better is not known of: {names}")
    return "".join(f"{line}\n" for line in lines)

"""`CSVLogHandler`: the history of a run as a table on disk, while it runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from estimator.handlers.base import (
    ArgumentTypeError,
    Band,
    EventHandler,
    FolderError,
    writable_folder,
)

if TYPE_CHECKING:
    from estimator.history import Value
    from estimator.stats import TrainStats


class CSVLogHandler(EventHandler):
    """Keeps a CSV file equal to `stats.history`: a row for each epoch and validation inside one.

    The file is a whole table at every moment, with the columns of the history, numbers in full
    precision and empty cells for values that a row has not. A killed run keeps the rows that it
    had. A second `fit` begins a new table; a resumed one begins with the rows that it resumes.

    Args:
        path: The file. Its folder is made; a file that is there is replaced.
        band: When it runs within an event; None is `Band.REPORT`.

    Raises:
        ArgumentTypeError: `path` is not a path.
        FolderError: In a run: the file cannot be written.

    Example:
        >>> import tempfile, torch
        >>> from estimator import Estimator
        >>> est = Estimator(torch.nn.Linear(2, 1), loss=torch.nn.MSELoss())
        >>> data = torch.randn(8, 2), torch.randn(8, 1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "history.csv")
        ...     stats = est.fit(data, epochs=2, trainers="sgd", device="cpu", progress=False,
        ...                     handlers=[CSVLogHandler(path)])
        ...     table = [line.split(",") for line in path.read_text("utf-8").splitlines()]
        >>> [row[:2] for row in table]
        [['epoch', 'step'], ['1', '1'], ['2', '2']]
    """

    band = Band.REPORT
    first_process_only = True

    def __init__(self, path: str | os.PathLike[str], *, band: Band | None = None) -> None:
        super().__init__(band=band)
        if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
            raise ArgumentTypeError(
                f"CSVLogHandler(path=...) must be the path of a file; received {path!r}. "
                "Write CSVLogHandler('runs/history.csv'), for example."
            )
        self.path = path
        self._table: Path | None = None
        self._last_row: dict[str, Value] | None = None

    def train_begin(self, stats: TrainStats) -> None:
        """Begins the table, so that a path that cannot be written is known at once."""
        path = Path(self.path).absolute()
        writable_folder(path.parent, "the folder of CSVLogHandler(path=...)")
        self._table = path
        self._write(stats)

    def batch_begin(self, stats: TrainStats) -> None:
        """Writes the row of a validation inside the epoch."""
        # The loop appends that row after validation_end, so this event is the first to see it. To
        # look costs a comparison a batch; to wait for the epoch's end could cost hours of rows.
        # Rows are compared and not counted: a later row of the same step replaces the first.
        rows = stats.history.rows
        if rows and rows[-1] is not self._last_row:
            self._write(stats)

    def epoch_end(self, stats: TrainStats) -> None:
        """Writes the epoch's row."""
        self.batch_begin(stats)

    def train_end(self, stats: TrainStats) -> None:
        """Writes a row that an exception left unwritten, and lets go of the file."""
        self.batch_begin(stats)
        self._table = self._last_row = None

    def _write(self, stats: TrainStats) -> None:
        # Without a table there was no train_begin, or a write failed: nothing is tried twice on
        # the way out of a run.
        if self._table is None:
            return
        path, self._table = self._table, None
        part = path.with_name(f"{path.name}.part")
        try:
            # The whole table, so that late columns find their place, and by a rename, so that
            # no reader and no kill ever sees half of it.
            stats.history.to_csv(part)
            os.replace(part, path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise FolderError(
                f"CSVLogHandler(path=...) must be a file that can be written; received "
                f"{str(self.path)!r} ({error.strerror}). Choose another path or make room."
            ) from error
        rows = stats.history.rows
        self._table, self._last_row = path, rows[-1] if rows else None

"""`ReportPageHandler`: the page of a run, kept up to date."""

from __future__ import annotations

import os
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from estimator.handlers.base import (
    Band,
    Clock,
    EventHandler,
    Every,
    check_every,
    own_folder,
    reporting,
    require,
)
from estimator.report.page import write_page

if TYPE_CHECKING:
    from estimator.stats import TrainStats

_PAGE = "the page report.html"
_SHARE = 0.02
"""How much of the time a page may take that nobody asked for at this moment."""


class ReportPageHandler(EventHandler):
    """Writes `report.html` into the run folder, and again as the run goes on.

    At the end of an epoch the page is left as it is where writing it took more than 2 % of the time
    since, so that short epochs stay short; `train_end` always writes it. List it after the handlers
    whose reports it shows. In a folder other than the run folder the history is written beside it.

    Args:
        folder: Where the page goes, and the folder that it is made from; None is the run folder.
        every: At which epoch ends the page is written, whatever it costs; None is each of them, at
            bounded cost.
        band: When this handler runs within an event; None is `Band.REPORT`.

    Raises:
        ArgumentTypeError: `every` is not an `Every`.
        MissingExtraError: Jinja2 is not installed.

    Example:
        >>> import tempfile, torch
        >>> from estimator import Estimator
        >>> est = Estimator(torch.nn.Linear(2, 1), loss=torch.nn.MSELoss())
        >>> data = torch.randn(8, 2), torch.randn(8, 1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     stats = est.fit(data, epochs=2, trainers="sgd", device="cpu", progress=False,
        ...                     handlers=ReportPageHandler(folder))
        ...     page = Path(folder, "report.html").read_text("utf-8")
        >>> "Curves" in page
        True
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
        require("jinja2", "report", "ReportPageHandler")
        self.folder = folder
        self.every = None if every is None else check_every(every, "ReportPageHandler(every=...)")
        self._path: Path | None = None
        self._clock: Clock | None = None
        self._took = self._finished = 0.0

    def train_begin(self, stats: TrainStats) -> None:
        """Proves that the folder can be written."""
        self._path = own_folder(self.folder, stats, "", "ReportPageHandler")
        self._clock = None if self.every is None else self.every.clock(stats)
        self._took, self._finished = 0.0, perf_counter()

    def epoch_end(self, stats: TrainStats) -> None:
        """Writes the page where that is due, or cheap."""
        if stats.error is not None:
            return
        if self._clock is None:
            due = self._took <= _SHARE * (perf_counter() - self._finished)
        else:
            due = self._clock.due(stats)
        if due and self._path is not None:
            self._write(self._path, stats)

    def train_end(self, stats: TrainStats) -> None:
        """Writes the page, however the run ended."""
        if self._path is not None:
            self._write(self._path, stats)
        self._path = self._clock = None

    def _write(self, path: Path, stats: TrainStats) -> None:
        began = perf_counter()
        missing = {what: why for what, why in stats.missing.items() if what != _PAGE}
        with reporting(stats, _PAGE):
            if path != stats.run_dir:
                _write_history(path, stats)
            write_page(path, missing)
        self._finished = perf_counter()
        self._took = self._finished - began


def _write_history(path: Path, stats: TrainStats) -> None:
    draft = path / f".history.{os.getpid()}.csv"
    try:
        stats.history.to_csv(draft).replace(path / "history.csv")
    finally:
        draft.unlink(missing_ok=True)

"""`ModelSummaryHandler`: what the net is made of, as a text and on the page."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from estimator.handlers._example import first_rows
from estimator.handlers._model_summary import COLUMNS, Summary, summarize
from estimator.handlers.base import (
    Band,
    EventHandler,
    Section,
    Table,
    own_folder,
    reporting,
    write_section,
    write_whole,
)

if TYPE_CHECKING:
    from estimator.stats import TrainStats

_LOG = logging.getLogger("estimator")
_WHAT = "the summary of the net"


class ModelSummaryHandler(EventHandler):
    """Writes layers, output shapes, parameters, multiply-adds and memory of the net.

    After the first batch the net runs once more on a few of its samples, in evaluation, which
    changes nothing in it. Parameters that several layers share count once. Multiply-adds are those
    of matrix products, convolutions, attention and recurrent layers, of one sample in a forward
    pass. Writes `<folder>/model_summary.txt` and a section of the page. Where the net cannot be
    run like that, the log and `stats.missing` say why, and the training goes on.

    Args:
        folder: Where the files go; None is the run folder.
        band: When this handler runs within an event.

    Raises:
        ArgumentError: At train_begin, when there is neither a folder nor a run folder.

    Example:
        >>> import tempfile, torch
        >>> from estimator import Estimator
        >>> est = Estimator(torch.nn.Linear(2, 1), loss=torch.nn.MSELoss())
        >>> data = torch.randn(8, 2), torch.randn(8, 1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     handler = ModelSummaryHandler(folder)
        ...     stats = est.fit(data, device="cpu", progress=False, handlers=handler)
        ...     text = Path(folder, "model_summary.txt").read_text("utf-8")
        >>> text.splitlines()[1].split()
        ['(net)', 'Linear', '4x1', '3', '3', '2', '1']
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
        self._folder = own_folder(self.folder, stats, "", "ModelSummaryHandler")

    def batch_end(self, stats: TrainStats) -> None:
        """Writes the summary after the first batch."""
        folder, self._folder = self._folder, None
        if folder is None or stats.error is not None or not stats.batch_size:
            return
        try:
            if any(hasattr(p, "full_tensor") for p in stats.net.parameters()):
                raise ValueError("the weights are split over processes, which do not run it alone")
            summary = summarize(stats.net, first_rows(stats.inputs, stats.batch_size))
        except Exception as error:  # a net may fail in any way outside of its training
            # The error itself would keep its frames alive, and the net with them.
            reason = stats.missing[_WHAT] = str(error) or type(error).__name__
            _LOG.error("Could not make %s: %s. Training goes on.", _WHAT, reason)
            return
        with reporting(stats, _WHAT):
            write_whole(folder / "model_summary.txt", f"{summary}\n".encode())
            write_section(folder, "model_summary", _section(summary), stats)

    def train_end(self, stats: TrainStats) -> None:
        """Forgets the folder, where no batch came."""
        self._folder = None


def _section(summary: Summary) -> Section:
    tables = [
        Table("Net", ["what", "how much"], summary.totals),
        Table("Layers", COLUMNS, [list(layer) for layer in summary.layers]),
    ]
    text = f"Output shapes are those of {summary.samples} samples; multiply-adds are of one sample."
    return Section("Net", 700, text, tables)

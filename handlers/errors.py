"""`ErrorsHandler`: the samples that the net answers wrongly, the surest answers first."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from estimator.handlers._error_files import ErrorFiles
from estimator.handlers._error_rows import ErrorRows, Errors
from estimator.handlers._sample_files import Telling, check_decode
from estimator.handlers._sample_rows import check_classes, check_count
from estimator.handlers.base import (
    Band,
    Clock,
    EventHandler,
    Every,
    check_in_epochs,
    own_folder,
    reporting,
    require,
)

if TYPE_CHECKING:
    from estimator.stats import TrainStats

_PASSES = ("validation", "evaluate")


class ErrorsHandler(EventHandler):
    """Shows the errors of validation and of `evaluate`, for each output that has a target.

    What counts as an error depends on the target:

    - One of several classes (a whole number, the output logits (N, C)): another class is the
      likeliest. Confidence is its softmax probability. Targets outside of the classes, such as
      -100, are none.
    - Labels (the output a logit each, the target whole numbers of that shape, or floating numbers
      that are 0 or 1 in the whole batch): a logit has the wrong sign. Confidence is the sigmoid
      probability of the answer that is wrong most surely.
    - Numbers: there is no right or wrong, and the samples with the largest mean distance
      |prediction - target| are shown. A target that is NaN is none.

    The surest come first, and an answer that is no number before all. Maps and sequences of
    classes are left out. Samples are told apart by their uid; arrays and Datasets given to `fit`
    get one, a loader gets one through `with_uids`.

    In the folder, for the k-th error of a pass ("validation" or "evaluate"), counted from 0:

    - `<output>_<pass>_s<k>.txt`: uid, target, prediction, confidence, and all that the net got
      and gave, a line each. An output without a name is called "output".
    - `<output>_<pass>_s<k>_<feature>.png` for each input with a picture, as those of
      `RandomSamplesHandler`.
    - `gallery_<output>_<pass>.png`: the errors in a grid.
    - `<output>_<pass>.section.json`: all of it for the page of the run.

    Those of the last validation that was written stay. An `evaluate` writes when it ends: in the
    folder given, or in that of the fit before it. A file that cannot be written, as on a full
    disk, is logged and does not end the training.

    Memory: for each output on the device the rows of `most` samples and of up to 16 batches, of
    the latter at most 32 MiB (and one batch at least). Nothing is read from the device within a
    pass. Of large values only a part is kept, as `RandomSamplesHandler` says.

    Args:
        folder: Where the files go; None is `errors` in the run folder.
        most: How many errors of each output are shown.
        every: When to write those of validation, in epochs; None writes at the end of the run
            only, which always writes what was not written yet.
        classes: Class names in the order of the class numbers, for targets and predictions. Two
            of them make classes of targets of floating type and one column.
        decode: Makes the text of whole numbers in a row, (T,) on the host, such as those of words.
        band: When it runs within an event; REPORT by default.

    Raises:
        ArgumentError: `most` below 1, or `every` not in epochs; at the start of a run that there
            is no folder.
        ArgumentTypeError: `classes` or `decode` is of another kind.
        MissingExtraError: matplotlib or Pillow is not installed.

    Example:
        >>> import tempfile, torch
        >>> from estimator import Estimator
        >>> net, folder = torch.nn.Linear(1, 2), tempfile.TemporaryDirectory()
        >>> _ = net.weight.data.copy_(torch.tensor([[-1.0], [1.0]])), net.bias.data.zero_()
        >>> data = torch.tensor([[-2.0], [1.0], [3.0]]), torch.tensor([0, 0, 0])
        >>> found = Estimator(net, torch.nn.CrossEntropyLoss()).evaluate(
        ...     data, handlers=[ErrorsHandler(folder.name)]
        ... )
        >>> text = Path(folder.name, "output_evaluate_s0.txt").read_text().split()
        >>> text[0], text[3:6]
        ('uid=2', ['target=0', 'prediction=1', 'confidence=0.997527421'])
        >>> folder.cleanup()
    """

    band = Band.REPORT
    needs: ClassVar[frozenset[str]] = frozenset({"uids"})

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        most: int = 100,
        every: Every | None = None,
        classes: Sequence[str] | None = None,
        decode: Callable[[Tensor], str] | None = None,
        band: Band | None = None,
    ) -> None:
        super().__init__(band=band)
        self.folder = folder
        self.most = check_count(most, "ErrorsHandler(most=...)")
        self.every = check_in_epochs(every, "ErrorsHandler(every=...)")
        self.classes = check_classes(classes, "ErrorsHandler")
        self.decode = check_decode(decode, "ErrorsHandler")
        for module in ("matplotlib", "PIL"):
            require(module, "report", "ErrorsHandler")
        self._folder: Path | None = None
        self._clock: Clock | None = None
        self._rows: ErrorRows | None = None
        self._found: dict[str, Errors] | None = None

    def train_begin(self, stats: TrainStats) -> None:
        """Checks the folder."""
        self._rows = self._found = None
        self._folder = self._own_folder(stats)
        self._clock = None if self.every is None else self.every.clock(stats)

    def _own_folder(self, stats: TrainStats) -> Path:
        return stats.world.first(lambda: own_folder(self.folder, stats, "errors", "ErrorsHandler"))

    def validation_begin(self, stats: TrainStats) -> None:
        """Starts to collect, where there is a folder to write to."""
        self._rows = None
        if stats.phase not in _PASSES:
            return
        if self._folder is None and (self.folder is not None or stats.run_dir is not None):
            self._folder = self._own_folder(stats)
        if self._folder is not None:
            binary = self.classes is not None and len(self.classes) == 2
            self._rows = ErrorRows(self.most, binary=binary)

    def validation_batch_end(self, stats: TrainStats) -> None:
        """Takes a batch."""
        if self._rows is not None and stats.error is None and stats.batch_size:
            self._rows.add(stats, stats.batch_size)

    def validation_end(self, stats: TrainStats) -> None:
        """Brings the errors to the host; those of `evaluate` are written."""
        rows, self._rows = self._rows, None
        gave_up = stats.interrupted is not None and not stats.val
        if rows is None or stats.error is not None or gave_up:
            return
        found = rows.take(stats.world)
        if stats.phase == "validation":
            self._found = found
        else:
            self._write(found, stats)

    def epoch_end(self, stats: TrainStats) -> None:
        """Writes when that is due."""
        if stats.error is None and self._clock is not None and self._clock.due(stats):
            self._write_validation(stats)

    def train_end(self, stats: TrainStats) -> None:
        """Writes what was not written yet, and lets go of it."""
        try:
            self._write_validation(stats)
        finally:
            self._rows = self._found = self._clock = None

    def _write_validation(self, stats: TrainStats) -> None:
        found, self._found = self._found, None
        if found is not None:
            self._write(found, stats, "validation")

    def _write(self, found: dict[str, Errors], stats: TrainStats, name: str = "evaluate") -> None:
        assert self._folder is not None, "errors are collected where there is a folder"
        if stats.world.rank:
            return
        with reporting(stats, f"the errors of {name}"):
            telling = Telling(self.classes, self.decode)
            ErrorFiles(self._folder, name, telling).write(found, stats)

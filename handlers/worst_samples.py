"""`WorstSamplesHandler`: which samples the net finds hardest, epoch by epoch."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from torch import Tensor

from estimator.handlers._loss_table import LossTable, Rank
from estimator.handlers._sample_files import Telling, check_decode
from estimator.handlers._sample_rows import check_classes, check_count
from estimator.handlers._split_losses import SplitLosses
from estimator.handlers._worst_report import WorstReport
from estimator.handlers.base import (
    ArgumentError,
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

_SPLITS = ("train", "validation")
_MAP = re.compile(r"worst_samples_([a-z]+)_e(\d+)(?:_raw)?\.(?:png|csv|txt)")


class WorstSamplesHandler(EventHandler):
    """Follows the loss of every sample and shows the ones that stay bad: outliers, wrong labels.

    Samples are told apart by their uid; arrays and Datasets given to `fit` get one, a loader gets
    one through `with_uids`. Training and validation are kept apart; where an epoch validates
    several times its last validation counts. Losses in training are those of the moment when the
    batch was seen, dropout and augmentation included.

    In the folder, for each split:

    - `train.npz`, written at every epoch's end: `uids` (N,), `epochs` (E,), `steps` (E,) and
      `loss` (N, E) float32, the mean over the times that the epoch met the sample, NaN where it
      did not. A loss that is not a number counts as infinite.
    - `worst_samples_train_e<epoch>.png`: the map, one column a sample (worst left), one row an
      epoch (first on top), yellow for low and red for high losses, grey where the sample was not
      seen. At most the 1000 worst are drawn. The `.csv` is its table.
    - `worst_samples_train_e<epoch>_raw.png`: the same for all samples, exactly one pixel each;
      the `.txt` lists its columns: uid, mean loss, number of epochs that saw it.
    - `samples_train/`: for each of the `worst` samples a text with uid, loss, target and
      prediction, and the first image among its inputs; the rest is told as text.
    - `gallery_train.png`: these images in a grid.
    - `worst_samples_train.section.json`: all of it for the page of the run.

    A file that cannot be written, as on a full disk, is logged and does not end the training.

    What is exported is the sample as it was (and was answered) when it last passed: exact for
    every sample that is among the worst after the epoch that saw it last. Only its losses are
    told of one that got there otherwise.

    Memory: on the device 12 bytes a sample during a pass and 16 for the ranking; the inputs,
    targets and outputs of `2 * worst` samples and of up to 16 batches, of the latter at most
    32 MiB (and one batch at least). On the host the table, 4 bytes a sample and epoch (thrice
    that at an epoch's end), and the rows of `2 * worst` samples. Of images and series that take
    more than 1 MiB a sample every n-th pixel or moment is kept, of other values of that size only
    shape and range. Nothing is read from the device within an epoch. A
    checkpoint holds, for each split, up to `2 * worst` samples, and within an epoch as many again
    and 12 bytes for each sample that the epoch has seen.

    A resumed run goes on with the table in the folder, without the epochs that it is to do again,
    and inside an epoch with that epoch's losses so far. A fresh run begins a new table.
    Of several processes each follows its samples, and the first writes what all have found.

    Args:
        folder: Where all files go; None is `worst_samples_by_epoch` in the run folder.
        worst: How many samples of each split are exported.
        every: When to draw, in epochs; None draws at the end of the run only, which always draws
            what was not drawn yet.
        classes: Class names in the order of the class numbers, for targets and predictions.
        decode: Makes the text of whole numbers in a row, (T,) on the host, such as those of words.
        rank: Orders by the "mean" of a sample's losses or by their "sum". The sum makes samples
            that more epochs saw look worse.
        band: When it runs within an event; OBSERVE by default, so that a checkpoint of the same
            event knows the batch.

    Raises:
        ArgumentError: `worst` below 1, an unknown `rank`, or `every` not in epochs; at the start
            of a run that there is no folder.
        MissingExtraError: matplotlib or Pillow is not installed.

    Example:
        >>> import tempfile, torch
        >>> from estimator.stats import TrainStats
        >>> stats = TrainStats(torch.nn.Identity(), torch.device("cpu"))
        >>> folder = tempfile.TemporaryDirectory()
        >>> handler = WorstSamplesHandler(folder.name, worst=2)
        >>> handler.train_begin(stats)
        >>> handler.epoch_begin(stats)
        >>> stats.uids, stats.sample_losses = torch.tensor([4, 9]), torch.tensor([0.5, 2.5])
        >>> handler.batch_end(stats)
        >>> stats.epoch = stats.step = 1
        >>> handler.epoch_end(stats)
        >>> handler.train_end(stats)
        >>> Path(folder.name, "worst_samples_train_e1.txt").read_text().split()
        ['uid', 'mean_loss', 'seen', '9', '2.5', '1', '4', '0.5', '1']
        >>> folder.cleanup()
    """

    band = Band.OBSERVE
    own_state = True
    state_names = ("passes",)
    needs: ClassVar[frozenset[str]] = frozenset({"sample_losses", "uids"})

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        worst: int = 50,
        every: Every | None = None,
        classes: Sequence[str] | None = None,
        decode: Callable[[Tensor], str] | None = None,
        rank: Rank = "mean",
        band: Band | None = None,
    ) -> None:
        super().__init__(band=band)
        if rank not in get_args(Rank):
            raise ArgumentError(
                f"WorstSamplesHandler(rank=...) must be 'mean' or 'sum'; received {rank!r}."
            )
        self.folder, self.rank = folder, rank
        self.worst = check_count(worst, "WorstSamplesHandler(worst=...)")
        self.every = check_in_epochs(every, "WorstSamplesHandler(every=...)")
        self.classes = check_classes(classes, "WorstSamplesHandler")
        self.decode = check_decode(decode, "WorstSamplesHandler")
        for module in ("matplotlib", "PIL"):
            require(module, "report", "WorstSamplesHandler")
        self._folder = Path()
        self._clock: Clock | None = None
        self.passes = _nothing()
        self._splits: dict[str, SplitLosses] = {}
        self._cut: dict[str, Any] | None = None
        self._epoch = 0

    def train_begin(self, stats: TrainStats) -> None:
        """Checks the folder; takes up the tables of a resumed run."""
        self._splits, self._cut = {}, None
        world, place = stats.world, "worst_samples_by_epoch"
        self._folder = world.first(
            lambda: own_folder(self.folder, stats, place, "WorstSamplesHandler")
        )
        self._clock = None if self.every is None else self.every.clock(stats)
        self._epoch = stats.epoch + 1
        resumes = stats.samples > 0
        for name in _SPLITS:
            table = world.first(partial(self._table, name, stats)) if resumes else LossTable()
            split = self._splits[name] = SplitLosses(table, self.worst, self.rank)
            if resumes:
                split.load_state_dict(self.passes[name])
                drawn = table.epochs[-1] - 1 if split.undrawn else stats.epoch
                if world.rank == 0:
                    self._remove_maps(name, after=drawn)
            elif world.rank == 0:
                self._path(name).unlink(missing_ok=True)

    def _table(self, split: str, stats: TrainStats) -> LossTable:
        path = self._path(split)
        if path.exists():
            return LossTable.load(path, stats.epoch)
        if stats.epoch and split == "train":
            warnings.warn(
                f"WorstSamplesHandler: the run resumes after epoch {stats.epoch}, and there is no "
                f"{str(path)!r}: the losses of earlier epochs are missing from the map.",
                stacklevel=2,
            )
        return LossTable()

    def _remove_maps(self, split: str, *, after: int) -> None:
        """Removes what the end of a stopped run drew, which may be half an epoch."""
        for path in self._folder.iterdir():
            found = _MAP.fullmatch(path.name)
            if found is not None and found[1] == split and int(found[2]) > after:
                path.unlink()

    def _path(self, split: str) -> Path:
        return self._folder / f"{split}.npz"

    def epoch_begin(self, stats: TrainStats) -> None:
        """Starts both passes of the epoch, or goes on with those of a resumed one."""
        self._epoch = stats.epoch + 1
        if stats.batches_done == 0:
            for split in self._splits.values():
                split.begin()

    def batch_end(self, stats: TrainStats) -> None:
        """Takes a training batch."""
        if stats.error is None:
            self._splits["train"].add(stats)

    def validation_begin(self, stats: TrainStats) -> None:
        """Starts a validation, which replaces an earlier one of the same epoch."""
        if stats.phase == "validation":
            self._splits["validation"].begin()

    def validation_batch_end(self, stats: TrainStats) -> None:
        """Takes a batch of validation."""
        if stats.phase == "validation" and stats.error is None:
            self._splits["validation"].add(stats)

    def validation_end(self, stats: TrainStats) -> None:
        """Forgets a validation that a signal ended before it had results."""
        if stats.phase == "validation" and stats.interrupted is not None and not stats.val:
            self._splits["validation"].begin()

    def epoch_end(self, stats: TrainStats) -> None:
        """Enters the epoch into the tables; draws when that is due."""
        if stats.error is not None:
            return
        if stats.epoch < self._epoch:
            # A run that goes on through a cut epoch enters it whole.
            self._cut = self.state_dict()
        for name, split in self._splits.items():
            is_new = split.fold(self._epoch, stats.step, stats.world)
            if is_new and stats.world.rank == 0:
                with reporting(stats, f"the losses of single samples of {name}"):
                    split.table.save(self._path(name))
        if self._clock is not None and self._clock.due(stats) and stats.world.rank == 0:
            self._draw(stats)

    def train_end(self, stats: TrainStats) -> None:
        """Draws what was not drawn yet, and lets go of the tables."""
        self.passes = self.state_dict()["passes"] if stats.error is None else _nothing()
        try:
            if stats.error is None and stats.world.rank == 0:
                self._draw(stats)
        finally:
            self._splits, self._clock, self._cut = {}, None, None

    def state_dict(self) -> dict[str, Any]:
        """The passes of the present epoch and what is kept of the worst samples, on the host."""
        if self._cut is not None:
            return self._cut
        now = {name: split.state_dict() for name, split in self._splits.items()}
        return {"passes": now or self.passes}

    def _draw(self, stats: TrainStats) -> None:
        telling = Telling(self.classes, self.decode)
        for name, split in self._splits.items():
            if not split.undrawn:
                continue
            ranking = split.table.ranking(self.rank)
            report = WorstReport(self._folder, name, self.rank, telling)
            with reporting(stats, f"the worst samples of {name}"):
                report.write(ranking, split.table.epochs, split.samples(ranking), stats)
            split.undrawn = False


def _nothing() -> dict[str, Any]:
    return {name: {} for name in _SPLITS}

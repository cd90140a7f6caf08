"""`WorstSamplesHandler`: which samples the net finds hardest, epoch by epoch."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, get_args

from torch import Tensor

from estimator.handlers._loss_table import LossTable, Rank, Ranking
from estimator.handlers._pass_recorder import Pass, PassRecorder, Prior
from estimator.handlers._sample_files import Sample, write_gallery, write_samples
from estimator.handlers._sample_rows import check_classes, check_count, one_line
from estimator.handlers._worst_map import write_map
from estimator.handlers.base import (
    ArgumentError,
    Band,
    Clock,
    EventHandler,
    Every,
    check_every,
    require,
    writable_folder,
)

if TYPE_CHECKING:
    from estimator.stats import TrainStats

_SPLITS = ("train", "validation")


class _Copy:
    """What was kept of one sample, and the epoch in which it was taken."""

    def __init__(self, epoch: int, rows: dict[str, Tensor]) -> None:
        self.epoch, self.rows = epoch, rows


class _Split:
    """The losses of one split, the pass that is under way, and copies of the worst samples."""

    def __init__(self, table: LossTable, worst: int, rank: Rank) -> None:
        self.table, self.worst, self.rank = table, worst, rank
        self.copies: dict[int | str, _Copy] = {}
        self.undrawn = False
        self.prior = Prior(table, rank)
        self.begin()

    def begin(self) -> None:
        """Starts a pass; one that was not folded is forgotten."""
        # Twice as many rows as are shown: a sample that is drawn again and again fills several.
        self.recorder = PassRecorder(2 * self.worst, self.prior)

    def fold(self, epoch: int, step: int, path: Path) -> None:
        """Enters the pass into the table, and writes that."""
        found = self.recorder.take()
        if found is not None:
            self.table.record(epoch, step, found.uids, found.losses)
            self.table.save(path)
            self._keep_copies(epoch, found)
            self.undrawn = True
            self.prior = Prior(self.table, self.rank)
        self.begin()

    def _keep_copies(self, epoch: int, found: Pass) -> None:
        worst = set(self.table.ranking(self.rank).uids[: 2 * self.worst].tolist())
        self.copies = {uid: copy for uid, copy in self.copies.items() if uid in worst}
        fresh = set()
        for row, uid in enumerate(found.uids[found.worst].tolist()):
            if uid in worst and uid not in fresh:
                fresh.add(uid)
                # A view would keep the rows of all others alive.
                rows = {name: values[row].clone() for name, values in found.rows.items()}
                self.copies[uid] = _Copy(epoch, rows)

    def samples(self, ranking: Ranking) -> list[Sample]:
        """The worst samples, for export."""
        columns = (ranking.uids.tolist(), ranking.score.tolist(), ranking.seen.tolist())
        rows = list(zip(*columns, strict=True))[: self.worst]
        return [self._sample(i, *row) for i, row in enumerate(rows, start=1)]

    def _sample(self, number: int, uid: int | str, score: float, seen: int) -> Sample:
        copy = self.copies.get(uid)
        name = one_line(uid)
        facts = {"rank": str(number), "uid": name, f"{self.rank}_loss": f"{score:.9g}"}
        facts["seen"] = str(seen)
        facts["epoch"] = "no copy was kept" if copy is None else str(copy.epoch)
        return Sample(number, name, score, facts, {} if copy is None else copy.rows)


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

    What is exported is the sample as it was (and was answered) when it last passed: exact for
    every sample that is among the worst after the epoch that saw it last. Only its losses are
    told of one that got there otherwise.

    Memory: on the device 12 bytes a sample during a pass and 16 for the ranking; the inputs,
    targets and outputs of `2 * worst` samples and of up to 16 batches, of the latter at most
    32 MiB (and one batch at least). On the host the table, 4 bytes a sample and epoch (thrice
    that at an epoch's end), and the rows of `2 * worst` samples. Values other than images that
    take more than 1 MiB a sample are not kept. Nothing is read from the device within an epoch.

    A resumed run (`stats.step` above 0 at its start) goes on with the table in the folder,
    without what was entered after the step that it resumes. A fresh run begins a new table.

    Args:
        folder: Where all files go.
        worst: How many samples of each split are exported.
        every: When to draw, in epochs; None draws at the end of the run only, which always draws
            what was not drawn yet.
        classes: Class names in the order of the class numbers, for targets and predictions.
        rank: Orders by the "mean" of a sample's losses or by their "sum". The sum makes samples
            that more epochs saw look worse.
        band: When it runs within an event; REPORT by default.

    Raises:
        ArgumentError: `worst` below 1, an unknown `rank`, or `every` not in epochs.

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

    band = Band.REPORT
    needs: ClassVar[frozenset[str]] = frozenset({"sample_losses", "uids"})

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        worst: int = 50,
        every: Every | None = None,
        classes: Sequence[str] | None = None,
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
        self.every = None if every is None else _in_epochs(every)
        self.classes = check_classes(classes, "WorstSamplesHandler")
        self._folder = Path()
        self._clock: Clock | None = None
        self._splits: dict[str, _Split] = {}
        self._epoch = 0

    def train_begin(self, stats: TrainStats) -> None:
        """Checks the folder and the libraries; takes up the tables of a resumed run."""
        self._splits = {}
        self._folder = writable_folder(self.folder, "WorstSamplesHandler(folder=...)")
        for module in ("matplotlib", "PIL"):
            require(module, "report", "WorstSamplesHandler")
        self._clock = None if self.every is None else self.every.clock(stats)
        self._epoch = stats.epoch + 1
        for name in _SPLITS:
            self._splits[name] = _Split(self._table(name, stats), self.worst, self.rank)

    def _table(self, split: str, stats: TrainStats) -> LossTable:
        path = self._path(split)
        if stats.step and path.exists():
            return LossTable.load(path, stats.step)
        if stats.step and split == "train":
            warnings.warn(
                f"WorstSamplesHandler: the run resumes at step {stats.step}, and there is no "
                f"{str(path)!r}: the losses of earlier epochs are missing from the map.",
                stacklevel=2,
            )
        path.unlink(missing_ok=True)
        return LossTable()

    def _path(self, split: str) -> Path:
        return self._folder / f"{split}.npz"

    def epoch_begin(self, stats: TrainStats) -> None:
        """Starts both passes of the epoch."""
        self._epoch = stats.epoch + 1
        for split in self._splits.values():
            split.begin()

    def batch_end(self, stats: TrainStats) -> None:
        """Takes a training batch."""
        if stats.error is None:
            self._splits["train"].recorder.add(stats)

    def validation_begin(self, stats: TrainStats) -> None:
        """Starts a validation, which replaces an earlier one of the same epoch."""
        if stats.phase == "validation":
            self._splits["validation"].begin()

    def validation_batch_end(self, stats: TrainStats) -> None:
        """Takes a batch of validation."""
        if stats.phase == "validation" and stats.error is None:
            self._splits["validation"].recorder.add(stats)

    def epoch_end(self, stats: TrainStats) -> None:
        """Enters the epoch into the tables; draws when that is due."""
        if stats.error is not None:
            return
        for name, split in self._splits.items():
            split.fold(self._epoch, stats.step, self._path(name))
        if self._clock is not None and self._clock.due(stats):
            self._draw()

    def train_end(self, stats: TrainStats) -> None:
        """Draws what was not drawn yet, and lets go of everything."""
        try:
            if stats.error is None:
                self._draw()
        finally:
            self._splits, self._clock = {}, None

    def _draw(self) -> None:
        for name, split in self._splits.items():
            if not split.undrawn:
                continue
            ranking = split.table.ranking(self.rank)
            epochs = split.table.epochs
            stem = self._folder / f"worst_samples_{name}_e{epochs[-1]}"
            write_map(stem, ranking, epochs, rank=self.rank, split=name)
            samples = split.samples(ranking)
            write_samples(self._folder / f"samples_{name}", samples, self.classes)
            title = f"{name}: worst samples after epoch {epochs[-1]}, ordered by {self.rank} loss"
            gallery = self._folder / f"gallery_{name}.png"
            write_gallery(gallery, samples, self.classes, title=title)
            split.undrawn = False


def _in_epochs(every: object) -> Every:
    schedule = check_every(every, "WorstSamplesHandler(every=...)")
    if schedule.unit != "epochs":
        raise ArgumentError(
            "WorstSamplesHandler(every=...) must count epochs, since the map has a row for each; "
            f"received {schedule!r}. Write every(epochs=5)."
        )
    return schedule

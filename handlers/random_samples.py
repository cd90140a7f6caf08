"""`RandomSamplesHandler`: what the net is given, and what it answers, of a few samples."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from estimator.handlers._chosen_samples import Chosen, ChosenSamples, check_seed, newest
from estimator.handlers._gallery import Cell, write_gallery
from estimator.handlers._sample_files import (
    Telling,
    caption,
    check_decode,
    features,
    remove_others,
    short_answers,
    write_sample,
)
from estimator.handlers._sample_rows import (
    batch_rows,
    check_classes,
    check_count,
    one_line,
)
from estimator.handlers.base import (
    Band,
    Clock,
    EventHandler,
    Every,
    Picture,
    SampleCard,
    Section,
    Table,
    check_in_epochs,
    own_folder,
    reporting,
    require,
    write_section,
)

if TYPE_CHECKING:
    from estimator.stats import TrainStats

_SPLITS = ("train", "validation")
_TEXT = (
    "Samples chosen by chance, the same ones whenever they are shown, with what the net answered "
    "when each of them last passed. In training it saw them as its handlers had changed them."
)


class RandomSamplesHandler(EventHandler):
    """Shows a few samples of each split as files, with targets and predictions.

    Which samples is decided by a hash of uid and seed: no list of all samples is needed, and the
    choice is the same in each epoch and in each run over the same data. Samples are told apart by
    their uid; arrays and Datasets given to `fit` get one, a loader gets one through `with_uids`.

    In the folder, for the k-th sample of a split, counted from 0, after epoch e:

    - `<split>_s<k>_e<e>.txt`: uid, target, prediction, and all that the net got and gave, a line
      each. Texts go through `decode`, numbers stand as they are up to 16 of them.
    - `<split>_s<k>_e<e>_<feature>.png` for each input with a picture: images of 1, 3 or 4
      channels, planes of volumes side by side, series as plots. What is not finite is magenta.
    - `gallery_<split>.png`: the samples in a grid.
    - `random_samples.section.json`: all of it for the page of the run.

    Without `every` only the files of the last write stay. A file that cannot be written, as on a
    full disk, is logged and does not end the training.

    Memory: on the device the rows of `2 * samples` samples and of up to 16 batches, of the latter
    at most 32 MiB (and one batch at least). Of images and series that take more than 1 MiB a
    sample every n-th pixel or moment is kept, of other values of that size only shape and range.
    Nothing is read from the device within an epoch. A checkpoint holds the rows too.

    Args:
        folder: Where the files go; None is `random_samples` in the run folder.
        samples: How many of each split.
        every: When to write, in epochs; None writes at the end of the run only, which always
            writes what was not written yet.
        classes: Class names in the order of the class numbers, for targets and predictions.
        decode: Makes the text of whole numbers in a row, (T,) on the host, such as those of words.
        seed: Another one chooses other samples.
        band: When it runs within an event; OBSERVE by default, so that a checkpoint of the same
            event knows the batch.

    Raises:
        ArgumentError: `samples` below 1, or `every` not in epochs; at the start of a run that
            there is no folder.
        ArgumentTypeError: `classes`, `decode` or `seed` is of another kind.
        MissingExtraError: matplotlib or Pillow is not installed.

    Example:
        >>> import tempfile, torch
        >>> from estimator import Estimator
        >>> folder = tempfile.TemporaryDirectory()
        >>> handler = RandomSamplesHandler(folder.name, samples=2)
        >>> stats = Estimator(torch.nn.Linear(3, 2), torch.nn.CrossEntropyLoss()).fit(
        ...     (torch.randn(8, 3), torch.arange(8) % 2), epochs=1, device="cpu",
        ...     handlers=[handler], progress=False,
        ... )
        >>> sorted(path.name for path in Path(folder.name).glob("*.txt"))
        ['train_s0_e1.txt', 'train_s1_e1.txt']
        >>> folder.cleanup()
    """

    band = Band.OBSERVE
    own_state = True
    state_names = ("passes",)
    needs: ClassVar[frozenset[str]] = frozenset({"uids"})

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        samples: int = 20,
        every: Every | None = None,
        classes: Sequence[str] | None = None,
        decode: Callable[[Tensor], str] | None = None,
        seed: int = 0,
        band: Band | None = None,
    ) -> None:
        super().__init__(band=band)
        self.folder = folder
        self.samples = check_count(samples, "RandomSamplesHandler(samples=...)")
        self.every = check_in_epochs(every, "RandomSamplesHandler(every=...)")
        self.classes = check_classes(classes, "RandomSamplesHandler")
        self.decode = check_decode(decode, "RandomSamplesHandler")
        self.seed = check_seed(seed, "RandomSamplesHandler")
        for module in ("matplotlib", "PIL"):
            require(module, "report", "RandomSamplesHandler")
        self._folder = Path()
        self.passes: dict[str, Any] = {}
        self._clock: Clock | None = None
        self._release()

    def _release(self) -> None:
        self._splits: dict[str, _Split] = {}
        self._cut: dict[str, Any] | None = None
        self._clock = None
        self._epoch = 0

    def train_begin(self, stats: TrainStats) -> None:
        """Checks the folder; takes up the passes of a resumed run."""
        self._release()
        self._folder = stats.world.first(
            lambda: own_folder(self.folder, stats, "random_samples", "RandomSamplesHandler")
        )
        self._clock = None if self.every is None else self.every.clock(stats)
        self._epoch = stats.epoch + 1
        for name in _SPLITS:
            split = self._splits[name] = _Split(ChosenSamples(self.samples, self.seed))
            if stats.samples and name in self.passes:
                split.load_state_dict(self.passes[name])

    def epoch_begin(self, stats: TrainStats) -> None:
        """Starts a pass over the training data, or goes on with that of a resumed run."""
        self._epoch = stats.epoch + 1
        if stats.batches_done == 0:
            self._splits["train"].chosen.begin()

    def batch_end(self, stats: TrainStats) -> None:
        """Takes a training batch."""
        if stats.error is None:
            self._splits["train"].add(stats)

    def validation_begin(self, stats: TrainStats) -> None:
        """Starts a validation."""
        if stats.phase == "validation":
            self._splits["validation"].chosen.begin()

    def validation_batch_end(self, stats: TrainStats) -> None:
        """Takes a batch of validation."""
        if stats.phase == "validation" and stats.error is None:
            self._splits["validation"].add(stats)

    def validation_end(self, stats: TrainStats) -> None:
        """Brings the validation's samples to the host, unless a signal ended it."""
        gave_up = stats.interrupted is not None and not stats.val
        if stats.phase == "validation" and stats.error is None and not gave_up:
            self._splits["validation"].fold(self._epoch, stats)

    def epoch_end(self, stats: TrainStats) -> None:
        """Brings the training samples to the host; writes when that is due."""
        if stats.error is not None:
            return
        if stats.epoch < self._epoch:
            # A run that goes on through a cut epoch takes it whole.
            self._cut = self.state_dict()
        self._splits["train"].fold(self._epoch, stats)
        if self._clock is not None and self._clock.due(stats):
            self._write(stats)

    def train_end(self, stats: TrainStats) -> None:
        """Writes what was not written yet, and lets go of the samples."""
        self.passes = self.state_dict()["passes"] if stats.error is None else {}
        try:
            self._write(stats)
        finally:
            self._release()

    def state_dict(self) -> dict[str, Any]:
        """The passes of the present epoch and the samples of the last, on the host."""
        if self._cut is not None:
            return self._cut
        now = {name: split.state_dict() for name, split in self._splits.items()}
        return {"passes": now or self.passes}

    def _write(self, stats: TrainStats) -> None:
        is_new = any(split.is_new for split in self._splits.values())
        if stats.world.rank or not is_new:
            return
        with reporting(stats, "the random samples"):
            cards: list[SampleCard] = []
            rows: list[list[str | int | None]] = []
            shown: list[Picture] = []
            for name, split in self._splits.items():
                if split.found:
                    self._write_split(name, split.found, stats.epoch, cards, rows, shown)
                split.is_new = False
            columns = ["split", "sample", "uid", "epoch", "target", "prediction"]
            tables = [Table("Samples", columns, rows)]
            section = Section("Random samples", 440, _TEXT, tables, shown, cards)
            write_section(self._folder, "random_samples", section, stats)

    def _write_split(
        self,
        split: str,
        found: list[Chosen],
        epoch: int,
        cards: list[SampleCard],
        rows: list[list[str | int | None]],
        shown: list[Picture],
    ) -> None:
        telling, files, cells = Telling(self.classes, self.decode), [], []
        for k, sample in enumerate(found):
            uid = one_line(sample.uid) if isinstance(sample.uid, str) else sample.uid
            facts = {"uid": uid, "split": split, "epoch": sample.epoch}
            stem = f"{split}_s{k}_e{epoch}"
            card, written = write_sample(self._folder, stem, facts, sample.rows, telling)
            cards.append(card._replace(title=f"{split} {k}: uid {uid}"))
            files += written
            said = short_answers(sample.rows, telling)
            answers = [said.get("target"), said.get("prediction")]
            rows.append([split, k, uid, sample.epoch, *answers])
            lines = [f"uid {uid}", *caption(said)]
            cells.append(Cell(next(iter(features(sample.rows).values()), None), lines))
        gallery = self._folder / f"gallery_{split}.png"
        if write_gallery(gallery, cells, f"{split}: samples chosen by chance, epoch {epoch}"):
            shown.append(Picture(gallery.name, f"Samples of {split}"))
        for other in self._stale(split, epoch):
            remove_others(self._folder, re.compile(rf"{split}_s\d+_e{other}(?:_.*)?\.\w+"), files)

    def _stale(self, split: str, epoch: int) -> set[int]:
        """Epochs whose files are not to stay: of other runs, and of the ends of stopped ones."""
        name = re.compile(rf"{split}_s\d+_e(\d+)(?:_.*)?\.\w+", re.DOTALL)
        matches = [name.fullmatch(path.name) for path in self._folder.iterdir()]
        epochs = {int(match[1]) for match in matches if match is not None}
        every = self.every
        if every is None:
            return epochs
        regular = every.kind == "every"
        return {e for e in epochs if e >= epoch or (regular and e % every.n)}


class _Split:
    """The chosen samples of one split."""

    def __init__(self, chosen: ChosenSamples) -> None:
        self.chosen = chosen
        self.found: list[Chosen] = []
        self.is_new = False
        """Whether some of them are in no file as yet."""

    def add(self, stats: TrainStats) -> None:
        size = stats.batch_size or 0
        if size:
            self.chosen.add(stats, lambda: batch_rows(stats, size), size)

    def fold(self, epoch: int, stats: TrainStats) -> None:
        found = self.chosen.take(epoch, stats.world)
        self.found = newest(self.found, found, self.chosen.samples)
        self.is_new = self.is_new or bool(found)

    def state_dict(self) -> dict[str, Any]:
        found = [(c.uid, c.order, c.epoch, c.rows) for c in self.found]
        return {"pass": self.chosen.state_dict(), "found": found, "is_new": self.is_new}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.chosen.load_state_dict(state["pass"])
        self.found = [Chosen(*each) for each in state["found"]]
        self.is_new = state["is_new"]

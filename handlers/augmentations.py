"""`AugmentationsHandler`: the same samples before and after several draws of augmentation."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from estimator.handlers._augmentation_files import LOADED, AugmentationFiles, Drawn
from estimator.handlers._chosen_samples import Chosen, ChosenSamples, Uid, check_seed
from estimator.handlers._sample_files import Telling, check_decode
from estimator.handlers._sample_rows import (
    batch_rows,
    check_classes,
    check_count,
    part_of,
    rows_of,
)
from estimator.handlers.base import Band, EventHandler, own_folder, reporting, require

if TYPE_CHECKING:
    from estimator.stats import TrainStats


class AugmentationsHandler(EventHandler):
    """Shows a few training samples as the loader gave them, and as the net got them.

    What lies between is what handlers of the PREPARE band did, such as `AugmentHandler` and
    `MixUpHandler`. A sample is drawn anew each time that it passes in the training, so several
    draws take several epochs, and random streams stay as they are. When each sample has its draws,
    nothing is collected any more. Which samples is decided by a hash of uid and seed. Arrays and
    Datasets given to `fit` get uids, a loader gets them through `with_uids`.

    Where the loader's dataset augments by itself, "before" is not known: the files then show what
    was loaded first, and the section says so. A transform that changes a batch in place leaves
    nothing to compare with either, and looks as if it had changed nothing.

    In the folder, written with the first draw, with the last one, and at the end of the run:

    - `train_s<uid>_before.txt` and `_before_<feature>.png`: the sample as it was loaded.
    - `train_s<uid>_a<j>.txt` and `_a<j>_<feature>.png`: the j-th draw, counted from 0, with the
      target that it was trained on and the answer of the net.
    - `train_s<uid>_sheet.png`: all of them side by side.
    - `augmentations.section.json`: all of it for the page of the run.

    A file that cannot be written, as on a full disk, is logged and does not end the training.

    Memory: on the device, until the draws are complete, the rows of `2 * samples` samples and of
    up to 16 batches, of the latter at most 32 MiB (and one batch at least); on the host the rows
    of `samples * draws` samples. Of large values only a part is kept, as `RandomSamplesHandler`
    says. Nothing is read from the device within an epoch. A checkpoint holds the rows too.

    Args:
        folder: Where the files go; None is `augmentations` in the run folder.
        samples: How many samples are followed.
        draws: How often each is shown.
        classes: Class names in the order of the class numbers, for targets and predictions.
        decode: Makes the text of whole numbers in a row, (T,) on the host, such as those of words.
        seed: Another one chooses other samples.
        band: When it runs within an event; OBSERVE by default, after the handlers that augment.

    Raises:
        ArgumentError: `samples` or `draws` below 1; at the start of a run that there is no folder.
        ArgumentTypeError: `classes`, `decode` or `seed` is of another kind.
        MissingExtraError: matplotlib or Pillow is not installed.

    Example:
        >>> import tempfile, torch
        >>> from estimator import Estimator
        >>> from estimator.handlers import AugmentHandler
        >>> folder = tempfile.TemporaryDirectory()
        >>> augment = AugmentHandler(lambda batch: (batch[0] + torch.rand(()), batch[1]))
        >>> stats = Estimator(torch.nn.Linear(1, 2), torch.nn.CrossEntropyLoss()).fit(
        ...     (torch.zeros(8, 1), torch.arange(8) % 2), epochs=2, device="cpu", progress=False,
        ...     handlers=[augment, AugmentationsHandler(folder.name, samples=1, draws=2)],
        ... )
        >>> [path.name[-8:] for path in sorted(Path(folder.name).glob("*.txt"))]
        ['4_a0.txt', '4_a1.txt', 'fore.txt']
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
        samples: int = 10,
        draws: int = 5,
        classes: Sequence[str] | None = None,
        decode: Callable[[Tensor], str] | None = None,
        seed: int = 0,
        band: Band | None = None,
    ) -> None:
        super().__init__(band=band)
        self.folder = folder
        self.samples = check_count(samples, "AugmentationsHandler(samples=...)")
        self.draws = check_count(draws, "AugmentationsHandler(draws=...)")
        self.classes = check_classes(classes, "AugmentationsHandler")
        self.decode = check_decode(decode, "AugmentationsHandler")
        self.seed = check_seed(seed, "AugmentationsHandler")
        for module in ("matplotlib", "PIL"):
            require(module, "report", "AugmentationsHandler")
        self._folder = Path()
        self.passes: dict[str, Any] = {}
        self._release()

    def _release(self) -> None:
        self._chosen: ChosenSamples | None = None
        self._found: dict[Uid, Drawn] = {}
        self._cut: dict[str, Any] | None = None
        self._targets: Any = None
        self._is_new = False
        self._epoch = 0

    def train_begin(self, stats: TrainStats) -> None:
        """Checks the folder; takes up what a resumed run has seen."""
        self._release()
        self._folder = stats.world.first(
            lambda: own_folder(self.folder, stats, "augmentations", "AugmentationsHandler")
        )
        self._epoch = stats.epoch + 1
        self._chosen = ChosenSamples(self.samples, self.seed)
        if stats.samples and self.passes:
            self._chosen.load_state_dict(self.passes["pass"])
            self._is_new = self.passes["is_new"]
            for each in self.passes["found"]:
                self._keep(Chosen(*each))

    def epoch_begin(self, stats: TrainStats) -> None:
        """Starts a pass over the training data, or goes on with that of a resumed run."""
        self._epoch = stats.epoch + 1
        if stats.batches_done == 0 and self._chosen is not None:
            self._chosen.begin()

    def batch_begin(self, stats: TrainStats) -> None:
        """Remembers the targets that the net is trained on; metrics may get others."""
        self._targets = stats.targets

    def batch_end(self, stats: TrainStats) -> None:
        """Takes a training batch, until there are enough draws."""
        targets, self._targets = self._targets, None
        size = stats.batch_size
        if stats.error is not None or not size or self._chosen is None or self._is_complete():
            return
        # A captured step fills the batch fields after `batch_begin`, if nobody changes them.
        own = stats.targets if targets is None else targets
        self._chosen.add(stats, lambda: _rows(stats, own, size), size)

    def epoch_end(self, stats: TrainStats) -> None:
        """Brings the draws of the epoch to the host, and writes them."""
        if stats.error is not None or self._chosen is None:
            return
        if stats.epoch < self._epoch:
            # A run that goes on through a cut epoch takes it whole.
            self._cut = self.state_dict()
        is_first = not self._found
        if not self._is_complete():
            self._fold(self._chosen.take(self._epoch, stats.world))
            # Pictures take as long as many batches: they come with the first draw and the last.
            if is_first or self._is_complete():
                self._write(stats)

    def _fold(self, found: list[Chosen]) -> None:
        is_first = not self._found
        for sample in found:
            if sample.uid in self._found or (is_first and len(self._found) < self.samples):
                self._keep(sample)

    def _keep(self, sample: Chosen) -> None:
        known = self._found.get(sample.uid)
        if known is None:
            self._found[sample.uid] = Drawn(sample)
            self._is_new = True
        elif len(known.passes) < self.draws:
            known.passes.append(sample)
            self._is_new = True

    def _is_complete(self) -> bool:
        found = self._found.values()
        return bool(found) and all(len(each.passes) >= self.draws for each in found)

    def train_end(self, stats: TrainStats) -> None:
        """Writes what was not written yet, and lets go of the samples."""
        self.passes = self.state_dict()["passes"] if stats.error is None else {}
        try:
            self._write(stats)
        finally:
            self._release()

    def state_dict(self) -> dict[str, Any]:
        """The draws so far and the pass of the present epoch, on the host."""
        if self._cut is not None:
            return self._cut
        if self._chosen is None:
            return {"passes": self.passes}
        every = [each for sample in self._found.values() for each in sample.passes]
        found = [(c.uid, c.order, c.epoch, c.rows) for c in every]
        state = {"pass": self._chosen.state_dict(), "found": found, "is_new": self._is_new}
        return {"passes": state}

    def _write(self, stats: TrainStats) -> None:
        is_new, self._is_new = self._is_new, False
        if is_new and not stats.world.rank:
            with reporting(stats, "the augmentations"):
                telling = Telling(self.classes, self.decode)
                files = AugmentationFiles(self._folder, self.draws, telling)
                files.write(list(self._found.values()), stats)


def _rows(stats: TrainStats, targets: Any, size: int) -> dict[str, Tensor]:
    """What is kept of a batch: as the net got it, with its answers, and as it was loaded."""
    rows = rows_of({"target": targets}, size)
    rows |= {n: r for n, r in batch_rows(stats, size).items() if part_of(n) != "target"}
    return rows | rows_of(_as_loaded(stats.batch), size)


def _as_loaded(batch: Any) -> dict[str, Any]:
    """A batch as the loader gave it, in the parts that it is told in."""
    inputs: Any = batch
    targets: Any = None
    if isinstance(batch, (tuple, list)) and not isinstance(batch, Mapping) and len(batch) > 1:
        inputs, targets = batch[:-1], batch[-1]
        inputs = inputs[0] if len(inputs) == 1 else inputs
    return {f"{LOADED}input": inputs, f"{LOADED}target": targets}

"""`ExplanationHandler`: what the net's answers to its worst and to other samples rest on."""

from __future__ import annotations

import inspect
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from estimator.explain.explanations import METHODS, Asking, Settings
from estimator.explain.files import write_explanations
from estimator.explain.kept import Collector, Kept
from estimator.explain.library import captum
from estimator.handlers._sample_rows import check_classes
from estimator.handlers.base import (
    ArgumentError,
    ArgumentTypeError,
    Band,
    Clock,
    EventHandler,
    Every,
    check_in_epochs,
    nearest,
    own_folder,
    reporting,
    require,
)
from estimator.sharded import is_sharded

if TYPE_CHECKING:
    from estimator.stats import TrainStats

_FIXED = {"net", "inputs", "output", "feature"}
_LOG = logging.getLogger("estimator")


class ExplanationHandler(EventHandler):
    """Explains the answers to the samples of the highest loss, and to some drawn at random.

    The samples are copied while a validation passes; of several validations the last one counts.
    They are explained at the end of the run by the net as it is then, with the modes, random
    streams and statistics left as they are. Images (N, C, H, W) and volumes (N, C, D, H, W) among
    the inputs are explained where there are any, else all inputs of numbers; of an input each
    method is given the predicted class, unless its settings say otherwise. What a method refuses,
    such as Grad-CAM a net without convolutions, is said in the section and once in the log, and
    the other methods go on.

    In the folder: `explanations.section.json`, and in `epoch_<epoch>/` of each sample

    - `<group>_<number>_uid_<uid>.png`: an image, and what each method says laid over it, with a
      scale of colours; target and prediction with its probability stand above;
    - `..._<method>.npy`: the attributions in the shape of the input, of Grad-CAM (1, H, W);
    - `...txt`: what is known of the sample, and without an image its numbers by attribution.

    Memory on the device: `2 * worst + samples` samples, and up to 16 batches of at most 32 MiB (or
    one batch). Samples above 16 MiB are not kept. Of several processes the first explains what all
    have found; a net that is split over them is not explained.

    Args:
        folder: Where the files go; None is `explanations` in the run folder.
        methods: Names of functions of `estimator.explain`, or a dict of these names with arguments
            of each: `{"grad_cam": {"layer": "conv2"}, "occlusion": {"window": 8}}`. Unless they
            say so the baseline is "mean", the mean over the samples that are explained, and the
            window of an occlusion a seventh of the side.
        samples: How many samples are drawn at random, the same ones in each validation.
        worst: How many samples of the highest loss are explained.
        classes: Class names in the order of the class numbers.
        output: The name or place of the output that is explained; None is the first that has a
            target.
        every: When to explain too, in epochs; None is at the end of the run only.
        band: When it runs within an event.

    Raises:
        ArgumentError: An unknown method or argument, a number below 0, or `every` not in epochs.
        ArgumentTypeError: Methods, classes or output of the wrong kind.
        MissingExtraError: Captum, matplotlib or Pillow is not installed.

    Example:
        >>> import tempfile, torch
        >>> from estimator import Estimator
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
        >>> data = torch.randn(8, 1, 4, 4), torch.arange(8) % 2
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     handler = ExplanationHandler(folder, methods=["occlusion"], samples=0, worst=1)
        ...     est = Estimator(net, nn.CrossEntropyLoss())
        ...     stats = est.fit(data, data, device="cpu", progress=False, handlers=[handler])
        ...     len(list(Path(folder, "epoch_0001").glob("worst_001_uid_*_occlusion.npy")))
        1
    """

    band = Band.REPORT
    needs: ClassVar[frozenset[str]] = frozenset({"sample_losses", "uids"})

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        methods: Sequence[str] | Settings = ("grad_cam", "integrated_gradients", "occlusion"),
        samples: int = 8,
        worst: int = 8,
        classes: Sequence[str] | None = None,
        output: str | int | None = None,
        every: Every | None = None,
        band: Band | None = None,
    ) -> None:
        super().__init__(band=band)
        captum("ExplanationHandler")
        for module in ("matplotlib", "PIL"):
            require(module, "explain", "ExplanationHandler")
        self.folder, self.methods, self.output = folder, methods, output
        self._settings = _checked(methods)
        self.samples = _count(samples, "samples")
        self.worst = _count(worst, "worst")
        self.classes = check_classes(classes, "ExplanationHandler")
        self.every = check_in_epochs(every, "ExplanationHandler(every=...)")
        self._folder = Path()
        self._clock: Clock | None = None
        self._release()

    def _release(self) -> None:
        self._follows = False
        self._collector: Collector | None = None
        self._kept: Kept | None = None
        self._logged: set[str] = set()

    def train_begin(self, stats: TrainStats) -> None:
        """Checks the folder, and that there is a validation."""
        self._release()
        self._folder = stats.world.first(
            lambda: own_folder(self.folder, stats, "explanations", "ExplanationHandler")
        )
        self._follows = True
        self._clock = None if self.every is None else self.every.clock(stats)
        if stats.val_data is None:
            warnings.warn(
                "ExplanationHandler explains samples of the validation set, and this run has "
                "none: nothing will be written. Pass val= to fit.",
                stacklevel=2,
            )

    def validation_begin(self, stats: TrainStats) -> None:
        """Starts to collect."""
        if self._follows and stats.phase == "validation":
            self._collector = Collector(self.worst, self.samples, stats.world.rank)

    def validation_batch_end(self, stats: TrainStats) -> None:
        """Takes a batch of validation."""
        if self._collector is not None and stats.phase == "validation" and stats.error is None:
            self._collector.add(stats)

    def validation_end(self, stats: TrainStats) -> None:
        """Keeps what was collected, unless the validation was given up."""
        if self._collector is None or stats.phase != "validation":
            return
        collector, self._collector = self._collector, None
        gave_up = stats.interrupted is not None and not stats.val
        if stats.error is None and not gave_up:
            self._kept = collector.take(stats)

    def epoch_end(self, stats: TrainStats) -> None:
        """Explains when that is due."""
        if stats.error is None and self._clock is not None and self._clock.due(stats):
            self._explain(stats)

    def train_end(self, stats: TrainStats) -> None:
        """Explains what the last validation gave, and lets go of everything."""
        try:
            if stats.error is None or isinstance(stats.error, Exception):
                self._explain(stats)
        finally:
            self._release()
            self._clock = None

    def _explain(self, stats: TrainStats) -> None:
        kept, self._kept = self._kept, None
        if kept is None or stats.world.rank != 0:
            return
        asking = Asking(
            stats.net, stats.device, settings=self._settings, output=self.output,
            classes=self.classes,
        )  # fmt: skip
        if is_sharded(stats.net):
            asking.refused["all methods"] = "the net is split over several processes"
            kept = kept._replace(samples=[])
        found = asking.about(kept)
        for name, reason in found.refused.items():
            if name not in self._logged:
                self._logged.add(name)
                _LOG.warning("ExplanationHandler: %s cannot explain this net: %s", name, reason)
        with reporting(stats, "the explanations"):
            write_explanations(
                self._folder, found, stats, methods=list(self._settings), left_out=kept.left_out
            )


def _checked(given: Any) -> Settings:
    if isinstance(given, str) or not isinstance(given, (Mapping, list, tuple)):
        raise ArgumentTypeError(
            "ExplanationHandler(methods=...) must be a list of names, or a dict of names with "
            f"arguments; received {given!r}. Write methods=['grad_cam']."
        )
    settings = dict(given) if isinstance(given, Mapping) else {name: {} for name in given}
    if not settings:
        raise ArgumentError(
            "ExplanationHandler(methods=...) must name at least one method; received "
            f"{given!r}. There are: {', '.join(sorted(METHODS))}."
        )
    for name, arguments in settings.items():
        if name not in METHODS:
            raise ArgumentError(
                "ExplanationHandler(methods=...) must name functions of estimator.explain; "
                f"received {name!r}. {nearest(str(name), METHODS)}"
            )
        known = set(inspect.signature(METHODS[name]).parameters) - _FIXED
        unknown = sorted(set(arguments) - known)
        if unknown:
            raise ArgumentError(
                f"ExplanationHandler(methods={{{name!r}: ...}}) must hold arguments of {name}; "
                f"received {unknown[0]!r}. {nearest(str(unknown[0]), known)}"
            )
    return settings


def _count(count: int, argument: str) -> int:
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise ArgumentError(
            f"ExplanationHandler({argument}=...) must be a whole number from 0 up; received "
            f"{count!r}. Pass how many samples to explain."
        )
    return count

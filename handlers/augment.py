"""`AugmentHandler`: changes training batches on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from estimator.handlers._batch_view import BatchView, check_samples
from estimator.handlers.base import ArgumentTypeError, Band, EventHandler

if TYPE_CHECKING:
    from estimator.stats import TrainStats


class AugmentHandler(EventHandler):
    """Applies a transform to each training batch, where the net is.

    Batches of validation, `evaluate` and `predict` stay as they are: what those need too, such as
    the scaling of pixels, belongs into the net. Bytes stay bytes on their way to the device, and
    the changes of a whole batch are computed there at once.

    The transform gets the batch as it was loaded: a dict with the keys of the batch (without
    those that neither net nor loss get), else a tuple of inputs and targets. `stats.batch` and
    the identities stay as they are. Chance is drawn from the global stream of the device, which
    `fit(seed=...)` seeds and a resumed run goes on with; each of several processes has its own.

    Args:
        transform: One of `estimator.transforms`, or any function from a batch to a batch of the
            same structure and number of samples.
        band: When it runs within an event; PREPARE by default, so before everything that looks.

    Raises:
        ArgumentTypeError: `transform` cannot be called.
        DataError: While training, naming the transform: it changed the number of samples or the
            structure of a batch.

    Example:
        >>> from estimator import Estimator
        >>> from estimator.transforms import Compose, RandomCrop, RandomFlip
        >>> images, labels = torch.zeros(8, 1, 6, 6), torch.arange(8) % 2
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 2))
        >>> augment = AugmentHandler(Compose([RandomCrop(6, padding=2), RandomFlip()]))
        >>> stats = Estimator(net, torch.nn.CrossEntropyLoss()).fit(
        ...     (images, labels), epochs=1, device="cpu", handlers=[augment], progress=False
        ... )
    """

    band = Band.PREPARE

    def __init__(self, transform: Callable[[Any], Any], *, band: Band | None = None) -> None:
        super().__init__(band=band)
        if not callable(transform) or isinstance(transform, type):
            raise ArgumentTypeError(
                "AugmentHandler(transform=...) must be a transform or a function from a batch to "
                f"a batch; received {transform!r}."
            )
        self.transform = transform
        self._view: BatchView | None = None

    def train_begin(self, stats: TrainStats) -> None:
        """Forgets how the batches of another run were made."""
        self._view = None

    @torch.no_grad()
    def batch_begin(self, stats: TrainStats) -> None:
        """Replaces inputs and targets by changed ones."""
        inputs, targets = stats.inputs, stats.targets
        if self._view is None or not self._view.fits(stats.batch):
            self._view = BatchView(stats.batch, inputs, targets)
        before = self._view.show(inputs, targets)
        after = self.transform(before)
        check_samples(before, after, self.transform)
        stats.inputs, stats.targets = self._view.parts(after, inputs, targets, self.transform)

    def train_end(self, stats: TrainStats) -> None:
        """Lets the run go."""
        self._view = None

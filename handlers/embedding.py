"""`EmbeddingHandler`: what the net makes of the validation set, for TensorBoard's projector."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from estimator.handlers._points import Points
from estimator.handlers._projector import (
    remove_projection,
    square_thumbnails,
    write_projection,
)
from estimator.handlers._sample_kinds import SHOWN_VALUES
from estimator.handlers._sample_rows import (
    answers,
    batch_rows,
    check_classes,
    check_count,
    is_image,
    leaves,
)
from estimator.handlers.base import (
    ArgumentError,
    ArgumentTypeError,
    Band,
    Clock,
    DataError,
    EventHandler,
    Every,
    Section,
    check_every,
    nearest,
    own_folder,
    reporting,
    write_section,
)

if TYPE_CHECKING:
    from estimator.stats import TrainStats


class EmbeddingHandler(EventHandler):
    """Shows the samples as points that TensorBoard's projector arranges by what the net sees.

    The vectors are a layer's output, or the net's own, for the first samples of the validation
    set. They are collected while the validation passes, kept on the device and brought to the
    host when they are written. Beside them stand uid (where the data has any), target,
    prediction and their class names, and thumbnails where an input is an image.

    In the folder: `projector_config.pbtxt`, which also lists what earlier writes left there, and
    for each write `<step>/<layer>/` with `tensors.tsv`, `metadata.tsv` and `sprite.png`. An empty
    event file makes TensorBoard see the folder. Show it with `tensorboard --logdir <folder>`.

    Memory on the device: `samples` vectors, and as many thumbnails of up to 64 x 64 pixels. The
    layer is watched by a hook only in the validation and only until there are enough samples; a
    layer that runs several times in one forward gives its last output. Vectors of more than one
    dimension are flattened.

    Args:
        folder: Where the files go; None is `embedding/` in the run folder.
        layer: Name of a submodule, as in `net.named_modules()`; or a function of the outputs
            that returns a tensor (N, ...); None takes the first tensor of the outputs.
        samples: How many samples at most.
        every: When to write, asked after each validation; None writes at the end of the run
            only. What the last validation gave is written at the end in any case, also of a run
            that is to go on.
        classes: Class names in the order of the class numbers.
        thumbnails: Whether to add pictures of the samples.
        band: When it runs within an event; OBSERVE by default, so that a checkpoint of the same
            event knows the schedule.

    Raises:
        ArgumentError: `samples` below 1, or at the start of a run no submodule has this name.
        ArgumentTypeError: `layer` is of another kind.
        DataError: The layer did not run, or its output has no row for each sample.

    Example:
        >>> import tempfile
        >>> from estimator.stats import TrainStats
        >>> stats = TrainStats(torch.nn.Sequential(torch.nn.Identity()), torch.device("cpu"))
        >>> folder = tempfile.TemporaryDirectory()
        >>> handler = EmbeddingHandler(folder.name, layer="0")
        >>> stats.val_data, stats.phase = [], "validation"
        >>> handler.train_begin(stats)
        >>> handler.validation_begin(stats)
        >>> stats.inputs, stats.batch_size = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), 2
        >>> stats.outputs = stats.net(stats.inputs)
        >>> handler.validation_batch_end(stats)
        >>> handler.validation_end(stats)
        >>> handler.train_end(stats)
        >>> Path(folder.name, "00000", "0", "tensors.tsv").read_text().split()
        ['1.0', '2.0', '3.0', '4.0']
        >>> folder.cleanup()
    """

    band = Band.OBSERVE
    first_process_only = True
    state_names = ("place", "waiting")

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        layer: str | Callable[[Any], Tensor] | None = None,
        samples: int = 2000,
        every: Every | None = None,
        classes: Sequence[str] | None = None,
        thumbnails: bool = True,
        band: Band | None = None,
    ) -> None:
        super().__init__(band=band)
        if layer is not None and not isinstance(layer, str) and not callable(layer):
            raise ArgumentTypeError(
                "EmbeddingHandler(layer=...) must be the name of a submodule, a function of the "
                f"outputs, or None for the outputs; received {layer!r}. Write layer='fc1'."
            )
        self.folder, self.layer = folder, layer
        self.samples = check_count(samples, "EmbeddingHandler(samples=...)")
        self.every = None if every is None else check_every(every, "EmbeddingHandler(every=...)")
        self.classes = check_classes(classes, "EmbeddingHandler")
        self.thumbnails = thumbnails
        self.place: list[float] | None = None
        self.waiting: int | None = None
        self._folder = Path()
        self._clock: Clock | None = None
        self._release()

    def _release(self) -> None:
        self._left_behind: int | None = None
        self._hook: torch.utils.hooks.RemovableHandle | None = None
        self._seen: Tensor | None = None
        self._points: Points | None = None
        self._unwritten: Points | None = None

    def train_begin(self, stats: TrainStats) -> None:
        """Checks the folder, the layer and that there is a validation."""
        self._release()
        self._folder = own_folder(self.folder, stats, "embedding", "EmbeddingHandler")
        if stats.samples == 0:
            self.place = self.waiting = None
        self._left_behind = self.waiting
        self._clock = None if self.every is None else self.every.clock(stats, self.place)
        if isinstance(self.layer, str):
            names = [name for name, _ in stats.net.named_modules() if name]
            if self.layer not in names:
                raise ArgumentError(
                    "EmbeddingHandler(layer=...) must name a submodule of the net; received "
                    f"{self.layer!r}. {nearest(self.layer, names)}"
                )
        if stats.val_data is None:
            warnings.warn(
                "EmbeddingHandler shows the validation set, and this run has none: nothing will "
                "be written. Pass val= to fit.",
                stacklevel=2,
            )

    def validation_begin(self, stats: TrainStats) -> None:
        """Starts to collect, and to watch the layer."""
        if stats.phase != "validation":
            return
        self._points, self._seen = Points(stats.step), None
        if isinstance(self.layer, str):
            self._hook = stats.net.get_submodule(self.layer).register_forward_hook(self._see)

    def _see(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        first = next((value for _, value in leaves("", output)), None)
        # A copy: the next layer may work in place.
        self._seen = None if first is None else first.detach().clone()

    def validation_batch_end(self, stats: TrainStats) -> None:
        """Takes a batch of validation, as long as there are too few samples."""
        points = self._points
        if points is None or stats.phase != "validation" or stats.error is not None:
            return
        size = stats.batch_size
        if not size or points.count == self.samples:
            return
        room = min(size, self.samples - points.count)
        vectors = self._vectors(stats, size)[:room]
        if points.vectors and vectors.shape[1] != points.vectors[0].shape[1]:
            raise DataError(
                f"EmbeddingHandler(layer={self.layer!r}) must give vectors of one length; "
                f"received {points.vectors[0].shape[1]} and then {vectors.shape[1]} values a "
                "sample. Pass a function of the outputs that pools what varies."
            )
        points.vectors.append(vectors)
        self._describe(points, batch_rows(stats, size), room)
        if stats.uids is not None:
            points.uids.append(_taken(stats.uids, room))
        points.count += room
        if points.count == self.samples:
            self._stop_watching()

    def _vectors(self, stats: TrainStats, size: int) -> Tensor:
        if isinstance(self.layer, str):
            found, self._seen = self._seen, None
        elif self.layer is None:
            found = next((value for _, value in leaves("", stats.outputs)), None)
        else:
            found = self.layer(stats.outputs)
        if not isinstance(found, Tensor) or not found.ndim or len(found) != size:
            received = tuple(found.shape) if isinstance(found, Tensor) else found
            raise DataError(
                f"EmbeddingHandler(layer={self.layer!r}) must give a tensor with one row for "
                f"each of the {size} samples of a batch; received {received}. Name a layer that "
                "runs in every forward, or pass a function of the outputs."
            )
        return found.detach().reshape(size, -1).clone()

    def _describe(self, points: Points, rows: dict[str, Tensor], room: int) -> None:
        rows = {name: value[:room] for name, value in rows.items()}
        found = answers(rows, self.classes)
        short = {n: v.clone() for n, v in found.items() if v[:1].numel() <= SHOWN_VALUES}
        points.columns.append(short)
        inputs = [v for name, v in rows.items() if name.partition(".")[0] == "input"]
        image = next(filter(is_image, inputs), None)
        if self.thumbnails and image is not None:
            points.thumbnails.append(square_thumbnails(image).clone())

    def _end_pass(self) -> None:
        """Ends the collection; the samples wait to be written."""
        self._stop_watching()
        if self._points is not None and self._points.count:
            self._unwritten = self._points
            if self._left_behind is not None:
                # The end of the run that this one goes on with wrote what no schedule asked for.
                remove_projection(self._folder, step=self._left_behind, name=self._name)
                self._left_behind = None
        self._points = None

    def _stop_watching(self) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._hook = self._seen = None

    def validation_end(self, stats: TrainStats) -> None:
        """Writes when that is due."""
        if stats.phase != "validation":
            return
        gave_up = stats.interrupted is not None and not stats.val
        if gave_up:
            # It comes anew in the run that goes on.
            self._points = None
        self._end_pass()
        if gave_up or stats.error is not None:
            return
        if self._clock is not None:
            due, self.place = self._clock.due(stats), self._clock.place()
            if due:
                self._write(stats)
        self.waiting = None if self._unwritten is None else self._unwritten.step

    def train_end(self, stats: TrainStats) -> None:
        """Writes what the last validation gave, and lets go of everything."""
        try:
            self._end_pass()
            if stats.error is None:
                self._write(stats)
        finally:
            self._release()
            self._clock = None

    @property
    def _name(self) -> str:
        return self.layer if isinstance(self.layer, str) else "outputs"

    def _write(self, stats: TrainStats) -> None:
        points, self._unwritten = self._unwritten, None
        if points is None:
            return
        vectors = torch.cat(points.vectors).float().cpu()
        with reporting(stats, "the embedding"):
            write_projection(
                self._folder,
                vectors,
                step=points.step,
                name=self._name,
                columns=points.texts(self.classes),
                images=points.images(),
            )
            section = Section(
                "Embedding", 640,
                f"{len(vectors)} samples of validation as vectors of {vectors.shape[1]} numbers "
                f"({self._name}), for TensorBoard's projector: tensorboard --logdir, with the "
                "folder embedding of this run.",
            )  # fmt: skip
            write_section(self._folder, "embedding", section, stats)


def _taken(uids: Any, count: int) -> Any:
    return uids[:count].clone() if isinstance(uids, Tensor) else list(uids[:count])

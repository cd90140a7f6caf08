"""`TensorBoardHandler`: training and validation as two runs of one chart."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estimator.handlers.base import (
    ArgumentError,
    Band,
    Clock,
    EventHandler,
    Every,
    check_every,
    own_folder,
)

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from estimator.stats import TrainStats


class TensorBoardHandler(EventHandler):
    """Writes each row of the history for TensorBoard, over the optimizer step as x axis.

    `<folder>/train` and `<folder>/val` use the same names (`loss`, `accuracy`), so that TensorBoard
    draws both as two runs of one chart; `lr` is with train. With `every`, train also gets
    `step/loss` (of one batch) and `step/lr` at these steps only: nothing else is read from the
    device. Start it with `tensorboard --logdir <folder>`.

    Values are 32-bit floats, as TensorBoard's scalars are; the history has full precision. A fit
    that starts anew hides what an earlier one wrote to the folder; one that goes on replaces what
    was written from its step on.

    Args:
        folder: Where the two folders of event files go; None is `tensorboard/` in the run folder.
        every: When to write `step/loss` and `step/lr`, in steps or seconds; None never does.
        band: When this handler runs within an event. OBSERVE, so that a checkpoint of the same
            event knows the point.

    Raises:
        ArgumentTypeError: `every` is not an `Every`.
        ArgumentError: `every` counts epochs, at which the history's values are written anyway.

    Example:
        >>> import tempfile, torch
        >>> from estimator import Estimator
        >>> est = Estimator(torch.nn.Linear(2, 1), loss=torch.nn.MSELoss())
        >>> data = torch.randn(8, 2), torch.randn(8, 1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     stats = est.fit(data, data, epochs=2, trainers="sgd", device="cpu", progress=False,
        ...                     handlers=TensorBoardHandler(folder))
        ...     runs = sorted(path.name for path in Path(folder).iterdir())
        >>> runs
        ['train', 'val']
    """

    band = Band.OBSERVE
    first_process_only = True
    state_names = ("points", "place")

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        every: Every | None = None,
        band: Band | None = None,
    ) -> None:
        super().__init__(band=band)
        self.folder = folder
        self.every = None if every is None else check_every(every, "TensorBoardHandler(every=...)")
        if self.every is not None and self.every.unit == "epochs":
            raise ArgumentError(
                "TensorBoardHandler(every=...) counts steps or seconds, since the values of each "
                f"epoch are written anyway; received {every!r}. Write every(100), or leave it out."
            )
        self.points: list[tuple[int, dict[str, float]]] = []
        self.place: list[float] | None = None
        self._clock: Clock | None = None
        self._path: Path | None = None
        self._start = self._rows = 0
        self._writers: dict[str, SummaryWriter] = {}

    def train_begin(self, stats: TrainStats) -> None:
        """Opens the event files; a resumed run takes back what its checkpoint does not know."""
        self._path = own_folder(self.folder, stats, "tensorboard", "TensorBoardHandler")
        self._start = stats.step
        if stats.samples == 0:
            self.points, self.place = [], None
        self._clock = None if self.every is None else self.every.clock(stats, self.place)
        # What carries the run's present step may be lost, or belong to an epoch that a stop cut:
        # it is purged, and the history and the last points tell which of it counts.
        self._rows = sum((row["step"] or 0) < stats.step for row in stats.history.rows)
        self._writer("train")
        if stats.val_data is not None:
            self._writer("val")
        for step, values in self.points:
            if step >= stats.step:
                self._write_point(step, values)
        self._write_rows(stats)

    def _writer(self, run: str) -> SummaryWriter:
        if run not in self._writers:
            from torch.utils.tensorboard import SummaryWriter

            assert self._path is not None
            self._writers[run] = SummaryWriter(str(self._path / run), purge_step=self._start)
        return self._writers[run]

    def _write_rows(self, stats: TrainStats) -> None:
        for row in stats.history.rows[self._rows :]:
            for column, value in row.items():
                run, tag = _place(column)
                if run is not None and value is not None:
                    self._writer(run).add_scalar(tag, value, row["step"])
        self._rows = len(stats.history)
        self._flush()

    def batch_end(self, stats: TrainStats) -> None:
        """Writes this step if it is due, and the row of a validation inside the epoch."""
        if stats.error is not None:
            return
        # Such a row is made after validation_end, so the next batch is the first to see it.
        if len(stats.history) > self._rows:
            self._write_rows(stats)
        if self._clock is not None and self._clock.due(stats):
            assert stats.loss is not None
            values = {"loss": stats.loss.item(), **_rates(stats)}
            # Inside a group of accumulated batches a step may have several points.
            before = [point for point in self.points if point[0] == stats.step]
            self.points = [*before, (stats.step, values)]
            self._write_point(stats.step, values)

    def _write_point(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer("train").add_scalar(f"step/{name}", value, step)

    def epoch_end(self, stats: TrainStats) -> None:
        """Writes the epoch's rows."""
        self._write_rows(stats)

    def train_end(self, stats: TrainStats) -> None:
        """Closes the event files and ends their writing threads."""
        for writer in self._writers.values():
            writer.close()
        self._writers = {}
        self._keep_place()
        self._clock = self._path = None

    def _keep_place(self) -> None:
        if self._clock is not None:
            self.place = self._clock.place()

    def state_dict(self) -> dict[str, Any]:
        """The points of the last step; all before are on the disk when a checkpoint is made."""
        self._flush()
        self._keep_place()
        return super().state_dict()

    def _flush(self) -> None:
        for writer in self._writers.values():
            writer.flush()


def _place(column: str) -> tuple[str | None, str]:
    """The run and the tag of a column of the history; no run for those that are no curve."""
    side, _, name = column.partition("_")
    if side in ("train", "val") and name:
        return side, name
    return ("train" if side == "lr" else None), column


def _rates(stats: TrainStats) -> dict[str, float]:
    """Rate of each parameter group, under the names that the history gives them."""
    rates = {}
    for name, trainer in stats.trainers.items():
        base = "lr" if len(stats.trainers) == 1 else f"lr_{name}"
        lrs = trainer.lrs
        for index, rate in enumerate(lrs):
            rates[base if len(lrs) == 1 else f"{base}_group{index}"] = rate
    return rates

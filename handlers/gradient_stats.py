"""`GradientStatsHandler`: norm and moments of each parameter's gradient."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from estimator.handlers._parts import whole
from estimator.handlers._stats_writer import (
    EVERY_100_STEPS,
    MOMENTS,
    StatsWriter,
    StepClock,
    dense,
    moments,
    reduced,
)
from estimator.handlers.base import Band, EventHandler, Every, check_every, own_folder

if TYPE_CHECKING:
    from estimator.stats import TrainStats


class _Measured(NamedTuple):
    epoch: int
    step: int
    counts: dict[str, int]
    """Elements of each gradient; 0 where there is none."""
    reduced: list[torch.Tensor]
    """What there is of gradients, on the device."""
    copies: dict[str, torch.Tensor]


class GradientStatsHandler(EventHandler):
    """Records the gradient of each parameter as it left the backward pass.

    That is the gradient of the whole step: accumulated, unscaled and not clipped. It is reduced
    on the device, only at steps that are due, and read to the host in one transfer.

    Writes `<folder>/gradients.csv` with one row for each parameter and due step, and the norms to
    `<folder>/tensorboard`. The columns are `epoch` (finished epochs), `step` (number of the
    optimizer step that the gradient was for), `parameter`, `norm` (L2), `mean`, `std` (of a
    population), `min`, `max`, `zeros` (share of elements that are exactly 0) and `nonfinite`
    (count of NaN and infinite elements). A parameter without a gradient has empty cells.

    A fit that starts anew replaces the table; one that goes on appends to it, without the rows of
    steps that it is to do again.

    Args:
        folder: Where the files go; None is `layers/` in the run folder.
        every: When to measure; `every(epochs=n)` takes the first step of each n-th epoch.
        histograms: Whether TensorBoard gets the distribution of each gradient too, which copies
            all gradients to the host at due steps.
        band: When this handler runs within an event.

    Raises:
        ArgumentTypeError: `every` is not an `Every`.

    Example:
        >>> import tempfile, torch
        >>> from estimator import Estimator
        >>> from estimator.handlers.base import every
        >>> est = Estimator(torch.nn.Linear(2, 1), loss=torch.nn.MSELoss())
        >>> data = torch.randn(8, 2), torch.randn(8, 1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     stats = est.fit(data, epochs=2, trainers="sgd", device="cpu", progress=False,
        ...                     handlers=GradientStatsHandler(folder, every=every(2)))
        ...     with open(f"{folder}/gradients.csv", encoding="utf-8") as table:
        ...         lines = table.read().splitlines()
        >>> [line.split(",")[:3] for line in lines]
        [['epoch', 'step', 'parameter'], ['1', '2', 'weight'], ['1', '2', 'bias']]
    """

    band = Band.OBSERVE
    state_names = ("schedule",)

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        every: Every = EVERY_100_STEPS,
        histograms: bool = False,
        band: Band | None = None,
    ) -> None:
        super().__init__(band=band)
        self.folder = folder
        self.every = check_every(every, "GradientStatsHandler(every=...)")
        self.histograms = histograms
        self.schedule: list[float] | None = None
        self._clock: StepClock | None = None
        self._writer: StatsWriter | None = None
        self._measured: _Measured | None = None

    def train_begin(self, stats: TrainStats) -> None:
        """Opens the files, which the first of several processes writes."""
        if stats.samples == 0:
            self.schedule = None
        self._clock = StepClock(self.every, stats, self.schedule)
        if stats.world.rank > 0:
            return
        folder = own_folder(self.folder, stats, "layers", "GradientStatsHandler")
        columns = ["epoch", "step", "parameter", "norm", *MOMENTS]
        self._writer = StatsWriter(
            folder, "gradients", columns=columns, charts=["norm"], step=self._clock.measured
        )

    def backward_end(self, stats: TrainStats) -> None:
        """Reduces the gradients of a due step."""
        assert self._clock is not None, "train_begin comes first"
        if not self._clock.due(stats):
            return
        # What is split over processes comes together only where all of them ask for it.
        grads = {name: whole(p.grad) for name, p in stats.net.named_parameters()}
        if self._writer is None:
            return
        values = {name: dense(g) for name, g in grads.items() if g is not None and g.numel()}
        counts = {name: values[name].numel() if name in values else 0 for name in grads}
        there = [reduced(v).to(stats.device) for v in values.values()]
        copies = {name: v.clone() for name, v in values.items()} if self.histograms else {}
        self._measured = _Measured(stats.epoch, stats.step + 1, counts, there, copies)

    def batch_end(self, stats: TrainStats) -> None:
        """Writes what was measured."""
        measured, self._measured = self._measured, None
        if measured is None or stats.error is not None:
            return
        assert self._writer is not None
        for name, values in measured.copies.items():
            self._writer.write_histogram(name, values, measured.step)
        # Last, since it ends with all on the disk, where a checkpoint counts on it.
        self._writer.write(measured.epoch, measured.step, _rows(measured))

    def train_end(self, stats: TrainStats) -> None:
        """Closes the files."""
        self.state_dict()
        if self._writer is not None:
            self._writer.close()
        self._clock = self._writer = self._measured = None

    def state_dict(self) -> dict[str, Any]:
        """Which steps were measured, whose rows are on the disk."""
        if self._clock is not None:
            self.schedule = self._clock.place()
        return super().state_dict()


def _rows(measured: _Measured) -> dict[str, list[float] | None]:
    values = iter(torch.stack(measured.reduced).tolist() if measured.reduced else [])
    rows: dict[str, list[float] | None] = {}
    for name, count in measured.counts.items():
        if count:
            norm, *rest = next(values)
            rows[name] = [norm, *moments([(count, rest)])]
        else:
            rows[name] = None
    return rows

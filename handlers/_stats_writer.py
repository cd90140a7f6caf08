"""What the handlers that measure single layers share: when, what, and into which files."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch

from estimator.handlers.base import Every

if TYPE_CHECKING:
    from estimator.stats import TrainStats

MOMENTS = ("mean", "std", "min", "max", "zeros", "nonfinite")
EVERY_100_STEPS = Every(steps=100)


class _InProgress(NamedTuple):
    step: int
    epoch: int
    elapsed: float


class StepClock:
    """Asks a schedule about the step in progress, whose number no counter has reached yet.

    Args:
        every: The schedule.
        stats: The run at the moment from which to count.
        place: What `place` gave, where a run goes on.

    Attributes:
        measured: The last step that was due, or where the run stands.
    """

    def __init__(self, every: Every, stats: TrainStats, place: list[float] | None) -> None:
        self._clock = every.clock(stats, place and place[1:])
        self.measured = int(place[0]) if place else stats.step

    def due(self, stats: TrainStats) -> bool:
        """Whether the step that is being computed is one to measure."""
        ahead = _InProgress(stats.step + 1, stats.epoch + 1, stats.elapsed)
        due = self._clock.due(cast("TrainStats", ahead))
        if due:
            self.measured = ahead.step
        return due

    def place(self) -> list[float]:
        """The last step that was due, and the place of the schedule."""
        return [self.measured, *self._clock.place()]


def floating(output: Any) -> Iterator[torch.Tensor]:
    """Every tensor of fractions in what a layer puts out, however it is nested."""
    if isinstance(output, torch.Tensor):
        if output.numel() and (output.is_floating_point() or output.is_complex()):
            yield output
    elif isinstance(output, Mapping):
        yield from floating(list(output.values()))
    elif isinstance(output, (tuple, list)):
        for item in output:
            yield from floating(item)


def dense(tensor: torch.Tensor) -> torch.Tensor:
    """The elements as a plain tensor that is precise enough to be summed, without its graph.

    The real and imaginary parts of complex numbers count as elements.
    """
    values = tensor.detach()
    if values.layout is not torch.strided:
        values = values.to_dense()
    if values.is_complex():
        values = torch.view_as_real(values)
    return values if values.dtype == torch.float64 else values.float()


def reduced(values: torch.Tensor) -> torch.Tensor:
    """Reduces what `dense` gave on its own device, without a host read.

    Args:
        values: Any shape with at least one element.

    Returns:
        Shape (7,): L2 norm, mean, standard deviation, min, max, count of elements that are not
        zero, count of finite elements.
    """
    wide = torch.float32 if values.device.type == "mps" else torch.float64
    low, high = torch.aminmax(values)
    parts = (
        torch.linalg.vector_norm(values),
        # In 32 bits the means of several calls would lie too far off to join their variances.
        values.mean(dtype=wide),
        values.std(correction=0),
        low,
        high,
        torch.count_nonzero(values),
        torch.isfinite(values).sum(),
    )
    return torch.stack([part.to(wide) for part in parts])


def moments(parts: Sequence[tuple[int, Sequence[float]]]) -> list[float]:
    """Joins reductions of several tensors into those of all their elements.

    The variance is that of the population, joined from the variances about each tensor's own
    mean (Chan, Golub, LeVeque 1983), so that nothing cancels.

    Args:
        parts: Of each tensor the count of elements, and `reduced` without the norm.

    Returns:
        The values that `MOMENTS` names.
    """
    count = sum(n for n, _ in parts)
    mean = sum(n * part[0] for n, part in parts) / count
    squares = sum(n * (p[1] * p[1] + (p[0] - mean) * (p[0] - mean)) for n, p in parts)
    lows, highs = [p[2] for _, p in parts], [p[3] for _, p in parts]
    # The order of arguments decides what min() and max() make of NaN.
    has_nan = any(math.isnan(low) for low in lows)
    low, high = (math.nan, math.nan) if has_nan else (min(lows), max(highs))
    zeros = count - sum(p[4] for _, p in parts)
    nonfinite = count - int(sum(p[5] for _, p in parts))
    return [mean, math.sqrt(squares / count), low, high, zeros / count, nonfinite]


class StatsWriter:
    """A CSV table that is complete after each write, and TensorBoard charts of some columns.

    A run that starts anew replaces the table; one that goes on keeps the rows that it had.

    Args:
        folder: Where `<kind>.csv` and the folder `tensorboard` are.
        kind: What is measured, in the plural.
        columns: What heads the table: epoch, step, the owner's kind, then one name a value.
        charts: The values that TensorBoard shows.
        step: The last step of which rows stay.
    """

    def __init__(
        self, folder: Path, kind: str, *, columns: Sequence[str], charts: Sequence[str], step: int
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.kind = kind
        self.path = folder / f"{kind}.csv"
        self._charts = [(name, list(columns).index(name) - 3) for name in charts]
        self._blanks = [""] * (len(columns) - 3)
        if step == 0 or not self.path.exists():
            self.path.write_text(_lines([columns]), encoding="utf-8", newline="")
        else:
            _cut(self.path, step)
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, epoch: int, step: int, rows: Mapping[str, Sequence[float] | None]) -> None:
        """Adds the rows of one step; None stands for an owner that has no values."""
        lines = _lines(
            [[epoch, step, owner, *(values or self._blanks)] for owner, values in rows.items()]
        )
        with open(self.path, "a", encoding="utf-8", newline="") as file:
            file.write(lines)
        for owner, values in rows.items():
            if values is not None:
                for name, place in self._charts:
                    self.board.add_scalar(f"{self.kind}/{owner}/{name}", values[place], step)
        self.board.flush()

    def write_histogram(self, owner: str, values: torch.Tensor, step: int) -> None:
        """Shows TensorBoard how the finite ones of some values are distributed."""
        finite = values.cpu().flatten()
        finite = finite[finite.isfinite()]
        if finite.numel():
            self.board.add_histogram(f"{self.kind}/{owner}", finite.numpy(), step)

    def close(self) -> None:
        """Ends the writing thread of TensorBoard."""
        self.board.close()


def _lines(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _cut(path: Path, step: int) -> None:
    """Drops what a run wrote after the step from which it goes on, and a torn last line."""
    with open(path, "r+b") as file:
        end = len(file.readline())
        for line in file:
            if not line.endswith(b"\n") or int(line.split(b",")[1]) > step:
                break
            end += len(line)
        file.truncate(end)

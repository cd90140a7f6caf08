"""What the reports of outputs share: they collect a pass of each split, and write it when due."""

from __future__ import annotations

import logging
import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from estimator.handlers._file_stem import file_stem
from estimator.handlers._output_pairs import Pair, pairs
from estimator.handlers.base import (
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

_LOG = logging.getLogger("estimator")


class Collector(Protocol):
    """What one output has given so far in a pass, on its device."""

    def add(self, pair: Pair, stats: TrainStats) -> None:
        """Takes a batch, without waiting for the device and without keeping its tensors."""

    def take(self) -> Any:
        """What it has, on the host."""


class Pass:
    """One pass over a split: what was collected of each output.

    Args:
        gap: Why the pass does not hold the whole split; "" where it does.
    """

    def __init__(self, gap: str = "") -> None:
        self.outputs: dict[str, Collector | None] = {}
        self.gap = gap
        self.written = False

    def taken(self) -> dict[str, Any]:
        """What was collected, on the host, by the name of the output."""
        return {n: found.take() for n, found in self.outputs.items() if found is not None}


class Report:
    """Where the report of one output of a split goes, and what it says of itself.

    Args:
        folder: Where.
        output: The name of the output.
        split: "train", "val" or "evaluate".
        note: A sentence on what the pass lacks; "" where it is whole.
    """

    def __init__(self, folder: Path, output: str, split: str, note: str) -> None:
        self.folder, self.output, self.split, self.note = folder, output, split, note
        self.stem = f"{file_stem(output)}-{split}"

    def path(self, ending: str) -> Path:
        """A file of the report."""
        return self.folder / f"{self.stem}-{ending}"

    @property
    def title(self) -> str:
        """What it is of, in words."""
        return f"{self.output}, {self.split}"


class PassReportHandler(EventHandler):
    """Base of the reports of outputs, which are written of the last whole pass of each split.

    Args:
        folder: Where the files go; None is the run folder.
        every: When to write, in epochs; None writes at the end of the run only.
        band: When it runs within an event; REPORT by default.
    """

    band = Band.REPORT
    what = "report"
    """What it writes, for messages."""

    def __init__(
        self, folder: str | os.PathLike[str] | None, every: Every | None, band: Band | None
    ) -> None:
        super().__init__(band=band)
        owner = type(self).__name__
        for module in ("matplotlib.figure", "PIL"):
            require(module, "report", owner)
        self.folder = folder
        self.every = check_in_epochs(every, f"{owner}(every=...)")
        self._folder: Path | None = None
        self._clock: Clock | None = None
        self._now: dict[str, Pass] = {}
        self._whole: dict[str, Pass] = {}
        self._epoch = 0

    @abstractmethod
    def collector(self, pair: Pair) -> Collector | None:
        """What collects an output; None where this report is not for it."""

    @abstractmethod
    def write(self, report: Report, parts: Sequence[Any], stats: TrainStats) -> None:
        """Writes the files of one output.

        Args:
            report: Where to.
            parts: What its collectors took, one of each process that met it.
            stats: The run.
        """

    def train_begin(self, stats: TrainStats) -> None:
        """Makes the folder, and forgets an earlier run."""
        self._forget()
        owner = type(self).__name__
        self._folder = stats.world.first(lambda: own_folder(self.folder, stats, "", owner))
        self._clock = None if self.every is None else self.every.clock(stats)

    def epoch_begin(self, stats: TrainStats) -> None:
        """Starts the pass of training."""
        self._epoch = stats.epoch
        gap = "It begins where the run was resumed, within the epoch." if stats.batches_done else ""
        self._now["train"] = Pass(gap)

    def batch_end(self, stats: TrainStats) -> None:
        """Takes a batch of training."""
        self._add("train", stats)

    def validation_begin(self, stats: TrainStats) -> None:
        """Starts the pass of a validation or of an `evaluate`."""
        if stats.phase == "validation":
            self._now["val"] = Pass()
        elif stats.phase == "evaluate" and self._place() is not None:
            self._now["evaluate"] = Pass()

    def validation_batch_end(self, stats: TrainStats) -> None:
        """Takes a batch of it."""
        self._add({"validation": "val"}.get(stats.phase, stats.phase), stats)

    def validation_end(self, stats: TrainStats) -> None:
        """Ends the pass; that of an `evaluate` is written at once."""
        gave_up = stats.error is not None or (stats.interrupted is not None and not stats.val)
        if stats.phase == "validation" and not gave_up:
            self._finish("val")
        found = self._now.pop("evaluate", None)
        if found is not None and not gave_up:
            self._write("evaluate", found, stats)

    def epoch_end(self, stats: TrainStats) -> None:
        """Ends the pass of training; writes when that is due."""
        if stats.error is not None:
            return
        if stats.epoch > self._epoch:
            self._finish("train")
        if self._clock is not None and self._clock.due(stats):
            self._write_all(self._whole, stats)

    def train_end(self, stats: TrainStats) -> None:
        """Writes what was not written yet, and lets go of it."""
        try:
            self._write_all(self._rest(), stats)
        except Exception as error:
            if stats.error is None:
                raise
            _LOG.error("%s could not write after the run had failed: %r", self, error)
        finally:
            self._forget()

    def _rest(self) -> dict[str, Pass]:
        """The last whole pass of each split, of a split without one what there is."""
        for split, found in self._now.items():
            if split not in self._whole:
                found.gap = found.gap or "The run ended before the pass was whole."
                self._whole[split] = found
        return self._whole

    def _forget(self) -> None:
        self._now, self._whole, self._clock = {}, {}, None

    def _finish(self, split: str) -> None:
        found = self._now.pop(split, None)
        if found is not None:
            self._whole[split] = found

    def _add(self, split: str, stats: TrainStats) -> None:
        found = self._now.get(split)
        if found is None or stats.error is not None:
            return
        if found.outputs and not any(found.outputs.values()):
            return  # None of the outputs is of this kind.
        for pair in pairs(stats):
            if pair.name not in found.outputs:
                found.outputs[pair.name] = self.collector(pair)
            collector = found.outputs[pair.name]
            if collector is not None:
                collector.add(pair, stats)

    def _place(self) -> Path | None:
        return self._folder if self.folder is None else Path(self.folder)

    def _write_all(self, passes: Mapping[str, Pass], stats: TrainStats) -> None:
        for split, found in sorted(passes.items()):
            if not found.written:
                self._write(split, found, stats)
                found.written = True

    def _write(self, split: str, found: Pass, stats: TrainStats) -> None:
        world, note = stats.world, found.gap
        if stats.error is None:
            gathered = world.gather(found.taken())
        else:
            # The others may not be there any more.
            gathered = [found.taken()]
            alone = f"It is the share of the first of {world.size} processes."
            note = " ".join(filter(None, [note, alone if world.size > 1 else ""]))
        folder = self._place()
        if world.rank != 0 or folder is None:
            return
        for name in dict.fromkeys(name for part in gathered for name in part):
            report = Report(folder, name, split, note)
            with reporting(stats, f"the {self.what} of {report.title}"):
                folder.mkdir(parents=True, exist_ok=True)
                self.write(report, [part[name] for part in gathered if name in part], stats)

"""`DataSummaryHandler`: what the data of each split looks like, feature by feature."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from estimator.handlers._data_moments import CLASSES, Feature, Moments, joined
from estimator.handlers._sample_rows import leaves
from estimator.handlers.base import (
    Band,
    EventHandler,
    Section,
    Table,
    own_folder,
    reporting,
    write_section,
    write_whole,
)

if TYPE_CHECKING:
    from estimator.stats import TrainStats

_WHAT = "the summary of the data"
_COLUMNS = (
    "split", "feature", "type", "shape", "samples", "min", "max", "mean", "std", "NaN", "infinite",
)  # fmt: skip


class DataSummaryHandler(EventHandler):
    """Writes shape, type, range, mean, standard deviation and gaps of each feature.

    It looks at the batches of the first epoch and of the first validation as they reach the net:
    after what a handler such as `AugmentHandler` makes of them. Mean and standard deviation (of
    the population) are those of all finite elements, exact up to the rounding of 64 bits, whatever
    the sizes of the batches. Whole numbers among the targets are counted as classes. Texts are
    counted, with the shortest and the longest. Tensors are reduced on their device and read once.

    Writes `<folder>/data_summary.txt` and a section of the page, when the first epoch and when the
    first validation is through, or at the end of a run that has neither.

    Args:
        folder: Where the files go; None is the run folder.
        band: When this handler runs within an event.

    Raises:
        ArgumentError: At train_begin, when there is neither a folder nor a run folder.

    Example:
        >>> import tempfile, torch
        >>> from estimator import Estimator
        >>> est = Estimator(torch.nn.Linear(2, 1), loss=torch.nn.MSELoss())
        >>> data = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.zeros(2, 1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     handler = DataSummaryHandler(folder)
        ...     stats = est.fit(data, device="cpu", progress=False, handlers=handler)
        ...     text = Path(folder, "data_summary.txt").read_text("utf-8")
        >>> text.splitlines()[1].split()
        ['train', 'input', 'float32', '2', '2', '1', '4', '2.5', '1.11803', '0', '0']
    """

    band = Band.OBSERVE
    own_state = True
    state_names = ("splits",)

    def __init__(
        self, folder: str | os.PathLike[str] | None = None, *, band: Band | None = None
    ) -> None:
        super().__init__(band=band)
        self.folder = folder
        self.splits: dict[str, dict[str, Any]] = {}
        """For each split that was begun, whether it is through, and its features' states."""
        self._folder: Path | None = None
        self._open: dict[str, _Split] = {}
        self._through: dict[str, _Split] = {}
        self._unwritten = False

    def train_begin(self, stats: TrainStats) -> None:
        """Makes the folder, and goes on with what a checkpoint held."""
        self._folder = own_folder(self.folder, stats, "", "DataSummaryHandler")
        self._open, self._through, self._unwritten = {}, {}, False
        for name, state in self.splits.items() if stats.samples else ():
            split = _Split()
            split.load_state_dict(state["features"], stats.device)
            (self._through if state["through"] else self._open)[name] = split

    def epoch_begin(self, stats: TrainStats) -> None:
        """Begins with the training data, where an epoch begins."""
        if stats.batches_done == 0:
            self._begin("train")

    def validation_begin(self, stats: TrainStats) -> None:
        """Begins with the validation data."""
        if stats.phase == "validation":
            self._begin("validation")

    def _begin(self, name: str) -> None:
        if name not in self._through and self._folder is not None:
            self._open[name] = _Split()

    def batch_end(self, stats: TrainStats) -> None:
        """Adds up a batch."""
        if "train" in self._open and stats.error is None:
            self._open["train"].add(stats)

    def validation_batch_end(self, stats: TrainStats) -> None:
        """Adds up a batch."""
        if stats.phase in self._open and stats.error is None:
            self._open[stats.phase].add(stats)

    def validation_end(self, stats: TrainStats) -> None:
        """Ends with the validation data, unless the validation was given up."""
        if stats.val and stats.error is None:
            self._end("validation")

    def epoch_end(self, stats: TrainStats) -> None:
        """Ends with the training data, and writes what there is."""
        if stats.error is None and stats.batches_done == 0:
            self._end("train")
        if self._unwritten and stats.error is None:
            self._write(stats)

    def _end(self, name: str) -> None:
        if name in self._open:
            self._through[name] = self._open.pop(name)
            self._unwritten = True

    def train_end(self, stats: TrainStats) -> None:
        """Writes what is not written, of a run that stopped in its first epoch."""
        # After an error in one process the others may not be there to join.
        if self._folder is not None and stats.error is None and (self._unwritten or self._open):
            self._through |= self._open
            self._write(stats)
        self.state_dict()
        self._folder, self._open, self._through = None, {}, {}

    def state_dict(self) -> dict[str, Any]:
        """What was added up so far."""
        if self._folder is not None:
            self.splits = {
                name: {"through": split is self._through.get(name), "features": split.state_dict()}
                for name, split in (self._open | self._through).items()
            }
        return super().state_dict()

    def _write(self, stats: TrainStats) -> None:
        self._unwritten = False
        found = {name: split.read() for name, split in self._through.items()}
        of_all = [found] if stats.world.size == 1 else stats.world.gather(found)
        if stats.world.rank > 0:
            return
        rows, classes = _joined(of_all)
        assert self._folder is not None
        with reporting(stats, _WHAT):
            write_whole(self._folder / "data_summary.txt", _text(rows, classes).encode("utf-8"))
            tables = [Table("Features", _COLUMNS, rows), *classes]
            text = "Mean and standard deviation are those of all finite elements."
            write_section(self._folder, "data_summary", Section("Data", 720, text, tables), stats)


class _Split:
    """The features of one split."""

    def __init__(self) -> None:
        self.features: dict[str, Feature] = {}
        self.texts: dict[str, list[int]] = {}
        """For each feature of texts: how many, and the lengths of the shortest and longest."""

    def add(self, stats: TrainStats) -> None:
        size = stats.batch_size
        for part, nested in (("input", stats.inputs), ("target", stats.targets)):
            for name, value in leaves(part, nested):
                if (
                    value.layout is not torch.strided
                    or value.shape[:1] != (size,)
                    or not value.numel()
                ):
                    continue
                if name not in self.features:
                    self.features[name] = Feature(counts_classes=part == "target")
                self.features[name].add(value)
            for name, texts in _texts(part, nested):
                lengths = [len(text) for text in texts]
                old = self.texts.get(name, [0, min(lengths), 0])
                self.texts[name] = [
                    old[0] + len(texts), min(old[1], *lengths), max(old[2], *lengths)
                ]  # fmt: skip

    def read(self) -> dict[str, Any]:
        return {
            "features": {name: tuple(feature.read()) for name, feature in self.features.items()},
            "texts": self.texts,
        }

    def state_dict(self) -> dict[str, Any]:
        features = {name: feature.state_dict() for name, feature in self.features.items()}
        return {"features": features, "texts": dict(self.texts)}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        self.texts = dict(state["texts"])
        for name, one in state["features"].items():
            self.features[name] = Feature(counts_classes=one["counts_classes"])
            self.features[name].load_state_dict(one, device)


def _texts(name: str, value: Any) -> Iterator[tuple[str, list[str]]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(f"{name}.{key}", item)
    elif isinstance(value, (list, tuple)) and value:
        if all(isinstance(item, str) for item in value):
            yield name, list(value)
        else:
            for place, item in enumerate(value):
                yield from _texts(f"{name}.{place}", item)


Rows = list[list[Any]]


def _joined(of_all: list[dict[str, dict[str, Any]]]) -> tuple[Rows, list[Table]]:
    rows: Rows = []
    classes: list[Table] = []
    for split in sorted({name for found in of_all for name in found}):
        parts = [found[split] for found in of_all if split in found]
        for name in dict.fromkeys(n for part in parts for n in part["features"]):
            moments = joined(
                [Moments(*p["features"][name]) for p in parts if name in p["features"]]
            )
            rows.append(_row(split, name, moments))
            if any(moments.classes):
                classes.append(_class_table(split, name, moments))
        for name in dict.fromkeys(n for part in parts for n in part["texts"]):
            counts = [part["texts"][name] for part in parts if name in part["texts"]]
            came, shortest, longest = zip(*counts, strict=True)
            row = [split, name, "text", "", sum(came), min(shortest), max(longest)]
            rows.append([*row, *[None] * (len(_COLUMNS) - len(row))])
    return rows, classes


def _row(split: str, name: str, m: Moments) -> list[Any]:
    shape = "x".join(map(str, m.shape)) or "scalar"
    moments = [m.low, m.high, m.mean, m.std]
    return [split, name, m.dtype, shape, m.samples, *moments, m.nan, m.infinite]


def _class_table(split: str, name: str, moments: Moments) -> Table:
    total = sum(moments.classes)
    names = ["below 0", *map(str, range(CLASSES)), f"{CLASSES} and above"]
    rows: Rows = [
        [called, count, count / total]
        for called, count in zip(names, moments.classes, strict=True)
        if count
    ]
    return Table(f"Classes of {name}, {split}", ["class", "count", "share"], rows)


def _text(rows: Rows, classes: list[Table]) -> str:
    blocks = [_aligned([list(_COLUMNS), *rows])]
    blocks += [f"{t.title}\n{_aligned([list(t.columns), *map(list, t.rows)])}" for t in classes]
    return "\n\n".join(blocks) + "\n"


def _aligned(table: list[list[Any]]) -> str:
    cells = [[_cell(value) for value in row] for row in table]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value).replace("\n", " ")

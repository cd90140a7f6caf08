"""`ModelExportHandler`: the trained net as weights and as a checked ONNX file."""

from __future__ import annotations

import io
import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from estimator.handlers._example import Example
from estimator.handlers._parts import whole
from estimator.handlers.base import (
    Band,
    EventHandler,
    Section,
    Table,
    own_folder,
    reporting,
    require,
    write_section,
    write_whole,
)

if TYPE_CHECKING:
    from estimator.stats import TrainStats

_LOG = logging.getLogger("estimator")
WEIGHTS, RESULT, ONNX = "last.model", "last.model.result", "model.onnx"


class ModelExportHandler(EventHandler):
    """Writes the net at the end of a run, in the forms in which it is used elsewhere.

    `last.model` holds the weights, for `Estimator.load_weights` or `torch.load(...,
    weights_only=True)`; `last.model.result` the last and the best results as JSON; `model.onnx`
    the net, which onnxruntime has run beside it at three batch sizes (the numbers are in
    `model.onnx.json`). A net that cannot be exported to ONNX is said so in the log, in
    `stats.missing` and in the section of the page; the training counts all the same. After an
    error nothing is written.

    Args:
        folder: Where the files go; None is the run folder.
        example: A batch as the loader yields it, by which the net is traced; None takes the first
            samples of a validation or training batch.
        dynamic: Further axes that may have any size, as `{"tokens": {1: "time"}}`.
        onnx: Whether to write `model.onnx`.
        band: When this handler runs within an event.

    Raises:
        MissingExtraError: onnxscript or onnxruntime is not installed; `onnx=False` does without.
        ArgumentError: At train_begin, when there is neither a folder nor a run folder.

    Example:
        >>> import tempfile, torch
        >>> from estimator import Estimator
        >>> est = Estimator(torch.nn.Linear(2, 1), loss=torch.nn.MSELoss())
        >>> data = torch.randn(8, 2), torch.randn(8, 1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     handler = ModelExportHandler(folder, onnx=False)
        ...     stats = est.fit(data, device="cpu", progress=False, handlers=handler)
        ...     est.load_weights(f"{folder}/last.model")
    """

    band = Band.REPORT

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        example: Any = None,
        dynamic: Mapping[str, Mapping[int, str | None]] | None = None,
        onnx: bool = True,
        band: Band | None = None,
    ) -> None:
        super().__init__(band=band)
        self.folder, self.example, self.dynamic, self.onnx = folder, example, dynamic, onnx
        if onnx:
            require("onnxscript", "onnx", "ModelExportHandler, unless onnx=False,")
            require("onnxruntime", "onnx", "ModelExportHandler, unless onnx=False,")
        self._folder: Path | None = None
        self._taken = Example()

    def train_begin(self, stats: TrainStats) -> None:
        """Makes the folder."""
        self._taken = Example()
        self._folder = own_folder(self.folder, stats, "", "ModelExportHandler")

    def batch_end(self, stats: TrainStats) -> None:
        """Copies the first samples of the first batch."""
        self._take(stats)

    def validation_batch_end(self, stats: TrainStats) -> None:
        """Copies the first samples of the first batch."""
        self._take(stats)

    def _take(self, stats: TrainStats) -> None:
        if self._folder is not None and self.onnx and self.example is None:
            self._taken.offer(stats)

    def train_end(self, stats: TrainStats) -> None:
        """Writes the files, unless an error ended the run."""
        folder, self._folder = self._folder, None
        taken, self._taken = self._taken, Example()
        if folder is None or stats.error is not None:
            return
        # What is split over processes comes together only where all of them ask for it.
        weights = {name: _whole(value) for name, value in stats.net.state_dict().items()}
        if stats.world.rank > 0:
            return
        with reporting(stats, WEIGHTS):
            buffer = io.BytesIO()
            torch.save(weights, buffer)
            write_whole(folder / WEIGHTS, buffer.getvalue())
            text = json.dumps(_results(stats), indent=1, allow_nan=False, ensure_ascii=False)
            write_whole(folder / RESULT, text.encode("utf-8") + b"\n")
        text, table = self._export(folder, stats, taken) if self.onnx else ("", None)
        with reporting(stats, "the section on the exported net"):
            tables = [_files(folder), *([table] if table is not None else [])]
            section = Section("Exported net", 740, text, tables)
            write_section(folder, "model_export", section, stats)

    def _export(self, folder: Path, stats: TrainStats, taken: Example) -> tuple[str, Table | None]:
        """What became of the ONNX file, in words and in numbers."""
        own = self.example is None
        if own and not taken.of:
            return self._not_written(
                stats, "no batch was seen, from which to take an example"
            ), None
        example = taken.inputs if own else self.example
        try:
            with reporting(stats, ONNX):
                result = stats.export(folder / ONNX, example, split=not own, dynamic=self.dynamic)
                return _compared(result)
        except Exception as error:  # whatever a net holds against it, the training counts
            return self._not_written(stats, str(error)), None
        return f"{ONNX} could not be written: {stats.missing[ONNX]}", None

    def _not_written(self, stats: TrainStats, reason: str) -> str:
        stats.missing[ONNX] = reason
        _LOG.error("%s was not written: %s", ONNX, reason)
        return f"{ONNX} was not written: {reason}"


def _whole(value: Any) -> Any:
    full = whole(value.detach()) if isinstance(value, torch.Tensor) else None
    return value if full is None else full.cpu()


def _compared(result: Any) -> tuple[str, Table]:
    rows: list[list[Any]] = [[size, difference] for size, difference in result.differences.items()]
    columns = ["batch size", "largest difference from the net"]
    return f"{result.path.name}: {str(result).partition(': ')[2]}.", Table("ONNX", columns, rows)


def _files(folder: Path) -> Table:
    found = [folder / name for name in (WEIGHTS, RESULT, ONNX)]
    rows: list[list[Any]] = [[path.name, path.stat().st_size] for path in found if path.exists()]
    return Table("Files", ["file", "bytes"], rows)


def _results(stats: TrainStats) -> dict[str, Any]:
    best = {
        name: {"value": _number(b.value), "epoch": b.epoch, "step": b.step}
        for name, b in stats.best.items()
    }
    return {
        "epoch": stats.epoch,
        "step": stats.step,
        "samples": stats.samples,
        "train": {name: _number(value) for name, value in stats.train.items()},
        "val": {name: _number(value) for name, value in stats.val.items()},
        "best": best,
        "stopped": stats.stopped,
    }


def _number(value: float) -> float | str:
    """A number as JSON has it; those that it lacks as their names."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"

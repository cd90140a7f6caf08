"""Heat maps of layers over epochs, and the table that they are drawn from."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from estimator.handlers._sample_rows import shortened
from estimator.handlers.base import write_whole

if TYPE_CHECKING:
    from matplotlib.colors import Colormap, Normalize

VALUES = ("mean", "std", "dead", "nonfinite", "gradient")
_COLUMNS = ("epoch", "step", "layer", *VALUES)
_MOST_NAMES = 60
_NAME = 40


class Map(NamedTuple):
    """One kind of picture.

    Attributes:
        value: The column that it shows.
        title: What that is.
        scale: "signed" around 0, "decades", or "share" from 0 to 1.
    """

    value: str
    title: str
    scale: str


MAPS = (
    Map("mean", "Mean of what each layer puts out", "signed"),
    Map("std", "Standard deviation of what each layer puts out", "decades"),
    Map("dead", "Share of dead units (0 for all samples of a batch)", "share"),
    Map("gradient", "Norm of each layer's gradient, relative to that of its weights", "decades"),
)


class LayerTable:
    """A CSV table with one row for each layer and measured epoch.

    Args:
        path: The file.
        step: The last step of which rows stay; 0 begins anew.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        rows = [row for row in self.read() if int(row[1]) <= step] if step and path.exists() else []
        write_whole(path, _lines([_COLUMNS, *rows]))

    def read(self) -> list[list[str]]:
        """The rows, without the head and a torn last one."""
        with open(self.path, newline="", encoding="utf-8") as file:
            return [row for row in list(csv.reader(file))[1:] if len(row) == len(_COLUMNS)]

    def add(self, epoch: int, step: int, rows: Mapping[str, Mapping[str, float]]) -> None:
        """Appends the rows of one epoch; values that a layer lacks are empty."""
        lines = [
            [epoch, step, layer, *(values.get(name, "") for name in VALUES)]
            for layer, values in rows.items()
        ]
        with open(self.path, "ab") as file:
            file.write(_lines(lines))

    def matrix(self, value: str) -> tuple[list[str], list[int], np.ndarray]:
        """Layers, epochs, and a value for each of both; NaN where there is none.

        Layers without any are left out.
        """
        place = _COLUMNS.index(value)
        found = [(row[2], int(row[0]), row[place]) for row in self.read() if row[place]]
        layers = list(dict.fromkeys(layer for layer, *_ in found))
        epochs = sorted({epoch for _, epoch, _ in found})
        rows, columns = ({key: i for i, key in enumerate(keys)} for keys in (layers, epochs))
        values = np.full((len(layers), len(epochs)), math.nan)
        for layer, epoch, text in found:
            values[rows[layer], columns[epoch]] = float(text)
        return layers, epochs, values


def _lines(rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8")


def draw_map(kind: Map, layers: list[str], epochs: list[int], values: np.ndarray) -> bytes:
    """A heat map as PNG: a row a layer in the order of the net, a column a measured epoch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height = min(16.0, 1.8 + 0.24 * len(layers))
    figure = Figure(figsize=(9, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shown = np.ma.masked_invalid(values)
    norm, colours = _norm(kind.scale, values)
    image = axes.imshow(shown, norm=norm, cmap=colours, aspect="auto", interpolation="nearest")
    every = 1 + (len(layers) - 1) // _MOST_NAMES
    names = [shortened(name, _NAME) for name in layers[::every]]
    axes.set_yticks(range(0, len(layers), every), names, fontsize=8, parse_math=False)
    ticks = np.unique(np.linspace(0, len(epochs) - 1, min(len(epochs), 12)).round().astype(int))
    axes.set_xticks(ticks, [str(epochs[tick]) for tick in ticks])
    axes.set(xlabel="Epoch (grey: no value)", title=kind.title)
    figure.colorbar(image, ax=axes)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _norm(scale: str, values: np.ndarray) -> tuple[Normalize, Colormap]:
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm, Normalize

    finite = values[np.isfinite(values)]
    if scale == "share":
        return Normalize(0, 1), colormaps["magma"].with_extremes(bad="0.8")
    if scale == "signed":
        most = float(np.abs(finite).max(initial=0)) or 1.0
        return Normalize(-most, most), colormaps["RdBu_r"].with_extremes(bad="0.8")
    above = finite[finite > 0]
    low, high = (float(above.min()), float(above.max())) if above.size else (0.1, 1.0)
    # Beyond twelve decades the rest of the colours would say nothing.
    low = max(low, high * 1e-12)
    return LogNorm(low, high if high > low else low * 10), colormaps["viridis"].with_extremes(
        bad="0.8"
    )

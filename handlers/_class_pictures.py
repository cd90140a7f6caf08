"""Pictures of a classification: the confusion matrix, ROC and precision-recall curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from estimator.handlers._class_numbers import Matrix
from estimator.handlers._class_scores import Curve, Floats
from estimator.handlers._figures import new_figure, titled, write_figure
from estimator.handlers._sample_rows import one_line, shortened
from estimator.handlers.base import require

NAMED_CLASSES = 40
"""Pictures name fewer classes than this."""
_COUNTED_CLASSES = 25
_LEGEND = 10
_CELLS = 250
"""Points of a matrix that can be seen along an axis."""
_GRID = np.linspace(0.0, 1.0, 501)
_NAME = 24


def draw_matrix(path: Path, matrix: Matrix, names: Sequence[str], title: str) -> None:
    """Draws a confusion matrix: rows are true classes, columns predicted ones.

    The colour is the share of the row; up to 25 classes the number of samples stands in it.
    """
    size = len(matrix)
    side = float(np.clip(0.42 * size, 3.2, 10.5)) if size < NAMED_CLASSES else 9.0
    longest = max(len(label(name)) for name in names) if size < NAMED_CLASSES else 4
    margin = 0.075 * longest
    figure = new_figure(side + 2.2 + margin, side + 1.1 + (margin if longest > 3 else 0.2))
    axes = figure.add_subplot()
    support = matrix.sum(1, keepdims=True)
    share = np.divide(matrix, support, out=np.zeros(matrix.shape), where=support > 0)
    colors = require("matplotlib.colors", "report", "a confusion matrix")
    # Of many classes a cell is a point, in which small shares have to be seen too.
    norm = colors.Normalize(0, 1) if size < NAMED_CLASSES else colors.PowerNorm(0.5, 0, 1)
    block = -(-size // _CELLS)
    cells = _pooled(share, block)
    end = len(cells) * block - 0.5
    image = axes.imshow(cells, cmap="Blues", norm=norm, extent=(-0.5, end, end, -0.5))
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
    bar.set_label("share of the samples of the true class", fontsize=9)
    blocks = f"\neach point: the largest share in {block} x {block} classes" if block > 1 else ""
    titled(axes, title + blocks, x="predicted", y="target")
    if size < NAMED_CLASSES:
        shown = [label(name) for name in names]
        axes.set_xticks(range(size), shown, rotation=90 if longest > 3 else 0, parse_math=False)
        axes.set_yticks(range(size), shown, parse_math=False)
        axes.tick_params(labelsize=8)
    if size <= _COUNTED_CLASSES:
        _write_counts(axes, matrix, share)
    write_figure(path, figure)


def _pooled(share: Floats, block: int) -> Floats:
    """The largest share in each block of cells, which would not be seen as single pixels."""
    blocks = -(-len(share) // block)
    whole = np.zeros((blocks * block, blocks * block))
    whole[: len(share), : len(share)] = share
    pooled: Floats = whole.reshape(blocks, block, blocks, block).max((1, 3))
    return pooled


def label(name: str) -> str:
    """The name of a class as pictures and texts show it."""
    return shortened(one_line(name), _NAME)


def _write_counts(axes: Any, matrix: Matrix, share: Floats) -> None:
    for (row, column), count in np.ndenumerate(matrix):
        if count:
            text = str(count) if count < 100_000 else f"{count:.1e}".replace("e+0", "e")
            colour = "white" if share[row, column] > 0.5 else "black"
            at = {"ha": "center", "va": "center", "fontsize": 8 if len(matrix) < 15 else 6}
            axes.text(column, row, text, color=colour, **at)


class _Kind(NamedTuple):
    title: str
    x: str
    y: str
    area: str


_ROC = _Kind("ROC", "false positive rate", "true positive rate (recall)", "AUC")
_PR = _Kind("Precision and recall", "recall", "precision", "AP")


def draw_curves(
    path: Path, kind: str, curves: Sequence[Curve], names: Sequence[str], title: str
) -> None:
    """Draws ROC or precision-recall curves; without any that is defined the picture is removed.

    Args:
        path: The file.
        kind: "ROC" or "PR".
        curves: Of one class against the rest each; a single one is that of the second class.
        names: Of the classes.
        title: What the curves are of.
    """
    words = _ROC if kind == "ROC" else _PR
    named = [(names[1], curves[0])] if len(curves) == 1 else list(zip(names, curves, strict=True))
    areas = {n: c.auc if kind == "ROC" else c.average_precision for n, (_, c) in enumerate(named)}
    defined = [n for n, area in areas.items() if np.isfinite(area)]
    if not defined:
        path.unlink(missing_ok=True)
        return
    figure = new_figure(8.0, 5.2)
    axes = figure.add_subplot()
    lines = [_points(kind, named[n][1]) for n in defined]
    for n, (x, y) in zip(defined, lines, strict=True):
        if len(defined) <= _LEGEND:
            text = f"{label(named[n][0])}: {words.area} {areas[n]:.4f}"
            axes.plot(x, y, label=text, drawstyle="default" if kind == "ROC" else "steps-pre")
        elif len(defined) < NAMED_CLASSES:
            axes.plot(x, y, color="0.75", linewidth=0.8)
    if len(defined) > 1:
        _draw_mean(axes, lines, f"mean: {words.area} {np.mean([areas[n] for n in defined]):.4f}")
    if kind == "ROC":
        axes.plot([0, 1], [0, 1], color="0.6", linestyle=":", linewidth=1)
    titled(axes, f"{words.title}: {title}", x=words.x, y=words.y)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.03))
    axes.grid(alpha=0.3)
    legend = axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
    for entry in legend.get_texts():
        entry.set_parse_math(False)
    write_figure(path, figure)


def _points(kind: str, curve: Curve) -> tuple[Floats, Floats]:
    """At most a thousand points of a curve, which are more than pixels can show."""
    x, y = (curve.fpr, curve.tpr) if kind == "ROC" else (curve.tpr, curve.precision)
    if len(x) <= 1000:
        return x, y
    chosen = np.unique(np.linspace(0, len(x) - 1, 1000).round().astype(int))
    return x[chosen], y[chosen]


def _draw_mean(axes: Any, lines: Sequence[tuple[Floats, Floats]], text: str) -> None:
    height = np.array([np.interp(_GRID, x, y) for x, y in lines])
    low, high = np.quantile(height, [0.1, 0.9], axis=0)
    if len(lines) > _LEGEND:
        axes.fill_between(_GRID, low, high, alpha=0.2, label="80 % of the classes")
    axes.plot(_GRID, height.mean(0), color="black", linewidth=1.8, label=text)

"""Pictures of a regression: residuals, and predictions against targets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from estimator.handlers._figures import new_figure, titled, write_figure
from estimator.handlers._residuals import Column
from estimator.handlers.base import require

DRAWN_COLUMNS = 12
_POINTS = 2000
"""More points than this are drawn as their density."""
_ACROSS = 4


def draw_residuals(path: Path, columns: Sequence[Column], title: str) -> None:
    """Draws histograms of the errors, predictions less targets, of at most 12 columns."""

    def draw(axes: Any, column: Column) -> None:
        errors = column.predicted - column.target
        low, high = np.quantile(errors, [0.001, 0.999])
        low, high = (low, high) if high > low else _around(low)
        bins = int(np.clip(np.sqrt(len(errors)), 10, 100))
        axes.hist(errors.clip(low, high), bins=bins, range=(low, high))
        axes.axvline(0, color="black", linewidth=1)
        axes.axvline(column.bias, color="tab:red", linewidth=1, linestyle="--", label="mean")
        axes.legend(fontsize=8)

    _draw(path, columns, f"Residuals: {title}", draw, x="predicted - target", y="samples")


def draw_predictions(path: Path, columns: Sequence[Column], title: str) -> None:
    """Draws predictions against targets, as points or, of many, as their density."""

    def draw(axes: Any, column: Column) -> None:
        both = np.concatenate([column.predicted, column.target])
        low, high = np.quantile(both, [0.0, 1.0])
        low, high = (low, high) if high > low else _around(low)
        if len(column.target) <= _POINTS:
            axes.plot(column.target, column.predicted, ".", markersize=4, alpha=0.5)
        else:
            colors = require("matplotlib.colors", "report", "a picture of predictions")
            sides = [[low, high], [low, high]]
            values = (column.target, column.predicted)
            axes.hist2d(*values, bins=120, range=sides, norm=colors.LogNorm(), cmap="viridis")
        axes.plot([low, high], [low, high], color="tab:red", linewidth=1)
        axes.set_aspect("equal")

    _draw(path, columns, f"Predicted and true: {title}", draw, x="target", y="predicted")


def _draw(path: Path, columns: Sequence[Column], title: str, draw: Any, **labels: str) -> None:
    drawn = [column for column in columns[:DRAWN_COLUMNS] if len(column.target)]
    if not drawn:
        path.unlink(missing_ok=True)
        return
    across = min(_ACROSS, len(drawn))
    down = -(-len(drawn) // across)
    side = 5.2 if across == 1 else 3.4
    figure = new_figure(side * across + 0.6, side * 0.9 * down + 0.5)
    for number, column in enumerate(drawn):
        axes = figure.add_subplot(down, across, number + 1)
        titled(axes, f"column {column.name}" if column.name else "", **labels)
        draw(axes, column)
        axes.grid(alpha=0.3)
    more = "" if len(columns) <= DRAWN_COLUMNS else f" (the first {DRAWN_COLUMNS} columns)"
    figure.suptitle(title + more, fontsize=11, parse_math=False)
    write_figure(path, figure)


def _around(value: float) -> tuple[float, float]:
    reach = max(abs(value) * 1e-3, 1e-6)
    return value - reach, value + reach

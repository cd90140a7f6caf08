"""Figures that are drawn without a window, and written whole."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estimator.handlers.base import require, write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> Figure:
    """An empty figure.

    Args:
        width: In inches, of 100 pixels each.
        height: In inches.
    """
    figures = require("matplotlib.figure", "report", "a picture of a report")
    agg = require("matplotlib.backends.backend_agg", "report", "a picture of a report")
    figure: Figure = figures.Figure(figsize=(width, height), dpi=100, layout="constrained")
    agg.FigureCanvasAgg(figure)
    return figure


def write_figure(path: Path, figure: Figure) -> None:
    """Writes a figure as PNG, whole or not at all."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_whole(path, content.getvalue())


def titled(axes: Any, title: str, **labels: str) -> None:
    """Writes title and labels of axes, in which a "$" of a name is a "$".

    Args:
        axes: Of matplotlib.
        title: Above them.
        labels: "x" and "y".
    """
    axes.set_title(title, fontsize=11, parse_math=False)
    for axis, text in labels.items():
        getattr(axes, f"set_{axis}label")(text, parse_math=False)

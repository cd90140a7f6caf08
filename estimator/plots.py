"""Pictures of a run, drawn with matplotlib without its global state."""

from __future__ import annotations

import functools
import io
from typing import TYPE_CHECKING, Any

from estimator.handlers.base import require
from estimator.history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@functools.cache
def _figure_class() -> type[Figure]:
    figure = require("matplotlib.figure", "report", "Drawing")

    class NotebookFigure(figure.Figure):  # type: ignore[misc, name-defined]  # imported at run time
        """A figure that a notebook shows without pyplot."""

        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png", dpi=120)
            return buffer.getvalue()

    return NotebookFigure


def new_axes(width: float = 6.4, height: float = 4.0) -> Axes:
    """Axes of a figure of their own, which shows itself in notebooks.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure: Any = _figure_class()(figsize=(width, height), layout="constrained")
    axes: Axes = figure.add_subplot()
    return axes


def plot_losses(history: History, ax: Axes | None = None) -> Figure:
    """Draws `train_loss` and, where there are values, `val_loss` over epochs.

    Args:
        history: At least one row.
        ax: Where to draw; None makes a figure.
    """
    axes = new_axes() if ax is None else ax
    complete = all(history["complete"])
    position = history["epoch"] if complete else history["step"]
    for column, label, marker in (("train_loss", "training", "o"), ("val_loss", "validation", "s")):
        if column not in history:
            continue
        points = [(p, v) for p, v in zip(position, history[column], strict=True) if v is not None]
        if points:
            axes.plot(*zip(*points, strict=True), marker=marker, markersize=4, label=label)
    axes.set_xlabel("epoch" if complete else "optimizer step")
    axes.set_ylabel("loss")
    axes.locator_params(axis="x", integer=True)
    axes.grid(alpha=0.3)
    if axes.has_data():
        axes.legend()
    figure: Figure = axes.figure  # type: ignore[assignment]  # never a SubFigure of ours
    return figure

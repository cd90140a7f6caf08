"""Many samples in one picture, with a few lines under each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from estimator.handlers._sample_pictures import Pixels, save_figure
from estimator.handlers._sample_rows import shortened
from estimator.handlers.base import require

GALLERY_SAMPLES = 100
_COLUMNS = 10
_CELL = (1.55, 2.15)
_PICTURE = 1.35
_CAPTION = 24


class Cell(NamedTuple):
    """A sample in a gallery."""

    image: Pixels | None
    lines: Sequence[str]
    """What stands below it, up to four lines."""


def write_gallery(path: Path, cells: Sequence[Cell], title: str, *, columns: int = 0) -> bool:
    """Draws samples in a grid.

    A sample without a picture gets an empty frame; without any picture nothing is written, and a
    picture that was there before is removed. At most `GALLERY_SAMPLES` are drawn.

    Args:
        path: The file.
        cells: What to draw.
        title: Above all.
        columns: Of the grid; 0 chooses.

    Returns:
        Whether there is a gallery.
    """
    cells = cells[:GALLERY_SAMPLES]
    if all(cell.image is None for cell in cells):
        path.unlink(missing_ok=True)
        return False
    figures = require("matplotlib.figure", "report", "a gallery of samples")
    agg = require("matplotlib.backends.backend_agg", "report", "a gallery of samples")
    columns = columns or min(_COLUMNS, max(4, len(cells)))
    lines = -(-len(cells) // columns)
    size = (columns * _CELL[0], lines * _CELL[1] + 0.45)
    figure = figures.Figure(figsize=size, dpi=100)
    agg.FigureCanvasAgg(figure)
    title = shortened(title, int(size[0] * 11))
    figure.text(0.5, 1 - 0.3 / size[1], title, ha="center", fontsize=11, parse_math=False)
    for place, cell in enumerate(cells):
        left = (place % columns) * _CELL[0]
        top = size[1] - 0.45 - (place // columns) * _CELL[1]
        _draw_cell(figure, size, (left, top), cell)
    save_figure(path, figure)
    return True


def _draw_cell(
    figure: Any, size: tuple[float, float], corner: tuple[float, float], cell: Cell
) -> None:
    """Draws one sample; the corner is the upper left one of its cell, in inches."""
    left, bottom = corner[0] + (_CELL[0] - _PICTURE) / 2, corner[1] - _PICTURE
    place = (left / size[0], bottom / size[1], _PICTURE / size[0], _PICTURE / size[1])
    axes = figure.add_axes(place, anchor="S", xticks=[], yticks=[])
    if cell.image is None:
        axes.text(0.5, 0.5, "no picture", ha="center", va="center", fontsize=7, color="grey")
    else:
        axes.imshow(cell.image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    centre = (corner[0] + _CELL[0] / 2) / size[0]
    text = {"ha": "center", "va": "top", "fontsize": 7.5, "linespacing": 1.15}
    caption = "\n".join(shortened(line, _CAPTION) for line in cell.lines)
    figure.text(centre, (bottom - 0.06) / size[1], caption, parse_math=False, **text)

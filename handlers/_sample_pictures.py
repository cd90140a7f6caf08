"""Single samples as pixels: images, planes of volumes side by side, series as plots."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from estimator.handlers._sample_kinds import SLICES, layout
from estimator.handlers._sample_rows import unit_range
from estimator.handlers.base import require, write_whole

Pixels = NDArray[np.uint8]
"""(H, W) in grey, (H, W, 3) in colours or (H, W, 4) with how opaque it is."""

NOT_FINITE = (255, 0, 255)
"""The colour of pixels that are not finite numbers."""
_SIDE = 96
"""Smaller pictures are enlarged to at least this many pixels."""
_GAP = 128
_LINES = 8
_MOMENTS = 4096


def picture(value: Tensor) -> Pixels | None:
    """One value of one sample on the host as a picture; None where it is told as numbers."""
    letters = layout(value.shape, value.dtype)
    if "T" in letters:
        return _plot(value if letters == "TC" else value.T if letters == "CT" else value[:, None])
    if not letters:
        return None
    planes = _planes(value, letters)
    shown = [_image(plane, finite) for plane, finite in planes]
    return shown[0] if len(shown) == 1 else _sheet(shown)


def pictures(rows: Mapping[str, Tensor], part: str = "input") -> dict[str, Pixels]:
    """The pictures of a sample, by the name of the value.

    Args:
        rows: Values of one sample, on the host.
        part: Which part of the batch they are of: its names are `<part>` or `<part>.<name>`.
    """
    found = {n: picture(v) for n, v in rows.items() if n.partition(".")[0] == part}
    return {name: image for name, image in found.items() if image is not None}


def _planes(value: Tensor, letters: str) -> list[tuple[Tensor, Tensor]]:
    """Some planes (C, H, W) of a value, all in one range, and where they are finite."""
    order = [letters.index(letter) for letter in "DCHW" if letter in letters]
    planes = value.permute(order)
    if "C" not in letters:
        planes = planes.unsqueeze(-3)
    if "D" not in letters:
        planes = planes.unsqueeze(0)
    planes = planes[:: -(-len(planes) // SLICES)]
    return list(zip(unit_range(planes), planes.isfinite().all(1), strict=True))


def _image(plane: Tensor, finite: Tensor) -> Pixels:
    pixels: Pixels = (plane * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    if not bool(finite.all()):
        colours = pixels[..., :3] if pixels.shape[2] > 1 else pixels.repeat(3, axis=2)
        pixels = colours.copy()
        pixels[~finite.numpy()] = NOT_FINITE
    return pixels[..., 0] if pixels.shape[2] == 1 else pixels


def _sheet(shown: list[Pixels]) -> Pixels:
    """Pictures of one size side by side, with lines between them."""
    if len({image.ndim for image in shown}) > 1 or any(image.ndim == 3 for image in shown):
        shown = [_coloured(image) for image in shown]
    columns = math.ceil(math.sqrt(len(shown)))
    height, width = shown[0].shape[0] + 1, shown[0].shape[1] + 1
    lines = -(-len(shown) // columns)
    shape = (lines * height - 1, columns * width - 1, *shown[0].shape[2:])
    sheet = np.full(shape, _GAP, np.uint8)
    for place, image in enumerate(shown):
        top, left = place // columns * height, place % columns * width
        sheet[top : top + height - 1, left : left + width - 1] = image
    return sheet


def _coloured(image: Pixels) -> Pixels:
    return image[..., None].repeat(3, axis=2) if image.ndim == 2 else image[..., :3]


def _plot(series: Tensor) -> Pixels:
    """Series (T, C) as lines over time; moments that are not finite are marked."""
    figures = require("matplotlib.figure", "report", "a picture of a sample")
    agg = require("matplotlib.backends.backend_agg", "report", "a picture of a sample")
    figure = figures.Figure(figsize=(4.2, 2.8), dpi=100, layout="constrained")
    canvas = agg.FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    step = -(-len(series) // _MOMENTS)
    moments = np.arange(0, len(series), step)
    values = series[::step, :_LINES].to(torch.float64)
    drawn = values.where(values.isfinite(), math.nan).numpy()
    for channel in range(drawn.shape[1]):
        axes.plot(moments, drawn[:, channel], linewidth=1, label=str(channel))
    lost = moments[np.isnan(drawn).any(1)]
    if len(lost):
        colour = tuple(share / 255 for share in NOT_FINITE)
        transform = axes.get_xaxis_transform()
        options = {"transform": transform, "clip_on": False, "linestyle": "", "marker": "|"}
        axes.plot(lost, np.zeros(len(lost)), color=colour, label="not finite", **options)
    axes.set_xlabel("time", fontsize=8)
    axes.tick_params(labelsize=8)
    if drawn.shape[1] > 1 or len(lost):
        title = "channel" if series.shape[1] <= _LINES else f"first of {series.shape[1]}"
        axes.legend(title=title, fontsize=7, title_fontsize=7, loc="upper right")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def write_picture(path: Path, image: Pixels) -> None:
    """Writes a picture, enlarged if it is small, as a PNG file."""
    pillow: Any = require("PIL.Image", "report", "a picture of a sample")
    content = io.BytesIO()
    pillow.fromarray(_enlarged(image)).save(content, format="PNG")
    write_whole(path, content.getvalue())


def save_figure(path: Path, figure: Any) -> None:
    """Writes a figure whose texts may have signs that its font lacks, as a PNG file."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        figure.savefig(content, format="png")
    write_whole(path, content.getvalue())


def _enlarged(image: Pixels) -> Pixels:
    factor = max(1, -(-_SIDE // max(image.shape[:2])))
    return image.repeat(factor, axis=0).repeat(factor, axis=1)

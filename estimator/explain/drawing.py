"""A sample as a picture, with what each method says of it laid over it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from estimator.handlers._sample_rows import unit_range
from estimator.handlers.base import require

_SIDE, _WIDTH, _EDGE, _HEAD = 2.1, 2.85, 0.1, 0.95
"""Inches: of a picture, of a picture with its scale, around all, and of what stands above."""
_SHARE = 0.999
"""Of a map's numbers this share is within the colours; few larger ones would hide the rest."""


def is_picture(values: Tensor) -> bool:
    """Whether a batch is of images (N, C, H, W), or of volumes (N, C, D, H, W)."""
    return values.ndim in (4, 5) and min(values.shape[2:]) > 1


def drawing(
    image: Tensor, maps: Mapping[str, Tensor], lines: list[str], *, signed: Mapping[str, bool]
) -> bytes:
    """A PNG of an image and, beside it, each map over the image with its scale of colours.

    Args:
        image: (C, H, W), or (C, D, H, W), of which the middle slice is drawn.
        maps: By method, (C, ...) or (1, ...); the channels are added up.
        lines: What stands above; drawn as it is, without formulas.
        signed: Whether the numbers of a method say for (red) and against (blue).
    """
    figures = require("matplotlib.figure", "explain", "a picture of an explanation")
    agg = require("matplotlib.backends.backend_agg", "explain", "a picture of an explanation")
    size = (max(2, 1 + len(maps)) * _WIDTH, _SIDE + _HEAD)
    figure = figures.Figure(figsize=size, dpi=100)
    agg.FigureCanvasAgg(figure)
    top = 1 - 0.08 / size[1]
    text = {"ha": "left", "va": "top", "fontsize": 9, "parse_math": False}
    figure.text(_EDGE / size[0], top, "\n".join(lines), **text)
    shown = _pixels(image)
    grey = shown if shown.ndim == 2 else shown[..., :3].mean(2)
    axes = _panel(figure, 0, "input", size)
    axes.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    for number, (name, values) in enumerate(maps.items(), start=1):
        axes = _panel(figure, number, name.replace("_", " "), size)
        seen = _overlay(axes, grey, _flat(values), signed[name])
        left = axes.get_position().x1 + 0.06 / size[0]
        place = (left, _EDGE / size[1], 0.09 / size[0], _SIDE / size[1])
        scale = figure.colorbar(seen, cax=figure.add_axes(place), format="%.2g")
        scale.ax.tick_params(labelsize=6.5)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _panel(figure: Any, number: int, title: str, size: tuple[float, float]) -> Any:
    """The axes of a picture; laid out by hand, which takes half the time."""
    left = _EDGE + number * _WIDTH
    place = (left / size[0], _EDGE / size[1], _SIDE / size[0], _SIDE / size[1])
    axes = figure.add_axes(place)
    axes.set_axis_off()
    axes.set_title(title, fontsize=8)
    return axes


def _overlay(axes: Any, grey: NDArray[Any], values: NDArray[Any], signed: bool) -> Any:
    height, width = grey.shape
    axes.imshow(0.25 + 0.5 * grey, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    most = float(np.quantile(np.abs(values), _SHARE)) or float(np.abs(values).max()) or 1.0
    colours = {"cmap": "RdBu_r", "vmin": -most} if signed else {"cmap": "inferno", "vmin": 0.0}
    # What says nothing lets the picture through.
    strength = np.clip(np.abs(values) / most, 0.0, 1.0) ** 0.5 * 0.9
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    return axes.imshow(
        values, vmax=most, alpha=strength, extent=extent, interpolation="nearest", **colours
    )


def _middle(values: Tensor) -> Tensor:
    return values[:, values.shape[1] // 2] if values.ndim == 4 else values


def _flat(values: Tensor) -> NDArray[Any]:
    return _middle(values).sum(0).double().numpy()


def _pixels(image: Tensor) -> NDArray[Any]:
    """Numbers from 0 to 1: (H, W), or (H, W, 3 or 4)."""
    pixels = unit_range(_middle(image))
    if len(pixels) in (3, 4):
        return pixels.permute(1, 2, 0).numpy()
    return pixels.mean(0).to(torch.float32).numpy()

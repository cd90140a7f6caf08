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

_PANEL = 2.6
_HEAD = 0.75
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
    panels = 1 + len(maps)
    size = (max(2, panels) * _PANEL, _PANEL + _HEAD)
    figure = figures.Figure(figsize=size, dpi=100, layout="constrained")
    agg.FigureCanvasAgg(figure)
    figure.suptitle("\n".join(lines), fontsize=9, parse_math=False)
    axes = figure.subplots(1, max(2, panels), squeeze=False)[0]
    for place in axes:
        place.set_axis_off()
    shown = _pixels(image)
    axes[0].imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes[0].set_title("input", fontsize=8)
    grey = shown if shown.ndim == 2 else shown[..., :3].mean(2)
    for place, (name, values) in zip(axes[1:], maps.items(), strict=False):
        _draw(figure, place, grey, _flat(values), name, signed[name])
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw(
    figure: Any, axes: Any, grey: NDArray[Any], values: NDArray[Any], name: str, signed: bool
) -> None:
    height, width = grey.shape
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    axes.imshow(0.25 + 0.5 * grey, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    most = float(np.quantile(np.abs(values), _SHARE)) or float(np.abs(values).max()) or 1.0
    colours = {"cmap": "RdBu_r", "vmin": -most} if signed else {"cmap": "inferno", "vmin": 0.0}
    # What says nothing lets the picture through.
    strength = np.clip(np.abs(values) / most, 0.0, 1.0) ** 0.5 * 0.9
    seen = axes.imshow(
        values, vmax=most, alpha=strength, extent=extent, interpolation="nearest", **colours
    )
    axes.set_title(name.replace("_", " "), fontsize=8)
    scale = figure.colorbar(seen, ax=axes, fraction=0.046, pad=0.03, format="%.2g")
    scale.ax.tick_params(labelsize=6)


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

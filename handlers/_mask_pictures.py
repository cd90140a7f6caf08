"""Pictures of a segmentation: image, true mask, predicted mask, and where they differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from estimator.handlers._class_pictures import label
from estimator.handlers._figures import new_figure, titled, write_figure
from estimator.handlers._mask_counts import Shown
from estimator.handlers._sample_rows import unit_range
from estimator.handlers.base import require

Pixels = NDArray[np.float64]

NAMED_CLASSES = 20
_CELL = 2.4
_COLUMNS = ("image", "target", "predicted", "differences")
_MISSED, _ADDED, _IGNORED = (0.13, 0.40, 0.85), (0.86, 0.15, 0.15), (0.45, 0.45, 0.45)
_SHADE = 0.6


def draw_overlays(path: Path, shown: Sequence[Shown], names: Sequence[str], title: str) -> None:
    """Draws a row for each sample; without any the picture is removed.

    Masks are laid over the image; class 0 is left clear, as the background mostly is.
    """
    if not shown:
        path.unlink(missing_ok=True)
        return
    colours = _colours(len(names))
    figure = new_figure(_CELL * 4 + 1.9, _CELL * len(shown) + 0.7)
    for row, sample in enumerate(shown):
        for column, (head, pixels) in enumerate(zip(_COLUMNS, _row(sample, colours), strict=True)):
            axes = figure.add_subplot(len(shown), 4, row * 4 + column + 1)
            axes.imshow(pixels, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            titled(axes, head if row == 0 else "")
    figure.suptitle(title, fontsize=11, parse_math=False)
    legend = figure.legend(handles=_key(names, colours), loc="outside right upper", fontsize=8)
    for entry in legend.get_texts():
        entry.set_parse_math(False)
    write_figure(path, figure)


def _row(sample: Shown, colours: Pixels) -> list[Pixels]:
    target, predicted = sample.target.numpy(), sample.predicted.numpy()
    grey = np.ones((*target.shape, 3))
    image = grey if sample.image is None else _pixels(sample.image)
    differences = np.repeat(image.mean(2, keepdims=True), 3, axis=2) * 0.5 + 0.4
    wrong = (predicted != target) & (target >= 0)
    # Of more than two classes the first is not always the background.
    missed = wrong & (predicted == 0) & (len(colours) == 2)
    differences[wrong] = _ADDED
    differences[missed] = _MISSED
    differences[target < 0] = _IGNORED
    masks = [_laid(image, mask, colours) for mask in (target, predicted)]
    return [image, *masks, differences]


def _pixels(image: Tensor) -> Pixels:
    pixels = unit_range(image).numpy().astype(np.float64).transpose(1, 2, 0)
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def _laid(image: Pixels, mask: NDArray[np.int16], colours: Pixels) -> Pixels:
    laid = image.copy()
    there = mask > 0
    laid[there] = (1 - _SHADE) * laid[there] + _SHADE * colours[mask[there]]
    laid[mask < 0] = _IGNORED
    return laid


def _colours(count: int) -> Pixels:
    """A colour for each class; neighbours in number are far apart in hue."""
    colors = require("matplotlib.colors", "report", "masks")
    turn = (np.arange(count) * 0.618034 - 0.28) % 1.0
    found: Pixels = colors.hsv_to_rgb(np.stack([turn, np.full(count, 0.85), np.ones(count)], 1))
    return found


def _key(names: Sequence[str], colours: Pixels) -> list[Any]:
    patches = require("matplotlib.patches", "report", "masks")
    binary = len(names) == 2
    found = []
    if len(names) <= NAMED_CLASSES:
        pairs = list(zip(names, colours, strict=True))[1:]
        found = [patches.Patch(color=colour, label=label(name)) for name, colour in pairs]
    found.append(patches.Patch(color=_ADDED, label="too much" if binary else "wrong"))
    if binary:
        found.append(patches.Patch(color=_MISSED, label="missed"))
    return [*found, patches.Patch(color=_IGNORED, label="no target")]

"""Single samples as files: a picture and a text each, and a gallery of all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from estimator.handlers._sample_rows import (
    answers,
    class_name,
    in_words,
    is_image,
    shortened,
    unit_range,
)
from estimator.handlers.base import require

GALLERY_SAMPLES = 100
_SIDE = 96
"""Smaller pictures are enlarged to at least this many pixels."""
_COLUMNS = 10
_CELL = (1.55, 2.15)
_PICTURE = 1.35
_CAPTION = 24


class Sample(NamedTuple):
    """One exported sample."""

    number: int
    """Its place in the ranking, from 1."""
    uid: str
    score: float
    facts: dict[str, str]
    """Lines of its text file that come before what the net was given and gave."""
    rows: dict[str, Tensor]
    """What was kept of it, tensors on the host by name; empty where nothing was."""


def write_samples(folder: Path, samples: Sequence[Sample], classes: Sequence[str] | None) -> None:
    """Writes each sample's text, and its picture where it has one, as `001_uid_<uid>`.

    Pictures and texts that the folder held before are removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in ("*_uid_*.png", "*_uid_*.txt"):
        for former in folder.glob(pattern):
            former.unlink()
    for sample in samples:
        safe = re.sub(r"[^\w.-]+", "_", sample.uid)[:40]
        name = f"{sample.number:03d}_uid_{safe}"
        lines = sample.facts | _told(sample.rows, classes)
        text = "".join(f"{key}={value}\n" for key, value in lines.items())
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
        image = picture(sample.rows)
        if image is not None:
            pillow = require("PIL.Image", "report", "a picture of a sample")
            pillow.fromarray(_enlarged(image)).save(folder / f"{name}.png")


def _told(rows: dict[str, Tensor], classes: Sequence[str] | None) -> dict[str, str]:
    lines = {}
    for name, value in _answers(rows, classes).items():
        part, dot, rest = name.partition(".")
        lines[name] = in_words(value)
        named = class_name(value, classes)
        if named is not None:
            lines[f"{part}_class{dot}{rest}"] = named
    others = {name: value for name, value in rows.items() if name.partition(".")[0] != "target"}
    return lines | {name: in_words(value) for name, value in others.items()}


def _answers(rows: dict[str, Tensor], classes: Sequence[str] | None) -> dict[str, Tensor]:
    found = answers({name: value[None] for name, value in rows.items()}, classes)
    return {name: value[0] for name, value in found.items()}


def picture(rows: dict[str, Tensor]) -> NDArray[np.uint8] | None:
    """The first image among a sample's inputs, as (H, W) or (H, W, 3); None without one."""
    for name, value in rows.items():
        if name.partition(".")[0] == "input" and is_image(value[None]):
            pixels = (unit_range(value) * 255).round().to(torch.uint8).numpy()
            return pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    return None


def _enlarged(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    factor = max(1, -(-_SIDE // max(image.shape[:2])))
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def write_gallery(
    path: Path, samples: Sequence[Sample], classes: Sequence[str] | None, *, title: str
) -> None:
    """Draws the samples in a grid with uid, target, prediction and loss under each.

    A sample without a picture gets an empty frame; without any picture nothing is written, and a
    picture that was there before is removed. At most `GALLERY_SAMPLES` are drawn.
    """
    samples = samples[:GALLERY_SAMPLES]
    images = [picture(sample.rows) for sample in samples]
    path.unlink(missing_ok=True)
    if all(image is None for image in images):
        return
    figures = require("matplotlib.figure", "report", "a gallery of samples")
    agg = require("matplotlib.backends.backend_agg", "report", "a gallery of samples")
    columns = min(_COLUMNS, max(4, len(samples)))
    lines = -(-len(samples) // columns)
    size = (columns * _CELL[0], lines * _CELL[1] + 0.45)
    figure = figures.Figure(figsize=size, dpi=100)
    agg.FigureCanvasAgg(figure)
    figure.text(0.5, 1 - 0.3 / size[1], title, ha="center", fontsize=11, parse_math=False)
    for place, (sample, image) in enumerate(zip(samples, images, strict=True)):
        left = (place % columns) * _CELL[0]
        top = size[1] - 0.45 - (place // columns) * _CELL[1]
        _draw_cell(figure, size, (left, top), image, _caption(sample, classes))
    figure.savefig(path)


def _caption(sample: Sample, classes: Sequence[str] | None) -> str:
    lines = [f"uid {sample.uid}"]
    found = _answers(sample.rows, classes)
    for part, word in (("target", "target"), ("prediction", "predicted")):
        value = next((v for name, v in found.items() if name.partition(".")[0] == part), None)
        if value is not None:
            lines.append(f"{word} {class_name(value, classes) or in_words(value)}")
    lines.append(f"loss {sample.score:.3g}")
    return "\n".join(shortened(line, _CAPTION) for line in lines)


def _draw_cell(
    figure: Any,
    size: tuple[float, float],
    corner: tuple[float, float],
    image: NDArray[np.uint8] | None,
    caption: str,
) -> None:
    """Draws one sample; the corner is the upper left one of its cell, in inches."""
    left, bottom = corner[0] + (_CELL[0] - _PICTURE) / 2, corner[1] - _PICTURE
    place = (left / size[0], bottom / size[1], _PICTURE / size[0], _PICTURE / size[1])
    axes = figure.add_axes(place, anchor="S", xticks=[], yticks=[])
    if image is None:
        axes.text(0.5, 0.5, "no picture", ha="center", va="center", fontsize=7, color="grey")
    else:
        axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    centre = (corner[0] + _CELL[0] / 2) / size[0]
    text = {"ha": "center", "va": "top", "fontsize": 7.5, "linespacing": 1.15}
    figure.text(centre, (bottom - 0.06) / size[1], caption, parse_math=False, **text)

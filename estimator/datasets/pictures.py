"""Image files as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from estimator.handlers.base import DataError, require
from estimator.transforms.resize import Resize

Mode = Literal["L", "RGB"]


def read_picture(path: Path, mode: Mode = "RGB") -> Tensor:
    """Reads an image file of any kind that Pillow knows.

    Args:
        path: The file.
        mode: "RGB" for three channels, "L" for one of grey.

    Returns:
        Shape (C, H, W), uint8.

    Raises:
        DataError: It is missing, cut, or no image.
        MissingExtraError: Pillow is not installed.
    """
    pillow = require("PIL.Image", "datasets", "reading image files")
    try:
        with pillow.open(path) as image:
            pixels = np.array(image.convert(mode))
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(
            f"{path}: an image that can be read is needed: {error}. Is it cut, or another file?"
        ) from error
    return torch.from_numpy(pixels).view(*pixels.shape[:2], -1).permute(2, 0, 1).contiguous()


def read_pictures(
    paths: Sequence[Path], mode: Mode = "RGB", *, size: int | tuple[int, int] | None = None
) -> Tensor:
    """Reads images into one tensor.

    Args:
        paths: The files.
        mode: "RGB" for three channels, "L" for one of grey.
        size: Height and width that each is stretched to when it is read; one number means both.
            None leaves them as they are, and takes one size only.

    Returns:
        Shape (N, C, H, W), uint8.

    Raises:
        DataError: One is missing or cut, there are none, or they are of several sizes.
        MissingExtraError: Pillow is not installed.
    """
    return read_sized(paths, mode, size=size)[0]


def read_sized(
    paths: Sequence[Path], mode: Mode = "RGB", *, size: int | tuple[int, int] | None = None
) -> tuple[Tensor, list[tuple[int, int]]]:
    """The images of `read_pictures`, and the height and width that each file has."""
    if not paths:
        raise DataError("read_pictures(paths=...) needs one image or more; received none.")
    resize = None if size is None else Resize(size)
    images, sizes = torch.empty(0), []
    for place, path in enumerate(paths):
        image = read_picture(path, mode)
        sizes.append((image.shape[1], image.shape[2]))
        if resize is not None:
            image = resize(image[None])[0]
        elif sizes[-1] != sizes[0]:
            raise DataError(
                f"{path}: images must have one height and width, {sizes[0]} as {paths[0].name} "
                f"has; received {sizes[-1]}. Let them be stretched to one: size=(height, width)."
            )
        if place == 0:
            images = image.new_empty((len(paths), *image.shape))
        images[place] = image
    return images, sizes

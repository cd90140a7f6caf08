"""`RandomCutout`: a square of each image is taken away."""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

import torch

from estimator.transforms.base import FieldKeys, FieldTransform, Scene
from estimator.transforms.draws import check_size, whole


class RandomCutout(FieldTransform):
    """Overwrites a rectangle around a random pixel of each image (arXiv:1708.04552).

    The rectangle may reach over the border, as in the paper, so that less is taken away there.
    Masks and boxes tell what is in the picture and stay as they are.

    Args:
        size: Height and width of the rectangle, in pixels; one number means both.
        fill: What is written, in the unit of the images.
        **fields: Keys of the batch, see `FieldKeys`.

    Raises:
        ArgumentError: A size that is no size.

    Example:
        >>> import torch
        >>> RandomCutout(3)(torch.ones(1, 1, 1, 1)).item()
        0.0
    """

    def __init__(
        self, size: int | tuple[int, int], *, fill: float = 0, **fields: Unpack[FieldKeys]
    ) -> None:
        super().__init__(**fields)
        self.size, self.fill = check_size(size, "RandomCutout(size=...)"), fill

    def change(self, scene: Scene, generator: torch.Generator | None) -> Scene:
        """Overwrites a rectangle in the images of each sample."""
        inside = []
        for side, length in zip(scene.size, self.size, strict=True):
            begin = whole(scene, generator, side)[:, None] - length // 2
            place = torch.arange(side, device=scene.device)
            inside.append((place >= begin) & (place < begin + length))
        cut = (inside[0][:, :, None] & inside[1][:, None, :])[:, None]
        return replace(scene, images=tuple(i.masked_fill(cut, self.fill) for i in scene.images))

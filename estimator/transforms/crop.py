"""`RandomCrop`: a part of each image, after padding."""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

import torch
from torch import Tensor

from estimator.handlers.base import DataError
from estimator.transforms.base import FieldKeys, FieldTransform, Scene
from estimator.transforms.draws import check_size, whole
from estimator.transforms.pixels import pick, with_boxes


class RandomCrop(FieldTransform):
    """Pads each image on all sides, and cuts a part of a given size at a place of its own.

    Args:
        size: Height and width of the part, in pixels; one number means both.
        padding: Pixels added above and below, and at the left and right; one number means both.
        fill: Value of added pixels of images, in their unit.
        mask_fill: Value of added pixels of masks.
        **fields: Keys of the batch, see `FieldKeys`.

    Raises:
        ArgumentError: A size that is no size.

    Example:
        >>> import torch
        >>> images = torch.arange(9).view(1, 1, 3, 3)
        >>> RandomCrop(5, padding=1)(images)[0, 0]
        tensor([[0, 0, 0, 0, 0],
                [0, 0, 1, 2, 0],
                [0, 3, 4, 5, 0],
                [0, 6, 7, 8, 0],
                [0, 0, 0, 0, 0]])
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        padding: int | tuple[int, int] = 0,
        *,
        fill: float = 0,
        mask_fill: float = 0,
        **fields: Unpack[FieldKeys],
    ) -> None:
        super().__init__(**fields)
        self.size = check_size(size, "RandomCrop(size=...)")
        self.padding = check_size(padding, "RandomCrop(padding=...)", least=0)
        self.fill, self.mask_fill = fill, mask_fill

    def change(self, scene: Scene, generator: torch.Generator | None) -> Scene:
        """Cuts the same part from images, masks and boxes of a sample.

        Raises:
            DataError: Images that are smaller than the part, padding included.
        """
        pads = zip(scene.size, self.padding, strict=True)
        padded = [side + 2 * padding for side, padding in pads]
        room = [p - size for p, size in zip(padded, self.size, strict=True)]
        if min(room) < 0:
            raise DataError(
                f"{self!r} cuts parts of {self.size} pixels; received images of {scene.size}, "
                f"{tuple(padded)} with padding. Choose a smaller size or more padding."
            )
        top, left = (
            whole(scene, generator, r + 1) - p for r, p in zip(room, self.padding, strict=True)
        )
        rows = top[:, None, None] + torch.arange(self.size[0], device=scene.device)[:, None]
        columns = left[:, None, None] + torch.arange(self.size[1], device=scene.device)

        def cut(values: Tensor, fill: float) -> Tensor:
            return pick(values, rows, columns, fill)

        changed = replace(
            scene,
            images=tuple(cut(image, self.fill) for image in scene.images),
            masks=tuple(cut(mask, self.mask_fill) for mask in scene.masks),
        )
        if scene.boxes is None:
            return changed
        shift = torch.stack([left, top, left, top], dim=-1)[:, None]
        return with_boxes(changed, scene.boxes - shift, self.size)

"""`Resize`: images of another size."""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from estimator.transforms.base import FieldKeys, FieldTransform, Scene
from estimator.transforms.draws import check_size
from estimator.transforms.pixels import pick, with_boxes


class Resize(FieldTransform):
    """Stretches images to a size: bilinear with antialiasing, masks by the nearest pixel.

    Images of bytes are computed as floats and rounded back to bytes, on every device alike.

    Args:
        size: Height and width in pixels; one number means both.
        **fields: Keys of the batch, see `FieldKeys`.

    Raises:
        ArgumentError: A size that is no size.

    Example:
        >>> import torch
        >>> Resize((1, 2))(torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]]))
        tensor([[[[1., 2.]]]])
    """

    def __init__(self, size: int | tuple[int, int], **fields: Unpack[FieldKeys]) -> None:
        super().__init__(**fields)
        self.size = check_size(size, "Resize(size=...)")

    def change(self, scene: Scene, generator: torch.Generator | None) -> Scene:
        """Stretches images, masks and boxes."""
        rows, columns = (
            ((torch.arange(new, device=scene.device) + 0.5) * (old / new)).long()
            for new, old in zip(self.size, scene.size, strict=True)
        )
        rows, columns = rows[:, None], columns[None, :]
        full = (scene.samples, *self.size)
        changed = replace(
            scene,
            images=tuple(map(self._stretched, scene.images)),
            masks=tuple(
                pick(mask, rows.expand(full), columns.expand(full), 0) for mask in scene.masks
            ),
        )
        if scene.boxes is None:
            return changed
        y, x = (new / old for new, old in zip(self.size, scene.size, strict=True))
        ends = zip(scene.boxes.unbind(-1), (x, y, x, y), strict=True)
        boxes = torch.stack([end * factor for end, factor in ends], dim=-1)
        return with_boxes(changed, boxes, self.size)

    def _stretched(self, images: Tensor) -> Tensor:
        floats = as_floats(images)
        return as_before(
            interpolate(floats, self.size, mode="bilinear", antialias=True), images.dtype
        )


def as_floats(images: Tensor) -> Tensor:
    """Images that can be interpolated on any device."""
    return images if images.dtype == torch.float64 else images.float()


def as_before(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Interpolated images in the type that they had, whole numbers rounded and in their range."""
    if dtype.is_floating_point:
        return images.to(dtype)
    limits = torch.iinfo(dtype)
    return images.round().clamp(limits.min, limits.max).to(dtype)

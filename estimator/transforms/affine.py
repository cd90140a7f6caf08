"""`RandomAffine`: turned, moved, scaled and sheared images."""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from estimator.handlers.base import ArgumentError
from estimator.transforms.base import FieldKeys, FieldTransform, Scene
from estimator.transforms.draws import Range, check_range, uniform
from estimator.transforms.pixels import pick, with_boxes
from estimator.transforms.resize import as_before, as_floats


class RandomAffine(FieldTransform):
    """Turns, moves, scales and shears each sample around the middle of the image.

    A point at (x, y) from the middle goes to scale * R(angle) S(shear) (x, y) + move. Images are
    interpolated (bilinear) and keep their type, masks take the nearest pixel, and a box becomes
    the smallest upright one around its moved corners.

    Args:
        degrees: Range of the angle, clockwise as seen; one number a means from -a to a.
        translate: Range of the move along each axis, as a part of the width and height.
        scale: Range of the factor, both ends above 0.
        shear: Range of the angle by which vertical lines are slanted, in degrees within 90.
        fill: Value of pixels from outside, in the unit of the images.
        mask_fill: Value of pixels of masks from outside.
        **fields: Keys of the batch, see `FieldKeys`.

    Raises:
        ArgumentError: A range that is none, or out of its limits.

    Example:
        >>> import torch
        >>> RandomAffine((90, 90))(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])).round()
        tensor([[[[3., 1.],
                  [4., 2.]]]])
    """

    def __init__(
        self,
        degrees: Range = 0.0,
        *,
        translate: Range = 0.0,
        scale: tuple[float, float] = (1.0, 1.0),
        shear: Range = 0.0,
        fill: float = 0,
        mask_fill: float = 0,
        **fields: Unpack[FieldKeys],
    ) -> None:
        super().__init__(**fields)
        self.degrees = check_range(degrees, "RandomAffine(degrees=...)")
        self.translate = check_range(translate, "RandomAffine(translate=...)")
        self.scale = check_range(scale, "RandomAffine(scale=...)")
        self.shear = check_range(shear, "RandomAffine(shear=...)")
        self.fill, self.mask_fill = fill, mask_fill
        if self.scale[0] <= 0:
            raise ArgumentError(
                f"RandomAffine(scale=...) must be two factors above 0; received {scale!r}."
            )
        if not -90 < self.shear[0] <= self.shear[1] < 90:
            raise ArgumentError(
                f"RandomAffine(shear=...) must lie within -90 and 90 degrees; received {shear!r}."
            )

    def change(self, scene: Scene, generator: torch.Generator | None) -> Scene:
        """Moves images, masks and boxes of a sample alike."""
        matrix, move = self._draw(scene, generator)
        height, width = scene.size
        x = torch.arange(width, device=scene.device) + 0.5 - width / 2
        y = torch.arange(height, device=scene.device) + 0.5 - height / 2
        places = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
        back = torch.linalg.inv_ex(matrix).inverse
        # Where each pixel of the result comes from, in pixels from the upper left corner.
        source = ((places - move[:, None, None]) @ back.mT[:, None]).unbind(-1)
        x, y = source[0] + width / 2, source[1] + height / 2

        rows, columns = y.floor().long(), x.floor().long()
        grid = torch.stack([x * (2 / width) - 1, y * (2 / height) - 1], dim=-1)
        changed = replace(
            scene,
            images=tuple(self._sampled(image, grid) for image in scene.images),
            masks=tuple(pick(mask, rows, columns, self.mask_fill) for mask in scene.masks),
        )
        if scene.boxes is None:
            return changed
        return with_boxes(changed, _moved(scene.boxes, matrix, move, scene.size), scene.size)

    def _draw(self, scene: Scene, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        angle = torch.deg2rad(uniform(scene, generator, *self.degrees))
        slant = torch.tan(torch.deg2rad(uniform(scene, generator, *self.shear)))
        factor = uniform(scene, generator, *self.scale)
        height, width = scene.size
        move = torch.stack(
            [uniform(scene, generator, *self.translate) * side for side in (width, height)], dim=-1
        )
        cos, sin = factor * torch.cos(angle), factor * torch.sin(angle)
        rows = [cos, cos * slant - sin, sin, sin * slant + cos]
        return torch.stack(rows, dim=-1).unflatten(-1, (2, 2)), move

    def _sampled(self, images: Tensor, grid: Tensor) -> Tensor:
        floats = as_floats(images)
        # What grid_sample adds outside is 0, so pixels are counted from the value to fill with.
        sampled = grid_sample(
            floats - self.fill, grid.to(floats.dtype), align_corners=False, padding_mode="zeros"
        )
        return as_before(sampled + self.fill, images.dtype)


def _moved(boxes: Tensor, matrix: Tensor, move: Tensor, size: tuple[int, int]) -> Tensor:
    """The smallest upright boxes around moved ones."""
    down, right = size[0] / 2, size[1] / 2
    x1, y1, x2, y2 = boxes.unbind(-1)
    corners = [torch.stack([x - right, y - down], dim=-1) for x in (x1, x2) for y in (y1, y2)]
    points = torch.stack(corners, dim=-2) @ matrix.mT[:, None].to(boxes.dtype)
    x, y = (points + move[:, None, None].to(boxes.dtype)).unbind(-1)
    ends = [x.amin(-1) + right, y.amin(-1) + down, x.amax(-1) + right, y.amax(-1) + down]
    return torch.stack(ends, dim=-1)

"""Pixels from other places, and boxes that are moved along."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from estimator.transforms.base import Scene


def pick(values: Tensor, rows: Tensor, columns: Tensor, fill: float) -> Tensor:
    """Takes each pixel from a place in the same sample; values are copied, never mixed.

    Args:
        values: Shape (N, H, W) or (N, C, H, W), of any type.
        rows: For each pixel of the result the row to take it from; broadcast to (N, h, w).
        columns: The column likewise.
        fill: What stands where a place is outside.

    Returns:
        Shape (N, h, w) or (N, C, h, w), of the same type.
    """
    height, width = values.shape[-2:]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    places = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    flat, shape = places.flatten(1), places.shape[1:]
    if values.ndim == 4:
        flat = flat[:, None].expand(-1, values.shape[1], -1)
        inside = inside[:, None]
    picked: Tensor = values.flatten(-2).gather(-1, flat).unflatten(-1, shape)
    return picked.masked_fill(~inside, fill)


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """One number a sample, in a shape that is broadcast against a tensor of all of them."""
    return values.view(-1, *[1] * (like.ndim - 1))


def with_boxes(scene: Scene, boxes: Tensor, size: tuple[int, int]) -> Scene:
    """The scene with its boxes moved, clipped, and flagged where nothing of them is left.

    Args:
        scene: With the boxes as they were.
        boxes: Where they are moved to, shape (N, M, 4).
        size: Height and width of the images that they lie on.
    """
    assert scene.boxes is not None
    before = _has_area(scene.boxes)
    real = before if scene.valid is None else before & scene.valid.bool()
    boxes = clipped(boxes, size)
    left = real & _has_area(boxes)
    # Not a product, which NaN would survive.
    boxes = torch.where(left[..., None], boxes, 0)
    return replace(scene, boxes=boxes, valid=None if scene.valid is None else left)


def clipped(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes of which nothing is outside an image of that height and width."""
    height, width = size
    left, top, right, bottom = boxes.unbind(-1)
    # Plain numbers as limits: a tensor of them would have to be copied to the device.
    ends = [
        end.clamp(0, most)
        for end, most in ((left, width), (top, height), (right, width), (bottom, height))
    ]
    return torch.stack(ends, dim=-1)


def _has_area(boxes: Tensor) -> Tensor:
    left, top, right, bottom = boxes.unbind(-1)
    return (right > left) & (bottom > top)

"""Batches of pictures of which everything is known."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def scene_batch(samples: int = 6, side: int = 24) -> dict[str, Any]:
    """A bright rectangle on black in each image, its mask and its box; the second box is none."""
    low = torch.randint(0, side // 2, (samples, 2))
    boxes = torch.zeros(samples, 2, 4)
    boxes[:, 0] = torch.cat([low, low + torch.randint(4, side // 2, (samples, 2))], dim=1)
    place = torch.arange(side)
    x1, y1, x2, y2 = boxes[:, 0].long().T[..., None]
    masks = ((place >= y1) & (place < y2))[:, :, None] & ((place >= x1) & (place < x2))[:, None]
    return {
        "images": (masks[:, None] * 255).to(torch.uint8).repeat(1, 3, 1, 1),
        "masks": masks.long() * 7,
        "boxes": boxes,
        "valid": torch.tensor([[True, False]]).repeat(samples, 1),
        "labels": torch.arange(samples),
        "sample_uid": torch.arange(samples) + 100,
    }


def copied(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: value.clone() for name, value in batch.items()}


def around(mask: Tensor) -> list[int]:
    """The box around what is not zero."""
    rows, columns = mask.nonzero(as_tuple=True)
    if not len(rows):
        return [0, 0, 0, 0]
    ends = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    return [int(end) for end in ends]


def noisy(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """A transform that draws."""
    return batch[0] + torch.rand_like(batch[0]), batch[1]

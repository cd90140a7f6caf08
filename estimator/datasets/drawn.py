"""Pictures of coloured shapes, drawn by seed, of which everything is known."""

from __future__ import annotations

import torch
from torch import Tensor

from estimator.datasets.splits import Splits
from estimator.handlers.base import ArgumentError

SHAPE_CLASSES = ("background", "circle", "square", "triangle")


def shapes(
    samples: int = 1_000,
    *,
    size: int = 64,
    most: int = 4,
    noise: float = 10.0,
    seed: int = 0,
) -> Splits:
    """Coloured circles, squares and triangles on a grey ground, for segmentation and detection.

    Each picture has from one to `most` shapes of a random kind, place, size and colour; a later
    one covers what is under it. A shape of which nothing can be seen has no box.

    Args:
        samples: How many pictures train; a fifth as many validate, and as many test.
        size: Height and width in pixels, from 16 up.
        most: The most shapes of a picture, from 1 up.
        noise: Spread of the noise on each pixel, in levels of 255.
        seed: The same seed gives the same pictures. Parts are drawn one after another.

    Returns:
        Dicts of "images" (N, 3, size, size) uint8, "masks" (N, size, size) int64 with the class
        of each pixel, "boxes" (N, most, 4) float32 of x1, y1, x2, y2 around what can be seen,
        "labels" (N, most) int64, the class of each box, and "valid" (N, most), False where there
        is no box; its box and label are zeros.

    Raises:
        ArgumentError: A number out of its range.

    Example:
        >>> part = shapes(10, size=32).train
        >>> {name: tuple(value.shape) for name, value in part.items()}["boxes"]
        (10, 4, 4)
    """
    least = {"samples": (samples, 5), "size": (size, 16), "most": (most, 1)}
    for name, (value, lowest) in least.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
            raise ArgumentError(
                f"shapes({name}=...) must be a whole number from {lowest} up; received {value!r}."
            )
    generator = torch.Generator().manual_seed(seed)
    counts = (samples, samples // 5, samples // 5)
    train, val, test = (_draw(count, size, most, noise, generator=generator) for count in counts)
    return Splits(train, val, test, SHAPE_CLASSES)


def _draw(
    samples: int, size: int, most: int, noise: float, *, generator: torch.Generator
) -> dict[str, Tensor]:
    def random(*shape: int) -> Tensor:
        return torch.rand(samples, *shape, generator=generator)

    labels = (random(most) * 3).long() + 1
    there = torch.arange(most) < 1 + (random(1) * most).long()
    radius = (0.08 + 0.12 * random(most)) * size
    middle = radius[..., None] + random(most, 2) * (size - 2 * radius[..., None])
    colours = 60 + 195 * random(most, 3)
    pictures = (40 + 60 * random(1, 1, 1)).expand(-1, 3, size, size)
    owner = torch.full((samples, size, size), -1)
    for j in range(most):
        inside = _inside(labels[:, j], middle[:, j], radius[:, j], size)
        inside &= there[:, j, None, None]
        pictures = torch.where(inside[:, None], colours[:, j, :, None, None], pictures)
        owner = torch.where(inside, j, owner)

    boxes, valid = _boxes(owner, most)
    labels = labels * valid
    masks = labels.gather(1, owner.clamp(min=0).flatten(1)).view_as(owner)
    masks = masks.masked_fill(owner < 0, 0)
    pictures = pictures + noise * torch.randn(pictures.shape, generator=generator)
    return {
        "images": pictures.round().clamp(0, 255).to(torch.uint8),
        "masks": masks,
        "boxes": boxes,
        "labels": labels,
        "valid": valid,
    }


def _inside(labels: Tensor, middle: Tensor, radius: Tensor, size: int) -> Tensor:
    """Which pixels a shape covers, of one shape a sample: shape (N, size, size)."""
    place = torch.arange(size) + 0.5
    x = (place[None, None, :] - middle[:, 0, None, None]) / radius[:, None, None]
    y = (place[None, :, None] - middle[:, 1, None, None]) / radius[:, None, None]
    circle = x**2 + y**2 <= 1
    square = (x.abs() <= 0.85) & (y.abs() <= 0.85)
    triangle = (y <= 0.8) & (y >= 2 * x.abs() - 1)
    kind = labels[:, None, None]
    return torch.where(kind == 1, circle, torch.where(kind == 2, square, triangle))


def _boxes(owner: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The box around the visible pixels of each shape, and whether there are any."""
    seen = owner[:, None] == torch.arange(most)[:, None, None]
    ends = []
    for axis in (2, 3):
        line = seen.any(dim=axis).long()
        first = line.argmax(-1)
        last = line.shape[-1] - line.flip(-1).argmax(-1)
        ends += [first, last]
    boxes = torch.stack([ends[0], ends[2], ends[1], ends[3]], dim=-1)
    valid = seen.flatten(2).any(-1)
    return boxes.float() * valid[..., None], valid

"""`RandomFlip`: mirrored images."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, Unpack

import torch
from torch import Tensor

from estimator.handlers.base import ArgumentError
from estimator.transforms.base import FieldKeys, FieldTransform, Scene
from estimator.transforms.draws import check_probability, uniform
from estimator.transforms.pixels import per_sample, with_boxes


class RandomFlip(FieldTransform):
    """Mirrors each sample with a probability, left and right or top and bottom.

    Args:
        probability: How likely a sample is to be mirrored.
        axis: "horizontal" swaps left and right, "vertical" swaps top and bottom.
        **fields: Keys of the batch, see `FieldKeys`.

    Raises:
        ArgumentError: The probability is out of its range, or the axis is unknown.

    Example:
        >>> import torch
        >>> RandomFlip(1.0)(torch.tensor([[[[1, 2, 3]]]]))
        tensor([[[[3, 2, 1]]]])
    """

    def __init__(
        self,
        probability: float = 0.5,
        axis: Literal["horizontal", "vertical"] = "horizontal",
        **fields: Unpack[FieldKeys],
    ) -> None:
        super().__init__(**fields)
        self.probability = check_probability(probability, "RandomFlip(probability=...)")
        if axis not in ("horizontal", "vertical"):
            raise ArgumentError(
                f"RandomFlip(axis=...) must be 'horizontal' or 'vertical'; received {axis!r}."
            )
        self.axis = axis

    def change(self, scene: Scene, generator: torch.Generator | None) -> Scene:
        """Mirrors images, masks and boxes of the samples that were drawn."""
        drawn = uniform(scene, generator) < self.probability
        first = 0 if self.axis == "horizontal" else 1

        def flipped(values: Tensor) -> Tensor:
            return torch.where(per_sample(drawn, values), values.flip(-1 - first), values)

        images, masks = map(flipped, scene.images), map(flipped, scene.masks)
        changed = replace(scene, images=tuple(images), masks=tuple(masks))
        if scene.boxes is None:
            return changed
        boxes = scene.boxes.clone()
        length = scene.size[1 - first]
        boxes[..., first] = length - scene.boxes[..., first + 2]
        boxes[..., first + 2] = length - scene.boxes[..., first]
        boxes = torch.where(per_sample(drawn, boxes), boxes, scene.boxes)
        return with_boxes(changed, boxes, scene.size)

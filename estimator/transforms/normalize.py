"""`Normalize`: pixels as numbers around zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Unpack

import torch
from torch import Tensor, nn

from estimator.handlers.base import ArgumentError, DataError
from estimator.processor import describe
from estimator.transforms.base import FieldKeys, FieldTransform, Scene


class NormalizeLayer(nn.Module):
    """(x - mean) / std as the first layer of a net; see `Normalize.layer`.

    Args:
        mean: One number a channel, or one for all.
        std: Likewise.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        # Settings, not state: a checkpoint of the net is the same with other numbers.
        self.register_buffer("mean", _column(mean), persistent=False)
        self.register_buffer("std", _column(std), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images of a floating type, shape (N, C, H, W).

        Raises:
            DataError: Another number of channels than there are means.
        """
        channels = len(self.mean)
        if images.ndim < 3 or images.shape[-3] != channels != 1:
            raise DataError(
                f"Normalize(mean=...) has {channels} numbers, one a channel; received images "
                f"{describe(images)}. Give one number, or as many as there are channels."
            )
        if not images.is_floating_point():
            images = images.to(self.mean.dtype) / 255
        return (images - self.mean.to(images.dtype)) / self.std.to(images.dtype)


class Normalize(FieldTransform):
    """Makes images floats with about zero mean and unit spread: (x - mean) / std.

    Images of bytes are divided by 255 first, so `mean` and `std` are over 0 to 1; images of floats
    are taken as they are.

    What training and validation both need belongs into the net, where every batch passes it and
    where it is exported along: `nn.Sequential(Normalize(mean, std).layer(), ...)`. Batches then
    stay bytes on their way to the device.

    Args:
        mean: One number a channel, or one for all.
        std: Likewise, all above 0.
        **fields: Keys of the batch, see `FieldKeys`.

    Raises:
        ArgumentError: Numbers that cannot be meant.

    Example:
        >>> import torch
        >>> Normalize(0.5, 0.25)(torch.tensor([[[[0, 255]]]], dtype=torch.uint8))
        tensor([[[[-2.,  2.]]]])
    """

    def __init__(
        self,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        **fields: Unpack[FieldKeys],
    ) -> None:
        super().__init__(**fields)
        self.mean, self.std = _numbers(mean), _numbers(std)
        lengths = {len(self.mean), len(self.std)}
        if len(lengths) > 1 or 0 in lengths or min(self.std) <= 0:
            raise ArgumentError(
                "Normalize(mean=..., std=...) must be one number a channel each, std above 0; "
                f"received mean={mean!r} and std={std!r}."
            )
        self._layers: dict[torch.device, NormalizeLayer] = {}

    def change(self, scene: Scene, generator: torch.Generator | None) -> Scene:
        """Normalises the images."""
        if scene.device not in self._layers:
            self._layers[scene.device] = self.layer().to(scene.device)
        return replace(scene, images=tuple(map(self._layers[scene.device], scene.images)))

    def layer(self) -> NormalizeLayer:
        """The same as a layer of a net."""
        return NormalizeLayer(self.mean, self.std)


def _numbers(value: float | Sequence[float]) -> tuple[float, ...]:
    return (float(value),) if isinstance(value, (int, float)) else tuple(map(float, value))


def _column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.get_default_dtype()).view(-1, 1, 1)

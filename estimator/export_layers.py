"""Layers that torch's exporter has no translation for, as operations that it translates."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class _AdaptiveMaxPool2d(nn.AdaptiveMaxPool2d):
    """Computes as its base does, and in an export as maxima over slices."""

    def forward(self, input: Tensor) -> Tensor:
        if self.return_indices or not torch.compiler.is_exporting():
            found: Tensor = super().forward(input)
            return found
        sizes = self.output_size if isinstance(self.output_size, tuple) else (self.output_size,) * 2
        for axis, size in zip((-2, -1), sizes, strict=True):
            if size is not None:
                input = _pooled(input, axis, size)
        return input


def _pooled(values: Tensor, axis: int, size: int) -> Tensor:
    """Maxima over as many windows, which overlap where the axis is no multiple of their number."""
    length = values.shape[axis]
    found = [
        values.narrow(axis, first, last - first).amax(axis, keepdim=True)
        for first, last in ((i * length // size, -(-(i + 1) * length // size)) for i in range(size))
    ]
    return torch.cat(found, axis)


def make_exportable(net: nn.Module) -> None:
    """Gives layers that cannot be translated a form that can; outside of an export none changes.

    Args:
        net: A copy that nobody else has.
    """
    for module in net.modules():
        if type(module) is nn.AdaptiveMaxPool2d:
            module.__class__ = _AdaptiveMaxPool2d

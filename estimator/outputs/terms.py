"""What the parts of an output's loss are called, and how they take one shape."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Keys(NamedTuple):
    """Which entries of a batch an output is compared with."""

    target: str | None
    sample_weights: str | None
    mask: str | None


class Terms(NamedTuple):
    """The losses of single items, and how much each of them counts; (N, ...), of one shape."""

    losses: Tensor
    counts: Tensor


def weights_of(name: str) -> str:
    """Under which name the sample weights of an output go with the targets."""
    return f"{name}.sample_weights"


def spread(values: Tensor, like: Tensor) -> Tensor:
    """Values of samples in the shape of items; True for a sample where it is for any item of it.

    Args:
        values: Shape (N,), or more.
        like: Shape (N, ...).
    """
    if values.ndim > like.ndim:
        values = values.reshape(*values.shape[: like.ndim], -1)
        values = values.any(-1) if values.dtype == torch.bool else values.sum(-1)
    return values.reshape(*values.shape, *[1] * (like.ndim - values.ndim)).expand(like.shape)

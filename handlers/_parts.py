"""Weights that are split over several processes, as one of these sees them."""

from __future__ import annotations

import torch


def own_part(tensor: torch.Tensor) -> torch.Tensor:
    """The memory that this process has of a tensor: all of it, unless it is split."""
    part: torch.Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part


def whole(tensor: torch.Tensor | None) -> torch.Tensor | None:
    """All of a tensor; one that is split comes together, for which all processes have to ask."""
    gathered = getattr(tensor, "full_tensor", None)
    full: torch.Tensor | None = tensor if gathered is None else gathered()
    return full


def own_parts(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """The same for several, since operations on lists of tensors know nothing of split ones."""
    return [own_part(tensor) for tensor in tensors]

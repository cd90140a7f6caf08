"""`CutMixHandler`: trains on pictures with a patch of another picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from estimator.handlers._mixing import Classes, MixingHandler
from estimator.handlers.base import Band

if TYPE_CHECKING:
    from estimator.stats import TrainStats


class CutMixHandler(MixingHandler):
    """Puts a rectangle of another picture of the batch into each, and mixes targets by area.

    The rectangle has the shape of the picture and on average 1 - share of its area, with share
    drawn from Beta(alpha, alpha), and lies anywhere, cut off at the border; it is one a batch, and
    targets are mixed by the area that is really covered (Yun et al., 2019, "CutMix",
    arXiv:1905.04899). Inputs are floating tensors (N, C, H, W). Targets, losses and metrics are
    as with `MixUpHandler`: training metrics compare with the target of the picture that has the
    greater part.

    Args:
        classes: See `MixUpHandler`.
        alpha: Above 0; 1 draws all shares alike often.
        keys: Of the inputs that are mixed, where they are a dict; None mixes all pictures.
        band: When it runs within an event; PREPARE by default.

    Raises:
        ArgumentError: `alpha` is not above 0, or `classes` are no numbers from 2 up.

    Example:
        >>> CutMixHandler(10, alpha=0.5)
        CutMixHandler(classes=10, alpha=0.5)
    """

    mixes = "floating tensors (N, C, H, W)"

    def __init__(
        self, classes: Classes = None, alpha: float = 1.0, *, keys: Sequence[str] | None = None,
        band: Band | None = None,
    ) -> None:  # fmt: skip
        super().__init__(classes, alpha, keys=keys, band=band)

    def is_mixed(self, value: torch.Tensor) -> bool:
        """Whether an input is a batch of pictures."""
        return value.is_floating_point() and value.ndim == 4

    def mixture(
        self, stats: TrainStats, samples: int, partner: torch.Tensor, share: torch.Tensor
    ) -> tuple[Any, torch.Tensor]:
        """Rectangles of the partners, at the same place of all pictures, and the area left."""
        centre = torch.rand(2).to(share.device)
        half = (1 - share).sqrt() / 2
        areas = []

        def mix(value: torch.Tensor) -> torch.Tensor:
            sides = []
            # Masks in place of slices, whose ends would have to be read from the device.
            for length, middle in zip(value.shape[2:], centre, strict=True):
                at = (torch.arange(length, device=value.device) + 0.5) / length
                sides.append((at - middle).abs() < half)
            inside = sides[0].unsqueeze(1) & sides[1]
            areas.append(inside.to(share.dtype).mean())
            return torch.where(inside, value[partner], value)

        mixed = self._inputs(stats.inputs, mix, samples)
        return mixed, 1 - areas[0] if areas else share

"""Chance, drawn for all samples of a batch at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from estimator.handlers.base import ArgumentError
from estimator.transforms.base import Scene

Range = float | tuple[float, float]
"""Ends of a range, or one number a for the range from -a to a."""


def uniform(
    scene: Scene, generator: torch.Generator | None, low: float = 0.0, high: float = 1.0
) -> Tensor:
    """A number a sample, from `low` to below `high`, shape (N,), on the scene's device."""
    device = scene.device if generator is None else generator.device
    drawn = torch.rand(scene.samples, generator=generator, device=device)
    return (drawn * (high - low) + low).to(scene.device, non_blocking=True)


def whole(scene: Scene, generator: torch.Generator | None, choices: int) -> Tensor:
    """A whole number a sample, from 0 to below `choices`, shape (N,)."""
    # The product may be rounded up to the end of the range.
    return (uniform(scene, generator) * choices).long().clamp_(max=choices - 1)


def check_probability(value: object, argument: str) -> float:
    """A probability, as a float.

    Raises:
        ArgumentError: It is not a number from 0 to 1.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ArgumentError(f"{argument} must be a number from 0 to 1; received {value!r}.")
    return float(value)


def check_range(value: object, argument: str) -> tuple[float, float]:
    """The ends of a range.

    Raises:
        ArgumentError: It is neither a number from 0 up nor two numbers, the lower one first.
    """
    ends = value if isinstance(value, Sequence) else None
    if ends is None and isinstance(value, (int, float)) and value >= 0:
        ends = (-value, value)
    numbers = ends is not None and all(isinstance(end, (int, float)) for end in ends)
    if ends is None or not numbers or len(ends) != 2 or not ends[0] <= ends[1]:
        raise ArgumentError(
            f"{argument} must be a number from 0 up, or two numbers (low, high); received "
            f"{value!r}."
        )
    return float(ends[0]), float(ends[1])


def check_size(value: object, argument: str, *, least: int = 1) -> tuple[int, int]:
    """A height and a width.

    Raises:
        ArgumentError: It is neither a whole number nor two of them, from `least` up.
    """
    sides = (value, value) if not isinstance(value, (tuple, list)) else tuple(value)
    if len(sides) == 2:
        height, width = sides
        if all(isinstance(s, int) and not isinstance(s, bool) and s >= least for s in sides):
            return height, width
    raise ArgumentError(
        f"{argument} must be a whole number from {least} up, or two of them (height, width); "
        f"received {value!r}."
    )

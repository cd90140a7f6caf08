"""`Compose`: one transform after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from estimator.handlers._batch_view import check_samples
from estimator.handlers.base import ArgumentTypeError
from estimator.transforms.base import Transform


class Compose(Transform):
    """Applies transforms in their order.

    Args:
        transforms: At least one; functions and those of torchvision go into an `Adapt`.

    Raises:
        ArgumentTypeError: Something that is no `Transform`.

    Example:
        >>> import torch
        >>> from estimator.transforms import Normalize, RandomFlip
        >>> both = Compose([RandomFlip(1.0), Normalize(0.0, 1.0)])
        >>> both(torch.tensor([[[[0, 255]]]], dtype=torch.uint8))
        tensor([[[[1., 0.]]]])
    """

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms = check_transforms(transforms, "Compose(transforms=...)")

    def __call__(self, batch: Any, generator: torch.Generator | None = None) -> Any:
        """The batch after all transforms.

        Args:
            batch: As the transforms take it.
            generator: Where chance comes from; None is the global stream.

        Raises:
            DataError: A transform changed the number of samples; it is named.
        """
        for transform in self.transforms:
            changed = transform(batch, generator)
            check_samples(batch, changed, transform)
            batch = changed
        return batch


def check_transforms(transforms: object, argument: str) -> tuple[Transform, ...]:
    """The transforms of a sequence.

    Raises:
        ArgumentTypeError: It is empty, or holds something else.
    """
    found = tuple(transforms) if isinstance(transforms, Sequence) else ()
    wrong = [each for each in found if not isinstance(each, Transform)]
    if wrong or not found:
        raise ArgumentTypeError(
            f"{argument} must be one transform or more, in a list; received "
            f"{wrong[0] if wrong else transforms!r}. Wrap a function, or a transform of "
            "torchvision: Adapt(function)."
        )
    return found

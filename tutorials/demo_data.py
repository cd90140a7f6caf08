"""Image sets of the demo: scikit-learn's digits, and Fashion-MNIST, which is downloaded once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from estimator import ArgumentError, datasets

CACHE = Path("~/.cache/torch-estimator")


class ImageSet(NamedTuple):
    """Grey images (1, side, side) with their class numbers, split for training."""

    train: Subset[tuple[Tensor, ...]]
    val: Subset[tuple[Tensor, ...]]
    side: int
    classes: list[str]
    goal: float
    """Validation accuracy that the demo has to reach."""


def digits() -> ImageSet:
    """The 1,797 images of 8x8 pixels inside scikit-learn; every run holds out the same fifth."""
    data = datasets.digits()
    images, labels = (
        torch.cat(parts) for parts in zip(data.train, data.val, data.test, strict=True)
    )
    held = len(labels) // 5
    split = range(held, len(labels)), range(held)
    return _image_set(images, labels, split, list(data.classes), goal=0.97)


def fashion_mnist(samples: int = 12_000, cache: Path = CACHE) -> ImageSet:
    """Fashion-MNIST (Xiao, Rasul, Vollgraf, arXiv:1708.07747): 70,000 images of 28x28 pixels.

    Args:
        samples: How many of the 60,000 training images to take; a sixth as many test images
            validate.
        cache: Where the files are downloaded to, unless the environment variable ESTIMATOR_DATA
            names a folder that has them in its folder "fashion-mnist".

    Raises:
        ArgumentError: `samples` is out of its range.
        DataError: The files are not there and cannot be downloaded, or are damaged.
    """
    if not 6 <= samples <= 60_000:
        raise ArgumentError(
            f"fashion_mnist(samples=...) must be from 6 to 60000; received {samples!r}."
        )
    data = datasets.fashion_mnist(cache=cache)
    images, labels = (
        torch.cat(parts) for parts in zip(data.train, data.val, data.test, strict=True)
    )
    split = range(samples), range(60_000, 60_000 + samples // 6)
    return _image_set(images, labels, split, list(data.classes), goal=0.85)


def _image_set(
    images: Tensor,
    labels: Tensor,
    split: tuple[Sequence[int], Sequence[int]],
    classes: list[str],
    goal: float,
) -> ImageSet:
    """Normalises by what the training images are like, and splits."""
    x = images.float()
    std, mean = torch.std_mean(x[list(split[0])])
    data = TensorDataset(x.sub_(mean).div_(std), labels)
    # Parts of one data set: a sample keeps its number, by which handlers name it.
    train, val = (Subset(data, part) for part in split)
    return ImageSet(train, val, x.shape[-1], classes, goal)

"""One segmentation output in a pass: its pixels by true and predicted class, and some samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from estimator.handlers._class_counts import true_classes
from estimator.handlers._output_pairs import Pair
from estimator.handlers._sample_rows import leaves

if TYPE_CHECKING:
    from estimator.stats import TrainStats

MOST_CLASSES = 512
SIDE = 512
"""Larger pictures are shown by every second pixel, every third and so on."""


def classes_of(pair: Pair) -> int | None:
    """How many classes the masks of an output have; None where it is no segmentation.

    Logits are (N, C, H, W) with class numbers (N, H, W), or (N, 1, H, W) with masks of 0 and 1,
    (N, H, W) or (N, 1, H, W); or with one dimension more, of volumes.
    """
    output, target = pair.output, pair.target
    if pair.role not in ("", "segmentation") or not output.is_floating_point():
        return None
    if output.ndim not in (4, 5):
        return None
    flat = output.shape[:1] + output.shape[2:]
    if output.shape[1] == 1:
        return 2 if target.shape in (flat, output.shape) else None
    whole = not target.is_floating_point() and target.shape == flat
    return output.shape[1] if whole and output.shape[1] <= MOST_CLASSES else None


class Shown(NamedTuple):
    """One sample, on the host."""

    image: Tensor | None
    """(channels, H, W)."""
    target: Tensor
    """(H, W); -1 where there is none."""
    predicted: Tensor
    """(H, W)."""


class Found(NamedTuple):
    """What one process has of a pass, on the host."""

    matrix: Tensor
    left: list[int]
    """Pixels without a target, with one that is no class, and with an answer that is no number."""
    shown: list[Shown]
    single: bool
    """Whether the output is one mask."""
    told: bool
    """Whether the output says itself that it is a segmentation."""


class MaskCounts:
    """Counts a segmentation output.

    Args:
        pair: Of the first batch.
        samples: How many samples are kept for pictures: the first ones of the pass.
    """

    def __init__(self, pair: Pair, samples: int) -> None:
        classes = classes_of(pair)
        assert classes is not None
        self.classes, self.samples = classes, samples
        self._told, self._ignored = pair.role == "segmentation", pair.ignored
        self._single = pair.output.shape[1] == 1
        self._matrix: Tensor | None = None
        self._left: Tensor | None = None
        self._shown: list[Shown] = []

    def add(self, pair: Pair, stats: TrainStats) -> None:
        """Takes a batch; one of other classes is left out."""
        if classes_of(pair) != self.classes or (pair.output.shape[1] == 1) != self._single:
            return
        output, target = pair.output, pair.target
        if target.shape == output.shape:
            target = target.squeeze(1)
        labels, missing, outside, mixed = true_classes(target, self.classes, self._ignored)
        predicted = output.argmax(1) if output.shape[1] > 1 else (output[:, 0] > 0).long()
        unclear = output.isnan().any(1)
        used = (labels >= 0) & ~unclear
        cell = (labels * self.classes + predicted).where(used, 0).flatten()
        cells = torch.zeros(self.classes**2, dtype=torch.int64, device=output.device)
        # Adding into a known size does not wait for the device, as bincount would.
        fresh = cells.scatter_add(0, cell, used.long().flatten())
        left = (missing, outside | mixed, unclear & (labels >= 0))
        sums = torch.stack([part.sum() for part in left])
        self._matrix = fresh if self._matrix is None else self._matrix + fresh
        self._left = sums if self._left is None else self._left + sums
        self._show(_image(pair, stats), labels, predicted)

    def _show(self, image: Tensor | None, labels: Tensor, predicted: Tensor) -> None:
        is_volume = labels.ndim == 4
        for row in range(min(len(labels), self.samples - len(self._shown))):
            picture = None if image is None else _plane(image[row], is_volume)
            if picture is not None:
                # Colours of three or four channels, else the first one as grey.
                picture = picture[: 3 if len(picture) in (3, 4) else 1].detach().clone()
            target, answer = (
                _plane(part[row], is_volume).to(torch.int16, copy=True)
                for part in (labels, predicted)
            )
            self._shown.append(Shown(picture, target, answer))

    def take(self) -> Found:
        """The counts of the pass, which had a batch."""
        assert self._matrix is not None and self._left is not None
        shown = [
            Shown(None if s.image is None else s.image.cpu(), s.target.cpu(), s.predicted.cpu())
            for s in self._shown
        ]
        left = self._left.tolist()
        return Found(self._matrix.cpu(), left, shown, self._single, self._told)


def _image(pair: Pair, stats: TrainStats) -> Tensor | None:
    """The first input with the rows and pixels of an output."""
    places = pair.output.shape[2:]
    for _, value in leaves("", stats.inputs):
        if value.ndim == pair.output.ndim and value.shape[2:] == places:
            return value if len(value) == len(pair.output) and not value.is_complex() else None
    return None


def _plane(sample: Tensor, is_volume: bool) -> Tensor:
    """A sample (..., H, W), of a volume (..., D, H, W) the middle slice, in at most 512 pixels."""
    if is_volume:
        sample = sample.select(-3, sample.shape[-3] // 2)
    step = -(-max(sample.shape[-2:]) // SIDE)
    return sample[..., ::step, ::step]


class Overlap(NamedTuple):
    """How a class's true and predicted pixels overlap; NaN for one that does not occur."""

    iou: float
    dice: float
    precision: float
    recall: float
    target: int
    predicted: int


class Segmentation(NamedTuple):
    """A segmentation output over a whole pass."""

    matrix: NDArray[np.int64]
    overlaps: list[Overlap]
    accuracy: float
    left: list[int]
    shown: list[Shown]
    single: bool

    def mean(self, of: str) -> float:
        """The mean of "iou" or "dice" over the classes that occur; of one mask, of class 1."""
        values = [getattr(overlap, of) for overlap in self.overlaps[self.single :]]
        there = [value for value in values if not np.isnan(value)]
        return float(np.mean(there)) if there else float("nan")


def joined(found: Sequence[Found], samples: int) -> Segmentation | None:
    """The result over the passes of all processes; None where there are no masks."""
    total = torch.stack([part.matrix for part in found]).sum(0)
    left = np.sum([part.left for part in found], axis=0).tolist()
    single = found[0].single
    # Pictures of numbers, such as those of an autoencoder, are no masks.
    if single and not found[0].told and left[1]:
        return None
    classes = round(len(total) ** 0.5)
    matrix = total.view(classes, classes).numpy()
    overlaps = [_overlap(matrix, index) for index in range(classes)]
    pixels = matrix.sum()
    accuracy = float(np.trace(matrix) / pixels) if pixels else float("nan")
    shown = [each for part in found for each in part.shown][:samples]
    return Segmentation(matrix, overlaps, accuracy, left, shown, single)


def _overlap(matrix: NDArray[np.int64], index: int) -> Overlap:
    both, target, predicted = (
        int(n) for n in (matrix[index, index], matrix[index].sum(), matrix[:, index].sum())
    )

    def share(part: int, whole: int) -> float:
        return part / whole if whole else float("nan")

    either = target + predicted - both
    rates = (share(both, predicted), share(both, target))
    return Overlap(
        share(both, either), share(2 * both, target + predicted), *rates, target, predicted
    )

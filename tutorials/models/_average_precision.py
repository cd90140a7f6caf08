"""Mean average precision of detections, computed as COCO does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from _boxes import Detections, detect, iou
from torch import Tensor

from estimator.metrics import Metric


def hits(found: Detections, targets: Mapping[str, Tensor], *, threshold: float = 0.5) -> Tensor:
    """Which detections are right: best first, each takes the box that it covers best.

    Args:
        found: Of N images.
        targets: `boxes` (N, M, 4), `labels` (N, M) and `valid` (N, M).
        threshold: The least intersection over union with a box of the class that is not taken.

    Returns:
        Shape (N, classes, K).
    """
    classes = torch.arange(1, found.boxes.shape[1] + 1, device=found.boxes.device)[:, None]
    free = (targets["labels"][:, None] == classes) & targets["valid"][:, None]
    overlap = iou(found.boxes, targets["boxes"][:, None])
    right = []
    for k in range(overlap.shape[2]):
        best, place = overlap[:, :, k].masked_fill(~free, -1).max(-1, keepdim=True)
        hit = (best >= threshold) & (found.scores[:, :, k, None] > 0)
        free = free & ~torch.zeros_like(free).scatter(-1, place, hit)
        right.append(hit)
    return torch.cat(right, -1)


def average_precision(scores: Tensor, right: Tensor, boxes: Tensor) -> Tensor:
    """The mean precision at 101 shares of boxes found, of one class (0-d; NaN without boxes).

    Args:
        scores: Of all detections, shape (D,); those of zero are none.
        right: Which of them are, shape (D,).
        boxes: How many boxes there are, 0-d.
    """
    scores, order = scores.sort(descending=True, stable=True)
    true = right[order].double().cumsum(0)
    precision = true / (scores > 0).cumsum(0).clamp(min=1)
    # At each share, the best precision that is reached there or beyond.
    precision = precision.flip(0).cummax(0).values.flip(0)
    shares = torch.linspace(0, 1, 101, dtype=torch.float64, device=scores.device)
    place = torch.searchsorted(true / boxes, shares)
    precision = torch.cat([precision, precision.new_zeros(1)])
    return precision[place].mean().where(boxes > 0, torch.nan)


class MeanAveragePrecision(Metric):
    """Average precision at an intersection over union of 0.5, mean over the classes with boxes.

    Each class has up to 50 detections an image; they stay on the device until `reset`, 5 bytes
    each.

    Args:
        anchors: Of the net, shape (A, 4).
        threshold: The least intersection over union of a right detection.
        name: See `Metric`.
    """

    higher_is_better = True

    def __init__(self, anchors: Tensor, *, threshold: float = 0.5, name: str = "map50") -> None:
        self.anchors, self.threshold, self.name = anchors, threshold, name
        self.reset()

    def reset(self) -> None:
        """Forgets all batches."""
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def update(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
        """Keeps the scores of one batch's detections, and which of them are right."""
        self.anchors = self.anchors.to(outputs["scores"].device)
        self.update_found(detect(outputs, self.anchors), targets)

    def update_found(self, found: Detections, targets: Mapping[str, Tensor]) -> None:
        """Likewise, for detections of any origin."""
        right = hits(found, targets, threshold=self.threshold)
        labels = targets["labels"].where(targets["valid"], 0)
        classes = torch.arange(1, right.shape[1] + 1, device=labels.device)
        boxes = (labels[..., None] == classes).sum(1)
        self._parts.append((found.scores.clone(), right, boxes))

    def compute(self) -> Tensor:
        """Returns the mean over classes, from 0 to 1; NaN without any box."""
        return self.by_class().nanmean()

    def by_class(self) -> Tensor:
        """The average precision of each class, float64; NaN for one without boxes."""
        if not self._parts:
            return torch.full((1,), torch.nan, dtype=torch.float64)
        scores, right, boxes = map(torch.cat, zip(*self._parts, strict=True))
        columns = zip(scores.unbind(1), right.unbind(1), boxes.sum(0), strict=True)
        return torch.stack([average_precision(s.flatten(), r.flatten(), b) for s, r, b in columns])

    def state_dict(self) -> dict[str, Any]:
        """Returns copies of what is kept, batch by batch."""
        return {"parts": [[part.clone() for part in parts] for parts in self._parts]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from the state of an equal metric."""
        self.merge([state])

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Takes what several processes have kept as its own."""
        self._parts = [(s.clone(), r.clone(), b.clone()) for x in states for s, r, b in x["parts"]]

"""Anchors, matching, offsets, losses and detections of the SSD in detection.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SPREAD = 0.1, 0.1, 0.2, 0.2
"""What offsets are divided by, so that the net has to give numbers of about one."""


class Level(NamedTuple):
    """Anchors of one feature map: squares of these sizes, and boxes of their area beside them."""

    stride: int
    """Pixels of the image for one cell."""
    sizes: tuple[float, ...]
    """Sides, as parts of the image's height."""
    ratios: tuple[float, ...] = (1.0, 1.4, 1 / 1.4)
    """Width over height."""

    @property
    def boxes(self) -> int:
        """How many anchors a cell has."""
        return len(self.sizes) * len(self.ratios)


def make_anchors(levels: Sequence[Level], height: int, width: int) -> Tensor:
    """Boxes in which the net looks for something, cell by cell and level by level.

    Returns:
        Shape (A, 4), x1, y1, x2, y2 in pixels.
    """
    found = []
    for level in levels:
        # The halves of halves that convolutions with padding leave are rounded up.
        rows, columns = (-(-side // level.stride) for side in (height, width))
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        middle = (torch.stack([x, y], -1).flatten(0, 1)[:, None] + 0.5) * level.stride
        side = torch.tensor(level.sizes)[:, None] * height
        ratio = torch.tensor(level.ratios).sqrt()
        half = torch.stack([side * ratio, side / ratio], -1).flatten(0, 1) / 2
        found.append(torch.cat([middle - half, middle + half], -1).flatten(0, 1))
    return torch.cat(found)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of each box of `a` (..., A, 4) with each of `b` (..., B, 4)."""
    left, top, right, bottom = a.unsqueeze(-2).unbind(-1)
    others = b.unsqueeze(-3).unbind(-1)
    across = torch.minimum(right, others[2]) - torch.maximum(left, others[0])
    down = torch.minimum(bottom, others[3]) - torch.maximum(top, others[1])
    shared = across.clamp(min=0) * down.clamp(min=0)
    either = area(a).unsqueeze(-1) + area(b).unsqueeze(-2) - shared
    return shared / either.clamp(min=1e-9)


def area(boxes: Tensor) -> Tensor:
    """Width times height of boxes (..., 4)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Boxes (..., A, 4) as moves of the middle and logarithms of the growth of their anchors."""
    size = anchors[:, 2:] - anchors[:, :2]
    move = ((boxes[..., :2] + boxes[..., 2:]) - (anchors[:, :2] + anchors[:, 2:])) / 2 / size
    # Places that hold no box have no size, and no logarithm of it.
    growth = ((boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-3) / size).log()
    return torch.cat([move, growth], -1) / boxes.new_tensor(SPREAD)


def decode(offsets: Tensor, anchors: Tensor) -> Tensor:
    """The boxes of which `encode` made these offsets."""
    offsets = offsets * offsets.new_tensor(SPREAD)
    size = anchors[:, 2:] - anchors[:, :2]
    middle = (anchors[:, :2] + anchors[:, 2:]) / 2 + offsets[..., :2] * size
    # A wild guess of an untrained net must not overflow.
    half = size * offsets[..., 2:].clamp(max=4).exp() / 2
    return torch.cat([middle - half, middle + half], -1)


def match(anchors: Tensor, boxes: Tensor, valid: Tensor, *, threshold: float = 0.5) -> Tensor:
    """Which box each anchor is to find: the one that it covers best, if that is half.

    Each box has its best anchor in any case; of boxes with the same one, the last has it.

    Args:
        anchors: Shape (A, 4).
        boxes: Shape (N, M, 4), padded.
        valid: Shape (N, M), False where a place holds no box.
        threshold: The least intersection over union.

    Returns:
        Shape (N, A): places in `boxes`, -1 for an anchor that is to find nothing.
    """
    # Long rows are the ones that are gone through fast, and there are far more anchors than boxes.
    overlap = iou(boxes, anchors).masked_fill(~valid[..., None], -1)
    best, place = overlap.max(1)
    place = place.masked_fill(best < threshold, -1)
    order = torch.arange(boxes.shape[1], device=boxes.device).where(valid, -1)
    forced = torch.full_like(place, -1).scatter_reduce(1, overlap.argmax(2), order, "amax")
    return forced.where(forced >= 0, place)


class MultiBoxLoss(nn.Module):
    """What each anchor sees, and where exactly (SSD; Liu et al., 2016, arXiv:1512.02325).

    Cross entropy over the anchors that match a box and over the hardest others, three for each
    match, plus smooth L1 of the offsets; divided by the matches of the sample. The mean over
    samples is the loss of a batch, so that samples with many boxes count as others do.

    Args:
        anchors: Shape (A, 4).
        reduction: "mean", or "none" for the loss of each sample, which handlers ask for.
    """

    anchors: Tensor

    def __init__(self, anchors: Tensor, *, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = reduction
        # As a buffer it is moved to the device of the run.
        self.register_buffer("anchors", anchors)

    def forward(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
        """The loss of `scores` (N, A, classes) and `offsets` (N, A, 4)."""
        boxes, labels = targets["boxes"], targets["labels"]
        place = match(self.anchors, boxes, targets["valid"])
        found, place = place >= 0, place.clamp(min=0)
        wanted = labels.gather(1, place).where(found, 0)
        entropy = F.cross_entropy(outputs["scores"].transpose(1, 2), wanted, reduction="none")
        chosen = found | hard_negatives(entropy.detach(), found)
        goal = encode(boxes.gather(1, place[..., None].expand(-1, -1, 4)), self.anchors)
        apart = F.smooth_l1_loss(outputs["offsets"], goal, reduction="none").sum(-1)
        total = entropy.where(chosen, 0).sum(1) + apart.where(found, 0).sum(1)
        losses = total / found.sum(1).clamp(min=1)
        return losses.mean() if self.reduction == "mean" else losses


def hard_negatives(losses: Tensor, found: Tensor, *, share: int = 3) -> Tensor:
    """The anchors without a box that have the largest losses, `share` for each one with a box.

    Args:
        losses: Shape (N, A).
        found: Shape (N, A), which anchors match a box. A sample without any gives `share`.
        share: How many for each match.
    """
    order = losses.masked_fill(found, -1).argsort(dim=1, descending=True, stable=True)
    rank = torch.arange(losses.shape[1], device=losses.device).expand_as(order)
    rank = torch.empty_like(order).scatter(1, order, rank)
    return (rank < share * found.sum(1, keepdim=True).clamp(min=1)) & ~found


def keep_best(boxes: Tensor, scores: Tensor, *, threshold: float = 0.45) -> Tensor:
    """Non-maximum suppression: drops boxes that cover much of one with a better score.

    By torchvision where that is installed, else by an own loop over ranks, of all groups at once.

    Args:
        boxes: Shape (G, K, 4): G groups that leave each other alone.
        scores: Shape (G, K), each row in falling order.
        threshold: The largest intersection over union that two boxes which stay may have.

    Returns:
        Shape (G, K), True for boxes that stay.
    """
    try:
        from torchvision.ops import batched_nms
    except ImportError:
        covers = (iou(boxes, boxes) > threshold).triu(1)
        keep = torch.ones_like(scores, dtype=torch.bool)
        for k in range(boxes.shape[1]):
            keep = keep & ~(covers[:, k] & keep[:, k, None])
        return keep
    group = torch.arange(len(boxes), device=boxes.device)[:, None].expand_as(scores)
    kept = batched_nms(boxes.flatten(0, 1), scores.flatten(), group.flatten(), threshold)
    keep = torch.zeros_like(scores, dtype=torch.bool).flatten()
    return keep.index_fill(0, kept, True).view_as(scores)


class Detections(NamedTuple):
    """What was found in each of N images, by class without the background, best first."""

    boxes: Tensor
    """Shape (N, classes, K, 4)."""
    scores: Tensor
    """Shape (N, classes, K); zero where a place holds no detection."""


def detect(
    outputs: Mapping[str, Tensor], anchors: Tensor, *, best: int = 50, least: float = 0.01
) -> Detections:
    """Detections out of what the net returned.

    Args:
        outputs: `scores` (N, A, classes), of which class 0 is the background, and `offsets`.
        anchors: Shape (A, 4).
        best: K, the most detections of a class in an image. Twice as many are looked at.
        least: The least probability.
    """
    chance = outputs["scores"].float().softmax(-1)[..., 1:].transpose(1, 2)
    scores, place = chance.topk(min(2 * best, chance.shape[2]), dim=2)
    boxes = decode(outputs["offsets"].float(), anchors)
    index = place.flatten(1)[..., None].expand(-1, -1, 4)
    boxes = boxes.gather(1, index).view(*place.shape, 4)
    keep = keep_best(boxes.flatten(0, 1), scores.flatten(0, 1)).view_as(scores)
    scores, order = scores.where(keep & (scores >= least), 0).sort(
        dim=2, descending=True, stable=True
    )
    boxes = boxes.gather(2, order[..., None].expand(-1, -1, -1, 4))
    return Detections(boxes[:, :, :best], scores[:, :, :best])

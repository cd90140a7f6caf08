"""The triplet loss, with its triplets found in the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from estimator.losses._base import ItemLoss, Reduction, check_pairs, check_range


class TripletLoss(ItemLoss):
    """Puts samples of one label nearer to each other than to any other label.

    max(0, d(a, p) - d(a, n) + margin) over all pairs of an anchor a and a positive p of the same
    label, where d is the squared Euclidean distance and n the semi-hard negative: the nearest one
    that is farther than p, or where there is none the farthest of all (Schroff, Kalenichenko and
    Philbin, 2015, "FaceNet", arXiv:1503.03832). Mining takes memory of N x N.

    Args:
        margin: How much farther negatives should be, from 0 up.
        normalize: Whether embeddings are brought to length 1 first, as in the paper.
        reduction: "mean" over the pairs, "sum", or "none": the mean over the pairs of each
            anchor, 0 for one without a pair.

    Raises:
        ArgumentError: `margin` is negative, or an unknown reduction.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [1.5]])
        >>> TripletLoss(margin=2.0)(x, torch.tensor([0, 0, 1]))  # (1-2.25+2, 1-0.25+2) / 2
        tensor(1.7500)
    """

    def __init__(
        self, margin: float = 0.2, *, normalize: bool = False, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(reduction)
        self.margin = check_range("TripletLoss", "margin", margin, low=0, high=float("inf"))
        self.normalize = normalize

    def items(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each pair (anchor, positive), (N, N)."""
        check_pairs("TripletLoss", outputs, targets)
        points = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        if self.normalize:
            points = torch.nn.functional.normalize(points)
        distances = squared_distances(points)
        negatives = semi_hard(distances, _same(targets))
        return (distances - negatives + self.margin).clamp(min=0)

    def counted(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """Which pairs are an anchor and a positive of it, where there is a negative too."""
        same = _same(targets)
        itself = torch.eye(len(targets), dtype=torch.bool, device=targets.device)
        return same & ~itself & (~same).any(1, keepdim=True)


def _same(labels: Tensor) -> Tensor:
    return labels.unsqueeze(0) == labels.unsqueeze(1)


def squared_distances(points: Tensor) -> Tensor:
    """Squared Euclidean distances of all points (N, D) to one another, (N, N)."""
    squares = points.square().sum(1)
    return (squares.unsqueeze(0) + squares.unsqueeze(1) - 2 * points @ points.T).clamp(min=0)


def semi_hard(distances: Tensor, same: Tensor) -> Tensor:
    """For each pair its negative's distance: the least that is greater, else the greatest.

    Args:
        distances: Of all samples to one another, (N, N).
        same: Which pairs have one label, (N, N).

    Returns:
        Shape (N, N); 0 in the rows of anchors that have no negative.
    """
    far = torch.finfo(distances.dtype).max
    ordered = distances.masked_fill(same, far).sort(1).values
    place = torch.searchsorted(ordered.detach(), distances.detach(), right=True)
    nearest = ordered.gather(1, place.clamp(max=len(distances) - 1))
    greatest = distances.masked_fill(same, 0).amax(1, keepdim=True)
    return torch.where(nearest < far, nearest, greatest)

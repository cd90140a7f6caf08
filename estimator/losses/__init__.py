"""Losses that torch lacks, each with `reduction="none"` for the loss of single samples."""

from estimator.losses.center import CenterLoss
from estimator.losses.contrastive import ContrastiveLoss
from estimator.losses.dice import SoftDiceLoss
from estimator.losses.focal import BinaryFocalLoss, FocalLoss
from estimator.losses.smoothed import SmoothedCrossEntropyLoss
from estimator.losses.triplet import TripletLoss

__all__ = [
    "BinaryFocalLoss",
    "CenterLoss",
    "ContrastiveLoss",
    "FocalLoss",
    "SmoothedCrossEntropyLoss",
    "SoftDiceLoss",
    "TripletLoss",
]

"""Outputs that name the class of each position."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from output_nets import DOUBLE, Make, batches
from sklearn.metrics import jaccard_score
from torch import nn

from estimator import Estimator
from estimator.losses import BinaryFocalLoss, SoftDiceLoss
from estimator.outputs import (
    SegmentationOutput,
)


@pytest.mark.parametrize("mask", [None, "known"])
def test_segmentation_of_classes(mask: str | None) -> None:
    x, truth = torch.randn(6, 3, 4, 5, dtype=DOUBLE), torch.randint(0, 3, (6, 4, 5))
    known = torch.rand(6, 4, 5) > 0.3
    given = truth if mask else truth.where(known, -100)
    net = Maps(lambda z, b: {"map": SegmentationOutput(z, "truth", mask=mask)})
    columns = {"x": x, "truth": given, "known": known}
    values = Estimator(net).evaluate(batches(columns, 4))
    z = (x * net.scale).detach()
    guess, kept = z.argmax(1)[known].numpy(), truth[known].numpy()
    loss = F.cross_entropy(z, truth.where(known, -100)).item()
    assert values == pytest.approx({
        "loss": loss, "map_loss": loss, "map_accuracy": (guess == kept).mean(),
        "map_iou": jaccard_score(kept, guess, average="macro"),
    })  # fmt: skip


class Maps(nn.Module):
    def __init__(self, make: Make) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5, dtype=DOUBLE))
        self.make = make

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        return self.make(batch["x"] * self.scale, batch)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.uint8])
def test_segmentation_of_one_mask_has_a_finite_loss_by_default(dtype: torch.dtype) -> None:
    x, truth = torch.randn(6, 1, 4, 5, dtype=DOUBLE), torch.randint(0, 2, (6, 4, 5)).to(dtype)
    net = Maps(lambda z, b: {"mask": SegmentationOutput(z, "truth")})
    values = Estimator(net).evaluate(batches({"x": x, "truth": truth}, 4))
    guess, kept = (x > 0).flatten().numpy(), truth.flatten().numpy().astype(bool)
    loss = F.binary_cross_entropy_with_logits(x * 1.5, truth.double().unsqueeze(1)).item()
    assert values == pytest.approx({
        "loss": loss, "mask_loss": loss, "mask_accuracy": (guess == kept).mean(),
        "mask_iou": jaccard_score(kept, guess),
    })  # fmt: skip


def test_segmentation_by_overlap_and_by_focus() -> None:
    x, truth = torch.randn(6, 1, 4, 5, dtype=DOUBLE), torch.randint(0, 2, (6, 4, 5))
    known = torch.arange(5).expand(6, 4, 5) > 0
    net = Maps(
        lambda z, b: {
            "dice": SegmentationOutput(z, "truth", criterion=SoftDiceLoss(), mask="known"),
            "focal": SegmentationOutput(z, "truth", criterion=BinaryFocalLoss(), mask="known"),
            "multi": SegmentationOutput(z.expand(6, 3, 4, 5), "truth", criterion=SoftDiceLoss()),
        }
    )
    columns = {"x": x, "truth": truth, "known": known}
    values = Estimator(net).evaluate([columns])
    z = (x * 1.5)[..., 1:]
    assert values["dice_loss"] == pytest.approx(SoftDiceLoss()(z, truth[..., 1:]).item())
    focal = BinaryFocalLoss()(z, truth[..., 1:].unsqueeze(1).double()).item()
    assert values["focal_loss"] == pytest.approx(focal)
    multi = SoftDiceLoss()((x * 1.5).expand(6, 3, 4, 5), truth).item()
    assert values["multi_loss"] == pytest.approx(multi)

"""Batches of nets that return outputs are changed together with the outputs' targets."""

from __future__ import annotations

from typing import Any

import torch
from test_handlers_augment import Recorder
from torch import nn

from estimator import Estimator
from estimator.handlers import AugmentHandler
from estimator.outputs import RegressionOutput, SegmentationOutput


class Outputs(nn.Module):
    """Takes the whole dict, and names the keys of its targets itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 2, 1)

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {
            "classes": SegmentationOutput(self.layer(batch["images"].float()), "masks"),
            "mean": RegressionOutput(batch["images"].float().mean((1, 2, 3)), "level"),
        }


def test_targets_of_outputs_are_changed_with_their_inputs() -> None:
    images = torch.arange(16).reshape(2, 1, 2, 4).to(torch.uint8)
    data = {"images": images, "masks": images[:, 0].long() % 2, "level": torch.ones(2)}
    seen = Recorder()
    shown: list[Any] = []

    def mirror(batch: dict[str, Any]) -> dict[str, Any]:
        shown.append(sorted(batch))
        return {**batch, "images": batch["images"].flip(3), "masks": batch["masks"].flip(2)}

    Estimator(Outputs()).fit(
        data, epochs=1, batch_size=2, trainers="sgd", device="cpu", progress=False,
        handlers=[AugmentHandler(mirror), seen],
    )  # fmt: skip
    ((inputs, targets, _),) = seen.train
    assert shown == [["images", "level", "masks"]]
    assert torch.equal(inputs["masks"], targets["classes"])
    assert torch.equal(inputs["images"][:, 0].long() % 2, targets["classes"])
    assert torch.equal(inputs["images"].sort(0).values, images.flip(3))
    assert targets["mean"].tolist() == [1.0, 1.0]

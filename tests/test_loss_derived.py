"""Losses that derive from those of torch."""

from __future__ import annotations

import torch
from torch import nn

from estimator.loss_kinds import counting_rule


class Renamed(nn.CrossEntropyLoss):
    """The same loss by another name."""


class Halved(nn.CrossEntropyLoss):
    """Another loss, of which nothing is known."""

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return super().forward(outputs, targets) / 2


def test_a_loss_that_derives_from_one_of_torch_is_averaged_as_that_is() -> None:
    targets = torch.tensor([0, 1, 2, 2, 1])
    outputs = torch.zeros(5, 3)
    for kind, count in ((nn.CrossEntropyLoss, 3), (Renamed, 3), (Halved, 5)):
        assert int(counting_rule(kind(ignore_index=2))(outputs, targets, 5)) == count

"""Weights of tasks that are learned with the net."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LearnedWeight(nn.Module):
    """The weight of a task, learned from how uncertain the net is in it.

    A task's loss L counts as k exp(-s) L + s/2, where s = log sigma^2 is learned: k = 1/2 for
    regression and 1 for all else (Kendall, Gal and Cipolla, 2018, "Multi-Task Learning Using
    Uncertainty to Weigh Losses", arXiv:1705.07115). It is a part of the net, one for each task,
    and so is trained and saved with it. A batch in which a task has no target moves nothing.

    Args:
        log_variance: s at the start.

    Example:
        >>> weight = LearnedWeight()
        >>> weight(torch.tensor(3.0), 1.0).item()
        3.0
    """

    def __init__(self, log_variance: float = 0.0) -> None:
        super().__init__()
        # Not 0-d, which FSDP cannot split.
        self.log_variance = nn.Parameter(torch.full((1,), float(log_variance)))

    def forward(self, losses: Tensor, factor: float) -> Tensor:
        """The weighted losses.

        Args:
            losses: Of any shape.
            factor: k.
        """
        return factor * (-self.log_variance[0]).exp() * losses + self.log_variance[0] / 2

"""`GradientStatsHandler`: its table equals what NumPy makes of the gradients of a hand loop."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from event_files import scalars
from layer_stats import (
    MOMENTS,
    assert_same_training,
    by_hand,
    by_numpy,
    close,
    fit,
    hand_loop,
    measure,
    table,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from estimator import Trainer
from estimator.handlers.base import every
from estimator.handlers.gradient_stats import GradientStatsHandler


def test_gradients_equal_those_of_a_hand_loop(tmp_path: Path) -> None:
    stats = fit(GradientStatsHandler(tmp_path, every=every(1)))
    reference = hand_loop()
    found = table(tmp_path / "gradients.csv")
    assert list(found) == list(reference.gradients)
    for key, gradient in reference.gradients.items():
        norm = np.linalg.norm(gradient.numpy().ravel())
        assert found[key] == close({"norm": norm} | by_numpy(gradient))
    assert_same_training(stats, reference)


def gradients_of(tmp_path: Path, *gradients: torch.Tensor | None) -> list[dict[str, Any]]:
    """The rows of parameters with these gradients."""
    net = nn.Identity()
    for index, gradient in enumerate(gradients):
        like = torch.zeros(1) if gradient is None else gradient.to_dense()
        parameter = nn.Parameter(torch.zeros_like(like))
        parameter.grad = gradient
        net.register_parameter(f"p{index}", parameter)
    handler, stats = GradientStatsHandler(tmp_path, every=every(1)), by_hand(net)
    handler.train_begin(stats)
    measure(handler, stats)
    handler.train_end(stats)
    return list(table(tmp_path / "gradients.csv").values())


def norm_and(array: torch.Tensor) -> Any:
    return close({"norm": np.linalg.norm(array.numpy().ravel())} | by_numpy(array))


def test_gradients_of_other_kinds(tmp_path: Path) -> None:
    half = torch.tensor([1.5, 0.0, -3.0], dtype=torch.bfloat16)
    double = torch.tensor([1.0, 1.0 + 1e-12], dtype=torch.float64)
    sparse = torch.sparse_coo_tensor(
        torch.tensor([[1, 1, 3]]), torch.tensor([1.0, 2.0, -4.0]), (5,), check_invariants=True
    )
    parts = torch.tensor([[1.0, 2.0], [0.0, -1.0]])
    rows = gradients_of(tmp_path, half, double, sparse, torch.view_as_complex(parts))
    assert rows[0] == norm_and(half.float())
    assert rows[1]["max"] == 1.0 + 1e-12
    assert rows[2] == norm_and(torch.tensor([0.0, 3.0, 0.0, -4.0, 0.0]))
    assert rows[3] == norm_and(parts)


def test_gradients_that_are_not_finite_are_counted(tmp_path: Path) -> None:
    nan = torch.tensor([1.0, math.nan, math.inf, 0.0])
    infinite = torch.tensor([1.0, -math.inf, 0.0])
    rows = gradients_of(tmp_path, nan, infinite)
    assert rows == [norm_and(nan), norm_and(infinite)]
    assert [row["nonfinite"] for row in rows] == [2, 1]
    assert math.isnan(rows[0]["min"]) and rows[1]["min"] == -math.inf


def test_a_parameter_without_a_gradient_has_empty_cells(tmp_path: Path) -> None:
    rows = gradients_of(tmp_path, torch.ones(2), None, torch.empty(0))
    assert rows[0] == norm_and(torch.ones(2))
    assert rows[1] == rows[2] == dict.fromkeys(["norm", *MOMENTS])


def test_a_net_without_any_gradient(tmp_path: Path) -> None:
    assert gradients_of(tmp_path, None) == [dict.fromkeys(["norm", *MOMENTS])]
    assert scalars(tmp_path / "tensorboard") == {}


def test_histograms_hold_the_gradients_before_clipping(tmp_path: Path) -> None:
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = (x * self.weight).sum(dim=1, keepdim=True)
            return out

    fit(
        GradientStatsHandler(tmp_path, every=every(1), histograms=True),
        net=Fails(),
        batches=[
            (torch.tensor([[1.0, 2.0, 4.0]]), torch.ones(1, 1)),
            (torch.tensor([[1.0, math.inf, 3.0]]), torch.ones(1, 1)),
            (torch.full((1, 3), math.nan), torch.ones(1, 1)),
        ],
        trainers=Trainer("sgd", lr=0.0, clip_norm=1e-3),
        epochs=1,
    )
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    first, *rest = events.Histograms("gradients/weight")
    assert (first.step, first.histogram_value.num) == (1, 3)
    assert (first.histogram_value.min, first.histogram_value.max) == (-8.0, -2.0)
    assert [(e.step, e.histogram_value.num) for e in rest] == []

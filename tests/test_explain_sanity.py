"""Explanations of a trained net find what is there, and depend on what it has learned."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from estimator import Estimator, Trainer
from estimator.datasets import shapes
from estimator.explain import Attribution, grad_cam, integrated_gradients, occlusion
from estimator.randomness import random_state_kept, seed_everything

Ask = Callable[[nn.Module, Tensor, Tensor | None], Attribution]


class Trained:
    """A net that tells squares from circles from triangles, and pictures with their boxes."""

    def __init__(self) -> None:
        parts = shapes(600, size=32, most=1, noise=4.0, seed=2)
        with random_state_kept():
            seed_everything(4)
            self.net = nn.Sequential(
                nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.ReLU(),
                nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(),
                nn.Linear(32, 3),
            )  # fmt: skip
            est = Estimator(self.net, nn.CrossEntropyLoss(), ["accuracy"])
            trainers = Trainer("adam", lr=5e-3)
            train, val = (
                (p["images"] / 255 - 0.3, p["labels"][:, 0] - 1) for p in (parts.train, parts.val)
            )
            stats = est.fit(train, val, 12, trainers, device="cpu", progress=False)
        self.accuracy = stats["val_accuracy"][-1]
        self.images, self.boxes = val[0][:60], parts.val["boxes"][:60, 0]


@pytest.fixture(scope="module")
def trained() -> Trained:
    return Trained()


ASK: dict[str, Ask] = {
    "grad_cam": lambda net, x, target: grad_cam(net, x, target=target),
    "integrated_gradients": lambda net, x, target: integrated_gradients(
        net, x, baseline="mean", steps=50, target=target
    ),
    "occlusion": lambda net, x, target: occlusion(
        net, x, window=6, stride=3, baseline="mean", target=target
    ),
}
GAIN = {"grad_cam": 2.0, "integrated_gradients": 3.0, "occlusion": 3.0}
"""How many times its share of the area the box has of a map."""


def heat(found: Attribution) -> Tensor:
    return found.values.sum(1).abs()


@pytest.mark.parametrize("name", ASK)
def test_the_shape_is_found(trained: Trained, name: str) -> None:
    assert trained.accuracy > 0.7
    maps = heat(ASK[name](trained.net, trained.images, None))
    gains = []
    for values, (x1, y1, x2, y2) in zip(maps, trained.boxes.int().tolist(), strict=True):
        share = values[y1:y2, x1:x2].sum() / values.sum().clamp(min=1e-9)
        gains.append(float(share) / ((x2 - x1) * (y2 - y1) / values.numel()))
    assert sorted(gains)[30] > GAIN[name], sorted(gains)


def ranks(values: Tensor) -> Tensor:
    return values.flatten().argsort().argsort().double()


@pytest.mark.parametrize("name", ASK)
def test_other_weights_give_another_map(trained: Trained, name: str) -> None:
    """By rank, as in Adebayo et al. 2018; signs count, since input minus baseline is in both."""
    other = copy.deepcopy(trained.net)
    with random_state_kept():
        torch.manual_seed(5)
        for module in other.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.reset_parameters()
    target = trained.net(trained.images).argmax(1)
    pairs: list[Any] = [
        ASK[name](net, trained.images, target).values.sum(1) for net in (trained.net, other)
    ]
    found = [
        float(torch.corrcoef(torch.stack([ranks(a), ranks(b)]))[0, 1])
        for a, b in zip(*pairs, strict=True)
        if a.any() and b.any()
    ]
    assert len(found) > 20 and sorted(found)[len(found) // 2] < 0.5, sorted(found)

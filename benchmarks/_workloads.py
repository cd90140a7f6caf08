"""What the benchmark trains: three nets, from one that is nothing but overhead to a real one."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, TensorDataset

from estimator import with_uids
from estimator.datasets import read_idx

SIDE = 28
# As many steps of validation as Fashion-MNIST has: 10,000 samples to 60,000.
STEPS_PER_VALIDATION_STEP = 6


@dataclass(frozen=True)
class Workload:
    """A net with its data, the same for each variant that trains it."""

    name: str
    data: str
    net: nn.Module
    train: TensorDataset
    val: TensorDataset
    batch_size: int
    epochs: int
    """Epochs that are timed; one more goes before them."""

    @property
    def steps(self) -> int:
        return len(self.train) // self.batch_size

    def fresh_net(self) -> nn.Module:
        return copy.deepcopy(self.net)

    def loaders(self, *, uids: bool = False) -> tuple[DataLoader[Any], DataLoader[Any]]:
        """Training and validation data, in the same order each time."""
        generator = torch.Generator().manual_seed(0)
        train = DataLoader(self.train, self.batch_size, shuffle=True, generator=generator)
        val = DataLoader(self.val, self.batch_size)
        return (with_uids(train), with_uids(val)) if uids else (train, val)


def linear(steps: int | None) -> Workload:
    """Logistic regression: hardly any arithmetic, so nearly all that is measured is overhead."""
    torch.manual_seed(0)
    batch_size, steps = 16, steps or 1000
    x = torch.randn(batch_size * (steps + _validation_steps(steps)), 20)
    y = (x @ torch.randn(20) > 0).long()
    cut = batch_size * steps
    train, val = TensorDataset(x[:cut], y[:cut]), TensorDataset(x[cut:], y[cut:])
    return Workload("linear", "made up", nn.Linear(20, 2), train, val, batch_size, epochs=4)


def mlp(steps: int | None) -> Workload:
    torch.manual_seed(0)
    layers = (nn.Flatten(), nn.Linear(SIDE * SIDE, 64), nn.ReLU(), nn.Linear(64, 10))
    return _on_images("MLP", nn.Sequential(*layers), steps, epochs=2)


def lenet(steps: int | None) -> Workload:
    """LeNet-5 with ReLU and max pooling (LeCun et al., 1998)."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()),
        nn.Linear(84, 10),
    )
    return _on_images("LeNet", net, steps, epochs=1)


WORKLOADS: dict[str, Callable[[int | None], Workload]] = {
    "linear": linear,
    "mlp": mlp,
    "lenet": lenet,
}


def _validation_steps(steps: int) -> int:
    return max(1, steps // STEPS_PER_VALIDATION_STEP)


def _on_images(name: str, net: nn.Module, steps: int | None, *, epochs: int) -> Workload:
    batch_size = 128
    root = os.environ.get("ESTIMATOR_DATA")
    if root is None:
        data = "digits of scikit-learn, enlarged to 28x28"
        images = val_images = _digits()
    else:
        data = "Fashion-MNIST"
        images, val_images = (_fashion_mnist(Path(root), part) for part in ("train", "t10k"))
    steps = steps or 60_000 // batch_size
    train = _dataset(*images, samples=batch_size * steps)
    val = _dataset(*val_images, samples=batch_size * _validation_steps(steps))
    return Workload(name, data, net, train, val, batch_size, epochs)


def _dataset(images: Tensor, labels: Tensor, *, samples: int) -> TensorDataset:
    """The first samples, with pixels from 0 to 1; a smaller set is gone through again."""
    rows = torch.arange(samples) % len(images)
    return TensorDataset(images[rows] / images.max().float(), labels[rows].long())


def _fashion_mnist(root: Path, part: str) -> tuple[Tensor, Tensor]:
    folder = root / "fashion-mnist"
    images = read_idx(folder / f"{part}-images-idx3-ubyte.gz", 3)
    return images.unsqueeze(1), read_idx(folder / f"{part}-labels-idx1-ubyte.gz", 1)


def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = interpolate(torch.from_numpy(digits.images).float()[:, None], size=SIDE)
    return images, torch.from_numpy(digits.target)

"""What is on a picture? AlexNet and ResNet-18, with augmentation, on clothes and on CIFAR-10.

    python tutorials/models/classification.py                     three seeds of all there is
    python tutorials/models/classification.py --sets cifar-10     the whole; downloaded if need be
    python tutorials/models/classification.py --quick             digits, a few seconds

`--data`, or the environment variable ESTIMATOR_DATA, names the folder with the folders
fashion-mnist and cifar-10-subset. Without an accelerator, `--scale 0.25` is for a night.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from _script import run, table
from _vision import alexnet, arguments, normalizer, resnet18
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from estimator import Estimator, Trainer
from estimator.datasets import Splits, cifar10, cifar10_subset, digits, fashion_mnist
from estimator.handlers import AugmentHandler
from estimator.transforms import Compose, RandomCrop, RandomCutout, RandomFlip, Transform

NETS = {"AlexNet": alexnet, "ResNet-18": resnet18}
RATE = {"AlexNet": 0.02, "ResNet-18": 0.1}
"""The highest rate of the cycle."""


class Task(NamedTuple):
    """A data set, and what is known about training on it."""

    read: Callable[[Path | None], Splits]
    augment: Transform
    epochs: int
    batch: int
    goals: dict[str, float]
    """The least validation accuracy of each net."""


def crops(size: int, padding: int) -> list[Transform]:
    """Pictures moved by up to so many pixels, and mirrored."""
    return [RandomCrop(size, padding), RandomFlip()]


SMALL_PICTURES = Compose([*crops(32, 4), RandomCutout(8)])
TASKS = {
    "fashion-mnist": Task(
        fashion_mnist, Compose(crops(28, 2)), 15, 128, {"AlexNet": 0.91, "ResNet-18": 0.93}
    ),
    "cifar-10": Task(cifar10, SMALL_PICTURES, 30, 128, {"AlexNet": 0.82, "ResNet-18": 0.92}),
    "cifar-10-subset": Task(
        cifar10_subset, SMALL_PICTURES, 60, 64, {"AlexNet": 0.5, "ResNet-18": 0.6}
    ),
    # A mirrored digit is none.
    "digits": Task(
        lambda _: digits(), RandomCrop(8, 1), 8, 32, {"AlexNet": 0.9, "ResNet-18": 0.9}
    ),
}  # fmt: skip
USUAL = ["fashion-mnist", "cifar-10-subset"]


def train(name: str, task: Task, data: Splits, seed: int, *, epochs: int, scale: float) -> Any:
    """Trains a net, and says what it reached on pictures that it has not seen."""
    torch.manual_seed(seed)
    began = time.perf_counter()
    images = data.train[0]
    own = NETS[name](images.shape[1], len(data.classes), scale)
    net = nn.Sequential(normalizer(images), own)
    steps = epochs * -(-len(images) // task.batch)
    cycle = partial(OneCycleLR, max_lr=RATE[name], total_steps=steps)
    options = {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}

    est = Estimator(net, nn.CrossEntropyLoss(), ["accuracy"])
    est.fit(
        data.train, data.val, epochs, Trainer("sgd", lr=RATE[name], scheduler=cycle, **options),
        batch_size=task.batch, handlers=AugmentHandler(task.augment), progress=False,
    )  # fmt: skip

    seconds = round(time.perf_counter() - began)
    test = "none" if data.test is None else est.evaluate(data.test)["accuracy"]
    return {
        "net": name, "seed": seed, "epochs": epochs,
        "val accuracy": est.evaluate(data.val)["accuracy"], "test accuracy": test,
        "seconds": seconds,
    }  # fmt: skip


def main() -> None:
    args = arguments(
        __doc__,
        sets={"nargs": "+", "choices": list(TASKS), "default": USUAL},
        nets={"nargs": "+", "choices": list(NETS), "default": list(NETS)},
        scale={"type": float, "help": "multiplies the widths of the nets"},
    )  # fmt: skip
    rows = []
    for name in ["digits"] if args.quick else args.sets:
        task = TASKS[name]
        data = task.read(None if args.data is None else Path(args.data, name))
        scale = args.scale or (0.125 if name == "digits" else 1.0)
        for net in args.nets:
            for seed in args.seeds:
                epochs = args.epochs or task.epochs
                row = train(net, task, data, seed, epochs=epochs, scale=scale)
                rows.append({"data": name, **row, "goal": task.goals[net]})
    print(table(rows))
    if any(row["val accuracy"] < row["goal"] for row in rows):
        sys.exit("A validation accuracy is below its goal.")


if __name__ == "__main__":
    run(main)

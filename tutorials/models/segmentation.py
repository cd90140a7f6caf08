"""Which pixels are nuclei? A fully convolutional net on dsb2018-nuclei, by mean IoU.

    python tutorials/models/segmentation.py               three seeds
    python tutorials/models/segmentation.py --boundary    the rims of nuclei are a third class
    python tutorials/models/segmentation.py --quick       coloured shapes, a few seconds

`--data`, or the environment variable ESTIMATOR_DATA, names the folder with the folder
dsb2018-nuclei.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from _script import run, table
from _vision import FCN, arguments, normalizer
from torch import Tensor, nn
from torch.nn.functional import max_pool2d
from torch.optim.lr_scheduler import OneCycleLR

from estimator import Estimator, Trainer
from estimator.datasets import Splits, dsb2018_nuclei, shapes
from estimator.handlers import AugmentHandler
from estimator.metrics import MeanIoU
from estimator.transforms import Compose, RandomCrop, RandomFlip

RATE = 4e-3
"""The highest of the cycle."""


class Plan(NamedTuple):
    """How to train."""

    epochs: int
    batch: int
    crop: int
    """Height and width of the parts of pictures that are trained on."""
    width: int
    """Channels of the first block of the net."""
    goal: float
    """The least mean IoU in validation."""


QUICK = Plan(epochs=10, batch=8, crop=32, width=8, goal=0.6)
NUCLEI = Plan(epochs=80, batch=8, crop=128, width=16, goal=0.85)
# Rims are one pixel wide, and where they are is a matter of taste.
WITH_RIMS = NUCLEI._replace(goal=0.65)


def with_rims(instances: Tensor) -> Tensor:
    """Classes of pixels: 0 outside, 1 in a nucleus, 2 at its rim, next to what is not of it.

    Args:
        instances: Shape (N, H, W), the number of the nucleus or 0.
    """
    numbers = instances.float()
    highest, lowest = max_pool2d(numbers, 3, 1, 1), -max_pool2d(-numbers, 3, 1, 1)
    return torch.where(highest == lowest, 1, 2) * (instances > 0)


def read(args: argparse.Namespace) -> Splits:
    """Pictures and the class of each pixel."""
    if args.quick:
        data = shapes(200, size=48, most=2, noise=5.0)
    else:
        data = dsb2018_nuclei(None if args.data is None else Path(args.data, "dsb2018-nuclei"))
    parts = [{"images": part["images"], "masks": part["masks"]} for part in (data.train, data.val)]
    if args.quick or not args.boundary:
        return Splits(*parts, classes=data.classes)
    for part, known in zip(parts, (data.train, data.val), strict=True):
        part["masks"] = with_rims(known["instances"])
    return Splits(*parts, classes=(*data.classes, "rim"))


def train(data: Splits, plan: Plan, seed: int) -> dict[str, Any]:
    """Trains a net on parts of pictures, and measures it on whole ones."""
    torch.manual_seed(seed)
    began = time.perf_counter()
    images, classes = data.train["images"], len(data.classes)
    net = nn.Sequential(normalizer(images), FCN(images.shape[1], classes, plan.width))
    steps = plan.epochs * -(-len(images) // plan.batch)
    cycle = partial(OneCycleLR, max_lr=RATE, total_steps=steps)
    flips = (RandomFlip(axis=axis, masks="masks") for axis in ("horizontal", "vertical"))
    augment = Compose([RandomCrop(plan.crop, masks="masks"), *flips])
    metric = MeanIoU(name="mean_iou")

    est = Estimator(net, nn.CrossEntropyLoss(), [metric, "accuracy"], targets="masks")
    est.fit(
        data.train, data.val, plan.epochs, Trainer("adamw", lr=RATE, scheduler=cycle),
        batch_size=plan.batch, handlers=AugmentHandler(augment), progress=False,
    )  # fmt: skip

    seconds = round(time.perf_counter() - began)
    reached = est.evaluate(data.val)
    metric.reset()
    metric.update(est.predict(data.val), data.val["masks"])
    each = zip(data.classes, metric.by_class().tolist(), strict=True)
    return {
        "seed": seed, "epochs": plan.epochs, "val mean IoU": reached["mean_iou"],
        **{f"IoU of {name}": value for name, value in each},
        "val accuracy": reached["accuracy"], "seconds": seconds,
    }  # fmt: skip


def main() -> None:
    rims = {"action": "store_true", "help": "the rims of nuclei are a class of their own"}
    args = arguments(__doc__, boundary=rims)
    plan = QUICK if args.quick else WITH_RIMS if args.boundary else NUCLEI
    plan = plan._replace(epochs=args.epochs or plan.epochs)
    data = read(args)
    rows = [train(data, plan, seed) for seed in args.seeds]
    print(table(rows))
    if any(row["val mean IoU"] < plan.goal for row in rows):
        sys.exit(f"Each mean IoU in validation must be at least {plan.goal}.")


if __name__ == "__main__":
    run(main)

"""Finds blood cells of three kinds: a small SSD on bccd.

    python tutorials/models/detection.py --data FOLDER       three seeds on blood cells
    python tutorials/models/detection.py --quick             coloured shapes, in seconds

The images are in `bccd` in the folder that `--data`, or the environment variable ESTIMATOR_DATA,
names. The net is that of Liu et al. (2016, arXiv:1512.02325) in small, and learns from nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from _average_precision import MeanAveragePrecision
from _boxes import Level, MultiBoxLoss, make_anchors
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from estimator import Estimator, EstimatorError, Trainer
from estimator.datasets import Splits, bccd, shapes
from estimator.handlers import AugmentHandler, EventHandler, WorstSamplesHandler
from estimator.transforms import Compose, RandomFlip

LEVELS = Level(8, sizes=(0.08, 0.12, 0.21)), Level(16, sizes=(0.26, 0.34, 0.45))
TARGETS = ["boxes", "labels", "valid"]
AXES: tuple[Literal["horizontal", "vertical"], ...] = ("horizontal", "vertical")
DATA = os.environ.get("ESTIMATOR_DATA")
GOAL, QUICK_GOAL = 0.7, 0.35
"""Mean average precision that the validation images must reach."""


class SSD(nn.Module):
    """Convolutions down to two grids, and what each anchor of their cells sees."""

    def __init__(self, classes: int, width: int = 16) -> None:
        super().__init__()
        self.classes = classes
        fine, coarse = 4 * width, 6 * width
        self.fine = nn.Sequential(
            conv(3, width, stride=2), conv(width, 2 * width, stride=2), conv(2 * width, 2 * width),
            conv(2 * width, fine, stride=2), conv(fine, fine), conv(fine, fine),
        )  # fmt: skip
        self.coarse = nn.Sequential(conv(fine, coarse, stride=2), conv(coarse, coarse))
        self.heads = nn.ModuleList(
            nn.Conv2d(channels, level.boxes * (classes + 4), 3, padding=1)
            for channels, level in zip((fine, coarse), LEVELS, strict=True)
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        fine = self.fine(images / 127.5 - 1)
        grids = fine, self.coarse(fine)
        seen = [
            head(grid).permute(0, 2, 3, 1).reshape(images.shape[0], -1, self.classes + 4)
            for head, grid in zip(self.heads, grids, strict=True)
        ]
        scores, offsets = torch.cat(seen, 1).split([self.classes, 4], dim=-1)
        return {"scores": scores, "offsets": offsets}


def conv(before: int, after: int, *, stride: int = 1) -> nn.Module:
    layer = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(after), nn.ReLU())


class Result(NamedTuple):
    """What one seed reached: mean average precision at 0.5, and that of each class."""

    seed: int
    val: float
    test: float
    by_class: dict[str, float]
    """Of the test images."""
    seconds: float

    def __str__(self) -> str:
        each = ", ".join(f"{name} {value:.3f}" for name, value in self.by_class.items())
        return (
            f"seed {self.seed}: mAP at 0.5 {self.val:.3f} in validation, {self.test:.3f} in test "
            f"({each}); {self.seconds:.0f} s"
        )


def read(args: argparse.Namespace) -> Splits:
    """The images with their boxes, without what no detector needs."""
    if args.quick:
        data = shapes(256, most=3, noise=5.0)
    else:
        folder = None if args.data is None else Path(args.data, "bccd")
        size = args.height, args.height * 4 // 3
        data = bccd(folder, size=size, on_bad_box=args.bad_boxes)
    parts = ({k: p[k] for k in ("images", *TARGETS)} for p in (data.train, data.val, data.test))
    return Splits(*parts, data.classes)


def run(data: Splits, seed: int, epochs: int, *, out: Path | None = None) -> Result:
    """Trains one net, and measures it on images that it has not seen."""
    started = time.perf_counter()
    torch.manual_seed(seed)
    anchors = make_anchors(LEVELS, *data.train["images"].shape[-2:])
    steps = epochs * -(-len(data.train["valid"]) // 16)
    cycle = partial(OneCycleLR, max_lr=4e-3, total_steps=steps)
    trainer = Trainer("adamw", lr=4e-3, scheduler=cycle, clip_norm=5.0)
    across, down = (RandomFlip(axis=axis, boxes="boxes", valid="valid") for axis in AXES)
    handlers: list[EventHandler] = [AugmentHandler(Compose([across, down]))]
    if out is not None:
        handlers.append(WorstSamplesHandler(out / f"seed{seed}"))

    loss, metric = MultiBoxLoss(anchors), MeanAveragePrecision(anchors)
    est = Estimator(SSD(len(data.classes)), loss, metric, targets=TARGETS)
    est.fit(data.train, data.val, epochs, trainer, batch_size=16, handlers=handlers, progress=False)
    val = est.evaluate(data.val)["map50"]
    metric.update(est.predict(data.test), data.test)
    by_class = dict(zip(data.classes[1:], metric.by_class().tolist(), strict=True))
    seconds = time.perf_counter() - started
    return Result(seed, val, metric.compute().item(), by_class, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description="A small SSD on bccd.")
    parser.add_argument("--data", default=DATA, help="folder of the data sets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--height", type=int, default=144, help="of the images, in pixels")
    parser.add_argument("--bad-boxes", choices=["drop", "raise"], default="drop")
    parser.add_argument("--out", type=Path, help="folder for the images with the largest losses")
    parser.add_argument("--quick", action="store_true", help="one seed on generated shapes")
    args = parser.parse_args()
    seeds, epochs, goal = (args.seeds[:1], 8, QUICK_GOAL) if args.quick else (args.seeds, 40, GOAL)
    try:
        data = read(args)
    except EstimatorError as error:
        sys.exit(str(error))
    results = []
    for seed in seeds:
        results.append(run(data, seed, args.epochs or epochs, out=args.out))
        print(results[-1], flush=True)
    if min(result.val for result in results) < goal:
        sys.exit(f"The mean average precision in validation must be at least {goal}.")


if __name__ == "__main__":
    main()

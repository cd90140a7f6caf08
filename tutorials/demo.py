"""Trains a small CNN with every handler on, and says where each has left its files.

    python tutorials/demo.py                          1,797 digits of 8x8 pixels, no download
    python tutorials/demo.py --data fashion-mnist     clothes of 28x28 pixels, downloaded once
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from itertools import count
from pathlib import Path

import torch
from demo_data import CACHE, digits, fashion_mnist
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from estimator import DataError, Estimator, Trainer
from estimator.handlers import (
    ActivationStatsHandler,
    CheckpointHandler,
    CSVLogHandler,
    EarlyStoppingHandler,
    EmbeddingHandler,
    EMAHandler,
    EventHandler,
    GradientStatsHandler,
    LoggingHandler,
    LRRecorderHandler,
    MetricHandler,
    NaNHandler,
    ProgressHandler,
    TensorBoardHandler,
    TimeLimitHandler,
    WorstSamplesHandler,
    best_checkpoint,
    every,
)


def small_cnn(side: int, classes: int) -> nn.Module:
    """Returns a net for grey images of `side` x `side` pixels."""
    layers = {
        "conv1": nn.Conv2d(1, 32, 3, padding=1),
        "relu1": nn.ReLU(),
        "pool1": nn.MaxPool2d(2),
        "conv2": nn.Conv2d(32, 64, 3, padding=1),
        "relu2": nn.ReLU(),
        "pool2": nn.MaxPool2d(2),
        "flatten": nn.Flatten(),
        "features": nn.Linear(64 * (side // 4) ** 2, 64),
        "relu3": nn.ReLU(),
        "classifier": nn.Linear(64, classes),
    }
    net = nn.Sequential()
    for name, layer in layers.items():
        net.add_module(name, layer)
    return net


def all_handlers(folder: Path, classes: list[str]) -> list[EventHandler]:
    """Returns one handler of each kind; a run of yours picks those that it needs."""
    return [
        MetricHandler(),
        EMAHandler(decay=0.98),
        NaNHandler(),
        EarlyStoppingHandler("val_loss", patience=5, restore_best=True),
        TimeLimitHandler(seconds=600),
        CheckpointHandler(folder / "checkpoints", monitor="val_accuracy"),
        LoggingHandler(folder / "log.txt"),
        ProgressHandler(),
        CSVLogHandler(folder / "history.csv"),
        TensorBoardHandler(folder / "tensorboard"),
        LRRecorderHandler(folder / "lr"),
        GradientStatsHandler(folder / "layers", every=every(epochs=1)),
        ActivationStatsHandler(folder / "layers", every=every(epochs=1)),
        WorstSamplesHandler(folder / "worst_samples", classes=classes),
        EmbeddingHandler(folder / "embedding", layer="features", classes=classes),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains a small CNN with every handler on.")
    parser.add_argument("--data", choices=["digits", "fashion-mnist"], default="digits")
    parser.add_argument("--out", type=Path, help="runs are OUT/1, OUT/2, ...; runs/demo-DATA")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--samples", type=int, default=12_000, help="of fashion-mnist")
    parser.add_argument("--cache", type=Path, default=CACHE, help="of fashion-mnist")
    args = parser.parse_args()
    try:
        data = digits() if args.data == "digits" else fashion_mnist(args.samples, args.cache)
    except DataError as error:
        sys.exit(f"{parser.prog}: {error}")
    parent = args.out or Path("runs", f"demo-{args.data}")
    folder = next(path for n in count(1) if not (path := parent / str(n)).exists())

    torch.manual_seed(0)
    est = Estimator(
        small_cnn(data.side, len(data.classes)),
        loss=nn.CrossEntropyLoss(),
        metrics=["accuracy"],
    )
    stats = est.fit(
        data.train,
        data.val,
        epochs=args.epochs,
        trainers=Trainer("adam", lr=2e-3, scheduler=partial(CosineAnnealingLR, T_max=args.epochs)),
        handlers=all_handlers(folder, data.classes),
    )
    stats.history.to_json(folder / "history.json")
    est.plot_loss_graph().savefig(folder / "loss.png")

"""Trains a small CNN with all reports on, and says where they are.

Run one of:

    python tutorials/demo.py                         1,797 digits of 8x8 pixels, no download
    python tutorials/demo.py --data fashion-mnist    clothes of 28x28 pixels, downloaded once
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import OrderedDict
from functools import partial
from pathlib import Path

import torch
from demo_data import CACHE, ImageSet, digits, fashion_mnist
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from estimator import Estimator, EstimatorError, RunFolder, Trainer, handlers, report
from estimator.handlers import best_checkpoint


def small_cnn(side: int, classes: int) -> nn.Module:
    """Builds a net for grey images of side x side pixels."""
    layers = OrderedDict[str, nn.Module](
        conv1=nn.Conv2d(1, 32, 3, padding=1),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(32, 64, 3, padding=1),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        features=nn.Linear(64 * (side // 4) ** 2, 64),
        relu3=nn.ReLU(),
        classifier=nn.Linear(64, classes),
    )
    return nn.Sequential(layers)


def all_handlers(classes: list[str]) -> list[handlers.EventHandler]:
    """Makes all reports and what else may go with a run; yours takes those that it needs."""
    return [
        handlers.EMAHandler(decay=0.98),
        handlers.NaNHandler(),
        # What is validated, and so what is restored, is the average of the weights.
        handlers.EarlyStoppingHandler("val_loss", patience=4, restore_best=True),
        handlers.TimeLimitHandler(seconds=600),
        handlers.CheckpointHandler(monitor="val_loss"),
        handlers.GradientStatsHandler(every=handlers.every(epochs=1)),
        handlers.ActivationStatsHandler(every=handlers.every(epochs=1)),
        handlers.EmbeddingHandler(layer="features", classes=classes),
        *report.full(classes, without=[handlers.EmbeddingHandler]),
    ]


def train(data: ImageSet, run: RunFolder, epochs: int) -> tuple[Path, float]:
    """Trains, and returns the run folder and the validation accuracy."""
    # Steps as small as these gain little from more threads, and lose much on a busy machine.
    torch.set_num_threads(1)
    torch.manual_seed(0)
    est = Estimator(
        small_cnn(data.side, len(data.classes)),
        loss=nn.CrossEntropyLoss(),
        metrics=["accuracy"],
    )
    cosine = partial(CosineAnnealingLR, T_max=epochs)
    stats = est.fit(
        data.train,
        data.val,
        epochs=epochs,
        trainers=Trainer("adam", lr=2e-3, scheduler=cosine),
        run=run,
        handlers=all_handlers(data.classes),
    )
    assert stats.run_dir is not None
    return stats.run_dir, est.evaluate(data.val)["accuracy"]


def say_where(folder: Path) -> None:
    """Prints what lies where."""
    places = {
        "page": folder / "report.html",
        "loss graph": folder / "history/loss.png",
        "history": folder / "history.csv",
        "history as JSON": folder / "history.json",
        "log": folder / "trainer.txt",
        "best weights": folder / "last.model",
        "best checkpoint": best_checkpoint(folder / "checkpoints"),
        "confusion matrix": folder / "output-val-cm.png",
        "worst samples": folder / "worst_samples_by_epoch/gallery_validation.png",
        "learning rate": folder / "lr_recorder/lr.csv",
        "gradients": folder / "layers/gradients.csv",
        "activations": folder / "layers/activations.csv",
        "embedding": folder / "embedding/projector_config.pbtxt",
        "ONNX": folder / "model.onnx",
    }
    for what, path in places.items():
        print(f"{what:<18}{os.path.relpath(path)}")
    print(f"\nCurves, layers and the embedding: tensorboard --logdir {os.path.relpath(folder)}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains a small CNN with all reports on.")
    parser.add_argument("--data", choices=["digits", "fashion-mnist"], default="digits")
    parser.add_argument("--out", type=Path, default="runs", help="each run makes a folder there")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--samples", type=int, default=12_000, help="of fashion-mnist, up to 60000")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of fashion-mnist")
    args = parser.parse_args()
    try:
        data = digits() if args.data == "digits" else fashion_mnist(args.samples, args.cache)
    except EstimatorError as error:
        sys.exit(str(error))
    folder, accuracy = train(data, RunFolder(f"demo-{args.data}", root=args.out), args.epochs)
    print(f"\nValidation accuracy {accuracy:.4f}\n")
    say_where(folder)
    if accuracy < data.goal:
        sys.exit(f"\nThe validation accuracy must be at least {data.goal}; it is {accuracy:.4f}.")


if __name__ == "__main__":
    main()

"""Predicts who survived the Titanic: logistic regression, and scikit-learn's beside it.

    python tutorials/models/logistic_regression.py                  three seeds, in seconds
    python tutorials/models/logistic_regression.py --missing drop   without rows with empty cells

The table is `titanic/train.csv` in the folder that `--data`, or the environment variable
ESTIMATOR_DATA, names. Each seed deals the rows to training, validation and test anew.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from estimator import Estimator, EstimatorError, Trainer
from estimator.datasets import Splits, titanic

DATA = os.environ.get("ESTIMATOR_DATA")
BATCH = 64
GOAL = 0.74
"""Share of the validation passengers that has to be right."""
TOLERANCE = 0.01
"""By which share a loss may differ from that of scikit-learn."""

Table = tuple[Tensor, Tensor]


class Result(NamedTuple):
    """What one seed reached; losses are mean cross entropies in nats."""

    seed: int
    train_loss: float
    val_loss: float
    reference_train_loss: float
    reference_val_loss: float
    accuracy: float
    """Of the validation passengers."""
    auroc: float
    """Likewise: how often a survivor is rated above somebody who died."""
    seconds: float

    def good(self) -> bool:
        """Whether the losses are those of scikit-learn, and the net predicts well enough."""
        train = abs(self.train_loss / self.reference_train_loss - 1)
        val = abs(self.val_loss / self.reference_val_loss - 1)
        return max(train, val) <= TOLERANCE and self.accuracy >= GOAL

    def __str__(self) -> str:
        return (
            f"seed {self.seed}: accuracy {self.accuracy:.3f}, AUROC {self.auroc:.3f}; "
            f"loss {self.val_loss:.4f}, scikit-learn's {self.reference_val_loss:.4f}, in training "
            f"{self.train_loss:.4f} and {self.reference_train_loss:.4f}; {self.seconds:.1f} s"
        )


def standardised(data: Splits) -> tuple[Table, Table]:
    """Columns with zero mean and unit spread in training; validation by the same numbers."""
    std, mean = torch.std_mean(data.train[0], dim=0)
    # A word that no training row has is a column of zeros.
    std = torch.where(std > 0, std, 1.0)
    train, val = (((x - mean) / std, y) for x, y in (data.train, data.val))
    return train, val


def reference(train: Table, val: Table) -> tuple[float, float]:
    """Losses of scikit-learn's fit without a penalty, in training and validation."""
    parts = [(x.double().numpy(), y.flatten().numpy()) for x, y in (train, val)]
    model = LogisticRegression(C=np.inf, max_iter=10_000, tol=1e-8).fit(*parts[0])
    train_loss, val_loss = (float(log_loss(y, model.predict_proba(x))) for x, y in parts)
    return train_loss, val_loss


def run(data: Splits, seed: int, epochs: int) -> Result:
    """Fits by gradient descent, and compares."""
    started = time.perf_counter()
    train, val = standardised(data)
    torch.manual_seed(seed)
    steps = epochs * -(-len(train[0]) // BATCH)
    cycle = partial(OneCycleLR, max_lr=0.05, total_steps=steps)

    net = nn.Linear(train[0].shape[1], 1)
    est = Estimator(net, loss=nn.BCEWithLogitsLoss(), metrics=["accuracy", "auroc"])
    trainer = Trainer("adam", lr=0.05, scheduler=cycle)
    est.fit(train, epochs=epochs, trainers=trainer, batch_size=BATCH, device="cpu", progress=False)
    train_loss, reached = est.evaluate(train)["loss"], est.evaluate(val)

    seconds = time.perf_counter() - started
    losses = train_loss, reached["loss"], *reference(train, val)
    return Result(seed, *losses, reached["accuracy"], reached["auroc"], seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description="Logistic regression on titanic.")
    parser.add_argument("--data", default=DATA, help="folder of the data sets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--missing", choices=["fill", "drop", "error"], default="fill")
    parser.add_argument("--quick", action="store_true", help="one seed")
    args = parser.parse_args()
    folder = None if args.data is None else Path(args.data, "titanic")
    results = []
    for seed in args.seeds[:1] if args.quick else args.seeds:
        try:
            data = titanic(folder, missing=args.missing, seed=seed)
        except EstimatorError as error:
            sys.exit(str(error))
        results.append(run(data, seed, args.epochs))
        print(results[-1])
    if not all(result.good() for result in results):
        wanted = f"accuracy must be at least {GOAL}, and losses within {TOLERANCE:.0%}"
        sys.exit(f"{wanted} of scikit-learn's.")


if __name__ == "__main__":
    main()

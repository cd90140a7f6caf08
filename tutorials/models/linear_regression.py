"""Predicts what houses of California are worth: linear regression, and scikit-learn's beside it.

    python tutorials/models/linear_regression.py                  three seeds, in seconds
    python tutorials/models/linear_regression.py --missing drop   without rows that have empty cells

The table is `california-housing/housing.csv` in the folder that `--data`, or the environment
variable ESTIMATOR_DATA, names. Each seed deals the rows to training, validation and test anew.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from sklearn.linear_model import LinearRegression
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from estimator import Estimator, EstimatorError, Trainer
from estimator.datasets import Splits, california_housing

DOLLARS = 100_000.0
"""What a value is counted in, so that losses and weights are about 1."""
DATA = os.environ.get("ESTIMATOR_DATA")
BATCH = 256
GOAL = 0.6
"""Share of the variance of the validation data that has to be explained."""
TOLERANCE = 0.01
"""By which share a loss may differ from that of scikit-learn."""

Table = tuple[Tensor, Tensor]


class Result(NamedTuple):
    """What one seed reached; losses are mean squared errors, in units of DOLLARS squared."""

    seed: int
    train_loss: float
    val_loss: float
    reference_train_loss: float
    reference_val_loss: float
    explained: float
    """Of the variance of the validation data: R squared."""
    seconds: float

    def good(self) -> bool:
        """Whether the losses are those of scikit-learn, and the line predicts well enough."""
        train = abs(self.train_loss / self.reference_train_loss - 1)
        val = abs(self.val_loss / self.reference_val_loss - 1)
        return max(train, val) <= TOLERANCE and self.explained >= GOAL

    def __str__(self) -> str:
        error = self.val_loss**0.5 * DOLLARS
        return (
            f"seed {self.seed}: off by {error:,.0f} dollars (RMSE), R2 {self.explained:.3f}; "
            f"loss {self.val_loss:.4f}, scikit-learn's {self.reference_val_loss:.4f}, in training "
            f"{self.train_loss:.4f} and {self.reference_train_loss:.4f}; {self.seconds:.1f} s"
        )


def standardised(data: Splits) -> tuple[Table, Table]:
    """Columns with zero mean and unit spread in training; validation by the same numbers."""
    std, mean = torch.std_mean(data.train[0], dim=0)
    # A word that no training row has is a column of zeros.
    std = torch.where(std > 0, std, 1.0)
    train, val = (((x - mean) / std, y / DOLLARS) for x, y in (data.train, data.val))
    return train, val


def reference(train: Table, val: Table) -> tuple[float, float]:
    """Losses of the least squares that scikit-learn solves for, in training and validation."""
    parts = [(x.double().numpy(), y.double().numpy()) for x, y in (train, val)]
    model = LinearRegression().fit(*parts[0])
    errors = (model.predict(x) - y for x, y in parts)
    train_loss, val_loss = (float((error**2).mean()) for error in errors)
    return train_loss, val_loss


def run(data: Splits, seed: int, epochs: int) -> Result:
    """Fits the line by gradient descent, and compares."""
    started = time.perf_counter()
    train, val = standardised(data)
    torch.manual_seed(seed)
    steps = epochs * -(-len(train[0]) // BATCH)
    cycle = partial(OneCycleLR, max_lr=0.05, total_steps=steps)

    est = Estimator(nn.Linear(train[0].shape[1], 1), loss=nn.MSELoss())
    trainer = Trainer("adam", lr=0.05, scheduler=cycle)
    est.fit(train, epochs=epochs, trainers=trainer, batch_size=BATCH, device="cpu", progress=False)
    train_loss, val_loss = (est.evaluate(part, batch_size=4096)["loss"] for part in (train, val))

    seconds = time.perf_counter() - started
    explained = 1 - val_loss / float(val[1].var(correction=0))
    return Result(seed, train_loss, val_loss, *reference(train, val), explained, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description="Linear regression on california-housing.")
    parser.add_argument("--data", default=DATA, help="folder of the data sets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--missing", choices=["fill", "drop", "error"], default="fill")
    parser.add_argument("--quick", action="store_true", help="one seed")
    args = parser.parse_args()
    folder = None if args.data is None else Path(args.data, "california-housing")
    results = []
    for seed in args.seeds[:1] if args.quick else args.seeds:
        try:
            data = california_housing(folder, missing=args.missing, seed=seed)
        except EstimatorError as error:
            sys.exit(str(error))
        results.append(run(data, seed, args.epochs))
        print(results[-1])
    if not all(result.good() for result in results):
        wanted = f"R2 must be at least {GOAL}, and losses within {TOLERANCE:.0%}"
        sys.exit(f"{wanted} of scikit-learn's.")


if __name__ == "__main__":
    main()

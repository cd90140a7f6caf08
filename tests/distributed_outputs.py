"""Outputs that describe themselves, trained by one process or two; as a script, it saves all."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from distributed_jobs import RANK, outcome
from output_nets import Net, data, fit
from torch import Tensor

from estimator.outputs import BinaryClassificationOutput, LearnedWeight, RegressionOutput


def job() -> dict[str, Any]:
    """A task with gaps and a learned weight, and one whose metric needs all samples."""
    weight = LearnedWeight(0.2).double()
    number = data(45)["number"]
    number[::4] = float("nan")
    whole = data(45, number=number, yes=torch.arange(45) % 2)

    def one(z: Tensor, b: dict[str, Any]) -> dict[str, Any]:
        return {"r": RegressionOutput(z[:, :2], "number", weight=weight)}

    def two(z: Tensor, b: dict[str, Any]) -> dict[str, Any]:
        return one(z, b) | {"yes": BinaryClassificationOutput(z[:, 2], "yes")}

    found: dict[str, Any] = {}
    for name, make in (("one", one), ("two", two)):
        net = Net(make, parts={"weight": weight})
        rate = 0.0 if name == "two" else 0.1
        est, stats = fit(net, whole, whole, batch_size=8, seed=1, epochs=2, lr=rate)
        found[name] = outcome(stats) | {
            "evaluated": est.evaluate(whole), "predicted": est.predict({"x": whole["x"]})
        }  # fmt: skip
    return found


if __name__ == "__main__":
    torch.save(job(), Path(sys.argv[1]) / f"outputs_{RANK}.pt")

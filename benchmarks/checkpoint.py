"""Times what a checkpoint keeps training from: `python benchmarks/checkpoint.py --help`."""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from estimator import Estimator, TrainStats
from estimator.handlers import Band, CheckpointHandler, EventHandler

EPOCH_SECONDS = 30
SHARE_GOAL, BLOCK_GOAL_MS = 0.02, 20


class Stopwatch(EventHandler):
    """Two of them around a handler, in the order of the list, time what it does at epoch_end."""

    band = Band.PERSIST

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def epoch_end(self, stats: TrainStats) -> None:
        self.times.append(time.perf_counter())


def blocked(megabytes: int, epochs: int, background: bool) -> list[float]:
    """Seconds for which each epoch's checkpoint keeps the loop waiting."""
    width = 512
    layers = max(1, megabytes * 2**20 // (4 * width * width))
    net = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(layers)))
    data = (torch.randn(64, width), torch.randn(64, width))
    before, after = Stopwatch(), Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        saver = CheckpointHandler(folder, background=background, keep_last=1)
        Estimator(net, nn.MSELoss()).fit(
            # Longer epochs than a write takes, so that no save waits for the one before it.
            [data] * 8,
            epochs=epochs,
            trainers="sgd",
            device="cpu",
            handlers=[before, saver, after],
            progress=False,
        )
    return [end - begin for begin, end in zip(before.times, after.times, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=20, help="size of the net's weights")
    parser.add_argument("--epochs", type=int, default=12, help="checkpoints of each kind")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="folder of results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    numbers = {}
    for name, background in (("in the loop", False), ("background=True", True)):
        # The first of a run pays for caches, which later ones do not.
        times = [1000 * t for t in blocked(options.megabytes, options.epochs, background)[1:]]
        numbers[name] = {"median_ms": statistics.median(times), "most_ms": max(times)}
    lines = [
        f"# What a checkpoint of {options.megabytes} MB keeps training from",
        "",
        f"| written | median ms | most ms | share of an epoch of {EPOCH_SECONDS} s |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, n in numbers.items():
        share = n["median_ms"] / (1000 * EPOCH_SECONDS)
        lines.append(f"| {name} | {n['median_ms']:.1f} | {n['most_ms']:.1f} | {share:.2%} |")
    lines += [
        "",
        f"Goals: below {SHARE_GOAL:.0%} of that epoch; with background=True the loop waits less "
        f"than {BLOCK_GOAL_MS} ms for 20 MB.",
    ]
    page = "\n".join(lines)
    print(page)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "checkpoint.md").write_text(page + "\n", encoding="utf-8")
    (options.out / "checkpoint.json").write_text(json.dumps(numbers, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

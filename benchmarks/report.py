"""Times what the reports of a run cost: `python benchmarks/report.py --help`."""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from _workloads import Workload, lenet
from torch import nn

from estimator import Estimator, Trainer, TrainStats, report
from estimator.handlers import Band, EventHandler

EPOCHS = 4
GOAL = 1.10
"""An epoch with all reports takes at most so many times one without."""
REPEATS = 10
GROWTH_GOAL_MB = 20


class Lap(NamedTuple):
    """Clocks at the end of an epoch."""

    wall: float
    cpu: float
    resident_mb: float


class Laps(EventHandler):
    """Notes the clocks after all that happens at the end of an epoch."""

    band = Band.REPORT

    def __init__(self) -> None:
        super().__init__()
        self.laps: list[Lap] = []

    def epoch_end(self, stats: TrainStats) -> None:
        self.laps.append(now())


def now() -> Lap:
    return Lap(time.perf_counter(), time.process_time(), resident_mb())


def resident_mb() -> float:
    """Memory that the process has at present, in MiB."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * 4096 / 2**20


def trained(work: Workload, epochs: int, *, reports: bool) -> tuple[list[Lap], Lap]:
    """The clocks at the end of each epoch, and at the end of all.

    Args:
        work: What is trained.
        epochs: How long.
        reports: Whether a run folder gets all reports, or there are neither.
    """
    data = [(x, y) for x, y in (work.train.tensors, work.val.tensors)]
    laps = Laps()
    with tempfile.TemporaryDirectory() as folder:
        more = [*report.full(), laps] if reports else [laps]
        est = Estimator(work.fresh_net(), nn.CrossEntropyLoss(), ["accuracy"])
        est.fit(
            *data, epochs=epochs, trainers=Trainer("adam", lr=1e-3), device="cpu", handlers=more,
            batch_size=work.batch_size, progress=False, run=f"{folder}/run" if reports else None,
        )  # fmt: skip
        end = now()
    gc.collect()
    return laps.laps, end


def epochs_of(laps: list[Lap], what: str) -> list[float]:
    """Seconds of each epoch but the first, which also pays for what a run begins with."""
    times = [getattr(lap, what) for lap in laps]
    return [b - a for a, b in zip(times[:-1], times[1:], strict=True)]


def cost_part(work: Workload, rounds: int, epochs: int) -> dict[str, Any]:
    """Seconds of an epoch and of the end of a run, without reports and with all."""
    found: dict[str, Any] = {"bare": [], "full": [], "ratio": [], "end": []}
    for _ in range(rounds):
        for name in ("bare", "full"):
            laps, end = trained(work, epochs, reports=name == "full")
            found[name].append(statistics.median(epochs_of(laps, "cpu")))
        found["end"].append(end.wall - laps[-1].wall)
        found["ratio"].append(found["full"][-1] / found["bare"][-1])
    return found


def memory_part(work: Workload) -> dict[str, Any]:
    """MiB of the process at the end of each epoch of a run with all reports."""
    laps, _ = trained(work, REPEATS, reports=True)
    return {"resident_mb": [lap.resident_mb for lap in laps]}


def page(numbers: dict[str, Any]) -> str:
    cost, memory = numbers["cost"], numbers["memory"]["resident_mb"]
    lines = [
        "# What the reports of a run cost", "",
        f"LeNet, batch 128; data: {numbers['data']}. CPU seconds of an epoch, validation included, "
        f"medians of runs of {numbers['epochs']} epochs without the first; the end of a run by "
        "wall clock.", "",
        "| what | median | least | most |", "| --- | ---: | ---: | ---: |",
    ]  # fmt: skip
    names = {
        "bare": "an epoch without reports, s", "full": "with run= and report.full(), s",
        "ratio": "ratio", "end": "the end of the run, s",
    }  # fmt: skip
    for key, name in names.items():
        middle, low, high = statistics.median(cost[key]), min(cost[key]), max(cost[key])
        lines.append(f"| {name} | {middle:.3f} | {low:.3f} | {high:.3f} |")
    half = len(memory) // 2
    lines += [
        "", f"Memory of the process after epochs 1 to {len(memory)}, in MiB: "
        f"{', '.join(f'{value:.0f}' for value in memory)}.", "",
        "| goal | at most | measured | met |", "| --- | ---: | ---: | --- |",
        *(goal_row(goal) for goal in goals(cost, memory[half:])),
    ]  # fmt: skip
    return "\n".join(lines)


def goals(cost: dict[str, Any], memory: list[float]) -> list[dict[str, Any]]:
    """What was asked for and what was measured.

    Args:
        cost: Of `cost_part`.
        memory: MiB after the epochs of the second half of a run.
    """
    grown = max(memory) - memory[0]
    return [
        {"name": "an epoch with all reports", "measured": statistics.median(cost["ratio"]),
         "limit": GOAL},
        {"name": "MiB that the second half of ten epochs adds", "measured": grown,
         "limit": GROWTH_GOAL_MB},
    ]  # fmt: skip


def goal_row(goal: dict[str, Any]) -> str:
    met = "yes" if goal["measured"] <= goal["limit"] else "no"
    return f"| {goal['name']} | {goal['limit']:.2f} | {goal['measured']:.3f} | {met} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it works")
    parser.add_argument("--rounds", type=int, default=3, help="of both kinds in turn")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="folder of results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    work = lenet(8 if options.quick else None)
    epochs, rounds = (2, 1) if options.quick else (EPOCHS, options.rounds)
    numbers: dict[str, Any] = {"data": work.data, "epochs": epochs}
    numbers["cost"] = cost_part(work, rounds, epochs)
    numbers["memory"] = memory_part(lenet(8 if options.quick else 100))
    memory = numbers["memory"]["resident_mb"]
    numbers["goals"] = goals(numbers["cost"], memory[len(memory) // 2 :])
    text = page(numbers)
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "report.md").write_text(text + "\n", encoding="utf-8")
    (options.out / "report.json").write_text(json.dumps(numbers, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Times `fit` against hand-written loops: `python benchmarks/loop.py --help`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from _measure import GOALS, Result, measure
from _table import goal_table, preface, workload_table
from _workloads import WORKLOADS, Workload

QUICK_STEPS, QUICK_ROUNDS = 4, 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="times that each variant trains")
    parser.add_argument("--steps", type=int, help="training steps an epoch (default: all data)")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="folder of results")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it works")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.steps = QUICK_ROUNDS, options.steps or QUICK_STEPS
    if options.rounds < 1 or (options.steps is not None and options.steps < 1):
        parser.error("--rounds and --steps must be at least 1")
    return options


def settings(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "rounds": options.rounds,
    }


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def described(workload: Workload, results: dict[str, Result]) -> dict[str, Any]:
    return {
        "name": workload.name,
        "data": workload.data,
        "batch_size": workload.batch_size,
        "steps": workload.steps,
        "epochs": workload.epochs,
        "variants": {name: asdict(result) for name, result in results.items()},
    }


def main() -> int:
    options = arguments()
    torch.set_num_threads(options.threads)
    tables, workloads, goals = [preface(settings(options))], [], []
    for name in options.workloads:
        workload = WORKLOADS[name](options.steps)
        results = measure(workload, options.rounds, tell)
        tables.append(workload_table(workload, results))
        workloads.append(described(workload, results))
        goals += [goal.judge(results) for goal in GOALS if goal.workload == workload.name]
    page = "\n".join([*tables, goal_table(goals)] if goals else tables)
    numbers = {"settings": settings(options), "workloads": workloads, "goals": goals}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "loop.md").write_text(page, encoding="utf-8")
    (options.out / "loop.json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    print(page)
    unequal = any(v["weights_equal"] is False for w in workloads for v in w["variants"].values())
    return 1 if unequal else 0


if __name__ == "__main__":
    sys.exit(main())

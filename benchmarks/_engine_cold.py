"""Trains one variant in this process, which has trained nothing before, and prints its times."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch
from _engine_loops import Moments
from _engine_measure import Run, peak_of_process
from _engine_variants import cold_variants
from _engine_workloads import COLD, Workload


def run_cold(workload: Workload, name: str) -> Run:
    """The times of one variant in a new process."""
    threads = torch.get_num_threads()
    command = [sys.executable, str(Path(__file__)), name, str(workload.steps), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{workload.id} {name} failed:\n{done.stderr}")
    return Run(**json.loads(done.stdout))


def cold(name: str, steps: int) -> Run:
    workload, moments = replace(COLD, steps=steps), Moments()
    # The net and the data are there before the clock starts; all else is in the time.
    _ = workload.net, workload.train, workload.val
    _use_torch()
    torch.manual_seed(0)
    cold_variants()[name].train(workload, 1, moments)
    wall, cpu = (b - a for a, b in zip(moments.called, moments.epochs[0], strict=True))
    trained = (b - a for a, b in zip(moments.called, moments.trained[0], strict=True))
    us = 1e6 / steps
    steps_wall, steps_cpu = (seconds * us for seconds in trained)
    return Run(
        wall_us=wall * us, cpu_us=cpu * us, steps_wall_us=steps_wall, steps_cpu_us=steps_cpu,
        cold_wall_s=wall, cold_cpu_s=cpu, setup_s=moments.setup_s, peak_mb=peak_of_process(),
        report=moments.report,
    )  # fmt: skip


def _use_torch() -> None:
    """Has torch load what its first optimizer of a process loads: a second, the same for all."""
    weight = torch.zeros(1, requires_grad=True)
    weight.sum().backward()
    torch.optim.Adam([weight]).step()


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[3]))
    print(json.dumps(asdict(cold(sys.argv[1], int(sys.argv[2])))))

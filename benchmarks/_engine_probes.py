"""Counts and times that are taken in runs of their own: reads of the device, the host, imports."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import torch
from _engine_fits import Pace, fit
from _engine_loops import Moments
from _engine_measure import spread
from _engine_variants import Variant
from _engine_workloads import Workload

FEW, MANY = 100, 300
SMALL_BATCH = 8
SELDOM_SECONDS = 3600.0
PACE_STEPS, PACE_BLOCK = 200, 20
TIMED_IMPORT = "import time; began = time.perf_counter(); {}; print(time.perf_counter() - began)"
IMPORTS = {"torch": "import torch", "torch and estimator": "import torch, estimator"}


def reads_per_step(workload: Workload, variant: Variant, *, quick: bool) -> float:
    """How often a step waits for a number from its device: by a long run less a short one."""
    few, many = (4, 12) if quick else (FEW, MANY)
    train = variant.train
    if variant.has_bar:
        # Steps are slower while they are counted, so more drawings would fall on each.
        train = partial(train, bar_seconds=SELDOM_SECONDS)

    def reads(steps: int) -> int:
        size = min(workload.batch_size, SMALL_BATCH)
        small = replace(workload, steps=steps, batch_size=size)
        _ = small.net, small.train, small.val
        torch.manual_seed(0)
        count = _waits if workload.device == "cuda" else _scalar_reads
        return count(lambda: train(small, 1, Moments()))

    return (reads(many) - reads(few)) / (many - few)


def _scalar_reads(train: Callable[[], object]) -> int:
    with _silence(), torch.autograd.profiler.profile() as profile:
        train()
    results = profile.kineto_results
    assert results is not None
    count, kernel_end = 0, 0
    for event in sorted(results.events(), key=lambda event: event.start_ns()):
        # A fused optimizer counts its steps in tensors of the host, which it reads by itself.
        if event.name().startswith("aten::_fused_"):
            kernel_end = event.end_ns()
        elif event.name() == "aten::_local_scalar_dense" and event.start_ns() >= kernel_end:
            count += 1
    return count


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keeps from the terminal what a library writes to its file descriptor."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _waits(train: Callable[[], object]) -> int:
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            train()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)


def host_us(workload: Workload, tier: str) -> float:
    """Microseconds of the host for a step with all handlers on, while the device works on."""
    pace = Pace()
    fit(workload, 2, Moments(), tier=tier, everything=True, extra=(pace,))
    times = pace.times[: PACE_STEPS + 1]
    block = min(PACE_BLOCK, len(times) - 1)
    blocks = zip(times[:-block:block], times[block::block], strict=True)
    return 1e6 * median((after - before) / block for before, after in blocks)


def import_times(rounds: int) -> dict[str, Any]:
    """Seconds to import torch, and what this library adds, in new processes by turns."""
    times: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(rounds):
        for name, line in IMPORTS.items():
            command = [sys.executable, "-c", TIMED_IMPORT.format(line)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            times[name].append(float(done.stdout))
    alone, both = times.values()
    added = [b - a for a, b in zip(alone, both, strict=True)]
    return {name: asdict(spread(values)) for name, values in (times | {"added": added}).items()}


def settings(options: dict[str, Any]) -> dict[str, Any]:
    """The versions and the machine, and how was measured."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "estimator": metadata.version("torch-estimator"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "gpu": gpu,
        **options,
    }


def _cpu_model() -> str:
    listed = Path("/proc/cpuinfo")
    if listed.exists():
        for line in listed.read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

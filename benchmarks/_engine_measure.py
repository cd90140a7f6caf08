"""Runs the variants in turn, and makes medians and ratios of what their clocks say."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from _engine_fits import read_report
from _engine_loops import Moment, Moments
from _engine_variants import Variant, against
from _engine_workloads import Workload
from torch import Tensor

FIELDS = {"epochs": "{}_us", "steps": "steps_{}_us", "cold": "cold_{}_s"}
"""What is compared: whole epochs, what of them is training steps, and all from the call on."""


@dataclass(frozen=True)
class Run:
    """Of one training; microseconds are those of a step."""

    wall_us: float
    cpu_us: float
    steps_wall_us: float
    """Without what an epoch does besides its training steps."""
    steps_cpu_us: float
    cold_wall_s: float
    """From the call to the end of the last epoch, all set-up included."""
    cold_cpu_s: float
    setup_s: float | None = None
    peak_mb: float | None = None
    report: str = ""


@dataclass(frozen=True)
class Spread:
    """Of numbers of which there is one a round."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    return Spread(median(values), min(values), max(values))


@dataclass
class Parity:
    """How far the weights of a variant are from those that they should be."""

    reference: str
    equal: bool = True
    difference: float = 0.0

    def look(self, mine: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
        for a, b in zip(mine, theirs, strict=True):
            if not torch.equal(a, b):
                self.equal = False
                self.difference = max(self.difference, float((a.double() - b.double()).abs().max()))


class Budget:
    """Shares the minutes that are left among the workloads that are left.

    Args:
        minutes: Of all workloads together; None is as long as it takes.
        workloads: How many there are.
    """

    def __init__(self, minutes: float | None, workloads: int) -> None:
        self.end = None if minutes is None else time.monotonic() + 60 * minutes
        self.workloads = workloads
        self.until = float("inf")

    def open(self) -> None:
        """Begins a workload."""
        if self.end is not None:
            left = max(0.0, self.end - time.monotonic())
            self.until = time.monotonic() + left / max(1, self.workloads)
        self.workloads -= 1

    def allows(self, seconds: float) -> bool:
        """Whether so much more fits into this workload's share."""
        return time.monotonic() + seconds <= self.until


Timed = tuple[Run, list[Tensor]]


@dataclass
class Measured:
    """What the rounds of one workload gave."""

    runs: dict[str, list[Run]]
    parity: dict[str, Parity]
    rounds: int = 0


def measure(
    entries: dict[str, Variant], rounds: int, budget: Budget,
    time_one: Callable[[str], Timed], tell: Callable[[str], None],
) -> Measured:  # fmt: skip
    """Lets each variant train once a round, in an order that turns with the rounds."""
    names = list(entries)
    parity = {name: Parity(v.reference) for name, v in entries.items() if v.reference is not None}
    found = Measured({name: [] for name in names}, parity)
    for turn in range(rounds):
        began = time.monotonic()
        first = turn % len(names)
        weights: dict[str, list[Tensor]] = {}
        for name in names[first:] + names[:first]:
            run, weights[name] = time_one(name)
            found.runs[name].append(run)
        for name, kept in parity.items():
            kept.look(weights[name], weights[kept.reference])
        found.rounds = turn + 1
        tell(f"round {turn + 1} of {rounds}")
        if not budget.allows(time.monotonic() - began):
            break
    return found


def time_variant(workload: Workload, variant: Variant) -> Timed:
    """Trains once: the times of the epochs after the first, and the weights."""
    _ = workload.net, workload.train, workload.val
    moments, on_gpu = Moments(), workload.device == "cuda"
    gc.collect()
    torch.manual_seed(0)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    net = variant.train(workload, workload.epochs + 1, moments)
    peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else None
    weights = [t.detach().cpu() for t in net.state_dict().values()]
    return run_of(moments, workload.steps * workload.epochs, peak), weights


def run_of(moments: Moments, steps: int, peak_mb: float | None = None) -> Run:
    """The times of a training whose first epoch is not counted, over its steps."""
    ends, trained = moments.epochs, moments.trained
    whole = _between([ends[0]], [ends[-1]])
    stepping = _between(ends[:-1], trained[1:])
    cold = _between([moments.called], [ends[-1]])
    us = 1e6 / steps
    return Run(
        wall_us=whole[0] * us, cpu_us=whole[1] * us,
        steps_wall_us=stepping[0] * us, steps_cpu_us=stepping[1] * us,
        cold_wall_s=cold[0], cold_cpu_s=cold[1],
        setup_s=moments.setup_s, peak_mb=peak_mb, report=moments.report,
    )  # fmt: skip


def _between(begins: Sequence[Moment], ends: Sequence[Moment]) -> Moment:
    pairs = list(zip(begins, ends, strict=True))
    return sum(b[0] - a[0] for a, b in pairs), sum(b[1] - a[1] for a, b in pairs)


def results(found: Measured) -> dict[str, dict[str, Any]]:
    """Of each variant: medians of its times, and ratios that are taken within the rounds."""
    return {
        name: {
            "us_per_step": _spreads(runs, "epochs"),
            "us_per_step_alone": _spreads(runs, "steps"),
            "cold_s": _spreads(runs, "cold"),
            "ratios": {
                other: ratios(found.runs[other], runs) for other in against(name, list(found.runs))
            },
            "weights": asdict(found.parity[name]) if name in found.parity else None,
            "setup_s": _median(run.setup_s for run in runs),
            "peak_mb": _median(run.peak_mb for run in runs),
            "tier": read_report(runs[-1].report).tier if runs[-1].report else None,
            "report": runs[-1].report,
        }
        for name, runs in found.runs.items()
    }


def ratios(baseline: Sequence[Run], mine: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """How many times the time of `mine` the baseline takes, by both clocks."""
    pairs = list(zip(baseline, mine, strict=True))
    return {
        what: {
            clock: asdict(spread([_of(b, form, clock) / _of(m, form, clock) for b, m in pairs]))
            for clock in ("wall", "cpu")
        }
        for what, form in FIELDS.items()
    }


def _spreads(runs: Sequence[Run], what: str) -> dict[str, Any]:
    form = FIELDS[what]
    return {
        clock: asdict(spread([_of(run, form, clock) for run in runs])) for clock in ("wall", "cpu")
    }


def _of(run: Run, form: str, clock: str) -> float:
    value: float = getattr(run, form.format(clock))
    return value


def _median(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def peak_of_process() -> float | None:
    """The most memory that this process had so far, in MB; None where the system does not tell."""
    # Not by getrusage: its peak includes that of the process which started this one.
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    lines = status.read_text("utf-8").splitlines()
    peak = next((line for line in lines if line.startswith("VmHWM:")), None)
    return None if peak is None else int(peak.split()[1]) / 2**10

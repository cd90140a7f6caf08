"""Runs the variants in turn, and makes medians and ratios of what their clocks say."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from _variants import EQUAL, VARIANTS, Moments, now
from _workloads import Workload


@dataclass(frozen=True)
class Times:
    """Of one training; a step's time is that of whole epochs, over their training steps."""

    wall_us: float
    cpu_us: float
    start_ms: float
    end_ms: float


@dataclass(frozen=True)
class Spread:
    """Of a ratio or a difference that was taken within each round."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Result:
    """One variant of one workload: medians over the rounds, and the least CPU time."""

    wall_us: float
    cpu_us: float
    cpu_least_us: float
    against: str
    wall_ratio: Spread
    cpu_ratio: Spread
    wall_added_us: Spread
    cpu_added_us: Spread
    start_ms: float
    end_ms: float
    weights_equal: bool | None
    """Whether its weights are those of the careful loop; None where that is not asked."""


def measure(workload: Workload, rounds: int, tell: Callable[[str], None]) -> dict[str, Result]:
    """Times all variants of a workload, each once a round, the order turning with the rounds."""
    names = list(VARIANTS)
    times: dict[str, list[Times]] = {name: [] for name in names}
    equal = dict.fromkeys(EQUAL, True)
    for turn in range(rounds):
        first = turn % len(names)
        weights = {}
        for name in names[first:] + names[:first]:
            timed, weights[name] = _time(workload, name)
            times[name].append(timed)
        for name in EQUAL:
            same = map(torch.equal, weights[name], weights["careful"])
            equal[name] = equal[name] and all(same)
        tell(f"{workload.name}: round {turn + 1} of {rounds}")
    return {name: _result(times, name, equal.get(name)) for name in names}


def _time(workload: Workload, name: str) -> tuple[Times, list[torch.Tensor]]:
    moments = Moments()
    gc.collect()
    net = VARIANTS[name].train(workload, workload.epochs + 1, moments)
    over, _ = now()
    # The first epoch also pays for what is done once: imports, buffers, state of the optimizer.
    warm, last = moments.epochs[0], moments.epochs[-1]
    steps = workload.epochs * workload.steps
    wall, cpu = ((b - a) / steps * 1e6 for a, b in zip(warm, last, strict=True))
    start = moments.began[0] - moments.called[0]
    times = Times(wall, cpu, start * 1e3, (over - last[0]) * 1e3)
    return times, [p.detach() for p in net.parameters()]


def _result(times: dict[str, list[Times]], name: str, equal: bool | None) -> Result:
    mine, against = times[name], VARIANTS[name].against
    pairs = list(zip(mine, times[against], strict=True))
    return Result(
        wall_us=median(t.wall_us for t in mine),
        cpu_us=median(t.cpu_us for t in mine),
        cpu_least_us=min(t.cpu_us for t in mine),
        against=against,
        wall_ratio=_spread([a.wall_us / b.wall_us for a, b in pairs]),
        cpu_ratio=_spread([a.cpu_us / b.cpu_us for a, b in pairs]),
        wall_added_us=_spread([a.wall_us - b.wall_us for a, b in pairs]),
        cpu_added_us=_spread([a.cpu_us - b.cpu_us for a, b in pairs]),
        start_ms=median(t.start_ms for t in mine),
        end_ms=median(t.end_ms for t in mine),
        weights_equal=equal,
    )


def _spread(values: Sequence[float]) -> Spread:
    return Spread(median(values), min(values), max(values))


@dataclass(frozen=True)
class Goal:
    """What a variant is to stay below."""

    workload: str
    variant: str
    limit: float
    unit: str
    """"x" for a ratio, "us" for what is added to a step."""

    def judge(self, results: dict[str, Result]) -> dict[str, Any]:
        """The goal with what was measured: within rounds by both clocks, and by least times."""
        mine = results[self.variant]
        against = results[mine.against]
        if self.unit == "x":
            wall, cpu = mine.wall_ratio.median, mine.cpu_ratio.median
            least = mine.cpu_least_us / against.cpu_least_us
        else:
            wall, cpu = mine.wall_added_us.median, mine.cpu_added_us.median
            least = mine.cpu_least_us - against.cpu_least_us
        measured = {"against": mine.against, "wall": wall, "cpu": cpu, "cpu_least": least}
        return asdict(self) | measured | {"met": cpu <= self.limit}


GOALS = (
    Goal("LeNet", "fit", 1.02, "x"),
    Goal("linear", "fit", 10.0, "us"),
    Goal("LeNet", "fit, all handlers", 1.05, "x"),
)

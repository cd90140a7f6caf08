"""Trains every entrant once a round, in turn, and checks that each one learned."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

import torch
from _variants import Moments, Variant
from _workloads import Workload
from torch import nn
from torch.nn.functional import cross_entropy

FIT, WITH_METRIC, CAREFUL = "fit", "fit with a metric", "careful loop"
JUDGED_SAMPLES = 10_000


@dataclass(frozen=True)
class Entrant:
    """A library in one of its settings."""

    library: str
    setting: str
    train: Variant

    @property
    def ours(self) -> bool:
        return self.library in (FIT, WITH_METRIC, CAREFUL)


@dataclass
class Record:
    """What an entrant did, round by round; times are microseconds a step."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    accuracy: float = 0.0
    """Of the last round, on the training data."""
    fault: str = ""
    """Why its times count for nothing."""


def race(
    workload: Workload, entrants: Sequence[Entrant], rounds: int, tell: Callable[[str], None]
) -> dict[Entrant, Record]:
    """Times all entrants, the order turning with the rounds."""
    records = {entrant: Record() for entrant in entrants}
    start, _ = judge(workload, workload.fresh_net())
    for turn in range(rounds):
        first = turn % len(entrants)
        for entrant in [*entrants[first:], *entrants[:first]]:
            if not records[entrant].fault:
                _run(workload, entrant, records[entrant], start)
        tell(f"{workload.name}: round {turn + 1} of {rounds}")
    return records


def _run(workload: Workload, entrant: Entrant, record: Record, start: float) -> None:
    """Adds the times of one training; nothing can be said where our own fail."""
    gc.collect()
    if entrant.ours:
        _time(workload, entrant, record, start)
        if record.fault:
            raise RuntimeError(f"{entrant.library} on {workload.name}: {record.fault}")
        return
    try:
        with silence():
            _time(workload, entrant, record, start)
    except Exception as error:  # Whatever a peer raises must not take the others' times away.
        first_line = (str(error).splitlines() or [""])[0]
        record.fault = f"{type(error).__name__}: {first_line}"


def _time(workload: Workload, entrant: Entrant, record: Record, start: float) -> None:
    moments, epochs = Moments(), workload.epochs + 1
    net = entrant.train(workload, epochs, moments)
    if len(moments.epochs) != epochs:
        record.fault = f"trained {len(moments.epochs)} epochs instead of {epochs}"
        return
    # The first epoch also pays for what is done once: imports, buffers, state of the optimizer.
    warm, last = moments.epochs[0], moments.epochs[-1]
    steps = workload.epochs * workload.steps
    record.wall.append((last[0] - warm[0]) / steps * 1e6)
    record.cpu.append((last[1] - warm[1]) / steps * 1e6)
    loss, record.accuracy = judge(workload, net)
    if not loss < start:
        record.fault = f"did not learn: its loss went from {start:.4f} to {loss:.4f}"


@contextmanager
def silence() -> Iterator[None]:
    """Without the warnings of other libraries, which are about themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def judge(workload: Workload, net: nn.Module) -> tuple[float, float]:
    """Mean loss and accuracy on the first of the training samples."""
    x, y = workload.train[:JUDGED_SAMPLES]
    net.eval()
    with torch.no_grad():
        outputs = net(x)
    return cross_entropy(outputs, y).item(), (outputs.argmax(1) == y).float().mean().item()


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "low": min(values), "high": max(values)}


def ratio(mine: Sequence[float], against: Sequence[float]) -> dict[str, float]:
    """Spread of the ratios that were taken within each round."""
    return spread([a / b for a, b in zip(mine, against, strict=True)])

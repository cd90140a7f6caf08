"""Times `fit` against other libraries: `python benchmarks/peers.py --help`.

They need an environment of their own: `benchmarks/requirements-peers.txt` says how to make one.
A library that is not there gets a row that says so.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from _peer_measure import CAREFUL, FIT, WITH_METRIC, Entrant, race, silence
from _peer_table import failed, preface, rows, workload_table
from _variants import careful, fit, fit_bare
from _workloads import WORKLOADS, Workload

QUICK_STEPS, QUICK_ROUNDS = 4, 1


@dataclass(frozen=True)
class Library:
    """Where the settings of a library are, and how it is called in an index and in code."""

    name: str
    module: str
    distribution: str
    package: str


LIBRARIES = {
    "lightning": Library("Lightning", "_peer_lightning", "lightning", "lightning"),
    "ignite": Library("Ignite", "_peer_ignite", "pytorch-ignite", "ignite"),
    "keras": Library("Keras (torch backend)", "_peer_keras", "keras", "keras"),
    "skorch": Library("skorch", "_peer_skorch", "skorch", "skorch"),
    "poutyne": Library("Poutyne", "_peer_poutyne", "poutyne", "poutyne"),
    "fastai": Library("fastai", "_peer_fastai", "fastai", "fastai"),
}
OURS = (
    Entrant(FIT, "progress=False, fused SGD, no metric", fit_bare),
    Entrant(WITH_METRIC, "metrics=['accuracy'] as well", fit),
    Entrant(CAREFUL, "fused SGD, sums of loss and accuracy read once an epoch", careful),
)


class Field:
    """All that take part: the entrants with their versions, and why others are missing."""

    def __init__(self, keys: Iterable[str]) -> None:
        self.entrants = list(OURS)
        own = version("torch-estimator")
        self.versions = {FIT: own, WITH_METRIC: own, CAREFUL: torch.__version__}
        self.missing: dict[str, str] = {}
        for key in keys:
            self._add(LIBRARIES[key])

    def _add(self, library: Library) -> None:
        try:
            with silence():
                settings = importlib.import_module(library.module).SETTINGS
        except ImportError as error:
            self.missing[library.name] = _absence(library, error)
            return
        self.versions[library.name] = version(library.distribution)
        self.entrants += [Entrant(library.name, what, run) for what, run in settings.items()]


def _absence(library: Library, error: ImportError) -> str:
    lacking = (error.name or "").partition(".")[0]
    if lacking == library.package and isinstance(error, ModuleNotFoundError):
        return "not installed"
    if isinstance(error, ModuleNotFoundError):
        return f"needs {lacking}, which is not installed"
    return f"cannot be imported: {error}"


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Times fit against other libraries.")
    parser.add_argument("--rounds", type=int, default=7, help="times that each library trains")
    parser.add_argument("--steps", type=int, help="training steps an epoch (default: all data)")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="folder of results")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it works")
    options = parser.parse_args(argv)
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
        "clock": "CPU time of the main thread",
    }


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def described(workload: Workload, found: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": workload.name,
        "data": workload.data,
        "batch_size": workload.batch_size,
        "steps": workload.steps,
        "epochs": workload.epochs,
        "rows": found,
    }


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    torch.set_num_threads(options.threads)
    field = Field(options.libraries)
    tables, workloads = [preface(settings(options))], []
    for name in options.workloads:
        workload = WORKLOADS[name](options.steps)
        records = race(workload, field.entrants, options.rounds, tell)
        found = rows(records, field.versions, field.missing)
        tables.append(workload_table(workload, found))
        workloads.append(described(workload, found))
    page, numbers = "\n".join(tables), {"settings": settings(options), "workloads": workloads}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "peers.md").write_text(page, encoding="utf-8")
    (options.out / "peers.json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    print(page)
    return 1 if any(failed(row) for workload in workloads for row in workload["rows"]) else 0


if __name__ == "__main__":
    sys.exit(main())

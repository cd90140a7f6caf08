"""Times the engine's tiers against loops by hand: `python benchmarks/engine.py --help`."""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from _engine_cold import run_cold
from _engine_goals import EVERYTHING, judged
from _engine_measure import Budget, Timed, measure, results, time_variant
from _engine_probes import host_us, import_times, reads_per_step, settings
from _engine_table import engine_page
from _engine_variants import Variant, cold_variants, variants
from _engine_workloads import COLD, CPU, GPU, LEFT_OUT, MEASURED_AS, Workload

QUICK_STEPS, IMPORT_ROUNDS, GPU_MINUTES = 4, 5, 8.0
IMPORTS = "imports"
ALL = {**CPU, COLD.id: COLD, **GPU}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    names = [*ALL, *MEASURED_AS, *LEFT_OUT, IMPORTS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="ID", help=", ".join(names))
    parser.add_argument("--rounds", type=int, default=7, help="times that each variant trains")
    parser.add_argument(
        "--minutes", type=float,
        help=f"fewer rounds if they would take longer (default: {GPU_MINUTES:g} on a GPU)",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument(
        "--gpu", action=argparse.BooleanOptionalAction, default=torch.cuda.is_available(),
        help="G1 to G9 rather than C1 to C10 (default: where there is a GPU)",
    )  # fmt: skip
    parser.add_argument(
        "--compile", action="store_true", help="variants that compile too; minutes a workload"
    )
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="folder of results")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it works")
    options = parser.parse_args()
    if options.quick:
        options.rounds = 1
    if options.rounds < 1 or (options.minutes is not None and options.minutes <= 0):
        parser.error("--rounds must be at least 1, and --minutes above 0")
    if options.minutes is None and options.gpu:
        options.minutes = GPU_MINUTES
    options.names = chosen(options)
    if any(name in GPU for name in options.names) and not torch.cuda.is_available():
        parser.error("G1 to G9 need a GPU, which torch does not find")
    return options


def chosen(options: argparse.Namespace) -> list[str]:
    """What is measured, in the order of the suite."""
    suite = [*GPU] if options.gpu else [*CPU, COLD.id]
    wanted = options.only or [*suite, IMPORTS]
    named = {MEASURED_AS[name][0] if name in MEASURED_AS else name for name in wanted}
    return [name for name in (*ALL, IMPORTS) if name in named]


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def run(name: str, options: argparse.Namespace, budget: Budget) -> dict[str, Any]:
    """One workload, as the JSON has it."""
    workload = ALL[name]
    if options.quick:
        workload = replace(workload, steps=QUICK_STEPS, epochs=min(1, workload.epochs))
    is_cold = name == COLD.id
    entries = cold_variants() if is_cold else variants(workload, compiled=options.compile)

    def time_one(variant: str) -> Timed:
        if is_cold:
            return run_cold(workload, variant), []
        return time_variant(workload, entries[variant])

    budget.open()
    compared = {key: replace(v, reference=None) if is_cold else v for key, v in entries.items()}
    found = measure(
        compared, options.rounds, budget, time_one, lambda line: tell(f"{name}: {line}")
    )
    measured = results(found)
    for key, result in measured.items():
        result["what"] = entries[key].what
        result |= probes(workload, key, entries[key], options.quick)
    shown = ("id", "what", "batch_size", "steps", "epochs", "precision")
    told = {key: getattr(workload, key) for key in shown}
    return told | {"rounds": found.rounds, "variants": measured}


def probes(workload: Workload, name: str, variant: Variant, quick: bool) -> dict[str, Any]:
    """What is counted besides: not of what compiles anew, nor of what runs elsewhere."""
    counted = workload.id != COLD.id and name not in ("B2", "B3") and "compile" not in name
    paced = workload.device == "cuda" and name == EVERYTHING
    return {
        "syncs_per_step": reads_per_step(workload, variant, quick=quick) if counted else None,
        "host_us": host_us(workload, "auto") if paced else None,
    }


def left_out(options: argparse.Namespace) -> dict[str, str]:
    """What stands in the suite without being measured, with the reason."""
    kind = "G" if options.gpu else "C"
    reasons = {name: f"it is {told}" for name, (_, told) in MEASURED_AS.items()} | LEFT_OUT
    found = {name: why for name, why in reasons.items() if name.startswith(kind)}
    if not options.compile:
        found["B2"] = "what compiles takes minutes; --compile adds it"
    if not options.gpu:
        found["peak memory"] = (
            "variants share a process, whose peak is that of the largest; C10 has processes of "
            "their own, and all of their memory is in its numbers"
        )
    return found


def main() -> int:
    options = arguments()
    torch.set_num_threads(options.threads)
    clock = "cpu" if not options.gpu and options.threads == 1 else "wall"
    names = [name for name in options.names if name != IMPORTS]
    budget, failed = Budget(options.minutes, len(names)), False
    told = ("threads", "rounds", "minutes")
    how = {"clock": clock, **{name: getattr(options, name) for name in told}}
    numbers: dict[str, Any] = {
        "settings": settings(how),
        "workloads": [],
        "goals": [],
        "imports": {},
        "left_out": left_out(options),
    }
    for name in names:
        try:
            numbers["workloads"].append(run(name, options, budget))
        except Exception as error:
            # The others may have taken long, or a machine that is hard to come by.
            traceback.print_exc()
            numbers["left_out"][name] = f"it failed with {type(error).__name__}: {error}"
            failed = True
        numbers["goals"] = judged(numbers["workloads"], clock)
        write(numbers, options)
    if IMPORTS in options.names:
        numbers["imports"] = import_times(1 if options.quick else IMPORT_ROUNDS)
    print(write(numbers, options))
    return 1 if failed else 0


def write(numbers: dict[str, Any], options: argparse.Namespace) -> str:
    """Keeps what is known so far, and returns its page."""
    page = engine_page(numbers)
    stem = "engine-gpu" if options.gpu else "engine"
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{stem}.md").write_text(page, encoding="utf-8")
    text = json.dumps(numbers, indent=2) + "\n"
    (options.out / f"{stem}.json").write_text(text, encoding="utf-8")
    return page


if __name__ == "__main__":
    sys.exit(main())

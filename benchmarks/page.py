"""Writes the page of results from what the benchmarks left: `python benchmarks/page.py --help`."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tomllib
from pathlib import Path
from typing import Any

from _engine_table import METHOD, engine_tables, number, row, setting_line, spread

HERE = Path(__file__).parent
INTRODUCTION = """# How fast it is

Written by `benchmarks/page.py` from what the benchmarks measured; edit the script, not this page.
Times depend on the machine, and ratios much less: they compare ways of training that took turns in
the same process. Data and nets are small or made up, since what is measured is the loop, not what
is learned.

## How to run it

    make bench                             # all but the peers
    python benchmarks/engine.py --only C1  # one workload; --minutes limits them all
    python benchmarks/engine.py --gpu      # G1 to G9, where there is a GPU
    python benchmarks/page.py              # this page, from build/bench"""
BASELINES = """\
- B0 is the loop of a tutorial: a DataLoader over a shuffled TensorDataset, the default
  optimizer, loss and accuracy read in each step.
- B1 is the loop of someone who takes care: batches by `index_select`, a fused optimizer, sums on
  the device that are read once an epoch.
- B2 is B1 with `torch.compile(net)`.
- B3 is what an expert writes for a GPU: data on the device, and one CUDA graph of the whole step.
- `fit` is the library, with the tiers of its engine: "eager" computes each step as B1 does,
  "replay" and "graph" replay one that was written down, and "auto" chooses by itself."""


def engine_section(numbers: dict[str, Any], reasons: dict[str, str]) -> str:
    """The engine's suite, on one machine."""
    place = numbers["settings"]["gpu"] if numbers["workloads"] and _on_gpu(numbers) else "the CPU"
    parts = [
        f"## The engine, on {place}",
        setting_line(numbers["settings"]),
        *engine_tables(numbers, reasons),
    ]
    return "\n\n".join(parts)


def _on_gpu(numbers: dict[str, Any]) -> bool:
    return any(workload["id"].startswith("G") for workload in numbers["workloads"])


def loop_section(numbers: dict[str, Any], reasons: dict[str, str]) -> str:
    """What `loop.py` measured."""
    parts = [
        "## What `fit` adds to a step",
        setting_line(numbers["settings"]),
        'The loops by hand take their batches from the DataLoader that `fit` is given. "Ratio" is '
        "the variant's time over that of the loop which it is held against, so below 1 it is "
        "faster. Here all handlers are all that the library has.",
    ]
    for workload in numbers["workloads"]:
        heads = ["variant", "CPU µs/step", "held against", "CPU ratio", "weights equal"]
        lines = [
            f"### {workload['name']}, batch {workload['batch_size']}",
            "",
            row(heads),
            row(["---", "---:", "---", "---:", "---"]),
        ]
        for name, v in workload["variants"].items():
            equal = {True: "yes", False: "NO", None: ""}[v["weights_equal"]]
            against = "" if v["against"] == name else v["against"]
            cells = [name, number(v["cpu_us"], ".1f"), against, spread(v["cpu_ratio"], ".3f")]
            lines.append(row([*cells, equal]))
        parts.append("\n".join(lines))
    if numbers["goals"]:
        parts.append(_loop_goals(numbers["goals"], reasons))
    return "\n\n".join(parts)


def _loop_goals(goals: list[dict[str, Any]], reasons: dict[str, str]) -> str:
    lines = [row(["goal", "wanted", "measured", "met", "reason"]), row(["---"] * 5)]
    for goal in goals:
        name = f"{goal['workload']}, {goal['variant']}"
        unit = "times" if goal["unit"] == "x" else "µs/step over"
        wanted = f"at most {goal['limit']:g} {unit} {goal['against']}"
        met = "met" if goal["met"] else "MISSED"
        reason = "" if goal["met"] else reasons.get(name, "")
        lines.append(row([name, wanted, number(goal["cpu"], ".3f"), met, reason]))
    return "\n".join(lines)


def checkpoint_section(numbers: dict[str, Any], reasons: dict[str, str]) -> str:
    """What `checkpoint.py` measured."""
    lines = [row(["written", "median ms", "most ms"]), row(["---", "---:", "---:"])]
    for name, n in numbers.items():
        lines.append(row([name, number(n["median_ms"], ".1f"), number(n["most_ms"], ".1f")]))
    return "\n".join(["## What a checkpoint keeps training from", "", *lines])


def sequences_section(numbers: dict[str, Any], reasons: dict[str, str]) -> str:
    """What `sequences.py` measured."""
    lines = [row(["what", "way", "median", "least", "most"]), row(["---", "---"] + ["---:"] * 3)]
    units = {"reservoir": "steps/s", "map": "samples/s", "accuracy": "accuracy, %"}
    for part, unit in units.items():
        for way, values in numbers.get(part, {}).items():
            if isinstance(values, list):
                three = (statistics.median(values), min(values), max(values))
                lines.append(row([unit, way, *(number(value, ".2f") for value in three)]))
    heads = [row(["goal", "at least", "measured", "met", "reason"]), row(["---"] * 5)]
    for goal in numbers["goals"]:
        met = goal["measured"] >= goal["limit"]
        values = (number(goal["limit"], ".2f"), number(goal["measured"], ".2f"))
        reason = "" if met else reasons.get(goal["name"], "")
        heads.append(row([goal["name"], *values, "met" if met else "MISSED", reason]))
    return "\n".join([
        "## Sequences with workers", "",
        f"Two workers; data: {numbers['data']}. Steps at 5 ms of augmentation a sample, samples "
        "without waiting, accuracy in validation after as many steps of fresh samples and of ones "
        "that are drawn four times.", "", *lines, "", *heads,
    ])  # fmt: skip


def report_section(numbers: dict[str, Any], reasons: dict[str, str]) -> str:
    """What `report.py` measured."""
    cost = numbers["cost"]
    names = {
        "bare": "an epoch without reports, CPU s", "full": "with run= and report.full(), CPU s",
        "ratio": "ratio", "end": "the end of the run, s",
    }  # fmt: skip
    lines = [row(["what", "median", "least", "most"]), row(["---", *["---:"] * 3])]
    for key, name in names.items():
        three = (statistics.median(cost[key]), min(cost[key]), max(cost[key]))
        lines.append(row([name, *(number(value, ".3f") for value in three)]))
    heads = [row(["goal", "at most", "measured", "met", "reason"]), row(["---"] * 5)]
    for goal in numbers["goals"]:
        met = goal["measured"] <= goal["limit"]
        values = (number(goal["limit"], ".2f"), number(goal["measured"], ".3f"))
        reason = "" if met else reasons.get(goal["name"], "")
        heads.append(row([goal["name"], *values, "met" if met else "MISSED", reason]))
    memory = ", ".join(number(value, ".0f") for value in numbers["memory"]["resident_mb"])
    return "\n".join([
        "## What the reports of a run cost", "",
        f"LeNet, batch 128, with validation; data: {numbers['data']}.", "", *lines, "",
        f"Memory of the process after each epoch of a run with all reports, in MiB: {memory}.", "",
        *heads,
    ])  # fmt: skip


def peers_section(numbers: dict[str, Any], reasons: dict[str, str]) -> str:
    """What `peers.py` measured."""
    parts = [
        "## Other libraries",
        setting_line(numbers["settings"]),
        "Each in its leanest usual setting. The ratio is a library's time over that of `fit`, so "
        "above 1 `fit` is faster.",
    ]
    for workload in numbers["workloads"]:
        heads = ["library", "version", "µs/step", "times that of fit", "fit is faster", "setting"]
        lines = [
            f"### {workload['name']}, batch {workload['batch_size']}, {workload['steps']} steps",
            "",
            row(heads),
            row(["---", "---", "---:", "---:", "---", "---"]),
        ]
        for entry in workload["rows"]:
            held = entry["ratio_to_fit"]
            ratio = "" if held is None else spread(held, ".2f")
            measured = entry["us_per_step"]
            times = "" if measured is None else spread(measured, ".1f")
            # The library's own row has nothing to beat.
            own = held is None or held["low"] == held["high"] == 1
            beaten = "" if own else "yes" if held["median"] > 1 else "NO"
            cells = [entry["library"], entry["version"], times, ratio, beaten, entry["note"] or ""]
            lines.append(row(cells))
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


SECTIONS = {
    "engine": engine_section,
    "engine-gpu": engine_section,
    "peers": peers_section,
    "loop": loop_section,
    "sequences": sequences_section,
    "report": report_section,
    "checkpoint": checkpoint_section,
}
"""By the name of the file, in the order of the page."""


def page(found: dict[str, dict[str, Any]], reasons: dict[str, str]) -> str:
    """The page.

    Args:
        found: What the files hold, by their names without folder and ending.
        reasons: Why goals are missed, by the names of the goals.
    """
    parts = [INTRODUCTION]
    if found.keys() & {"engine", "engine-gpu"}:
        parts += ["## What is compared", BASELINES, METHOD]
    parts += [make(found[name], reasons) for name, make in SECTIONS.items() if name in found]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="default: all in build/bench")
    parser.add_argument("--reasons", type=Path, default=HERE / "reasons.toml")
    parser.add_argument("--out", type=Path, default=HERE / "README.md")
    options = parser.parse_args()
    made = [Path("build/bench", f"{name}.json") for name in SECTIONS]
    files = options.files or [file for file in made if file.exists()]
    if not files or any(file.stem not in SECTIONS for file in files):
        parser.error(
            f"files must be those of the benchmarks: {', '.join(file.name for file in made)}; "
            f"received {[str(file) for file in files]}"
        )
    found = {file.stem: json.loads(file.read_text("utf-8")) for file in files}
    reasons = tomllib.loads(options.reasons.read_text("utf-8"))
    options.out.write_text(page(found, reasons), encoding="utf-8")
    print(f"{options.out}: {', '.join(found)}", file=sys.stderr)


if __name__ == "__main__":
    main()

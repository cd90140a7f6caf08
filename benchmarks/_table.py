"""The results as Markdown."""

from __future__ import annotations

from typing import Any

from _measure import Result, Spread
from _variants import VARIANTS
from _workloads import Workload


def workload_table(workload: Workload, results: dict[str, Result]) -> str:
    """A heading, one line a variant, and what `fit` costs outside of its epochs."""
    lines = [
        f"## {workload.name}, batch {workload.batch_size}",
        "",
        f"Data: {workload.data}. {workload.steps} training steps an epoch, "
        f"{workload.epochs} epochs timed after one more.",
        "",
        "| variant | wall µs/step | CPU µs/step | least CPU | held against | wall ratio "
        "| CPU ratio | added CPU µs/step | start ms | end ms | weights equal |",
        "| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    return "\n".join([*lines, *(_line(name, result) for name, result in results.items()), ""])


def _line(name: str, result: Result) -> str:
    equal = {True: "yes", False: "NO", None: ""}[result.weights_equal]
    fits = name.startswith("fit")
    cells = [
        name,
        f"{result.wall_us:.1f}",
        f"{result.cpu_us:.1f}",
        f"{result.cpu_least_us:.1f}",
        result.against if result.against != name else "",
        _spread(result.wall_ratio, ".3f"),
        _spread(result.cpu_ratio, ".3f"),
        _spread(result.cpu_added_us, "+.1f"),
        f"{result.start_ms:.0f}" if fits else "",
        f"{result.end_ms:.0f}" if fits else "",
        equal,
    ]
    return f"| {' | '.join(cells)} |"


def _spread(spread: Spread, form: str) -> str:
    return f"{spread.median:{form}} [{spread.low:{form}}, {spread.high:{form}}]"


def goal_table(goals: list[dict[str, Any]]) -> str:
    """The goals, beside what was measured."""
    lines = [
        "## Goals",
        "",
        "| workload | variant | goal | by CPU time | by wall clock | by least CPU time "
        "| met by CPU time |",
        "| --- | --- | --- | ---: | ---: | ---: | --- |",
    ]
    for goal in goals:
        unit, form = (" x", ".3f") if goal["unit"] == "x" else (" µs/step over", "+.1f")
        lines.append(
            f"| {goal['workload']} | {goal['variant']} | at most {goal['limit']}{unit} "
            f"{goal['against']} | {goal['cpu']:{form}} | {goal['wall']:{form}} "
            f"| {goal['cpu_least']:{form}} | {'yes' if goal['met'] else 'NO'} |"
        )
    return "\n".join([*lines, ""])


def preface(settings: dict[str, Any]) -> str:
    """What was measured, how and on what."""
    variants = "\n".join(f"- {name}: {entry.what}" for name, entry in VARIANTS.items())
    setting = ", ".join(f"{name} {value}" for name, value in settings.items())
    return f"""# What `fit` adds to a step

{setting}.

{variants}

All variants have the same initial weights, the same order of samples and SGD with the same rate
and momentum. All handlers need a validation, so both sides of that comparison have one after each
epoch; theirs is the time of a whole epoch, files included, over its training steps. Their loader
also tells the identity of each sample.

One process; in each round every variant trains once, in an order that turns. Times are medians
over rounds. Ratios and added times are taken within a round, then median [smallest, largest].
CPU is the time of the main thread, so without that of threads that write files; least is over
the rounds, and says most where other work shares the cores. `start` is from the call of `fit` to
its first epoch, `end` from its last epoch to its return; neither is part of a step.
"""

"""What `engine.py` found, as Markdown: from its JSON, so that a page can be made later."""

from __future__ import annotations

from typing import Any

CLOCKS = {"cpu": "CPU", "wall": "wall"}
MEASURES = {"syncs_per_step": "synchronisations per step", "host_us": "µs of the host per step"}

METHOD = """One process; in each round every variant trains once, from the same weights and over
the same batches, in an order that turns. Numbers are median [smallest, largest] over the rounds; a
ratio is taken within a round and says how many times the variant's time the baseline takes, so
above 1 the variant is faster. Times are of whole epochs after the first, over their training steps:
with all handlers on, the validation, the checkpoint and the logs of an epoch are in them. "Steps
alone" leaves out what an epoch does besides its steps. "Cold" is from the call to the end of the
last epoch, with all set-up and the first epoch. `fit` is told of a long run, for which a faster
step is made, and is stopped after the timed epochs.

All handlers on: metrics, a validation each epoch, a progress bar, a log on the console and in a
file, a CSV file, a checkpoint each epoch, early stopping, a learning rate changed in each step, the
NaN guard, an average of the weights and a time limit, at their default schedules. The goals hold
this against baselines that do none of it. "B1 + val" validates and has the schedule too.

Weights are compared with those of B1 after the last epoch, for variants with all handlers on with
those of "B1 + val": "equal" is to the last bit in all rounds, else there is the largest difference.
B0 has another kind of optimizer step, which rounds otherwise. Synchronisations are counted in runs
of their own, long less short and without the drawings of a bar, so what is read once an epoch or
ten times a second is not in them; on the CPU, where they cost little, they are reads of single
numbers outside of the optimizer's kernel. CPU is the time of the main thread, without that of
threads that write files or compile; set-up is by the wall clock. C10 trains in a new process, from
the call on; net, data and what torch loads for a first optimizer are there before."""


def engine_page(numbers: dict[str, Any]) -> str:
    """All tables of one run of the suite."""
    parts = [
        "# The engine against loops written by hand",
        setting_line(numbers["settings"]),
        METHOD,
        *engine_tables(numbers),
    ]
    return "\n\n".join(parts) + "\n"


def engine_tables(numbers: dict[str, Any], reasons: dict[str, str] | None = None) -> list[str]:
    """The goals first, then each workload, then what was not measured."""
    clock = numbers["settings"]["clock"]
    parts = [goal_table(numbers["goals"], clock, reasons or {})] if numbers["goals"] else []
    parts += [workload_table(workload, clock) for workload in numbers["workloads"]]
    if numbers["imports"]:
        parts.append(import_table(numbers["imports"]))
    if numbers["left_out"]:
        lines = [f"- {name}: {why}." for name, why in numbers["left_out"].items()]
        parts.append("\n".join(["### Not measured", "", *lines]))
    return parts


def setting_line(settings: dict[str, Any]) -> str:
    """The versions, the machine and how was measured, in one line."""
    return ", ".join(f"{name} {value}" for name, value in settings.items() if value is not None)


def goal_table(goals: list[dict[str, Any]], clock: str, reasons: dict[str, str]) -> str:
    """The goals beside what was measured; a reason for each that is missed, where one is known."""
    lines = [
        f"### Goals, by {CLOCKS[clock]} time",
        "",
        "| goal | variant | wanted | measured | steps alone | against B1 + val | met | reason |",
        "| --- | --- | --- | --- | ---: | ---: | --- | --- |",
    ]
    for goal in goals:
        if goal["measure"] == "ratio":
            wanted, measured = f"at least {goal['limit']:g}", spread(goal["spread"], ".3f")
            rest = [number(goal["steps_alone"], ".3f"), number(goal["with_validation"], ".3f")]
        else:
            wanted = f"at most {goal['limit']:g} {MEASURES[goal['measure']]}"
            measured, rest = number(goal["value"], ".3f"), ["", ""]
        # Only a goal that is missed needs a reason.
        reason = "" if goal["met"] else reasons.get(goal["id"], "")
        met = "met" if goal["met"] else "MISSED"
        lines.append(row([goal["id"], goal["variant"], wanted, measured, *rest, met, reason]))
    return "\n".join(lines)


def workload_table(workload: dict[str, Any], clock: str) -> str:
    """A heading, one line a variant."""
    variants = workload["variants"]
    baselines = sorted({name for v in variants.values() for name in v["ratios"]}, key=_order)
    clocks = [clock, *(other for other in CLOCKS if other != clock)]
    heads = ["variant", *(f"{CLOCKS[c]} µs/step" for c in clocks), "steps alone", "cold s"]
    heads += [f"against {name}" for name in baselines]
    heads += ["steps against B1", "cold against B1", "weights", "syncs/step", "set-up s"]
    heads += ["peak MB", "tier"]
    precision = f", {workload['precision']}" if workload["precision"] != "fp32" else ""
    epochs = workload["epochs"]
    timed = f"{epochs} timed after one more" if epochs else "the whole run is timed"
    lines = [
        f"### {workload['id']}: {workload['what']}, batch {workload['batch_size']}{precision}",
        "",
        f"{workload['steps']} training steps an epoch, {timed}; {workload['rounds']} rounds.",
        "",
        row(heads),
        row(["---", *["---:"] * (len(heads) - 2), "---"]),
        *(
            row([name, *_cells(entry, clocks, baselines)])
            for name, entry in variants.items()
        ),
    ]  # fmt: skip
    return "\n".join(lines)


def _order(name: str) -> int:
    return ["B0", "B1", "B1 + val", "B2", "B3"].index(name)


def _cells(entry: dict[str, Any], clocks: list[str], baselines: list[str]) -> list[str]:
    clock, ratios = clocks[0], entry["ratios"]
    cells = [number(entry["us_per_step"][c]["median"], ".1f") for c in clocks]
    cells.append(number(entry["us_per_step_alone"][clock]["median"], ".1f"))
    cells.append(number(entry["cold_s"][clock]["median"], ".2f"))
    for name in baselines:
        cells.append(spread(ratios[name]["epochs"][clock], ".2f") if name in ratios else "")
    held = ratios.get("B1")
    cells += [spread(held[what][clock], ".2f") if held else "" for what in ("steps", "cold")]
    cells.append(weights(entry["weights"]))
    cells.append(number(entry["syncs_per_step"], ".3f"))
    cells.append(number(entry["setup_s"], ".2f"))
    return [*cells, number(entry["peak_mb"], ".0f"), entry["tier"] or ""]


def weights(parity: dict[str, Any] | None) -> str:
    """How the weights compare with those of the baseline."""
    if parity is None:
        return ""
    return "equal" if parity["equal"] else f"within {parity['difference']:.1e}"


def import_table(imports: dict[str, Any]) -> str:
    """What an import takes."""
    lines = [row([name, spread(values, ".2f")]) for name, values in imports.items()]
    heads = ["### Import", "", row(["what", "seconds"]), row(["---", "---:"])]
    return "\n".join([*heads, *lines])


def row(cells: list[str]) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |"


def number(value: float | None, form: str) -> str:
    """A number, or nothing where there is none."""
    return "" if value is None else f"{value:{form}}"


def spread(values: dict[str, float], form: str) -> str:
    """A median with its smallest and largest."""
    return f"{values['median']:{form}} [{values['low']:{form}}, {values['high']:{form}}]"

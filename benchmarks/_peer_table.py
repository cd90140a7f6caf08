"""Rows of the comparison with other libraries, and the page that shows them."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from _peer_measure import FIT, Entrant, Record, ratio, spread
from _workloads import Workload

NUMBERS = ("us_per_step", "ratio_to_fit", "wall_us_per_step", "wall_ratio_to_fit", "accuracy")


def rows(
    records: Mapping[Entrant, Record], versions: Mapping[str, str], missing: Mapping[str, str]
) -> list[dict[str, Any]]:
    """A row for each library: its fastest setting, or why it has none."""
    fit = next(record for entrant, record in records.items() if entrant.library == FIT)
    found = []
    for library in dict.fromkeys(entrant.library for entrant in records):
        settings = {e.setting: r for e, r in records.items() if e.library == library}
        found.append({"library": library, "version": versions[library], **_row(settings, fit)})
    return [
        *found,
        *({"library": lib, "version": "", **empty(why)} for lib, why in missing.items()),
    ]


def empty(note: str) -> dict[str, Any]:
    return {**dict.fromkeys(NUMBERS), "note": note}


def _row(settings: dict[str, Record], fit: Record) -> dict[str, Any]:
    """The numbers of the setting that takes least CPU time; the others stand in the note."""
    trained = {name: median(r.cpu) for name, r in settings.items() if not r.fault}
    faults = [f"{name}: {r.fault}" for name, r in settings.items() if r.fault]
    if not trained:
        return empty(f"ERROR: {'; '.join(faults)}")
    best = min(trained, key=trained.__getitem__)
    slower = [f"{name}: {us:.0f} µs" for name, us in trained.items() if name != best]
    record = settings[best]
    return {
        "us_per_step": spread(record.cpu),
        "ratio_to_fit": ratio(record.cpu, fit.cpu),
        "wall_us_per_step": spread(record.wall),
        "wall_ratio_to_fit": ratio(record.wall, fit.wall),
        "accuracy": record.accuracy,
        "note": "; ".join([best, *slower, *faults]),
    }


def failed(row: Mapping[str, Any]) -> bool:
    """Whether a library that is there could not be measured."""
    return row["us_per_step"] is None and bool(row["version"])


def workload_table(workload: Workload, found: list[dict[str, Any]]) -> str:
    """A heading and one line a library."""
    lines = [
        f"## {workload.name}, batch {workload.batch_size}",
        "",
        f"Data: {workload.data}. {workload.steps} training steps an epoch, "
        f"{workload.epochs} epochs timed after one more.",
        "",
        "| library | version | CPU µs/step | time over fit's | wall µs/step "
        "| wall time over fit's | accuracy | note |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    return "\n".join([*lines, *(_line(row) for row in found), ""])


def _line(row: Mapping[str, Any]) -> str:
    us, of_fit, wall_us, wall_of_fit, accuracy = (row[name] for name in NUMBERS)
    cells = [
        row["library"],
        row["version"],
        _cell(us, ".1f"),
        _cell(of_fit, ".2f"),
        _cell(wall_us, ".1f"),
        _cell(wall_of_fit, ".2f"),
        "" if accuracy is None else f"{accuracy:.4f}",
        row["note"].replace("|", "\\|"),
    ]
    return f"| {' | '.join(cells)} |"


def _cell(numbers: Mapping[str, float] | None, form: str) -> str:
    if numbers is None:
        return ""
    return f"{numbers['median']:{form}} [{numbers['low']:{form}}, {numbers['high']:{form}}]"


def preface(settings: Mapping[str, Any]) -> str:
    """What was compared, and how."""
    setting = ", ".join(f"{name} {value}" for name, value in settings.items())
    return f"""# `fit` beside other libraries

{setting}.

The same initial weights, batch size, shuffling, loss, learning rate and momentum for all. Each
library trains in its leanest setting, without bars, logs, checkpoints and validation, and where
several are likely the fastest one counts; the note names it and the times of the others. `fit`
and the careful loop compute the accuracy in each step; a setting with "no metric" is spared that.
All but Keras, which has an SGD of its own, are given torch's fused SGD.

One process; in each round everything trains once, in an order that turns. Times are medians over
rounds. Ratios are the library's time over that of `fit` within a round. Both are followed by
[smallest, largest]. CPU is the time of the main thread. The first epoch is not timed. Accuracy
is that on the first training samples after the last round; a net whose loss there did not fall
below the start is an error.
"""

"""Ratios, goals and the page of results, from made-up numbers."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmark_runs import BENCHMARKS, part, run_script, tables

NOTHING = dict.fromkeys(("syncs_per_step", "host_us", "setup_s", "peak_mb", "tier", "weights"))


def moments(**times: Any) -> Any:
    return part("_engine_loops").Moments(**times)


def made_run(us: float) -> Any:
    """A run whose steps alone take half of its epochs, and 2 seconds a microsecond when cold."""
    return part("_engine_measure").Run(
        wall_us=us, cpu_us=2 * us, steps_wall_us=us / 2, steps_cpu_us=us,
        cold_wall_s=2 * us, cold_cpu_s=4 * us,
    )  # fmt: skip


def test_the_first_epoch_is_not_in_the_time_of_a_step() -> None:
    # Called at 0; the first epoch ends at 10 s, then two of 3 s, of which one second each is no
    # training. CPU time is half of it.
    made = moments(
        called=(0.0, 0.0),
        trained=[(9.0, 4.5), (12.0, 6.0), (15.0, 7.5)],
        epochs=[(10.0, 5.0), (13.0, 6.5), (16.0, 8.0)],
        setup_s=0.5,
    )
    run = part("_engine_measure").run_of(made, steps=100)
    assert (run.wall_us, run.cpu_us) == pytest.approx((60_000, 30_000))
    assert (run.steps_wall_us, run.steps_cpu_us) == pytest.approx((40_000, 20_000))
    assert (run.cold_wall_s, run.cold_cpu_s, run.setup_s) == (16.0, 8.0, 0.5)


def test_ratios_are_taken_within_a_round() -> None:
    baseline = [made_run(us) for us in (30.0, 80.0, 100.0)]
    mine = [made_run(us) for us in (10.0, 20.0, 100.0)]
    held = part("_engine_measure").ratios(baseline, mine)
    for what in ("epochs", "steps", "cold"):
        for clock in ("wall", "cpu"):
            assert held[what][clock] == {"median": 3.0, "low": 1.0, "high": 4.0}


def test_the_order_turns_and_a_budget_ends_the_rounds() -> None:
    measuring = part("_engine_measure")
    variant = part("_engine_variants").Variant
    entries = {"B1": variant(None, ""), "fit eager": variant(None, "", "B1")}
    order: list[str] = []

    def time_one(name: str) -> Any:
        order.append(name)
        return made_run(1.0), []

    told: list[str] = []
    free = measuring.Budget(None, 1)
    free.open()
    found = measuring.measure(entries, 3, free, time_one, told.append)
    assert order == ["B1", "fit eager", "fit eager", "B1", "B1", "fit eager"]
    assert found.rounds == 3 and told[-1] == "round 3 of 3"
    spent = measuring.Budget(1e-9, 1)
    spent.open()
    assert measuring.measure(entries, 3, spent, time_one, told.append).rounds == 1


def test_minutes_are_shared_among_the_workloads_that_are_left() -> None:
    budget = part("_engine_measure").Budget(10.0, 2)
    budget.open()
    assert budget.allows(290.0) and not budget.allows(310.0)
    budget.open()
    assert budget.allows(590.0) and not budget.allows(610.0)


def test_the_largest_difference_of_weights_is_kept() -> None:
    parity = part("_engine_measure").Parity("B1")
    parity.look([torch.ones(2)], [torch.ones(2)])
    assert (parity.equal, parity.difference) == (True, 0.0)
    parity.look([torch.tensor([1.0, 2.5])], [torch.tensor([1.0, 2.0])])
    parity.look([torch.tensor([1.0, 2.1])], [torch.tensor([1.0, 2.0])])
    assert (parity.equal, parity.difference) == (False, 0.5)


def test_the_report_of_the_engine_is_read() -> None:
    read = part("_engine_fits").read_report
    lines = [
        "tier        us/step  set-up s  status",
        "eager           446            training batches (256, 16)",
        "replay          189      0.25  chosen (verified, equal bits)",
        "graph            41      0.50  not faster",
        "eager           100            evaluation batches (256, 16)",
        "graph            20      0.25  chosen (verified, equal bits)",
        "[fit:E101] hooks are attached to a layer.",
    ]
    assert read("\n".join(lines)) == ("replay", 1.0)
    assert read("\n".join(lines[:2] + lines[4:])) == ("eager", 0.25)


def held(epochs: float, steps: float) -> dict[str, Any]:
    return {
        what: {"cpu": dict.fromkeys(("median", "low", "high"), value)}
        for what, value in (("epochs", epochs), ("steps", steps), ("cold", 0.25))
    }


def made_variant(us: float, **more: Any) -> dict[str, Any]:
    times = {
        clock: {"median": us * factor, "low": us, "high": us}
        for clock, factor in (("cpu", 1.0), ("wall", 1.5))
    }
    kinds = dict.fromkeys(("us_per_step", "us_per_step_alone", "cold_s"), times)
    return kinds | NOTHING | {"what": "", "report": "", "ratios": {}} | more


def made_workload(name: str, variants: dict[str, Any]) -> dict[str, Any]:
    told = {"id": name, "what": "a net", "batch_size": 64, "steps": 900, "epochs": 2}
    return told | {"precision": "fp32", "rounds": 7, "variants": variants}


def made_engine() -> dict[str, Any]:
    """One workload whose goal against B1 is missed and that against B0 is met."""
    all_on = made_variant(
        123.25,
        ratios={"B0": held(6.125, 6.5), "B1": held(2.375, 2.625), "B1 + val": held(2.75, 2.875)},
        weights={"reference": "B1 + val", "equal": False, "difference": 3e-7},
        syncs_per_step=0.01,
        setup_s=0.34,
        tier="replay",
    )
    workloads = [made_workload("C1", {"B1": made_variant(292.5), "fit auto, all": all_on})]
    return {
        "settings": {"date": "2030-01-02", "torch": "9.9", "gpu": None, "clock": "cpu"},
        "workloads": workloads,
        "goals": part("_engine_goals").judged(workloads, "cpu"),
        "imports": {"torch": {"median": 1.25, "low": 1.0, "high": 1.5}},
        "left_out": {"C9": "it is not there yet"},
    }


def test_goals_are_judged() -> None:
    missed, met = made_engine()["goals"]
    assert (missed["id"], missed["value"], missed["met"]) == ("C1 vs B1", 2.375, False)
    assert (missed["steps_alone"], missed["with_validation"]) == (2.625, 2.75)
    assert (met["id"], met["value"], met["met"]) == ("C1 vs B0", 6.125, True)
    waits = made_variant(50.0, syncs_per_step=0.01, host_us=20.5)
    goals = part("_engine_goals").judged([made_workload("G1", {"fit auto, all": waits})], "wall")
    assert [(g["id"], g["value"], g["met"]) for g in goals] == [
        ("G8 G1", 0.01, True),
        ("G9", 20.5, False),
    ]


def test_no_goal_is_judged_of_what_was_not_measured() -> None:
    judged = part("_engine_goals").judged
    assert judged([], "cpu") == []
    only_fit = made_workload("G1", {"fit auto, all": made_variant(1.0)})
    assert judged([only_fit], "wall") == []


def made_peers() -> dict[str, Any]:
    def row(library: str, us: float, ratio: float) -> dict[str, Any]:
        times, held = (
            {"median": value, "low": value, "high": value} for value in (us, ratio)
        )  # fmt: skip
        return {
            "library": library, "version": "4.5", "us_per_step": times, "ratio_to_fit": held,
            "note": "barebones",
        }  # fmt: skip

    rows = [row("ours", 150.5, 1.0), row("slow", 451.5, 3.0), row("fast", 100.25, 0.67)]
    absent = {"us_per_step": None, "ratio_to_fit": None, "note": "not installed"}
    rows.append({"library": "absent", "version": "", **absent})
    workload = {"name": "LeNet", "batch_size": 128, "steps": 468, "rows": rows}
    return {"settings": {"torch": "9.9"}, "workloads": [workload]}


def made_loop() -> dict[str, Any]:
    fit = {
        "cpu_us": 912.5, "against": "careful", "weights_equal": True,
        "cpu_ratio": {"median": 1.015, "low": 1.01, "high": 1.02},
    }  # fmt: skip
    goal = {
        "workload": "LeNet", "variant": "fit", "against": "careful", "limit": 1.01, "unit": "x",
        "cpu": 1.015, "met": False,
    }  # fmt: skip
    workload = {"name": "LeNet", "batch_size": 128, "variants": {"fit": fit}}
    return {"settings": {"torch": "9.9"}, "workloads": [workload], "goals": [goal]}


def made_report() -> dict[str, Any]:
    goals = [("an epoch", 1.25, 1.1), ("growth", 2.0, 20.0)]
    times = {"bare": [2.0], "full": [2.5], "ratio": [1.25], "end": [9.0]}
    return {
        "data": "made up", "cost": times, "memory": {"resident_mb": [700.0, 712.0]},
        "goals": [dict(zip(("name", "measured", "limit"), goal, strict=True)) for goal in goals],
    }  # fmt: skip


def made_sequences() -> dict[str, Any]:
    goals = [("reservoir", 3.25, 3.5), ("accuracy", 0.25, -0.5)]
    return {
        "data": "made up", "reservoir": {"reservoir": [20.5, 21.5, 22.5], "reuse": 3.5},
        "goals": [dict(zip(("name", "measured", "limit"), goal, strict=True)) for goal in goals],
    }  # fmt: skip


def test_the_page_has_the_numbers_of_every_file(tmp_path: Path) -> None:
    gpu = made_engine() | {"workloads": [made_workload("G1", {"B1": made_variant(77.5)})]}
    gpu |= {"goals": [], "imports": {}, "left_out": {}}
    gpu["settings"] = gpu["settings"] | {"gpu": "A GPU"}
    files = {
        "engine": made_engine(),
        "engine-gpu": gpu,
        "peers": made_peers(),
        "loop": made_loop(),
        "checkpoint": {"in the loop": {"median_ms": 81.5, "most_ms": 99.5}},
    }
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    reasons = tmp_path / "why.toml"
    reasons.write_text('"C1 vs B1" = "too short"\n"C1 vs B0" = "met, so not shown"\n', "utf-8")
    out = tmp_path / "README.md"
    paths = [str(tmp_path / f"{name}.json") for name in files]
    done = run_script("page.py", *paths, "--reasons", str(reasons), "--out", str(out))
    assert done.returncode == 0, done.stderr
    page = out.read_text("utf-8")
    found = tables(page)

    missed, met = found["Goals, by CPU time"]
    assert missed["measured"] == "2.375 [2.375, 2.375]" and missed["wanted"] == "at least 2.5"
    assert (missed["steps alone"], missed["against B1 + val"]) == ("2.625", "2.750")
    assert (missed["met"], missed["reason"]) == ("MISSED", "too short")
    assert (met["met"], met["reason"]) == ("met", "")
    _, all_on = found["C1: a net, batch 64"]
    assert (all_on["CPU µs/step"], all_on["wall µs/step"]) == ("123.2", "184.9")
    assert all_on["weights"] == "within 3.0e-07" and all_on["tier"] == "replay"
    assert all_on["against B0"] == "6.12 [6.12, 6.12]" and all_on["set-up s"] == "0.34"
    assert "## The engine, on A GPU" in page and found["G1: a net, batch 64"]
    assert found["Import"] == [{"what": "torch", "seconds": "1.25 [1.00, 1.50]"}]
    assert "- C9: it is not there yet." in page

    peers = found["LeNet, batch 128, 468 steps"]
    assert [row["fit is faster"] for row in peers] == ["", "yes", "NO", ""]
    assert (peers[3]["µs/step"], peers[3]["setting"]) == ("", "not installed")
    assert peers[1]["µs/step"] == "451.5 [451.5, 451.5]"
    assert peers[1]["times that of fit"] == "3.00 [3.00, 3.00]"
    loop = page.split("## What `fit` adds to a step")[1]
    assert "| fit | 912.5 | careful | 1.015 [1.010, 1.020] | yes |" in loop
    assert "| LeNet, fit | at most 1.01 times careful | 1.015 | MISSED |  |" in loop
    assert "| in the loop | 81.5 | 99.5 |" in page
    assert "torch 9.9" in page and "None" not in page


def test_the_page_has_sequences_and_reports(tmp_path: Path) -> None:
    files = {"sequences": made_sequences(), "report": made_report()}
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    reasons, out = tmp_path / "why.toml", tmp_path / "README.md"
    reasons.write_text('"reservoir" = "a slow disk"\n"an epoch" = "many rows"\n', "utf-8")
    paths = [str(tmp_path / f"{name}.json") for name in files]
    done = run_script("page.py", *paths, "--reasons", str(reasons), "--out", str(out))
    assert done.returncode == 0, done.stderr
    page = out.read_text("utf-8")
    sequences = page.split("## Sequences with workers")[1]
    assert "| steps/s | reservoir | 21.50 | 20.50 | 22.50 |" in sequences
    assert "| reservoir | 3.50 | 3.25 | MISSED | a slow disk |" in sequences
    assert "| accuracy | -0.50 | 0.25 | met |  |" in sequences
    reports = page.split("## What the reports of a run cost")[1]
    assert "| ratio | 1.250 | 1.250 | 1.250 |" in reports and "in MiB: 700, 712." in reports
    assert "| an epoch | 1.10 | 1.250 | MISSED | many rows |" in reports


def test_files_of_another_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}", encoding="utf-8")
    done = run_script("page.py", str(tmp_path / "other.json"), "--out", str(tmp_path / "out.md"))
    assert done.returncode == 2
    assert "files must be those of the benchmarks" in done.stderr
    assert not (tmp_path / "out.md").exists()


def test_reasons_are_for_goals_that_there_are() -> None:
    reasons = tomllib.loads((BENCHMARKS / "reasons.toml").read_text("utf-8"))
    goals = {goal.id for goal in part("_engine_goals").GOALS}
    goals |= {f"{goal.workload}, {goal.variant}" for goal in part("_measure").GOALS}
    goals |= {goal.name for goal in part("sequences").goals(made_parts())}
    goals |= {goal["name"] for goal in part("report").goals({"ratio": [1.0]}, [1.0])}
    assert reasons.keys() <= goals


def made_parts() -> dict[str, Any]:
    steps = {"DataLoader": [1.0], "reservoir": [2.0]}
    return {
        "reservoir": steps, "map": {"DataLoader": [1.0], "map": [2.0]},
        "accuracy": {"fresh": [1.0], "reservoir": [2.0]},
    }  # fmt: skip

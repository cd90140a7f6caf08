"""The suite of the engine runs, and its tables say what its numbers say. No time is judged here."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmark_runs import part, run_script, tables

BY_HAND = ["B0", "B1", "B1 + val"]
BARE = ["fit eager", "fit auto", "fit replay"]
EVERYTHING = [f"{name}, all" for name in BARE]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a quick run of two workloads left."""
    out = tmp_path_factory.mktemp("bench")
    done = run_script("engine.py", "--quick", "--only", "C1", "C8", "--no-gpu", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert done.stdout == (out / "engine.md").read_text("utf-8") + "\n"
    return out


@pytest.fixture(scope="module")
def numbers(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "engine.json").read_text("utf-8"))
    return read


def test_a_quick_run_measures_every_variant(numbers: dict[str, Any]) -> None:
    assert [workload["id"] for workload in numbers["workloads"]] == ["C1", "C2"]
    for workload in numbers["workloads"]:
        assert workload["steps"] == 4 and workload["rounds"] == 1
        assert list(workload["variants"]) == [*BY_HAND, *BARE, *EVERYTHING]
        for name, variant in workload["variants"].items():
            for kind in ("us_per_step", "us_per_step_alone", "cold_s"):
                assert all(variant[kind][clock]["median"] > 0 for clock in ("wall", "cpu"))
            alone, whole = (variant[k]["wall"] for k in ("us_per_step_alone", "us_per_step"))
            assert alone["median"] <= whole["median"] * (1 + 1e-9)
            others = [b for b in BY_HAND if b != name and (b != "B1 + val" or ", all" in name)]
            assert list(variant["ratios"]) == others


def test_ratios_are_those_of_the_times(numbers: dict[str, Any]) -> None:
    for workload in numbers["workloads"]:
        variants = workload["variants"]
        for variant in variants.values():
            for other, held in variant["ratios"].items():
                for clock in ("wall", "cpu"):
                    mine, theirs = (v["us_per_step"][clock] for v in (variant, variants[other]))
                    ratio = theirs["median"] / mine["median"]
                    assert held["epochs"][clock]["median"] == pytest.approx(ratio)


def test_fit_ends_with_the_weights_of_the_loop_by_hand(numbers: dict[str, Any]) -> None:
    for workload in numbers["workloads"]:
        for name in (*BARE, *EVERYTHING):
            reference = "B1 + val" if name in EVERYTHING else "B1"
            found = workload["variants"][name]["weights"]
            assert found == {"reference": reference, "equal": True, "difference": 0.0}
        assert workload["variants"]["B1"]["weights"] is None


def test_reads_of_a_step_are_counted(numbers: dict[str, Any]) -> None:
    for workload in numbers["workloads"]:
        counts = {name: v["syncs_per_step"] for name, v in workload["variants"].items()}
        # Loss and accuracy, and the counter of the default optimizer for each parameter.
        assert counts["B0"] == 2 + {"C1": 6, "C2": 4}[workload["id"]]
        assert counts["B1"] == counts["fit eager"] == 0


def test_the_tables_show_the_numbers(numbers: dict[str, Any], folder: Path) -> None:
    page = (folder / "engine.md").read_text("utf-8")
    clock = numbers["settings"]["clock"]
    assert clock == "cpu"
    for workload in numbers["workloads"]:
        heading = f"{workload['id']}: {workload['what']}, batch {workload['batch_size']}"
        shown = {row["variant"]: row for row in tables(page)[heading]}
        assert list(shown) == list(workload["variants"])
        for name, variant in workload["variants"].items():
            row = shown[name]
            assert row["CPU µs/step"] == f"{variant['us_per_step']['cpu']['median']:.1f}"
            assert row["wall µs/step"] == f"{variant['us_per_step']['wall']['median']:.1f}"
            assert row["steps alone"] == f"{variant['us_per_step_alone']['cpu']['median']:.1f}"
            assert row["cold s"] == f"{variant['cold_s']['cpu']['median']:.2f}"
            for other, held in variant["ratios"].items():
                ratio = held["epochs"]["cpu"]["median"]
                assert row[f"against {other}"].startswith(f"{ratio:.2f} [")
            assert row["syncs/step"] == f"{variant['syncs_per_step']:.3f}"
            assert row["tier"] == (variant["tier"] or "")
    assert "C9: a loader that reuses samples" in page


def test_goals_of_the_measured_workloads_are_judged(numbers: dict[str, Any]) -> None:
    goals = {goal["id"]: goal for goal in numbers["goals"]}
    assert list(goals) == ["C1 vs B1", "C2 vs B1", "C8 vs B1", "C1 vs B0", "C2 vs B0"]
    eager = numbers["workloads"][1]["variants"]["fit eager, all"]
    assert goals["C8 vs B1"]["value"] == eager["ratios"]["B1"]["epochs"]["cpu"]["median"]
    assert all(goal["met"] == (goal["value"] >= goal["limit"]) for goal in goals.values())


def test_a_run_in_a_new_process_tells_its_times() -> None:
    done = run_script("_engine_cold.py", "fit auto, all", "4", "1")
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout)
    assert run["cold_wall_s"] == pytest.approx(4e-6 * run["wall_us"])
    assert run["cold_cpu_s"] == pytest.approx(4e-6 * run["cpu_us"])
    assert 0 < run["steps_wall_us"] <= run["wall_us"]
    assert part("_engine_fits").read_report(run["report"]).tier == "eager"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--minutes", "0"], "--minutes above 0"),
        (["--only", "C11"], "invalid choice: 'C11'"),
    ],
)
def test_nothing_to_measure_is_refused(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["engine.py", *arguments])
    with pytest.raises(SystemExit, match="2"):
        part("engine").arguments()
    assert message in capsys.readouterr().err


def test_a_workload_that_fails_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = part("engine")

    def fails(name: str, *_: Any) -> dict[str, Any]:
        if name == "C1":
            raise ValueError("no room")
        return {
            "id": name, "what": "a net", "batch_size": 1, "steps": 1, "epochs": 1,
            "precision": "fp32", "rounds": 1, "variants": {},
        }  # fmt: skip

    monkeypatch.setattr(engine, "run", fails)
    monkeypatch.setattr(engine.torch, "set_num_threads", lambda count: None)
    arguments = ["--only", "C1", "C2", "--no-gpu", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["engine.py", *arguments])
    assert engine.main() == 1
    assert "no room" in capsys.readouterr().err
    kept = json.loads((tmp_path / "engine.json").read_text("utf-8"))
    assert [workload["id"] for workload in kept["workloads"]] == ["C2"]
    assert kept["left_out"]["C1"] == "it failed with ValueError: no room"


def test_the_page_of_a_run_has_all_its_rows(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "README.md"
    done = run_script("page.py", str(folder / "engine.json"), "--out", str(out))
    assert done.returncode == 0, done.stderr
    page, run = (tables(path.read_text("utf-8")) for path in (out, folder / "engine.md"))
    for goal in [*page["Goals, by CPU time"], *run["Goals, by CPU time"]]:
        del goal["reason"]  # only the page has reasons
    assert {heading: page[heading] for heading in run} == run


def test_every_net_of_a_gpu_trains() -> None:
    loops, workloads = part("_engine_loops"), part("_engine_workloads")
    for workload in workloads.GPU.values():
        small = dataclasses.replace(
            workload, device="cpu", batch_size=4, steps=2, precision="fp32", streamed=False
        )
        found = loops.Moments()
        before = [p.clone() for p in small.net.parameters()]
        net = loops.careful(small, 1, found, validate=True)
        assert len(found.trained) == len(found.epochs) == 1
        assert any(not a.equal(b) for a, b in zip(before, net.parameters(), strict=True))
        assert all(p.isfinite().all() for p in net.parameters())

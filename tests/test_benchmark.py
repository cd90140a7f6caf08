"""The benchmark runs, and its table says what its numbers say. No time is judged here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
VARIANTS = ["textbook", "careful", "fit", "careful + val", "fit + val", "fit, all handlers"]


class Report(NamedTuple):
    """What one run of the benchmark left."""

    printed: str
    page: str
    numbers: dict[str, Any]


def run_benchmark(*arguments: str, data: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "ESTIMATOR_DATA"}
    if data is not None:
        environment["ESTIMATOR_DATA"] = data
    command = [sys.executable, "-W", "error", "benchmarks/loop.py", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("bench")
    run = run_benchmark("--quick", "--workloads", "linear", "lenet", "--out", str(folder))
    assert run.returncode == 0, run.stderr
    page = (folder / "loop.md").read_text("utf-8")
    return Report(run.stdout, page, json.loads((folder / "loop.json").read_text("utf-8")))


def rows(page: str, heading: str) -> dict[str, list[str]]:
    """The lines of the table under a heading, by their first cell."""
    section = page.split(f"## {heading}")[1].split("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:2] == "| "]
    return {line[0]: line[1:] for line in lines[2:]}


def test_the_page_is_printed_and_kept(report: Report) -> None:
    assert report.printed == report.page + "\n"


def test_each_workload_has_all_variants_with_positive_times(report: Report) -> None:
    assert [workload["name"] for workload in report.numbers["workloads"]] == ["linear", "LeNet"]
    for workload in report.numbers["workloads"]:
        assert list(workload["variants"]) == VARIANTS
        assert workload["steps"] == 4
        for name, result in workload["variants"].items():
            assert result["wall_us"] > 0
            assert 0 < result["cpu_least_us"] <= result["cpu_us"]
            assert result["start_ms"] >= 0 and result["end_ms"] >= 0
            ratio = result["wall_ratio"]
            assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]
            assert (ratio["median"] == 1.0) == (name == result["against"])


def test_fit_ends_with_the_weights_of_the_careful_loop(report: Report) -> None:
    equal = {name: name in VARIANTS[2:] or None for name in VARIANTS}
    for workload in report.numbers["workloads"]:
        found = {name: r["weights_equal"] for name, r in workload["variants"].items()}
        assert found == equal


def test_the_table_shows_the_numbers(report: Report) -> None:
    for workload in report.numbers["workloads"]:
        table = rows(report.page, workload["name"])
        assert list(table) == VARIANTS
        for name, result in workload["variants"].items():
            wall, cpu, least, against, wall_ratio, *_, equal = table[name]
            assert float(wall) == pytest.approx(result["wall_us"], abs=0.06)
            assert float(cpu) == pytest.approx(result["cpu_us"], abs=0.06)
            assert float(least) == pytest.approx(result["cpu_least_us"], abs=0.06)
            assert against.strip() == (result["against"] if result["against"] != name else "")
            median = float(wall_ratio.partition(" [")[0])
            assert median == pytest.approx(result["wall_ratio"]["median"], abs=6e-4)
            assert (equal == "yes") == (result["weights_equal"] is True)


def test_the_goals_stand_beside_what_was_measured(report: Report) -> None:
    goals = report.numbers["goals"]
    assert [(g["workload"], g["variant"], g["limit"], g["unit"]) for g in goals] == [
        ("linear", "fit", 10.0, "us"),
        ("LeNet", "fit", 1.02, "x"),
        ("LeNet", "fit, all handlers", 1.05, "x"),
    ]
    lenet = report.numbers["workloads"][1]["variants"]["fit, all handlers"]
    assert goals[2]["cpu"] == lenet["cpu_ratio"]["median"]
    assert all(goal["met"] == (goal["cpu"] <= goal["limit"]) for goal in goals)
    section = report.page.split("## Goals")[1]
    assert "| LeNet | fit, all handlers | at most 1.05 x careful + val |" in section
    assert "| linear | fit | at most 10.0 µs/step over careful |" in section


def test_the_page_says_which_data_it_had(report: Report) -> None:
    assert "Data: digits of scikit-learn, enlarged to 28x28. 4 training steps" in report.page
    assert "Data: made up. 4 training steps" in report.page


def test_fashion_mnist_is_read_where_there_is_data(data_root: Path, tmp_path: Path) -> None:
    run = run_benchmark(
        *("--quick", "--workloads", "mlp", "--out", str(tmp_path)), data=str(data_root)
    )
    assert run.returncode == 0, run.stderr
    assert "Data: Fashion-MNIST. 4 training steps" in (tmp_path / "loop.md").read_text("utf-8")


def test_nothing_to_measure_is_refused() -> None:
    run = run_benchmark("--steps", "0")
    assert run.returncode == 2
    assert "--rounds and --steps must be at least 1" in run.stderr


def test_the_checkpoint_benchmark_tells_both_ways_of_writing(tmp_path: Path) -> None:
    options = ["--megabytes", "1", "--epochs", "3", "--out", str(tmp_path)]
    command = [sys.executable, "-W", "error", "benchmarks/checkpoint.py", *options]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    numbers = json.loads((tmp_path / "checkpoint.json").read_text("utf-8"))
    assert list(numbers) == ["in the loop", "background=True"]
    for name, measured in numbers.items():
        assert 0 < measured["median_ms"] <= measured["most_ms"]
        assert f"| {name} | {measured['median_ms']:.1f} | {measured['most_ms']:.1f} |" in run.stdout
    assert (tmp_path / "checkpoint.md").read_text("utf-8") == run.stdout

"""The benchmark of reports runs, and its page says what its numbers say. No time is judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmark_runs import run_script


def test_the_page_shows_the_numbers_and_the_goals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ESTIMATOR_DATA", raising=False)
    run = run_script("report.py", "--quick", "--out", str(tmp_path))
    assert run.returncode == 0, run.stderr
    numbers = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert (tmp_path / "report.md").read_text("utf-8") in run.stdout
    cost = numbers["cost"]
    assert cost["ratio"] == [pytest.approx(cost["full"][0] / cost["bare"][0])]
    assert len(numbers["memory"]["resident_mb"]) == 10 and cost["end"][0] > 0
    for goal in numbers["goals"]:
        met = "yes" if goal["measured"] <= goal["limit"] else "no"
        row = f"| {goal['name']} | {goal['limit']:.2f} | {goal['measured']:.3f} | {met} |"
        assert row in run.stdout
    assert len(numbers["goals"]) == 2

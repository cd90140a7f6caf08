"""The benchmark of sequences runs, and its page says what its numbers say. No time is judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_page_shows_the_numbers_and_the_goals(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "ESTIMATOR_DATA"}
    command = [sys.executable, "-W", "error", "benchmarks/sequences.py", "--quick"]
    run = subprocess.run(
        [*command, "--out", str(tmp_path)], cwd=ROOT, env=environment, capture_output=True,
        text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    numbers = json.loads((tmp_path / "sequences.json").read_text("utf-8"))
    assert (tmp_path / "sequences.md").read_text("utf-8") == run.stdout
    assert "Data: digits of scikit-learn" in run.stdout
    ways = {part: list(numbers[part])[:3] for part in ("reservoir", "map", "accuracy")}
    assert ways["map"] == ["DataLoader", "map", "map, unordered"]
    assert ways["accuracy"] == ["fresh", "reservoir"]
    assert 1 <= numbers["reservoir"]["reuse"] <= 4
    for goal in numbers["goals"]:
        met = "yes" if goal["measured"] >= goal["limit"] else "no"
        row = f"| {goal['name']} | {goal['measured']:.2f} | {goal['limit']:.2f} | {met} |"
        assert row in run.stdout
    assert len(numbers["goals"]) == 3

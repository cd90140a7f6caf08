"""Training that is killed 25 times ends as if it had been left alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("resume_storm.py")


def storm(folder: Path, seed: int, kills: int, form: str, how: str) -> dict[str, Any]:
    command = [sys.executable, str(PROGRAM), str(folder), str(seed), str(kills), form, how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def check(result: dict[str, Any], kills: int) -> None:
    assert result["differences"] == []
    assert result["steps"] == 42
    # Everyone of them was killed, and most of them inside a save.
    assert "null" not in result["kills"] and sum(result["kills"].values()) == kills
    assert sum(result["kills"].get(kind, 0) for kind in "wfru") > kills / 2
    assert not [name for name in result["files"] if name.startswith(".tmp-")]


@pytest.mark.parametrize("how", ["foreground", "background"])
def test_25_kills(tmp_path: Path, how: str) -> None:
    check(storm(tmp_path, 1, 25, "dataset", how), 25)


@pytest.mark.full
@pytest.mark.parametrize("how", ["foreground", "background"])
@pytest.mark.parametrize("form", ["dataset", "sampler, 2 workers", "stock", "unsized"])
@pytest.mark.parametrize("seed", range(2, 7))
def test_many_storms(tmp_path: Path, seed: int, form: str, how: str) -> None:
    check(storm(tmp_path, seed, 25, form, how), 25)

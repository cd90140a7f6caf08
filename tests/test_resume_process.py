"""A run that is gone on with in another process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from resume_runs import Case, differences, train

CASES = [
    Case("accumulate", "dataset", "mid-group", "stop"),
    Case("one cycle", "stock, 2 workers", "mid-epoch", "signal"),
    Case("ema", "sampler, 2 workers", "validation", "signal"),
    Case("two trainers", "stateful", "last batch", "stop"),
    Case("plateau", "arrays", "validation inside", "signal"),
]
PROGRAM = """
import sys, torch
from pathlib import Path
from resume_runs import train
from test_resume_process import CASES

torch.set_num_threads(1)
for number, case in enumerate(CASES):
    result = train(case, Path(sys.argv[1], str(number)), resume=True)
    torch.save(result, Path(sys.argv[1], f"{number}.pt"))
"""


def test_in_a_new_process(tmp_path: Path) -> None:
    for number, case in enumerate(CASES):
        train(case, tmp_path / str(number), stops=True)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], cwd=Path(__file__).parent,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for number, case in enumerate(CASES):
        resumed = torch.load(tmp_path / f"{number}.pt", weights_only=True)
        assert differences(train(case, tmp_path / f"whole {number}"), resumed) == [], case

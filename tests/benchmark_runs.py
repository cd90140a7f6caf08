"""What the tests of the benchmarks share: running them, and reading the tables they write."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"


def part(name: str) -> Any:
    """A module of the benchmarks, which are scripts and no package."""
    if str(BENCHMARKS) not in sys.path:
        sys.path.append(str(BENCHMARKS))
    return importlib.import_module(name)


def run_script(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", f"benchmarks/{name}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def tables(page: str) -> dict[str, list[dict[str, str]]]:
    """The rows of each table under the heading before it, cells by the names of columns."""
    found: dict[str, list[dict[str, str]]] = {}
    heading, heads = "", None
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("#"):
            heading, heads = line.strip("# "), None
        elif not line.startswith("|"):
            heads = None
        elif heads is None:
            heads = cells
            found[heading] = []
        elif not set(line) <= set("|-: "):
            found[heading].append(dict(zip(heads, cells, strict=True)))
    return found

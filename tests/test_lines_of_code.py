"""The page that puts loops written by hand beside the call: equal results, and true counts."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

PAGE = Path(__file__).parents[1] / "tutorials/guide/lines_of_code.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
COUNTS = re.findall(r"^(\d+) lines and (\d+)", PAGE.read_text("utf-8"), re.MULTILINE)


def lines(code: str) -> int:
    return sum(bool(line.strip()) for line in code.splitlines())


def loop_lines(function: str) -> int:
    """Lines of the functions of the block that defines this one."""
    (block,) = [block for block in BLOCKS if f"def {function}(" in block]
    tree = ast.parse(block)
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return sum(lines(ast.get_source_segment(block, node) or "") for node in functions)


def call_lines() -> list[int]:
    """Lines of each block that calls `fit`, without that of the seed, which both sides need."""
    calls = [block for block in BLOCKS if ".fit(" in block]
    return [lines(block.replace("torch.manual_seed", "").partition("\n")[2]) for block in calls]


def test_the_page_counts_right() -> None:
    loops = [loop_lines("by_epochs"), loop_lines("by_iterations")]
    counted = list(zip(loops, call_lines(), strict=True))
    assert [(int(loop), int(call)) for loop, call in COUNTS] == counted
    assert all(loop > 30 and call <= 6 for loop, call in counted)


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What the page leaves behind; its own comparisons are made on the way."""
    monkeypatch.chdir(tmp_path)
    module = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    for block in BLOCKS:
        exec(compile(block, PAGE, "exec"), module.__dict__)
    return module.__dict__


def test_loop_and_call_have_equal_results(page: dict[str, object], tmp_path: Path) -> None:
    # The comparisons of the page are only worth something where the nets have learned.
    history, scores = page["history"], page["scores"]
    assert isinstance(history, dict) and isinstance(scores, list)
    assert {len(values) for values in history.values()} == {5} and len(scores) == 4
    assert history["val_accuracy"][-1] > 0.95 and min(scores) > 0.9
    assert len({*history["val_loss"]}) == 5
    compared = "".join(block for block in BLOCKS if block.startswith(("def same", "measured")))
    assert compared.count("assert ") == 6

    loop, call = ((tmp_path / f"runs/{run}/log.txt").read_text("utf-8") for run in ("loop", "call"))
    # Every tenth step of each epoch of 22, and of all 110 steps.
    assert loop.count("samples/s") == 10 and call.count("examples/s") == 11
    assert len(list((tmp_path / "runs/steps").glob("events.out.*"))) == 1
    assert {path.name for path in (tmp_path / "runs/board").iterdir()} == {"train", "val"}

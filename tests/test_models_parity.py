"""The nets of the tutorials as ONNX files: those that took most to write."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "tutorials" / "models"


@pytest.fixture
def parity(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    yield importlib.import_module("parity")
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) == str(FOLDER / f"{name}.py"):
            del sys.modules[name]


def test_a_net_that_reads_both_ways_keeps_to_the_ends_of_sentences(
    parity: Any, tmp_path: Path
) -> None:
    row = parity.row("encoder", parity.MODELS["encoder"], tmp_path)
    assert row["inputs"] == "source (batch, time)" and row["batch sizes"] == "1, 4, 7"
    assert float(row["difference"]) <= 1e-5


def test_the_table_has_each_net_and_says_why_one_has_no_file(
    parity: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise parity.ExportError("no such operator")

    monkeypatch.setattr(parity.Estimator, "export", refuse)
    monkeypatch.setattr(sys, "argv", ["parity.py", "--only", "SSD", "TextCNN"])
    parity.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[:2] for line in lines[2:]] == [
        ["| SSD", "no such operator"], ["| TextCNN", "no such operator"]
    ]  # fmt: skip

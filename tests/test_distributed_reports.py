"""The run folder of two processes says what that of one says."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from distributed_jobs import ended, torchrun
from distributed_reports import reported
from page_reader import read_page


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The run folders of one process and of two."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    here = Path.cwd()
    try:
        reported(one)
    finally:
        os.chdir(here)
    ended(torchrun("distributed_reports.py", two))
    return one / "runs/job_r0", two / "runs/job_r0"


def tables(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text("utf-8"))["tables"]


def test_there_is_one_folder_with_one_record(folders: tuple[Path, Path]) -> None:
    for folder in folders:
        assert [path.name for path in folder.parent.iterdir()] == ["job_r0"]
        record = json.loads((folder / "run.json").read_text("utf-8"))
        assert (record["outcome"], record["epoch"], record["missing"]) == ("completed", 3, {})
        assert [each["epoch"] for each in record["resumed"]] == [2]


@pytest.mark.parametrize("name", ["output-train", "output-val", "data_summary"])
def test_reports_count_the_samples_of_all_processes(folders: tuple[Path, Path], name: str) -> None:
    one, two = (tables(folder, f"{name}.section.json") for folder in folders)
    assert [table["title"] for table in one] == [table["title"] for table in two]
    for mine, theirs in zip(one, two, strict=True):
        assert [numbered(row) for row in mine["rows"]] == [
            pytest.approx(numbered(row), rel=1e-6) for row in theirs["rows"]
        ], mine["title"]
        words = [[cell for cell in row if isinstance(cell, str)] for row in mine["rows"]]
        assert words == [[c for c in row if isinstance(c, str)] for row in theirs["rows"]]


def numbered(row: list[Any]) -> list[float]:
    return [float(cell) for cell in row if isinstance(cell, (int, float))]


def test_the_same_samples_are_shown(folders: tuple[Path, Path]) -> None:
    for place in ("random_samples/random_samples", "worst_samples_by_epoch/worst_samples_train"):
        shown = [
            [card["facts"]["uid"] for card in json.loads(
                (folder / f"{place}.section.json").read_text("utf-8"))["samples"]]
            for folder in folders
        ]  # fmt: skip
        assert shown[0] == shown[1] and len(shown[0]) > 10


def test_the_pages_have_the_same_sections(folders: tuple[Path, Path]) -> None:
    one, two = (read_page(folder / "report.html") for folder in folders)
    assert list(one) == list(two) and "Explanations" in one

"""What handlers that write reports share: sections of the page, own folders, full disks."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

from estimator.handlers.base import (
    ArgumentError,
    FolderError,
    Picture,
    SampleCard,
    Section,
    Table,
    own_folder,
    reporting,
    write_section,
    write_whole,
)
from estimator.stats import TrainStats


@pytest.fixture
def stats() -> TrainStats:
    found = TrainStats(torch.nn.Identity(), torch.device("cpu"))
    found.epoch, found.step = 3, 12
    return found


def test_a_section_is_strict_json_with_all_that_it_shows(tmp_path: Path, stats: TrainStats) -> None:
    numbers = Table("Numbers", ["name", "value"], [["a", float("nan")], ["b", -float("inf")]])
    card = SampleCard("uid 4", {"loss": float("inf"), "class": "é"}, [Picture("4.png", "it")])
    section = Section("A part", 300, "What it is.", [numbers], [], [card])
    path = write_section(tmp_path, "part", section, stats)
    assert path == tmp_path / "part.section.json"

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    read = json.loads(path.read_text("utf-8"), parse_constant=refuse)
    assert read == {
        "schema": 1, "title": "A part", "order": 300, "text": "What it is.",
        "tables": [{
            "title": "Numbers", "columns": ["name", "value"],
            "rows": [["a", "NaN"], ["b", "-Infinity"]],
        }],
        "pictures": [],
        "samples": [{
            "title": "uid 4", "facts": {"loss": "Infinity", "class": "é"},
            "pictures": [{"file": "4.png", "caption": "it"}], "file": "",
        }],
        "epoch": 3, "step": 12,
    }  # fmt: skip


def test_a_file_is_replaced_as_a_whole_and_no_draft_is_left(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"first")
    write_whole(path, b"second")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("file", b"second")]


def test_what_cannot_be_written_leaves_the_former_file(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError, match="file"):
        write_whole(tmp_path / "file", b"content")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_handler_has_a_place_of_its_own_in_the_run_folder(
    tmp_path: Path, stats: TrainStats
) -> None:
    stats.run_dir = tmp_path / "run"
    assert own_folder(None, stats, "errors", "H") == tmp_path / "run" / "errors"
    assert own_folder(None, stats, "", "H") == tmp_path / "run"
    given = tmp_path / "given"
    assert own_folder(given, stats, "errors", "H") == given
    assert (tmp_path / "run" / "errors").is_dir()


def test_without_any_folder_the_error_says_how_to_give_one(stats: TrainStats) -> None:
    with pytest.raises(ArgumentError, match=r'H\(folder="..."\), or fit\(..., run="name"\)'):
        own_folder(None, stats, "errors", "H")


def test_a_folder_that_is_a_file_is_an_error(tmp_path: Path, stats: TrainStats) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match=r"H\(folder=...\) must be a folder"):
        own_folder(tmp_path / "file", stats, "", "H")


def test_a_full_disk_is_logged_and_missing_until_it_was_written(
    stats: TrainStats, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR), reporting(stats, "the map"):
        raise OSError(28, "No space left on device", "map.png")
    assert stats.missing == {"the map": "No space left on device"}
    assert caplog.messages == [
        "Could not write the map: No space left on device. Training goes on; the map is missing "
        "from the report."
    ]
    with reporting(stats, "another"):
        pass
    assert stats.missing == {"the map": "No space left on device"}
    with reporting(stats, "the map"):
        pass
    assert stats.missing == {}


def test_an_error_without_a_number_gives_its_text(stats: TrainStats) -> None:
    with reporting(stats, "the map"):
        raise OSError("encoder error -2")
    assert stats.missing == {"the map": "encoder error -2"}


def test_other_errors_end_the_run(stats: TrainStats) -> None:
    with pytest.raises(ZeroDivisionError), reporting(stats, "the map"):
        raise ZeroDivisionError

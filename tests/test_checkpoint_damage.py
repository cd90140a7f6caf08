"""Checkpoint folders after damage: each kind has its own behaviour, and none is silent."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_runs import cut, files, flip, new_stats, run, save_next, state_at

from estimator.handlers._checkpoint_files import find_state
from estimator.handlers.base import DataError
from estimator.handlers.checkpoint import CheckpointHandler, best_checkpoint, load_checkpoint


def filled(folder: Path, steps: int = 3) -> Path:
    """Checkpoints of the steps 1, 2, ...; gives the newest."""
    run(folder, *(state_at(i + 1, x=torch.full((50,), float(i))) for i in range(steps)))
    return folder / f"step_{steps:08d}.pt"


def step_of(folder: Path) -> int:
    step: int = load_checkpoint(folder)["stats"]["step"]
    return step


def test_any_flipped_bit_is_caught(tmp_path: Path) -> None:
    newest = filled(tmp_path)
    whole = newest.read_bytes()
    places = torch.linspace(0, len(whole) * 8 - 1, 40).long().tolist()
    for place in places:
        flip(newest, place)
        assert step_of(tmp_path) == 2, place
        newest.write_bytes(whole)
    assert step_of(tmp_path) == 3


def test_a_file_of_any_other_length_is_caught(tmp_path: Path) -> None:
    newest = filled(tmp_path)
    whole = newest.read_bytes()
    for length in (0, 1, 4, 30, len(whole) // 2, len(whole) - 22, len(whole) - 1):
        cut(newest, length)
        assert step_of(tmp_path) == 2, length
    newest.write_bytes(whole + b"\0")
    assert step_of(tmp_path) == 2


def test_it_falls_back_as_far_as_it_has_to(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    newest = filled(tmp_path)
    flip(newest)
    (tmp_path / "step_00000002.pt").unlink()
    assert step_of(tmp_path) == 1
    assert "step_00000003.pt is damaged, step_00000002.pt is damaged." in caplog.messages[-1]


@pytest.mark.parametrize("content", [None, b"", b"\0" * 4096])
def test_without_a_manifest_the_files_tell(
    tmp_path: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    filled(tmp_path)
    manifest = tmp_path / "manifest.json"
    before = json.loads(manifest.read_text("utf-8"))
    manifest.unlink()
    if content is not None:
        manifest.write_bytes(content)
    # Names tell nothing: they are turned round, and so are the times.
    shutil.move(tmp_path / "step_00000003.pt", tmp_path / "step_00000000.pt")
    os.utime(tmp_path / "step_00000000.pt", (0, 0))
    assert step_of(tmp_path) == 3
    words = "has no list of its checkpoints. The content of step_00000001.pt, step_00000002.pt, "
    assert f"{words}step_00000000.pt was read instead; the newest is of step 3" in caplog.text
    assert ("is empty, as after a power cut" in caplog.text) is (content is not None)

    run(tmp_path)
    entries = json.loads(manifest.read_text("utf-8"))["checkpoints"]
    kept = ("sha256", "epoch", "step", "samples", "monitor", "value", "best")
    assert [[e[k] for k in kept] for e in entries] == [
        [e[k] for k in kept] for e in before["checkpoints"]
    ]
    assert len({entry["run"] for entry in entries}) == 1
    flip(tmp_path / "step_00000000.pt")
    assert step_of(tmp_path) == 2


def test_a_run_whose_manifest_was_lost_goes_on_as_the_same_run(tmp_path: Path) -> None:
    handlers = {"Other": {}, "CheckpointHandler": {"run_id": "one"}}
    run(tmp_path, state_at(1, handlers=handlers), state_at(2, handlers=handlers))
    (tmp_path / "manifest.json").unlink()
    saver, stats = CheckpointHandler(tmp_path, keep_last=2), new_stats()
    saver.load_state_dict({"run_id": "one"})
    stats.epoch, stats.step, stats.samples = 2, 2, 6
    saver.train_begin(stats)
    save_next(saver, stats, state_at(3))
    saver.train_end(stats)
    assert files(tmp_path) == ["manifest.json", "step_00000002.pt", "step_00000003.pt"]


def test_files_that_a_kill_left_unlisted_go_when_their_run_goes_on(tmp_path: Path) -> None:
    own = {"Saver": {"run_id": "one"}}
    saver, stats = CheckpointHandler(tmp_path), new_stats()
    saver.load_state_dict({"run_id": "one"})
    saver.train_begin(stats)
    save_next(saver, stats, state_at(1, handlers=own))
    saver.train_end(stats)
    torch.save(state_at(2, handlers=own), tmp_path / "step_00000002.pt")
    torch.save(state_at(2, handlers={"Saver": {"run_id": "two"}}), tmp_path / "step_2_other.pt")
    (tmp_path / "step_of_mine.pt").write_bytes(b"not a checkpoint")
    saver = CheckpointHandler(tmp_path)
    saver.load_state_dict({"run_id": "one"})
    saver.train_begin(stats)
    saver.train_end(stats)
    assert files(tmp_path) == [
        "manifest.json", "step_00000001.pt", "step_2_other.pt", "step_of_mine.pt",
    ]  # fmt: skip


def test_the_newest_of_one_step_is_that_with_more_samples(tmp_path: Path) -> None:
    run(tmp_path, state_at(1))
    for samples in (5, 8, 7):
        counts = {"epoch": 1, "step": 1, "samples": samples}
        torch.save({"stats": counts}, tmp_path / f"step_0000000{samples}.pt")
    (tmp_path / "manifest.json").unlink()
    assert load_checkpoint(tmp_path)["stats"]["samples"] == 8


def test_what_is_no_checkpoint_is_said_and_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    newest = filled(tmp_path)
    (tmp_path / "manifest.json").unlink()
    # Inside a tensor: the archive is still whole in form.
    place = newest.read_bytes().index(torch.full((50,), 2.0).numpy().tobytes())
    flip(newest, place * 8 + 80)
    torch.save({"weight": torch.zeros(1)}, tmp_path / "step_mine.pt")
    torch.save({"stats": {"epoch": "a"}}, tmp_path / "step_other.pt")
    torch.save({"stats": state_at(7)["stats"], "handlers": [3]}, tmp_path / "step_third.pt")
    torch.save(state_at(9), tmp_path / "weights.pt")
    before = files(tmp_path)
    assert step_of(tmp_path) == 2
    assert "step_00000003.pt' must be a whole checkpoint" in caplog.text
    assert "its part 'archive/data/0' is damaged" in caplog.text
    assert (
        "step_mine.pt' must hold a run with its counts; received a dict with weight" in caplog.text
    )
    run(tmp_path)
    assert files(tmp_path) == sorted([*before, "manifest.json"])


def test_files_of_which_none_can_be_read_are_no_fresh_start(tmp_path: Path) -> None:
    newest = filled(tmp_path, 1)
    cut(newest)
    with pytest.raises(DataError, match="received step_00000001.pt is damaged"):
        find_state(tmp_path)
    (tmp_path / "manifest.json").unlink()
    for read in (find_state, load_checkpoint):
        with pytest.raises(DataError, match=r"no file that is one. Listed in manifest.json: none"):
            read(tmp_path)
    # A run that resumes nothing may begin there, and leaves them where they are.
    run(tmp_path, state_at(1))
    assert files(tmp_path) == ["manifest.json", "step_00000001.pt", "step_00000001_1.pt"]
    assert step_of(tmp_path) == 1


def test_there_is_nothing_to_find_in_an_empty_folder(tmp_path: Path) -> None:
    assert find_state(tmp_path / "never") is find_state(tmp_path) is None
    (tmp_path / "manifest.json").touch()
    (tmp_path / "weights.pt").write_text("of the user")
    assert find_state(tmp_path) is None
    with pytest.raises(DataError, match="no checkpoint there has a monitored value"):
        best_checkpoint(tmp_path)


def test_a_manifest_of_another_schema_is_named_and_left(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    path = tmp_path / "manifest.json"
    for schema in (2, 0, "next"):
        text = json.dumps({"schema": schema, "checkpoints": [{"place": 3}]})
        path.write_text(text, "utf-8")
        words = rf"schema 1, which this .* received schema {schema!r}. Install the .*another folder"
        for read in (find_state, load_checkpoint, best_checkpoint, run):
            with pytest.raises(DataError, match=words):
                read(tmp_path)
        assert path.read_text("utf-8") == text
    assert files(tmp_path) == ["manifest.json", "step_00000001.pt"]


def test_a_checkpoint_of_another_version_is_named_and_not_passed_over(tmp_path: Path) -> None:
    run(tmp_path, state_at(1), state_at(2) | {"version": 7})
    for path in (tmp_path, tmp_path / "step_00000002.pt"):
        with pytest.raises(
            DataError,
            match=r"step_00000002.pt' must be .* version 1, .* received version 7. Install",
        ):
            find_state(path, version=1)
        found = find_state(path, version=7)
        assert found is not None and found[0]["stats"]["step"] == 2
    assert find_state(tmp_path) is not None
    (tmp_path / "step_00000002.pt").unlink()
    found = find_state(tmp_path, version=1)
    assert found is not None and found[1] == tmp_path / "step_00000001.pt"


def test_the_newest_that_is_usable_is_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    filled(tmp_path)
    asked: list[int] = []

    def usable(state: dict[str, Any]) -> bool:
        asked.append(state["stats"]["step"])
        return asked[-1] <= 1

    found = find_state(tmp_path, usable=usable)
    assert found is not None and found[1] == tmp_path / "step_00000001.pt"
    assert asked == [3, 2, 1]
    (message,) = caplog.messages
    assert message.endswith("step_00000003.pt does not fit, step_00000002.pt does not fit.")
    with pytest.raises(DataError, match="step_00000002.pt does not fit, step_00000001.pt does"):
        find_state(tmp_path, usable=lambda state: False)
    with pytest.raises(DataError, match=r"step_00000002.pt' must be .* can go on from"):
        find_state(tmp_path / "step_00000002.pt", usable=lambda state: False)


def test_the_newest_is_found_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    filled(tmp_path)
    for path in (tmp_path, tmp_path / "step_00000003.pt"):
        found = find_state(path, usable=lambda state: True)
        assert found is not None and found[1] == tmp_path / "step_00000003.pt"
    assert caplog.messages == []

"""Checkpoints on a disk that fails: the run ends with the reason, and what was saved stays."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_runs import files, run, state_at, wait_for_writer
from test_handlers_checkpoint import fit, steps

from estimator.handlers.base import Band, EventHandler, FolderError, every
from estimator.handlers.checkpoint import CheckpointHandler, load_checkpoint
from estimator.stats import TrainStats

FULL = """
import json, resource, sys
from pathlib import Path
from checkpoint_runs import files, wait_for_writer
from test_handlers_checkpoint import Stop, fit, torch
from estimator.handlers.base import FolderError, every
from estimator.handlers.checkpoint import CheckpointHandler

torch.set_num_threads(1)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

class Fill(Stop):
    def __init__(self, limit):
        super().__init__(6)
        self.limit = limit

    def batch_end(self, stats):
        if stats.step == 5:
            wait_for_writer()
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, hard))

told = []
for limit in map(int, sys.argv[2].split()):
    for background in (False, True):
        folder = Path(sys.argv[1], f"{limit}_{background}")
        saver = CheckpointHandler(folder, every=every(3), background=background)
        try:
            fit(saver, Fill(limit))
        except FolderError as error:
            text = str(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, hard))
        told.append([folder.name, text, files(folder)])
print(json.dumps(told))
"""


def test_a_full_disk_ends_the_run_and_leaves_what_was_saved(tmp_path: Path) -> None:
    fit(CheckpointHandler(tmp_path / "whole", every=every(3)))
    size = (tmp_path / "whole" / "step_00000006.pt").stat().st_size
    limits = " ".join(map(str, (0, 200, size // 2, size - 1)))
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    command = [sys.executable, "-c", FULL, str(tmp_path), limits]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    told = json.loads(output.stdout)
    assert len(told) == 8
    for name, text, left in told:
        assert "step_00000006.pt' cannot be written to" in text and "File too large" in text
        assert "before it are untouched. Make room or choose another folder, and resume" in text
        assert left == ["manifest.json", "step_00000003.pt"]
        assert steps(tmp_path / name) == [3]
        assert load_checkpoint(tmp_path / name)["stats"]["step"] == 3


@pytest.mark.parametrize("background", [False, True])
def test_a_folder_that_goes_away_ends_the_run(tmp_path: Path, background: bool) -> None:
    class Remove(EventHandler):
        band = Band.PREPARE

        def batch_end(self, stats: TrainStats) -> None:
            if stats.step == 5:
                wait_for_writer()
                shutil.rmtree(tmp_path / "run")
                (tmp_path / "run").write_text("a file")

    saver = CheckpointHandler(tmp_path / "run", background=background)
    with pytest.raises(FolderError, match="step_00000008.pt' cannot be written .*Not a directory"):
        fit(saver, Remove())


def test_a_path_is_that_of_the_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Move(EventHandler):
        def batch_end(self, stats: TrainStats) -> None:
            os.chdir(tmp_path / "elsewhere")

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    fit(CheckpointHandler("run"), Move())
    assert steps(tmp_path / "run") == [4, 8] and files(tmp_path / "elsewhere") == []


def test_only_a_disk_is_blamed_for_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("the device failed")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(RuntimeError, match="^the device failed$"):
        run(tmp_path, state_at(1))
    assert files(tmp_path) == []


def test_what_no_manifest_lists_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, sync = os.replace, os.fsync

    def fail(source: Path, target: Path) -> None:
        if target.name == "manifest.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(source, target)

    for before in ([], ["manifest.json", "step_00000001.pt"]):
        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(FolderError, match="manifest.json' cannot be written"):
            run(tmp_path, state_at(1))
        assert files(tmp_path) == before
        monkeypatch.undo()
        run(tmp_path, state_at(1)) if not before else None

    def fail_late(descriptor: int) -> None:
        if "step_00000001_1.pt" in (tmp_path / "manifest.json").read_text("utf-8"):
            raise OSError(errno.EIO, "Input/output error")
        sync(descriptor)

    # The manifest is in place, and its folder cannot be flushed: what it lists has to stay.
    monkeypatch.setattr(os, "fsync", fail_late)
    with pytest.raises(FolderError, match=r"manifest.json' cannot be written.*Input/output"):
        run(tmp_path, state_at(1, second=True))
    assert load_checkpoint(tmp_path)["second"]


def test_a_temporary_file_that_cannot_be_deleted_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.name.startswith(".tmp-"):
            raise PermissionError(errno.EPERM, "Operation not permitted")
        unlink(path, missing_ok)

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        patch.setattr(os, "fsync", fail)
        with pytest.raises(FolderError, match="cannot be written .*Input/output error"):
            run(tmp_path, state_at(1))
    assert len(files(tmp_path)) == 1
    run(tmp_path, state_at(1))
    assert files(tmp_path) == ["manifest.json", "step_00000001.pt"]

"""Files of checkpoints: damage is found, a kill leaves them whole, what is saved can be loaded."""

from __future__ import annotations

import collections
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_runs import cut, files, flip, run
from torch import nn

from estimator.handlers.base import DataError, FolderError
from estimator.handlers.checkpoint import best_checkpoint, load_checkpoint

SAVE = """
import os, signal, sys
from pathlib import Path
import torch
from estimator.handlers.checkpoint import CheckpointHandler
from estimator.stats import TrainStats

def replace(source, target, rename=os.replace):
    if Path(target).name == sys.argv[2] and stats.step == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target)

os.replace = replace
stats = TrainStats(torch.nn.Linear(1, 1), torch.device("cpu"))
counts = ("epoch", "step", "samples")
stats.capture_with(lambda: {"stats": {name: getattr(stats, name) for name in counts}})
saver = CheckpointHandler(sys.argv[1])
saver.train_begin(stats)
for stats.step in (1, 2):
    stats.epoch = stats.step
    saver.epoch_end(stats)
"""


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
def test_a_damaged_newest_falls_back_to_the_one_before(
    tmp_path: Path, damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path, {"n": torch.zeros(50)}, {"n": torch.ones(50)}, {"n": torch.full((50,), 2.0)})
    damage(tmp_path / "step_00000003.pt")
    assert torch.equal(load_checkpoint(tmp_path)["n"], torch.ones(50))
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "step_00000003.pt' must be a whole checkpoint" in caplog.messages[0]
    words = f"Fell back to step_00000002.pt of {tmp_path}: step_00000003.pt is damaged."
    assert caplog.messages[1] == words
    with pytest.raises(DataError, match=r"step_00000003.pt' must be a whole checkpoint"):
        load_checkpoint(tmp_path / "step_00000003.pt")


def test_the_name_of_a_file_that_was_lost_is_not_taken_again(tmp_path: Path) -> None:
    run(tmp_path, {"n": 1})
    (tmp_path / "step_00000001.pt").unlink()
    run(tmp_path, {"n": 2})
    assert files(tmp_path) == ["manifest.json", "step_00000001_1.pt"]
    assert load_checkpoint(tmp_path) == {"n": 2}


def test_one_flipped_bit_is_what_only_the_hash_sees(tmp_path: Path) -> None:
    run(tmp_path, {"n": torch.zeros(999)})
    path = tmp_path / "step_00000001.pt"
    flip(path)
    with pytest.raises(DataError, match="its sha256 is not the one in the manifest"):
        load_checkpoint(path)


def test_a_folder_without_a_good_checkpoint_is_never_a_fresh_start(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="or a folder that holds one; there is none"):
        load_checkpoint(tmp_path)
    run(tmp_path, {"n": 1})
    run(tmp_path, {"n": 2})
    flip(tmp_path / "step_00000001_1.pt")
    words = (
        "received step_00000001_1.pt is damaged. Listed .*: step_00000001.pt, step_00000001_1.pt"
    )
    with pytest.raises(DataError, match=f"must hold a good .*; {words}. Name another"):
        load_checkpoint(tmp_path)
    assert load_checkpoint(tmp_path / "step_00000001.pt") == {"n": 1}
    with pytest.raises(DataError, match="No such file"):
        load_checkpoint(tmp_path / "step_00000009.pt")


def test_the_best_of_a_folder_without_values_is_an_error(tmp_path: Path) -> None:
    run(tmp_path, {"n": 1})
    with pytest.raises(DataError, match=r"best_checkpoint.*no checkpoint.*monitor='val_loss'"):
        best_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("file", "step"), [("step_00000002.pt", 2), ("manifest.json", 2), ("manifest.json", 1)]
)
def test_a_kill_leaves_the_checkpoints_before_it(tmp_path: Path, file: str, step: int) -> None:
    arguments = [sys.executable, "-c", SAVE, str(tmp_path), file, str(step)]
    assert subprocess.run(arguments, check=False).returncode == -signal.SIGKILL
    left = [name for name in os.listdir(tmp_path) if name.startswith(".")]
    assert len(left) == 2
    assert load_checkpoint(tmp_path)["stats"]["step"] == 1
    for name in files(tmp_path):
        if name.startswith("step_00000002"):
            (tmp_path / name).unlink()

    (tmp_path / ".tmpfile").write_text("of the user")
    (tmp_path / ".tmp-folder").mkdir()
    run(tmp_path, {"n": 2})
    assert set(os.listdir(tmp_path)) == {
        *("manifest.json", "step_00000001.pt", "step_00000001_1.pt", ".tmpfile", ".tmp-folder")
    }


@pytest.mark.parametrize("name", ["step_00000001_1.pt", "manifest.json"])
def test_a_failed_rename_changes_nothing(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, {"n": 1})
    before = (tmp_path / "manifest.json").read_bytes()
    rename = os.replace

    def fail(source: Path, target: Path) -> None:
        if target.name == name:
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(FolderError, match=rf"{name}' cannot be written.*No space left.*Make room"):
        run(tmp_path, {"n": 2})
    assert (tmp_path / "manifest.json").read_bytes() == before
    assert load_checkpoint(tmp_path) == {"n": 1}
    assert not any(file.startswith(".tmp-") for file in os.listdir(tmp_path))


def test_a_disk_that_is_full_inside_torch_save_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def __init__(self) -> None:
            self.written = 0

        def write(self, content: bytes) -> int:
            if self.written:
                raise OSError(28, "No space left on device")
            self.written += len(content)
            return len(content)

        def flush(self) -> None: ...

    save: Any = torch.save
    monkeypatch.setattr(torch, "save", lambda state, file: save(state, Full()))
    with pytest.raises(FolderError, match="No space left on device"):
        run(tmp_path, {"n": 1})
    assert os.listdir(tmp_path) == []


def test_a_system_that_cannot_open_folders_saves_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "O_DIRECTORY")
    run(tmp_path, {"n": 1})
    assert load_checkpoint(tmp_path) == {"n": 1}


def test_a_file_that_holds_something_else_is_no_checkpoint(tmp_path: Path) -> None:
    torch.save([1], tmp_path / "list.pt")
    with pytest.raises(DataError, match="it holds a list"):
        load_checkpoint(tmp_path / "list.pt")


class Int(int):
    pass


@pytest.mark.parametrize(
    ("state", "place"),
    [
        ({"handlers": {"Mine": {"best": np.float64(1)}}}, "handlers.Mine.best: numpy.float64"),
        ({"a": [1, (2, {3, Int(4)})]}, r"a\[1\]\[1\]\[1\]: .*\.Int"),
        ({"a": {Int(4): 1}}, r"a.4 \(key\): .*\.Int"),
        ({"a": collections.defaultdict(int)}, "a: collections.defaultdict"),
        ({"a": Path("x")}, r"a: pathlib\.\w+"),
        ({"a": nn.Linear(1, 1)}, "a: torch.nn.modules.linear.Linear"),
        ({"a": frozenset()}, "a: builtins.frozenset"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(
    tmp_path: Path, state: dict[str, Any], place: str
) -> None:
    with pytest.raises(DataError, match=f"received {place}. Nothing was saved"):
        run(tmp_path, state)
    assert os.listdir(tmp_path) == []


def test_what_is_saved_can_be_loaded(tmp_path: Path) -> None:
    net = nn.BatchNorm1d(2)
    state: dict[str, Any] = {
        "plain": [None, True, 1, 10**30, 1.5, 1j, "s", b"b", bytearray(b"c"), (1,), {1}],
        "dicts": {"a": {(1, "b"): 2}, 3: collections.OrderedDict(x=collections.Counter("xx"))},
        "torch": [torch.Size([1]), torch.float16, torch.device("cpu")],
        "net": net.state_dict(),
        "parameter": nn.Parameter(torch.ones(1, dtype=torch.bfloat16)),
    }
    run(tmp_path, state)
    loaded = load_checkpoint(tmp_path)
    assert list(loaded) == list(state)
    assert [loaded[key] for key in ("plain", "dicts", "torch")] == [
        state[key] for key in ("plain", "dicts", "torch")
    ]
    assert torch.equal(loaded["parameter"], state["parameter"])
    net.load_state_dict(loaded["net"])


def first(entry: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"schema": 1, "checkpoints": [entry | changes]}


@pytest.mark.parametrize(
    "make",
    [
        lambda entry: first(entry, step="1"),
        lambda entry: first(entry, file="../outside.pt"),
        lambda entry: first(entry, file=".."),
        lambda entry: first(entry, file="/outside.pt"),
        lambda entry: first(entry, file=3),
        lambda entry: {"schema": 1, "checkpoints": [{"file": "a.pt"}]},
        lambda entry: {"schema": 1},
        lambda entry: [1],
        lambda entry: "{",
    ],
)
def test_a_manifest_that_is_not_ours_is_left_alone(tmp_path: Path, make: Any) -> None:
    folder = tmp_path / "run"
    run(folder, {"n": 1})
    path = folder / "manifest.json"
    content = make(json.loads(path.read_text("utf-8"))["checkpoints"][0])
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, "utf-8")
    for read in (load_checkpoint, best_checkpoint, lambda folder: run(folder, {"n": 2})):
        with pytest.raises(
            DataError,
            match=r"must be a manifest of checkpoints, schema 1.*received another.*Move it",
        ):
            read(folder)
    assert path.read_text("utf-8") == text
    path.unlink()
    assert load_checkpoint(folder / "step_00000001.pt") == {"n": 1}


def test_a_load_is_asked_to_be_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, {"n": 1})
    load = torch.load

    def safe(file: Any, *, weights_only: bool, map_location: str) -> Any:
        assert (weights_only, map_location) == (True, "cpu")
        return load(file, weights_only=weights_only, map_location=map_location)

    monkeypatch.setattr(torch, "load", safe)
    assert load_checkpoint(tmp_path) == {"n": 1}

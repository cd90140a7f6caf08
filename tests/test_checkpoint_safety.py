"""No code runs from a checkpoint: planted files, wherever one is read."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_runs import files, run, state_at
from torch import nn

from estimator import Estimator
from estimator.handlers._checkpoint_files import find_state
from estimator.handlers.base import DataError
from estimator.handlers.checkpoint import CheckpointHandler, best_checkpoint, load_checkpoint

Plant = Callable[[Path, Any], None]


class Planted:
    """Unpickling one of these makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def archive(path: Path, state: Any) -> None:
    torch.save(state, path)


def old_archive(path: Path, state: Any) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


def raw(path: Path, state: Any) -> None:
    path.write_bytes(pickle.dumps(state))


def script(path: Path, state: Any) -> None:
    """A zip that torch would take for TorchScript."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(state))
        file.writestr("archive/constants.pkl", pickle.dumps(state))
        file.writestr("archive/version", "3")


PLANTS = [archive, old_archive, raw, script]


def replace(folder: Path, name: str, plant: Plant, target: Path) -> None:
    """Puts a planted file in the place of a checkpoint, with the right sha256 in the manifest."""
    path = folder / name
    plant(path, state_at(9, handlers={"Mine": {"x": Planted(target)}}, net={}))
    manifest = folder / "manifest.json"
    content = json.loads(manifest.read_text("utf-8"))
    for entry in content["checkpoints"]:
        if entry["file"] == name:
            entry["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(content), "utf-8")


@pytest.mark.parametrize("plant", PLANTS)
def test_no_code_runs_from_a_file(tmp_path: Path, plant: Plant) -> None:
    folder, target = tmp_path / "run", tmp_path / "ran"
    run(folder, state_at(1), state_at(2))
    newest = folder / "step_00000002.pt"
    replace(folder, newest.name, plant, target)
    with pytest.raises(DataError, match="step_00000002.pt' must be a whole checkpoint"):
        load_checkpoint(newest)
    assert load_checkpoint(folder)["stats"]["step"] == 1
    found = find_state(folder)
    assert found is not None and found[1].name == "step_00000001.pt"
    assert not target.exists()


@pytest.mark.parametrize("plant", PLANTS)
def test_no_code_runs_where_the_manifest_is_lost(tmp_path: Path, plant: Plant) -> None:
    folder, target = tmp_path / "run", tmp_path / "ran"
    run(folder, state_at(1), state_at(2))
    replace(folder, "step_00000002.pt", plant, target)
    (folder / "manifest.json").unlink()
    assert load_checkpoint(folder)["stats"]["step"] == 1
    run(folder, state_at(1))
    assert not target.exists()


@pytest.mark.parametrize("plant", PLANTS)
def test_no_code_runs_from_the_best(tmp_path: Path, plant: Plant) -> None:
    folder, target = tmp_path / "run", tmp_path / "ran"
    net, data = nn.Linear(2, 1), (torch.randn(8, 2), torch.randn(8, 1))
    est = Estimator(net, nn.MSELoss())
    saver = CheckpointHandler(folder, monitor="val_loss")
    est.fit(data, data, epochs=1, device="cpu", handlers=saver, progress=False)
    best = best_checkpoint(folder)
    replace(folder, best.name, plant, target)
    before = copy.deepcopy(net.state_dict())
    for read in (load_checkpoint, est.load_weights):
        with pytest.raises(DataError, match=best.name):
            read(best_checkpoint(folder))
    assert not target.exists()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_the_reason_does_not_tell_how_to_run_the_code(tmp_path: Path) -> None:
    path = tmp_path / "evil.pt"
    archive(path, {"x": Planted(tmp_path / "ran")})
    with pytest.raises(DataError, match="could run code, which are never loaded") as caught:
        load_checkpoint(path)
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("plant", [archive, old_archive, raw])
def test_the_planted_files_do_run_where_they_are_let(tmp_path: Path, plant: Plant) -> None:
    path, target = tmp_path / "evil.pt", tmp_path / "ran"
    plant(path, {"x": Planted(target)})
    if plant is raw:
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert files(tmp_path) == ["evil.pt", "ran"]

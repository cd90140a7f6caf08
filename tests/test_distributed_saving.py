"""Checkpoints of several processes: one file, which any number of them goes on from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import distributed_saving as saving
import pytest
import torch
from distributed_jobs import difference, ended, fit, new_net, results, torchrun
from torch import nn

from estimator import Estimator
from estimator.handlers import best_checkpoint

CLOSE = 1e-10
KILLED = ("--max-restarts", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes have found, by job and rank; `one` inside is of this process alone."""
    folder = tmp_path_factory.mktemp("two")
    straight = saving.replicated(folder / "one")
    torch.save(straight, folder / "one" / "found.pt")
    jobs = ("replicated", "dropped", "split", "from_one")
    ended(torchrun("distributed_saving.py", folder, *jobs))
    return folder


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / "one" / "found.pt", weights_only=False)
    return found["straight"]  # type: ignore[no-any-return]  # as it was saved


@pytest.mark.parametrize("job", ["replicated", "dropped", "split"])
def test_a_run_that_goes_on_equals_one_that_never_stopped(folder: Path, job: str) -> None:
    first, last = results(folder, job)
    assert difference(first["straight"], first["resumed"]) <= (1e-14 if job == "replicated" else 0)
    assert difference(first["resumed"]["weights"], last["resumed"]["weights"]) == 0.0
    assert first["straight"]["worst"].keys() == {
        "worst_samples_train_e3.txt", "worst_samples_validation_e3.txt",
    }  # fmt: skip


@pytest.mark.parametrize("job", ["replicated", "split"])
def test_two_processes_save_what_one_would(folder: Path, alone: dict[str, Any], job: str) -> None:
    first, _ = results(folder, job)
    assert difference(alone, first["straight"]) < CLOSE
    one, two = (best_checkpoint(folder / part / "straight" / "saved") for part in
                ("one/replicated", job))  # fmt: skip
    assert one is not None and two is not None and one.name == two.name
    states = [torch.load(path, weights_only=True) for path in (one, two)]
    for key in ("net", "validated", "trainers"):
        assert difference(states[0][key], states[1][key]) < CLOSE
    assert [len(states[1][key]) for key in ("random", "metrics", "meter")] == [2, 2, 2]
    assert states[0]["config"] == states[1]["config"]


def test_two_processes_go_on_with_the_file_of_one(folder: Path, alone: dict[str, Any]) -> None:
    first, last = results(folder, "from_one")
    assert difference(alone, first["resumed"]) < CLOSE
    assert difference(first["resumed"]["weights"], last["resumed"]["weights"]) == 0.0


@pytest.mark.parametrize("job", ["replicated", "split"])
def test_one_process_goes_on_with_the_file_of_two(
    folder: Path, alone: dict[str, Any], job: str
) -> None:
    target = folder / f"{job} by one"
    shutil.copytree(folder / job / "stopped", target)
    with pytest.warns(UserWarning, match=r"in 1 process\(es\) with what 2 saved"):
        stats = saving.train(target, resume=True, accumulate=3)
    assert difference(alone, saving.found(stats, target) | {"worst": alone["worst"]}) < CLOSE


def test_a_net_that_was_split_is_saved_whole_and_used_again(folder: Path) -> None:
    first, last = results(folder, "split")
    after = ("again", "evaluated", "predicted")
    assert difference([first[n] for n in after], [last[n] for n in after]) == 0.0
    assert first["predicted"].shape == (97, 3)
    est = Estimator(new_net(), nn.CrossEntropyLoss(), ["accuracy"])
    fit(est, epochs=1)
    saved = torch.load(folder / "split.pt", weights_only=True)
    assert difference(dict(est.net.state_dict()), dict(saved)) < CLOSE


def test_a_killed_process_is_started_again_and_nothing_is_lost(
    folder: Path, tmp_path: Path
) -> None:
    ended(torchrun("distributed_saving.py", tmp_path, "killed", options=KILLED))
    straight, _ = results(folder, "dropped")
    assert (tmp_path / "died").exists()
    for found in results(tmp_path, "killed"):
        # What is read from files is known to the first process.
        files = {name: straight["straight"][name] for name in ("worst", "gradients")}
        kept = found["resumed"] if found["resumed"]["worst"] else found["resumed"] | files
        assert difference(straight["straight"], kept) == 0.0

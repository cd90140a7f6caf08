"""Two processes train, measure and decide as one does."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import distributed_training as training
import pytest
from distributed_jobs import difference, ended, processes_of, results, torchrun

CLOSE = 1e-10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes have found, by job and rank."""
    folder = tmp_path_factory.mktemp("two")
    ended(torchrun("distributed_training.py", folder))
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What this process alone finds, by job."""
    folder = tmp_path_factory.mktemp("one")
    return {name: job(folder) for name, job in training.JOBS.items()}


def test_weights_values_and_predictions_are_those_of_one_process(
    folder: Path, one: dict[str, Any]
) -> None:
    for name in ("matrix", "losses", "metrics"):
        first, last = results(folder, name)
        assert difference(first, last) == 0.0
        apart = {case: difference(one[name][case], first[case]) for case in one[name]}
        assert apart and max(apart.values()) < CLOSE, apart


def test_each_sample_is_met_once(folder: Path, one: dict[str, Any]) -> None:
    first, last = results(folder, "loaders")
    for form, alone in one["loaders"].items():
        for split in ("train", "val"):
            mine = zip(first[form][split], last[form][split], strict=True)
            met = [sorted(a + b) for a, b in mine]
            assert met == [sorted(epoch) for epoch in alone[split]]
            samples = 33 if split == "val" else 96 if form == "dropped" else 97
            assert met == [sorted({*epoch}) for epoch in met] and len(met[0]) == samples


def test_every_form_of_data_trains_as_in_one_process(folder: Path, one: dict[str, Any]) -> None:
    first, last = results(folder, "loaders")
    for form, alone in one["loaders"].items():
        sizes = [found[form]["sizes"] for found in (first, last, one["loaders"])]
        shares = [(a[0] + b[0], a[1] + b[1]) for a, b in zip(*sizes[:2], strict=True)]
        assert shares == sizes[2]
        assert sizes[1][-1] == ((8, 8) if form == "dropped" else (0, 0))
        shared = set(alone) - {"train", "val", "sizes"}
        alike = [
            {name: found[name] for name in sorted(shared)}
            for found in (alone, first[form], last[form])
        ]
        # The loader's own shuffling is not known to others.
        assert difference(*alike[:2]) < CLOSE or form == "random"
        assert difference(*alike[1:]) == 0.0


def test_one_process_may_ask_and_all_stop_alike(folder: Path, one: dict[str, Any]) -> None:
    first, last = results(folder, "decisions")
    assert difference(first, last) == 0.0
    for case, alone in one["decisions"].items():
        assert first[case]["counts"] == alone["counts"], case
        assert first[case]["stopped"] == alone["stopped"] and alone["stopped"], case
        assert difference(alone, first[case]) < CLOSE, case
    assert first["early"]["counts"][0] < 30
    assert {first[f"a signal{where}"]["stopped"] for where in ("", " in a validation")} == {
        "interrupted by SIGTERM"
    }


def test_the_worst_samples_are_those_of_one_process(folder: Path, one: dict[str, Any]) -> None:
    first, last = results(folder, "worst")
    assert first == one["worst"] and len(first) == 12 and last == {}


def test_nets_of_any_make_stay_one_net(folder: Path, one: dict[str, Any]) -> None:
    first, last = results(folder, "nets")
    assert difference(first, last) == 0.0
    for case in ("method", "loss"):
        assert difference(one["nets"][case], first[case]) < CLOSE
    assert first["statistics"]["statistics.num_batches_tracked"] == 18


def test_streams_differ_and_clocks_agree(folder: Path) -> None:
    first, last = results(folder, "own")
    assert first["drawn"] != last["drawn"]
    assert first["due"] == last["due"] and len(first["due"]) > 1
    assert first["times"] == last["times"] and first["suggestion"] == last["suggestion"]


def test_files_come_from_the_first_process(folder: Path) -> None:
    assert (folder / "0" / "weights.pt").exists() and not (folder / "1" / "weights.pt").exists()
    with open(folder / "history0.csv", encoding="utf-8") as table:
        assert [row["epoch"] for row in csv.DictReader(table)] == ["1", "2", "3"]
    assert not (folder / "history1.csv").exists()


def test_an_error_of_one_is_raised_by_all(folder: Path) -> None:
    first, last = results(folder, "errors")
    assert first == last
    expected = {
        "list": "DataError: .*must be arrays, a Dataset",
        "metric": "ArgumentError: metrics: 'largest' .* method merge",
        "folder": r"FolderError: CheckpointHandler\(folder=...\)",
        "resume": r"DataError: fit\(resume=",
        "disk": "FolderError: the disk is full",
        "predict": "DataError: outputs of several processes",
        "several": "UserWarning: .* also over processes",
    }
    for name, message in expected.items():
        with pytest.raises(AssertionError, match=message):
            raise AssertionError(first[name])
    assert first.keys() == expected.keys()


def test_a_failing_process_ends_the_others(tmp_path: Path) -> None:
    first, last = processes_of("distributed_failing.py", tmp_path)
    assert "ArithmeticError: this process cannot go on" in ended(last, code=1)
    assert "Connection closed by peer" in ended(first, code=1)
    with open(tmp_path / "history.csv", encoding="utf-8") as table:
        complete = [row["complete"] for row in csv.DictReader(table)]
    assert complete == ["True", "False"]

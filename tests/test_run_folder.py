"""`fit(run=...)`: the folder of a run, what is in it, and how a run is told from a killed one."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR

from estimator import ArgumentError, Estimator, FolderError, RunFolder, Trainer, TrainStats
from estimator.handlers import CheckpointHandler, EventHandler, LRRecorderHandler
from estimator.handlers.base import ArgumentTypeError

X = torch.arange(24.0).reshape(12, 2) / 24
Y = (X[:, 0] > 0.5).long()


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def make() -> Estimator:
    torch.manual_seed(0)
    return Estimator(nn.Linear(2, 2), nn.CrossEntropyLoss(), ["accuracy"])


def fit(est: Estimator | None = None, **options: Any) -> TrainStats:
    est = make() if est is None else est
    settings: dict[str, Any] = {"epochs": 2, "trainers": Trainer("sgd", lr=0.1), "batch_size": 4}
    settings |= {"device": "cpu", "progress": False}
    return est.fit((X, Y), (X, Y), **(settings | options))


def record(folder: Path | str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(folder, "run.json").read_text("utf-8"))
    return found


def test_a_run_keeps_what_explains_it() -> None:
    stats = fit(run="mnist", seed=3)
    folder = Path("runs/mnist_r0").absolute()
    assert stats.run_dir == folder
    assert sorted(os.listdir(folder)) == [
        "best_history.json", "best_history.txt", "checkpoints", "history.csv", "history.json",
        "lr_recorder", "run.json", "tensorboard", "trainer.txt",
    ]  # fmt: skip
    history = json.loads((folder / "history.json").read_text("utf-8"))
    assert history["val_loss"] == stats["val_loss"]
    with open(folder / "history.csv", encoding="utf-8", newline="") as file:
        assert [float(row["train_loss"]) for row in csv.DictReader(file)] == stats["train_loss"]
    assert "Training completed | 2 epochs, 6 iterations" in (folder / "trainer.txt").read_text()
    assert (folder / "lr_recorder/lr.csv").read_text().split()[1:] == ["1,3,0.1", "2,6,0.1"]
    assert (folder / "checkpoints/manifest.json").is_file()


def test_the_record_names_arguments_versions_machine_and_outcome() -> None:
    fit(run="mnist", seed=3, handlers=[Watcher()])
    found = record("runs/mnist_r0")
    assert found["outcome"] == "completed" and found["reason"] is None
    assert (found["epoch"], found["step"], found["missing"]) == (2, 6, {})
    arguments = found["arguments"]
    assert arguments["seed"] == "3" and arguments["net"] == "Linear"
    assert arguments["trainers['trainer']"] == "Trainer(SGD, lr=0.1)"
    assert arguments["train"] == "DataLoader, 3 batches, 12 samples"
    assert arguments["handlers"] == "MetricHandler()\nWatcher()"
    assert arguments["parameters"] == "6"
    assert found["versions"]["torch"] == torch.__version__
    assert found["machine"]["pid"] == os.getpid() and found["machine"]["device"] == "cpu"
    assert found["command"] and found["started"] <= found["ended"]
    assert found["monitors"]["val_accuracy"] is True and found["monitors"]["val_loss"] is False


class Watcher(EventHandler):
    """Notes what the record says while the run goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, int]] = []

    def epoch_begin(self, stats: TrainStats) -> None:
        assert stats.run_dir is not None
        found = record(stats.run_dir)
        self.seen.append((found["outcome"], found["epoch"]))


def test_schedules_are_told_as_they_are_written() -> None:
    fit(run="mnist", trainers=Trainer("sgd", lr=0.1, scheduler=partial(StepLR, step_size=2)))
    told = record("runs/mnist_r0")["arguments"]["trainers['trainer']"]
    assert told == "Trainer(SGD, lr=0.1, scheduler=partial(StepLR, step_size=2))"


def test_a_run_that_goes_on_says_so() -> None:
    watcher = Watcher()
    fit(run="mnist", handlers=watcher)
    assert watcher.seen == [("running", 0), ("running", 1)]


def test_nothing_is_overwritten() -> None:
    paths = [fit(run="mnist").run_dir for _ in range(2)]
    Path("runs/mnist_r7").mkdir()
    Path("runs/mnist_rx").mkdir()
    paths.append(fit(run=RunFolder("mnist")).run_dir)
    paths.append(fit(run=RunFolder("mnist", root="elsewhere")).run_dir)
    here = Path.cwd()
    expected = ["runs/mnist_r0", "runs/mnist_r1", "runs/mnist_r8", "elsewhere/mnist_r0"]
    assert paths == [here / path for path in expected]


def claim(folder: RunFolder, gate: Any, found: Any) -> None:
    gate.wait(60)
    found.put(str(folder.claim(goes_on=False)))


def test_processes_that_start_at_once_get_a_number_each() -> None:
    context = multiprocessing.get_context("fork")
    gate, found = context.Barrier(4), context.Queue()
    starting = [
        context.Process(target=claim, args=(RunFolder("mnist"), gate, found)) for _ in range(4)
    ]
    for process in starting:
        process.start()
    paths = {found.get(timeout=60) for _ in starting}
    for process in starting:
        process.join(60)
    assert paths == {str(Path.cwd() / f"runs/mnist_r{number}") for number in range(4)}


def test_a_path_is_taken_as_it_is_and_must_be_empty() -> None:
    assert fit(run="here/there").run_dir == Path.cwd() / "here/there"
    with pytest.raises(ArgumentError, match="must be a folder that is new or empty"):
        fit(run="here/there")
    Path("full").mkdir()
    Path("full/mine.txt").write_text("mine")
    with pytest.raises(ArgumentError, match=r"or a name such as \"full\""):
        fit(run=Path("./full").absolute())
    assert os.listdir("full") == ["mine.txt"]


@pytest.mark.parametrize("name", ["", ".", "a?b", "a\nb", "a ", "x" + chr(0)])
def test_names_that_files_cannot_have_are_refused(name: str) -> None:
    with pytest.raises(ArgumentError, match=r"fit\(run=...\) must be a name"):
        fit(run=name)


def test_other_objects_are_refused() -> None:
    with pytest.raises(ArgumentTypeError, match=r"must be a name, the path .* received 3"):
        fit(run=3)


def test_a_folder_that_cannot_be_made_is_told() -> None:
    Path("file").write_text("")
    with pytest.raises(FolderError, match="must name a folder that can be made"):
        fit(run=RunFolder("mnist", root="file"))


def test_a_run_that_never_began_leaves_no_folder() -> None:
    with pytest.raises(ArgumentError, match="epochs"):
        fit(run="mnist", epochs=-1)
    assert os.listdir("runs") == []
    assert fit(run="mnist").run_dir == Path.cwd() / "runs/mnist_r0"


def test_a_run_goes_on_in_its_folder_as_if_it_had_never_stopped() -> None:
    whole, cut = make(), make()
    fit(whole, epochs=4, seed=1)
    fit(cut, run="mnist", seed=1, epochs=2)
    again = make()
    stats = fit(again, epochs=4, seed=1, resume="runs/mnist_r0")
    assert all(map(torch.equal, again.net.parameters(), whole.net.parameters()))
    found = record("runs/mnist_r0")
    assert stats.run_dir == Path.cwd() / "runs/mnist_r0" and os.listdir("runs") == ["mnist_r0"]
    assert [(each["epoch"], each["step"]) for each in found["resumed"]] == [(2, 6)]
    assert (found["outcome"], found["epoch"]) == ("completed", 4)
    assert json.loads(Path("runs/mnist_r0/history.json").read_text())["epoch"] == [1, 2, 3, 4]


def test_resume_by_name_takes_the_newest_run_or_begins_one() -> None:
    assert fit(run="mnist", resume=True).epoch == 2
    fit(run="mnist")
    stats = fit(run="mnist", resume=True, epochs=3)
    assert stats.run_dir == Path.cwd() / "runs/mnist_r1" and stats["epoch"] == [1, 2, 3]
    assert fit(run="by/path", resume=True).epoch == 2
    assert fit(run="by/path", resume=True, epochs=3)["epoch"] == [1, 2, 3]


def test_a_run_killed_before_its_first_checkpoint_begins_afresh() -> None:
    Path("runs/mnist_r0").mkdir(parents=True)
    Path("runs/mnist_r0/run.json").write_text('{"outcome": "running", "started": "2026"}')
    assert fit(resume="runs/mnist_r0").epoch == 2
    assert record("runs/mnist_r0")["started"] == "2026"


def test_a_damaged_record_is_replaced_when_the_run_goes_on() -> None:
    fit(run="mnist")
    Path("runs/mnist_r0/run.json").write_text('{"outcome": "run')
    fit(resume="runs/mnist_r0", epochs=3)
    assert record("runs/mnist_r0")["epoch"] == 3


def test_weights_of_one_run_may_begin_another() -> None:
    fit(run="first")
    stats = fit(run="second", resume="runs/first_r0", epochs=3)
    assert stats.run_dir == Path.cwd() / "runs/second_r0" and stats["epoch"] == [1, 2, 3]


def test_handlers_of_the_users_own_replace_the_default_ones() -> None:
    fit(run="mnist", handlers=[CheckpointHandler("mine"), LRRecorderHandler()])
    assert not Path("runs/mnist_r0/checkpoints").exists()
    assert Path("mine/manifest.json").is_file()
    assert Path("runs/mnist_r0/lr_recorder/lr.csv").is_file()


def test_a_place_needs_a_run() -> None:
    with pytest.raises(ArgumentError, match=r"CheckpointHandler\(folder=None\) writes to the run"):
        fit(handlers=CheckpointHandler())
    with pytest.raises(ArgumentError, match=r"received one with folder=None, and no run"):
        fit(handlers=CheckpointHandler(), resume=True)


def test_without_matplotlib_there_is_no_picture_of_rates(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with caplog.at_level("INFO"):
        fit(run="mnist", progress=True)
    assert not Path("runs/mnist_r0/lr_recorder").exists()
    assert "The run folder gets no lr_recorder/ without matplotlib" in caplog.text


def test_training_with_a_run_folder_gives_the_same_weights() -> None:
    plain, recorded = make(), make()
    fit(plain, seed=5)
    fit(recorded, seed=5, run="mnist")
    assert all(map(torch.equal, plain.net.parameters(), recorded.net.parameters()))


def test_a_full_disk_does_not_end_a_training(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Fill(EventHandler):
        def epoch_begin(self, stats: TrainStats) -> None:
            if stats.epoch == 1:
                monkeypatch.setattr("estimator.run_record.write_whole", full_disk)

    def full_disk(path: Path, content: bytes) -> Path:
        raise OSError(28, "No space left on device")

    stats = fit(run="mnist", handlers=Fill())
    assert stats.epoch == 2 and stats.missing == {"run.json": "No space left on device"}
    assert "Could not write run.json: No space left on device" in caplog.text


def test_its_text_is_what_made_it() -> None:
    folder = RunFolder("mnist", root="results", sources=True)
    assert repr(folder) == "RunFolder('mnist', root='results', sources=True)"

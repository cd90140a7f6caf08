"""What `fit(resume=...)` takes, refuses and says."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR

from estimator import ArgumentError, ArgumentTypeError, DataError, Estimator, Trainer, TrainStats
from estimator.handlers import CheckpointHandler, EarlyStoppingHandler, EMAHandler, EventHandler

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
Y = X.sum(1, keepdim=True)
WHOLE = "epoch 2, iteration 6"


class Count(EventHandler):
    """Says how far a run was when it began, and how many batches it then had."""

    def __init__(self) -> None:
        super().__init__()
        self.began: list[int] = []
        self.batches = 0

    def train_begin(self, stats: TrainStats) -> None:
        self.began.append(stats.step)

    def batch_end(self, stats: TrainStats) -> None:
        self.batches += 1


def new_net(width: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, width), nn.Dropout(0.2), nn.Linear(width, 1))


def fit(folder: Path, *handlers: EventHandler, **arguments: Any) -> TrainStats:
    """Trains for two epochs of three batches, with a checkpoint at the end of each."""
    torch.manual_seed(4)
    est = arguments.pop("est", None) or Estimator(
        arguments.pop("net", None) or new_net(), arguments.pop("loss", nn.MSELoss())
    )
    saver = arguments.pop("saver", None) or [CheckpointHandler(folder)]
    defaults = {"epochs": 2, "trainers": "adam", "batch_size": 8}
    given: dict[str, Any] = defaults | {"val": (X, Y)} | arguments
    data = given.pop("data", (X, Y))
    stats: TrainStats = est.fit(
        data, device="cpu", handlers=[*handlers, *saver], progress=False, **given
    )
    return stats


def same(one: TrainStats, other: TrainStats) -> bool:
    ours, theirs = one.net.state_dict(), other.net.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("resume", [3, 2.5, ["runs"], b"runs", object()])
def test_of_a_wrong_kind(resume: Any, tmp_path: Path) -> None:
    with pytest.raises(ArgumentTypeError, match=r"fit\(resume=...\) must be True, or the path"):
        fit(tmp_path, resume=resume)


@pytest.mark.parametrize("path", ["never", "empty", "empty/step_1.pt"])
def test_a_path_without_a_checkpoint(path: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=f"(?s)resume=.*{path}.*there is none.*resume=True"):
        fit(tmp_path / "own", resume=tmp_path / path)


def test_a_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "notes.pt").write_text("hello")
    with pytest.raises(DataError, match="must be a whole checkpoint of plain values"):
        fit(tmp_path / "own", resume=tmp_path / "notes.pt")


@pytest.mark.parametrize("count", [0, 2])
def test_true_needs_one_checkpoint_handler(count: int, tmp_path: Path) -> None:
    savers: list[EventHandler] = [EventHandler()]
    savers = [CheckpointHandler(tmp_path / str(i)) for i in range(count)] or savers
    with pytest.raises(ArgumentError, match=f"takes the folder.*received {count} of them"):
        fit(tmp_path, resume=True, saver=savers)


@pytest.mark.parametrize("exists", [True, False])
def test_true_starts_afresh_in_an_empty_folder(
    exists: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "estimator")
    folder = tmp_path / "runs"
    if exists:
        folder.mkdir()
    stats = fit(folder, resume=True)
    told = [message for message in caplog.messages if "resum" in message.lower()]
    assert told == [f"Nothing to resume in {str(folder)!r}: starting afresh."]
    assert stats.step == 6 and same(stats, fit(tmp_path / "other"))


@pytest.mark.parametrize("form", ["folder", "text", "file", "true"])
def test_what_names_a_checkpoint(
    form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "estimator")
    fit(tmp_path, epochs=1)
    (file,) = tmp_path.glob("*.pt")
    names: dict[str, Any] = {"folder": tmp_path, "text": str(tmp_path), "file": file, "true": True}
    count = Count()
    stats = fit(tmp_path, count, resume=names[form])
    assert (count.began, count.batches, stats.step, stats["epoch"]) == ([3], 3, 6, [1, 2])
    told = [message for message in caplog.messages if message.startswith("Resuming")]
    assert told == [f"Resuming from {str(file)!r}: epoch 1, iteration 3."]


@pytest.mark.parametrize("resume", [None, False])
def test_a_fresh_start_beside_older_checkpoints(resume: Any, tmp_path: Path) -> None:
    count = Count()
    fit(tmp_path, epochs=1)
    assert fit(tmp_path, count, resume=resume).step == 6 and count.began == [0]


def test_a_finished_run_only_begins_and_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done = fit(tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    caplog.set_level(logging.INFO, "estimator")
    caplog.clear()
    count = Count()
    stats = fit(tmp_path, count, resume=True)
    assert (count.began, count.batches) == ([6], 0)
    assert same(stats, done) and stats["val_loss"] == done["val_loss"] and stats.val == done.val
    assert [m for m in caplog.messages if m.startswith("Nothing left to train")] == [
        f"Nothing left to train: {stats!r}."
    ]
    now = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert now == files


@pytest.mark.parametrize("longer", [{"epochs": 4}, {"epochs": None, "iterations": 11}])
def test_a_longer_target_goes_on(longer: dict[str, Any], tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", **longer)
    fit(tmp_path / "part", **({"epochs": 2} if longer["epochs"] else longer | {"iterations": 5}))
    stats = fit(tmp_path / "part", resume=True, **longer)
    assert same(stats, whole) and stats["train_loss"] == whole["train_loss"]
    assert stats["complete"] == whole["complete"] and stats["step"] == whole["step"]


def test_the_same_estimator_goes_on(tmp_path: Path) -> None:
    fit(tmp_path, epochs=1)
    est = Estimator(new_net(), nn.MSELoss())
    fit(tmp_path / "else", est=est, epochs=1)
    assert same(fit(tmp_path, est=est, resume=tmp_path), fit(tmp_path / "whole"))


def test_a_damaged_checkpoint_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = fit(tmp_path, epochs=2)
    newest = sorted(tmp_path.glob("*.pt"))[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    assert same(fit(tmp_path, resume=True), whole)
    assert f"Fell back to step_00000003.pt of {tmp_path}" in caplog.text


@pytest.mark.parametrize(
    ("handlers", "unknown", "missing"),
    [
        ([], r"\['EMAHandler'\]", "none"),
        ([EMAHandler(), EarlyStoppingHandler("val_loss")], "none", r"\['EarlyStoppingHandler'\]"),
        ([EarlyStoppingHandler("val_loss")], r"\['EMAH.*", r"\['EarlyStoppingHandler'\]"),
    ],
)
def test_other_handlers_are_listed(
    handlers: list[EventHandler], unknown: str, missing: str, tmp_path: Path
) -> None:
    fit(tmp_path, EMAHandler(), epochs=1)
    message = rf"fit\(handlers=...\).*also has {unknown}, and lacks {missing}.*load_weights"
    with pytest.raises(DataError, match=message):
        fit(tmp_path, *handlers, resume=True)


def test_handlers_without_a_state_may_come_and_go(tmp_path: Path) -> None:
    fit(tmp_path, EventHandler(), epochs=1)
    assert fit(tmp_path, Count(), resume=True).epoch == 2


def test_other_trainers_are_listed(tmp_path: Path) -> None:
    def named(*names: str) -> dict[str, Trainer]:
        parts = dict(zip(names, ("0", "2"), strict=True))
        return {name: Trainer("sgd", lr=0.1, params=part) for name, part in parts.items()}

    fit(tmp_path, epochs=1, trainers=named("body", "head"))
    message = r"fit\(trainers=...\).*also has \['head'\], and lacks \['tail'\]"
    with pytest.raises(DataError, match=message):
        fit(tmp_path, trainers=named("body", "tail"), resume=True)


@pytest.mark.parametrize(
    "other",
    [
        {"net": new_net(5)},
        {"net": nn.Linear(3, 1)},
        {"trainers": Trainer("adam", params="0")},
        {"trainers": Trainer("adam", scheduler=lambda o: StepLR(o, 1))},
    ],
)
@pytest.mark.filterwarnings("ignore:fit.trainers=", "ignore:fit.resume=")
def test_another_net_or_optimizer(other: dict[str, Any], tmp_path: Path) -> None:
    fit(tmp_path, epochs=1)
    with pytest.raises(DataError, match="the net and the trainers of the run that it goes on with"):
        fit(tmp_path, resume=True, **other)


@pytest.mark.parametrize(
    "other", [{"batch_size": 5}, {"batch_size": 7}, {"data": (X[:19], Y[:19])}]
)
def test_data_of_another_size(other: dict[str, Any], tmp_path: Path) -> None:
    fit(tmp_path, epochs=1)
    message = r"fit\(train=...\) must be of the size.*'batch_size': 8}; received .*Resume with"
    with pytest.raises(DataError, match=message):
        fit(tmp_path, resume=True, **other)


@pytest.mark.parametrize("had", [True, False])
def test_validation_is_there_or_not(had: bool, tmp_path: Path) -> None:
    with_val, without = {"val": (X, Y)}, {"val": None}
    fit(tmp_path, epochs=1, **(with_val if had else without))
    received = "none" if had else "some"
    with pytest.raises(DataError, match=rf"fit\(val=...\) must be given on resume.*{received}"):
        fit(tmp_path, resume=True, **(without if had else with_val))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"accumulate": 2}, "accumulate: 1 became 2"),
        ({"loss": nn.L1Loss()}, r"loss: MSELoss\(\) became L1Loss\(\)"),
        ({"trainers": Trainer("adam", lr=0.5)}, r"trainers\['trainer'\]: .* became .*lr=0.5"),
        ({"seed": 5}, "seed: None became 5"),
        ({"precision": "bf16"}, "precision: None became bf16"),
    ],
)
def test_changed_settings_are_named(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    fit(tmp_path, epochs=1)
    with pytest.warns(UserWarning, match=f"goes on with other settings.*{said}"):
        assert fit(tmp_path, resume=True, **changes).epoch == 2


def test_functions_are_the_same_settings_in_every_process(tmp_path: Path) -> None:
    def make(weight: float) -> Any:
        return lambda outputs, targets: weight * (outputs - targets).square().mean()

    whole = fit(tmp_path / "whole", loss=make(1.0))
    fit(tmp_path / "part", loss=make(1.0), epochs=1)
    assert same(fit(tmp_path / "part", loss=make(1.0), resume=True), whole)


def test_a_state_that_a_handler_refuses(tmp_path: Path) -> None:
    class Kept(EventHandler):
        state_names = ("kept",)
        kept = 1

    first = Kept()
    fit(tmp_path, first, epochs=1)
    Kept.state_names = ("other",)
    Kept.other = 2  # type: ignore[attr-defined]  # another version of the class
    with pytest.raises(ArgumentError, match=r"unknown: \['kept'\], missing: \['other'\]"):
        fit(tmp_path, Kept(), resume=True)

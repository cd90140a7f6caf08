"""What a checkpoint holds, and weights on disk: written whole, read without running code."""

from __future__ import annotations

import copy
import os
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR

from estimator import Estimator, Trainer, TrainStats
from estimator.handlers import CheckpointHandler, EMAHandler, EventHandler, best_checkpoint
from estimator.handlers.base import DataError, EstimatorError, FolderError
from estimator.snapshot import VERSION

X = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
Y = X[:, :2].clone()


def new_net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


class Keeper(EventHandler):
    """Takes a snapshot at the end of every epoch."""

    state_names = ("taken",)

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.taken = folder, 0

    def epoch_end(self, stats: TrainStats) -> None:
        self.taken += 1
        torch.save(stats.snapshot(), self.folder / f"{stats.epoch}.pt")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_snapshot_makes_a_round_trip_as_plain_values(tmp_path: Path, precision: Any) -> None:
    net = new_net()
    est = Estimator(net, nn.MSELoss(), ["mae"])
    trainer = Trainer("adam", lr=0.1, scheduler=partial(StepLR, step_size=1, gamma=0.5))
    stats = est.fit(
        (X, Y), (X, Y), 2, {"all": trainer}, "cpu", batch_size=8, handlers=Keeper(tmp_path),
        precision=precision, progress=False,
    )  # fmt: skip
    state = torch.load(tmp_path / "2.pt", weights_only=True)
    assert state["version"] == VERSION
    assert all(torch.equal(value, state["net"][key]) for key, value in net.state_dict().items())
    bound = trainer.bind("all", new_net())
    bound.load_state_dict(state["trainers"]["all"])
    trained = stats.trainers["all"].optimizer.param_groups[0]["lr"]
    assert bound.optimizer.param_groups[0]["lr"] == trained
    # fp16 leaves out steps that overflow, and a schedule waits for the first step.
    assert bound.lrs == stats.trainers["all"].lrs and (bound.lrs == [0.05] or precision == "fp16")
    assert trained == 0.025 or precision == "fp16"
    theirs = stats.trainers["all"].optimizer.state_dict()["state"]
    for index, value in bound.optimizer.state_dict()["state"].items():
        assert torch.equal(value["exp_avg"], theirs[index]["exp_avg"])
    saved = state["stats"]
    assert (saved["epoch"], saved["step"], saved["samples"]) == (2, stats.step, 32)
    assert saved["history"] == stats.history.state_dict() and 0 < saved["elapsed"] < stats.elapsed
    assert (state["scaler"] is None) is (precision == "fp32")
    assert {"taken": 2} in state["handlers"].values()
    first = torch.load(tmp_path / "1.pt", weights_only=True)
    assert first["stats"]["epoch"] == 1 and first["trainers"]["all"]["scheduler"]["last_epoch"] == 1


def test_best_values_are_in_it(tmp_path: Path) -> None:
    plateau = partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=1)
    stats = Estimator(new_net(), nn.MSELoss()).fit(
        (X, Y), (X, Y), 1, Trainer("sgd", scheduler=plateau), "cpu", handlers=Keeper(tmp_path),
        progress=False,
    )  # fmt: skip
    saved = torch.load(tmp_path / "1.pt", weights_only=True)["stats"]["best"]
    assert saved == {"val_loss": [stats["val_loss"][0], 1, 1]}


def test_there_is_none_inside_a_validation() -> None:
    class Eager(EventHandler):
        def validation_batch_end(self, stats: TrainStats) -> None:
            stats.snapshot()

    est = Estimator(new_net(), nn.MSELoss())
    with pytest.raises(EstimatorError, match="needs a moment from which a run can go on"):
        est.fit((X, Y), (X, Y), 1, "sgd", "cpu", handlers=Eager(), progress=False)


def test_there_is_none_outside_a_run() -> None:
    est = Estimator(new_net(), nn.MSELoss())
    stats = est.fit((X, Y), None, 1, "sgd", "cpu", progress=False)
    with pytest.raises(EstimatorError, match="describes a run that is going on"):
        stats.snapshot()


def test_saved_weights_are_loaded(tmp_path: Path) -> None:
    net, other = new_net(), new_net()
    path = tmp_path / "new" / "net.pt"
    Estimator(net).save(path)
    Estimator(other).load_weights(str(path))
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in other.state_dict().items())
    assert os.listdir(path.parent) == ["net.pt"]
    nn.init.zeros_(net.get_parameter("0.weight"))
    Estimator(net).save(path)
    Estimator(other).load_weights(path)
    assert other.get_parameter("0.weight").count_nonzero() == 0


def test_a_checkpoint_gives_its_weights(tmp_path: Path) -> None:
    net, other = new_net(), new_net()
    est = Estimator(net, nn.MSELoss())
    est.fit(
        (X, Y), None, 1, "sgd", "cpu", handlers=CheckpointHandler(tmp_path), progress=False
    )  # fmt: skip
    (file,) = tmp_path.glob("*.pt")
    Estimator(other).load_weights(file)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in other.state_dict().items())


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("exploded",)


def garbage(kind: str, path: Path) -> None:
    if kind == "text":
        path.write_text("hello, these are no weights\n")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut":
        torch.save(new_net().state_dict(), path)
        path.write_bytes(path.read_bytes()[:300])
    elif kind == "code":
        path.write_bytes(pickle.dumps(Bomb()))
    elif kind == "code in a zip":
        torch.save({"net": Bomb()}, path)
    elif kind == "net":
        torch.save(new_net(), path)
    elif kind == "number":
        torch.save(3, path)
    elif kind == "bytes":
        path.write_bytes(bytes(range(256)) * 4)
    elif kind == "zip":
        path.write_bytes(b"PK\x05\x06" + b"\0" * 18)


KINDS = ["text", "empty", "cut", "code", "code in a zip", "net", "number", "bytes", "zip"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_holds_no_weights(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path, net = tmp_path / "wrong.pt", new_net()
    garbage(kind, path)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(DataError, match=r"load_weights\(path=...\) must .*wrong\.pt"):
        Estimator(net).load_weights(path)
    assert not (tmp_path / "exploded").exists()
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_weights_of_another_net_leave_the_net_alone(tmp_path: Path) -> None:
    path, net = tmp_path / "other.pt", new_net()
    before = copy.deepcopy(net.state_dict())
    # Its first layer fits, and would be loaded before the last one fails.
    Estimator(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 7))).save(path)
    with pytest.raises(DataError, match="(?s)hold the weights of a Sequential.*size mismatch"):
        Estimator(net).load_weights(path)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Estimator(new_net()).load_weights(tmp_path / "nothing.pt")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match=r"Estimator.save\(path=...\)"):
        Estimator(new_net()).save(tmp_path / "file" / "net.pt")


def test_a_save_that_fails_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.pt"
    est = Estimator(new_net())
    est.save(path)
    old = path.read_bytes()

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        est.save(path)
    assert path.read_bytes() == old and os.listdir(tmp_path) == ["net.pt"]


def test_a_checkpoint_gives_the_weights_that_were_validated(tmp_path: Path) -> None:
    x, y = torch.randn(32, 3), torch.randn(32, 1)
    est = Estimator(nn.Linear(3, 1), nn.MSELoss())
    saver = CheckpointHandler(tmp_path, monitor="val_loss")
    stats = est.fit(
        (x, y), val=(x, y), epochs=3, trainers=Trainer("sgd", lr=0.1), device="cpu",
        handlers=[EMAHandler(decay=0.9), saver], progress=False,
    )  # fmt: skip
    raw = est.evaluate((x, y))["loss"]
    est.load_weights(best_checkpoint(tmp_path))
    assert est.evaluate((x, y))["loss"] == pytest.approx(stats.best["val_loss"].value, rel=1e-6)
    assert raw != pytest.approx(stats.best["val_loss"].value, rel=1e-3)

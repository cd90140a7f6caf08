"""Runs whose data is kept on the device, or streamed to it, are those of data on the host."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_streams import pretend, same
from resume_runs import Case, differences, train
from torch import nn
from torch.utils.data import Dataset

from estimator import Estimator, residence
from estimator.engine.options import Engine, EngineError
from estimator.handlers import EventHandler
from estimator.stats import TrainStats

X = torch.arange(22, dtype=torch.uint8).view(11, 2)
ARRAYS = (X, torch.arange(11.0).view(11, 1))


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)


class Whole(Exception):
    pass


class Looks(EventHandler):
    """Keeps an eye on the copies, and may break the run."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.fails = fails
        self.order: list[int] = []
        self.dtypes: set[torch.dtype] = set()

    def batch_begin(self, stats: TrainStats) -> None:
        assert isinstance(stats.inputs, torch.Tensor)
        self.dtypes.add(stats.inputs.dtype)
        stats.inputs = stats.inputs.float()

    def batch_end(self, stats: TrainStats) -> None:
        self.order += stats.targets.flatten().long().tolist()
        if self.fails:
            raise Whole


class Bytes(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.float())


def trained(train: Any, engine: Engine, **settings: Any) -> tuple[Looks, Estimator]:
    torch.manual_seed(4)
    est, seen = Estimator(Bytes(2, 1), nn.MSELoss()), Looks(settings.pop("fails", False))
    est.fit(
        train, trainers="sgd", epochs=2, device="cpu", handlers=seen, progress=False, batch_size=4,
        engine=engine, seed=3, **settings,
    )  # fmt: skip
    return seen, est


HELD: list[Any] = []
"""All that copies are kept in, as a traceback or a user's variable would hold on to it."""


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[torch.Tensor]]:
    """References to all copies that were made."""
    found: list[weakref.ref[torch.Tensor]] = []
    begin = residence._Copy.__init__

    def noted(copy: Any, *args: Any) -> None:
        begin(copy, *args)
        found.append(weakref.ref(copy.there))

    home = residence.Residence.__init__

    def held(self: Any, *args: Any) -> None:
        home(self, *args)
        HELD.append(self)

    monkeypatch.setattr(residence._Copy, "__init__", noted)
    monkeypatch.setattr(residence.Residence, "__init__", held)
    HELD.clear()
    return found


def alive(copies: list[weakref.ref[torch.Tensor]]) -> int:
    gc.collect()
    return sum(copy() is not None for copy in copies)


def test_a_run_is_that_of_data_on_the_host(copies: list[Any], caplog: Any) -> None:
    with caplog.at_level("INFO", "estimator"):
        device, of_device = trained(ARRAYS, Engine("eager"), val=ARRAYS)
    assert len(copies) == 2  # of both, which are the same
    assert "fit(train=...): batches are gathered from the arrays; 0.1 kB kept on cpu." in (
        caplog.messages
    )
    assert alive(copies) == 0
    host, of_host = trained(ARRAYS, Engine("eager", data="host"), val=ARRAYS)
    assert len(copies) == 2
    assert host.order == device.order and device.dtypes == {torch.uint8}
    assert same(of_host.net.state_dict(), of_device.net.state_dict())
    assert of_host.train_stats is not None and of_device.train_stats is not None
    assert of_host.train_stats.val == of_device.train_stats.val


def test_the_replayed_step_takes_such_batches(copies: list[Any]) -> None:
    plain, _ = trained(ARRAYS, Engine("eager", data="host"))
    seen, est = trained(ARRAYS, Engine("auto"))
    assert seen.order == plain.order and len(copies) == 2


def test_copies_are_let_go_after_an_error(copies: list[Any]) -> None:
    with pytest.raises(Whole):
        trained(ARRAYS, Engine("eager"), fails=True)
    assert (len(copies), alive(copies)) == (2, 0)


def test_copies_are_let_go_where_a_run_cannot_begin(copies: list[Any]) -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2") as caught:
        trained((X[:, :1], ARRAYS[1]), Engine("eager"))
    assert len(copies) == 2
    homes = [
        frame.frame.f_locals["residence"]
        for frame in caught.traceback
        if "residence" in frame.frame.f_locals
    ]
    assert homes and all(not home._copies for home in homes)


def test_evaluation_streams_what_it_goes_through_once(copies: list[Any]) -> None:
    _, est = trained(ARRAYS, Engine("eager", data="host"))
    assert set(est.evaluate(ARRAYS)) == {"loss"}
    assert len(est.predict((X,))) == 11 and copies == []


class Squares(Dataset[Any]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        return torch.tensor([index, index]), torch.tensor([float(index)])


@pytest.mark.parametrize("train", [ARRAYS, Squares()])
def test_errors_are_raised_where_they_are_wanted(
    train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residence, "free_memory", lambda device: 1)
    for engine in (Engine("eager", on_fallback="error"), Engine("eager", data="device")):
        trained(train, engine)
    with pytest.raises(EngineError, match=r"E115.*fit\(train=...\) is not kept on cpu"):
        trained(train, Engine("eager", data="device", on_fallback="error"))


@pytest.mark.parametrize("where", ["device", "host"])
@pytest.mark.parametrize("feed", ["arrays", "global"])
def test_a_run_goes_on_as_one_on_the_host(
    feed: str, where: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residence, "is_accelerator", lambda device: False)
    whole = train(Case("accumulate", feed, "never"), tmp_path / "whole")
    # The first part is trained with data on the device, or streamed to it.
    monkeypatch.setattr(residence, "is_accelerator", lambda device: True)
    if where == "host":
        monkeypatch.setattr(residence, "free_memory", lambda device: 0)
    cut = train(Case("accumulate", feed, "mid-group"), tmp_path / "cut", stops=True)
    assert cut["counts"][1] < whole["counts"][1]
    rest = train(Case("accumulate", feed, "mid-group"), tmp_path / "cut", resume=True)
    assert differences(whole, rest) == []

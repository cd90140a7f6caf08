"""A profile of the run's own steps: which ones, and what is written of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from estimator import Estimator
from estimator.handlers import ProfilerHandler, on
from estimator.handlers.base import ArgumentError
from estimator.handlers.profiler import _section
from estimator.stats import TrainStats

DATA = torch.randn(48, 3), torch.randn(48, 2)


def fit(*handlers: Any, **options: Any) -> TrainStats:
    torch.manual_seed(0)
    est = Estimator(nn.Linear(3, 2), nn.MSELoss())
    chosen: dict[str, Any] = {"batch_size": 8, "engine": "eager", "trainers": "adam"} | options
    return est.fit(DATA, device="cpu", progress=False, handlers=list(handlers), **chosen)


def recorded(folder: Path) -> list[str]:
    events = json.loads((folder / "trace.pt.trace.json").read_text("utf-8"))["traceEvents"]
    return sorted(e["name"] for e in events if e.get("name", "").startswith("ProfilerStep#"))


def operations(folder: Path) -> dict[str, list[Any]]:
    shown = json.loads((folder / "profiler.section.json").read_text("utf-8"))
    assert shown["order"] == 760
    (table,) = shown["tables"]
    assert table["columns"] == ["operation", "calls", "CPU milliseconds a batch", "share"]
    assert len(table["rows"]) <= 20
    return {row[0]: row[1:] for row in table["rows"]}


def test_the_chosen_batches_of_the_run_are_recorded(tmp_path: Path) -> None:
    stats = fit(ProfilerHandler(tmp_path, wait=1, warmup=1, active=3), epochs=2)
    assert len(set(recorded(tmp_path))) == 3 and stats.missing == {} and stats.step == 12
    found = operations(tmp_path)
    assert found["aten::addmm"][0] == 3
    assert 0 < sum(share for *_, share in found.values()) <= 1.0001
    text = (tmp_path / "operations.txt").read_text("utf-8")
    assert "aten::addmm" in text and "Self CPU" in text
    assert len(list(tmp_path.iterdir())) == 3


def test_training_is_the_same_as_without(tmp_path: Path) -> None:
    plain, seen = fit(), fit(ProfilerHandler(tmp_path, wait=0, active=2))
    assert seen.history["train_loss"] == plain.history["train_loss"] and seen.step == plain.step
    for name, value in plain.net.state_dict().items():
        assert torch.equal(seen.net.state_dict()[name], value)


def test_a_run_that_ends_before_gives_what_it_had(tmp_path: Path) -> None:
    fit(ProfilerHandler(tmp_path, wait=0, warmup=1, active=50))
    assert operations(tmp_path)["aten::addmm"][0] >= 5


def test_a_run_that_is_too_short_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stats = fit(ProfilerHandler(tmp_path, wait=5, warmup=1))
    reason = "it needs 7 batches, and the run had 6"
    assert stats.missing == {"the profile of the run": reason} and reason in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_batch_says_so(tmp_path: Path) -> None:
    @on("train_begin")
    def stop(stats: TrainStats) -> None:
        stats.stop("at once")

    stats = fit(ProfilerHandler(tmp_path), stop)
    assert stats.missing == {"the profile of the run": "no epoch began"}


def test_an_error_ends_the_profiler(tmp_path: Path) -> None:
    @on("forward_end")
    def fail(stats: TrainStats) -> None:
        raise ZeroDivisionError

    for handler in (ProfilerHandler(tmp_path, wait=0, warmup=1), ProfilerHandler(tmp_path)):
        with pytest.raises(ZeroDivisionError):
            fit(handler, fail)
        assert not torch._C._autograd._profiler_enabled()


def test_a_profiler_of_the_users_own_goes_on(tmp_path: Path) -> None:
    with torch.profiler.profile() as own:
        stats = fit(ProfilerHandler(tmp_path, wait=0, warmup=1, active=2))
    assert stats.missing == {"the profile of the run": "another profiler is running"}
    assert any(event.key == "aten::addmm" for event in own.key_averages())


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.profiler.profile, "export_chrome_trace", full)
    stats = fit(ProfilerHandler(tmp_path, wait=0, active=2))
    assert stats.missing == {"the profile of the run": "No space left on device"}


@pytest.mark.parametrize("bad", [{"wait": -1}, {"warmup": 0.5}, {"active": 0}, {"active": True}])
def test_numbers_of_batches(bad: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match="whole number of batches"):
        ProfilerHandler(**bad)


def test_times_of_a_device(tmp_path: Path) -> None:
    class Row:
        key, count, self_device_time_total, self_cpu_time_total = "gemm", 4, 3000.0, 1.0

    stats = TrainStats(nn.Identity(), torch.device("cuda"))
    (table,) = _section([Row()], stats, 2).tables
    assert table.columns[2] == "device milliseconds a batch"
    assert table.rows == [["gemm", 4, 1.5, 1.0]]


def test_a_second_epoch_begins_no_second_profile(tmp_path: Path) -> None:
    fit(ProfilerHandler(tmp_path, wait=4, warmup=1, active=4), epochs=3)
    assert operations(tmp_path)["aten::addmm"][0] == 4

"""`ReportPageHandler`: the page follows the run, at bounded cost, and never stops it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from page_reader import read_page
from run_folders import write_run

from estimator import ArgumentError, ArgumentTypeError, Estimator, MissingExtraError, TrainStats
from estimator.handlers import Band, EventHandler, every
from estimator.report import ReportPageHandler, handler
from estimator.testing import HandlerContract

DATA = torch.arange(8.0).reshape(4, 2), torch.ones(4, 1)


def fit(*handlers: EventHandler, epochs: int = 3) -> TrainStats:
    est = Estimator(torch.nn.Linear(2, 1), loss=torch.nn.MSELoss())
    return est.fit(
        DATA, DATA, epochs=epochs, trainers="sgd", device="cpu", progress=False, handlers=handlers
    )


class TestContract(HandlerContract):
    def make(self, folder: Path) -> EventHandler:
        return ReportPageHandler(folder)


class TestContractOfAScheduledOne(HandlerContract):
    def make(self, folder: Path) -> EventHandler:
        return ReportPageHandler(folder, every=every(epochs=1))


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Moments at which a page was built, on a clock that builds and epochs move."""
    clock, moments = [0.0], []

    def build(folder: Path, missing: Mapping[str, str]) -> Path:
        moments.append(clock[0])
        clock[0] += 1.0
        return folder

    monkeypatch.setattr(handler, "write_page", build)
    monkeypatch.setattr(handler, "perf_counter", lambda: clock[0])
    moments_and_clock: Any = moments
    build.clock = clock  # type: ignore[attr-defined]  # the tests move it
    return moments_and_clock  # type: ignore[no-any-return]  # a list


def begun(folder: Path, **options: Any) -> tuple[ReportPageHandler, TrainStats]:
    stats = TrainStats(torch.nn.Identity(), torch.device("cpu"))
    stats.run_dir = folder
    made = ReportPageHandler(**options)
    made.train_begin(stats)
    return made, stats


def test_a_page_of_its_own_folder_shows_the_curves(tmp_path: Path) -> None:
    stats = fit(ReportPageHandler(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["history.csv", "report.html"]
    rows = read_page(tmp_path / "report.html")["Curves"].tables[0]
    assert [row[0] for row in rows[1:]] == ["1", "2", "3"]
    assert dict(zip(*rows[::3], strict=True))["val_loss"] == f"{stats['val_loss'][-1]:.6g}"


def test_an_epoch_end_is_left_out_while_the_last_build_is_fresh(
    tmp_path: Path, built: list[float]
) -> None:
    made, stats = begun(tmp_path)
    clock = handler.write_page.clock  # type: ignore[attr-defined]  # of the fixture
    for _ in range(200):
        clock[0] += 1.0
        made.epoch_end(stats)
    # A build of 1 s: the next one comes after 50 s or more without one.
    assert built == [1.0, 52.0, 103.0, 154.0, 205.0][: len(built)] and len(built) == 4
    made.train_end(stats)
    assert len(built) == 5, "the end is never left out"
    made.train_end(stats)
    assert len(built) == 5


def test_a_schedule_is_kept_whatever_it_costs(tmp_path: Path, built: list[float]) -> None:
    made, stats = begun(tmp_path, every=every(epochs=2))
    for epoch in range(1, 7):
        stats.epoch = epoch
        made.epoch_end(stats)
    assert len(built) == 3
    stats.error = ValueError("on its way")
    stats.epoch = 8
    made.epoch_end(stats)
    assert len(built) == 3


def test_a_full_disk_is_said_and_the_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, content: bytes) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("estimator.report.page.write_whole", full)
    stats = fit(ReportPageHandler(tmp_path))
    assert stats.epoch == 3 and stats.error is None
    assert stats.missing == {"the page report.html": "No space left on device"}
    assert "Could not write the page report.html" in caplog.text
    assert list(tmp_path.glob(".*")) == []


def test_the_run_folder_is_the_default(tmp_path: Path) -> None:
    write_run(tmp_path / "a_r0", outcome="running")
    before = (tmp_path / "a_r0" / "history.csv").read_bytes()
    made, stats = begun(tmp_path / "a_r0")
    made.train_end(stats)
    page = read_page(tmp_path / "a_r0" / "report.html")
    assert "running" in page[""].text
    assert (tmp_path / "a_r0" / "history.csv").read_bytes() == before


def test_what_the_run_could_not_write_is_on_the_page(tmp_path: Path) -> None:
    write_run(tmp_path / "a_r0", outcome="running")
    made, stats = begun(tmp_path / "a_r0")
    stats.missing["the map"] = "No space left on device"
    stats.missing["the page report.html"] = "No space left on device"
    made.train_end(stats)
    page = read_page(tmp_path / "a_r0" / "report.html")
    (rows,) = page["Missing reports"].tables
    assert ["the map", "No space left on device"] in rows
    assert all("report.html" not in row[0] for row in rows)


def test_a_run_that_never_began_has_no_page(tmp_path: Path) -> None:
    stats = TrainStats(torch.nn.Identity(), torch.device("cpu"))
    made = ReportPageHandler()
    with pytest.raises(ArgumentError, match=r"ReportPageHandler\(folder=None\)"):
        made.train_begin(stats)
    made.train_end(stats)
    assert stats.missing == {}


def test_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ReportPageHandler(band=Band.PERSIST).band is Band.PERSIST
    assert repr(ReportPageHandler("x", every=every(epochs=2))) == (
        "ReportPageHandler(folder='x', every=every(epochs=2))"
    )
    with pytest.raises(ArgumentTypeError, match=r"ReportPageHandler\(every=\.\.\.\)"):
        ReportPageHandler(every=3)  # type: ignore[arg-type]  # wrong on purpose
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"ReportPageHandler needs jinja2.*\[report\]"):
        ReportPageHandler()

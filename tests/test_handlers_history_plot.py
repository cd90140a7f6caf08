"""Histories by metric as pictures and tables, and the best values."""

from __future__ import annotations

import csv
import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from report_runs import files
from torch import nn

from estimator import Estimator
from estimator.handlers import (
    BestHistoryHandler,
    Every,
    HistoryPlotHandler,
    best_history,
    every,
    history_plot,
)
from estimator.handlers._history_series import epochs_of
from estimator.handlers.base import ArgumentError, MissingExtraError
from estimator.stats import TrainStats

NAN, INF = float("nan"), float("inf")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The figures that are written, by the name of their file."""
    found: dict[str, Any] = {}

    def keep(path: Path, figure: Any) -> None:
        figure.draw_without_rendering()
        found[path.name] = figure

    monkeypatch.setattr(history_plot, "write_figure", keep)
    return found


def row(epoch: int, step: int, complete: bool = True, **values: float | None) -> dict[str, Any]:
    return {"epoch": epoch, "step": step, "complete": complete, **values}


def run(handler: Any, *rows: dict[str, Any], **monitors: bool | None) -> TrainStats:
    stats = TrainStats(nn.Identity(), torch.device("cpu"))
    stats.monitors = monitors
    handler.train_begin(stats)
    for each in rows:
        stats.history.append(each)
        stats.epoch, stats.step = each["epoch"], each["step"]
        handler.epoch_end(stats)
    handler.train_end(stats)
    return stats


def lines(figure: Any) -> dict[str, Any]:
    return {line.get_label(): line.get_xydata() for line in figure.axes[0].lines}


def test_one_picture_and_one_table_a_metric(tmp_path: Path) -> None:
    est = Estimator(nn.Linear(4, 3), nn.CrossEntropyLoss(), ["accuracy"])
    x, y = torch.randn(12, 4), torch.arange(12) % 3
    stats = est.fit(
        (x, y), (x, y), epochs=3, device="cpu", handlers=HistoryPlotHandler(tmp_path),
        progress=False,
    )  # fmt: skip
    names = ("loss", "accuracy")
    assert files(tmp_path) == {f"{name}.{end}" for name in names for end in ("png", "csv")}
    for name in names:
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        with open(tmp_path / f"{name}.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [int(each["epoch"]) for each in rows] == [1, 2, 3]
        for split in ("train", "val"):
            assert [float(each[split]) for each in rows] == stats[f"{split}_{name}"]


def test_train_and_val_share_axes(tmp_path: Path, drawn: dict[str, Any]) -> None:
    rows = [row(e, 10 * e, train_loss=1 / e, val_loss=2 / e, val_mae=e) for e in (1, 2, 3)]
    run(HistoryPlotHandler(tmp_path), *rows)
    found = lines(drawn["loss.png"])
    assert found["train"].tolist() == [[e, 1 / e] for e in (1, 2, 3)]
    assert found["val"].tolist() == [[e, 2 / e] for e in (1, 2, 3)]
    axes = drawn["loss.png"].axes[0]
    assert (axes.get_title(), axes.get_xlabel()) == ("loss", "epoch")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["train", "val"]
    assert "train" not in lines(drawn["mae.png"])


@pytest.mark.parametrize("epochs", [1, 2, 500, 20_000])
def test_few_and_many_epochs(tmp_path: Path, drawn: dict[str, Any], epochs: int) -> None:
    stats = TrainStats(nn.Identity(), torch.device("cpu"))
    handler = HistoryPlotHandler(tmp_path)
    handler.train_begin(stats)
    for epoch in range(1, epochs + 1):
        stats.history.append(row(epoch, epoch, train_loss=1 / epoch))
    handler.train_end(stats)
    axes = drawn["loss.png"].axes[0]
    line = axes.lines[0]
    assert len(line.get_xdata()) == (5000 if epochs == 20_000 else epochs)
    assert (line.get_marker() == ".") is (epochs < 60)
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert 1 <= len(ticks) <= 12 and all(tick == round(tick) for tick in ticks)


def test_what_is_not_finite_is_a_gap_with_a_mark(tmp_path: Path, drawn: dict[str, Any]) -> None:
    values = [1.0, 2.0, NAN, 3.0, INF, -INF, 4.0, 5.0]
    run(HistoryPlotHandler(tmp_path), *[row(e, e, val_x=v) for e, v in enumerate(values)])
    line, alone, lost, _ = drawn["x.png"].axes[0].lines
    np.testing.assert_array_equal(line.get_ydata(), [1, 2, NAN, 3, NAN, NAN, 4, 5])
    assert alone.get_xydata().tolist() == [[3, 3]]
    assert (lost.get_xdata().tolist(), lost.get_marker()) == ([2, 4, 5], "x")
    words = [text.get_text() for text in drawn["x.png"].axes[0].get_legend().get_texts()]
    assert words == ["val", "not finite"]
    assert [line.split(",")[3] for line in (tmp_path / "x.csv").read_text().split()][3] == "nan"


def test_nothing_but_nan(tmp_path: Path) -> None:
    run(HistoryPlotHandler(tmp_path), row(1, 1, train_loss=NAN), row(2, 2, train_loss=NAN))
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_parts_of_epochs_stand_between_them() -> None:
    rows = [row(0, 5, False), row(1, 10), row(1, 15, False), row(2, 20), row(2, 25, False)]
    assert epochs_of(rows).tolist() == [0.5, 1, 1.5, 2, 2.5]
    assert epochs_of([row(0, 5, False), row(0, 20, False)]).tolist() == [0.25, 1]
    assert epochs_of([]).tolist() == []


def test_hostile_names_and_rows_without_a_value(tmp_path: Path) -> None:
    names = ["$\\frac{", "a/b", "<script>" + "x" * 300]
    values: dict[str, Any] = {f"val_{name}": 1.0 for name in names}
    run(HistoryPlotHandler(tmp_path), row(1, 1), row(2, 2, **values, val_never=None))
    assert len(files(tmp_path)) == 6
    for path in tmp_path.glob("*.csv"):
        assert path.read_text("utf-8").splitlines() == ["epoch,step,train,val", "2,2,,1.0"]


def test_it_is_written_when_due_and_not_twice(tmp_path: Path, drawn: dict[str, Any]) -> None:
    stats = TrainStats(nn.Identity(), torch.device("cpu"))
    stats.run_dir = tmp_path
    handler = HistoryPlotHandler(every=every(epochs=2))
    handler.train_begin(stats)
    for epoch, expected in ((1, False), (2, True), (3, False), (4, True)):
        drawn.clear()
        stats.epoch = epoch
        stats.history.append(row(epoch, epoch, train_loss=1.0))
        handler.epoch_end(stats)
        assert ("loss.png" in drawn) is expected
    drawn.clear()
    handler.train_end(stats)
    assert drawn == {} and (tmp_path / "history" / "loss.csv").exists()
    stats.error = RuntimeError("broken")
    handler.train_begin(stats)
    handler.epoch_end(stats)
    handler.train_end(stats)
    assert drawn.keys() == {"loss.png"}
    handler.train_end(stats)


def test_wrong_schedules_and_missing_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArgumentError, match=r"HistoryPlotHandler\(every=...\) must count epochs"):
        HistoryPlotHandler(every=Every(steps=3))

    def missing(module: str, *_: str) -> None:
        raise MissingExtraError(module)

    monkeypatch.setattr(history_plot, "require", missing)
    with pytest.raises(MissingExtraError, match="matplotlib"):
        HistoryPlotHandler()


def test_best_values_with_their_epochs(tmp_path: Path) -> None:
    rows = [
        row(1, 10, train_loss=0.5, val_loss=0.25, val_acc=0.5, val_odd=1.0),
        row(1, 15, False, train_loss=0.01, val_loss=0.2, val_acc=0.75),
        row(2, 20, train_loss=0.12345678, val_loss=0.2, val_acc=NAN, train_odd=2.0),
        row(3, 30, train_loss=NAN, val_loss=-INF, val_acc=INF, val_new=NAN),
    ]
    directions = {"train_loss": False, "val_loss": False, "val_acc": True, "val_new": True}
    handler = BestHistoryHandler(tmp_path)
    run(handler, *rows, **directions, val_none=None)
    assert (tmp_path / "best_history.txt").read_text("utf-8").splitlines() == [
        "train_loss=0.123457, epoch=2, step=20",
        "val_loss=0.2, epoch=1, step=15",
        "val_acc=0.75, epoch=1, step=15",
        "# whether higher is better is not known of: val_odd, train_odd",
    ]
    assert json.loads((tmp_path / "best_history.json").read_text("utf-8")) == {
        "best": {
            "train_loss": {
                "value": 0.12345678, "epoch": 2, "step": 20, "higher_is_better": False
            },
            "val_loss": {"value": 0.2, "epoch": 1, "step": 15, "higher_is_better": False},
            "val_acc": {"value": 0.75, "epoch": 1, "step": 15, "higher_is_better": True},
        },
        "unknown": ["val_odd", "train_odd"],
    }  # fmt: skip
    handler.epoch_end(TrainStats(nn.Identity(), torch.device("cpu")))


def test_best_values_are_written_at_each_epoch(tmp_path: Path) -> None:
    stats = TrainStats(nn.Identity(), torch.device("cpu"))
    stats.run_dir, stats.monitors = tmp_path, {"train_loss": False}
    handler = BestHistoryHandler()
    handler.train_begin(stats)
    for epoch, loss in ((1, 0.5), (2, 0.25), (3, 0.75)):
        stats.history.append(row(epoch, epoch, train_loss=loss))
        handler.epoch_end(stats)
        text = (tmp_path / "best_history.txt").read_text("utf-8")
        assert (
            text == f"train_loss={min(loss, 0.5 / min(epoch, 2)):g}, epoch={min(epoch, 2)}, "
            f"step={min(epoch, 2)}\n"
        )
    assert files(tmp_path) == {"best_history.txt", "best_history.json"}


def test_of_an_unfinished_epoch_its_parts_count(tmp_path: Path) -> None:
    part = row(0, 3, False, train_loss=0.5)
    run(BestHistoryHandler(tmp_path), part, train_loss=False)
    assert "train_loss=0.5, epoch=0, step=3" in (tmp_path / "best_history.txt").read_text("utf-8")


def test_a_full_disk_leaves_the_training_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for module in (best_history, history_plot):
        monkeypatch.setattr(module, "write_whole", full)
    missing: dict[str, str] = {}
    for handler in (BestHistoryHandler(tmp_path), HistoryPlotHandler(tmp_path)):
        missing |= run(handler, row(1, 1, train_loss=0.5), train_loss=False).missing
    assert list(missing) == ["best_history.txt", "the history of loss"]

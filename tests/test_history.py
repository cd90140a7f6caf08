"""The table of a run, as columns, CSV and JSON."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
import torch

from estimator import Estimator, History
from estimator.handlers.base import ArgumentError

THIRD = 1 / 3


def example() -> History:
    history = History(["epoch", "complete", "val_loss"])
    history.append({"epoch": 1, "complete": True, "train_loss": THIRD})
    history.append({"epoch": 2, "complete": False, "val_loss": float("nan"), "lr": 1e-9})
    history.append({"epoch": 2, "val_loss": float("inf")})
    return history


def test_columns_are_there_before_rows() -> None:
    history = History(["epoch", "val_loss"])
    assert history["val_loss"] == [] and len(history) == 0 and "epoch" in history
    assert history.to_dict() == {"epoch": [], "val_loss": []}
    assert repr(history) == "History(0 rows: epoch, val_loss)"


def test_a_value_that_a_row_has_not_is_none() -> None:
    history = example()
    assert history.columns == ["epoch", "complete", "val_loss", "train_loss", "lr"]
    assert history["train_loss"] == [THIRD, None, None]
    assert history["complete"] == [True, False, None]
    assert history["val_loss"][0] is None and math.isnan(history["val_loss"][1])


def test_rows_are_copies() -> None:
    row: dict[str, float | int | bool | None] = {"epoch": 1}
    history = History()
    history.append(row)
    row["epoch"] = 5
    assert history["epoch"] == [1]


def test_an_unknown_column_names_near_ones() -> None:
    history = example()
    assert "val_los" not in history
    with pytest.raises(ArgumentError, match=r"no column 'val_los'\. Did you mean 'val_loss'"):
        history["val_los"]


def test_csv_has_full_precision_and_empty_cells(tmp_path: Path) -> None:
    path = example().to_csv(tmp_path / "history.csv")
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["epoch", "complete", "val_loss", "train_loss", "lr"]
    assert float(rows[0]["train_loss"]) == THIRD and rows[0]["val_loss"] == ""
    assert rows[1]["val_loss"] == "nan" and float(rows[1]["lr"]) == 1e-9
    assert [row["complete"] for row in rows] == ["True", "False", ""]
    assert "\r" not in path.read_text("utf-8").replace("\r\n", "\n")


def test_json_is_strict_with_null_for_what_is_not_finite(tmp_path: Path) -> None:
    path = example().to_json(str(tmp_path / "history.json"))

    def refuse(constant: str) -> float:
        raise AssertionError(constant)

    read = json.loads(path.read_text("utf-8"), parse_constant=refuse)
    assert read["val_loss"] == [None, None, None]
    assert read["train_loss"] == [THIRD, None, None]
    assert read["complete"] == [True, False, None] and read["epoch"] == [1, 2, 2]


def test_state_makes_a_round_trip_of_its_own() -> None:
    history = example()
    state = history.state_dict()
    other = History()
    other.load_state_dict(state)
    other.append({"epoch": 3})
    assert len(history) == 3 and other["epoch"] == [1, 2, 2, 3]
    assert state["columns"] == other.columns


def test_the_history_of_a_run(tmp_path: Path) -> None:
    x = torch.randn(8, 2)
    est = Estimator(torch.nn.Linear(2, 1), torch.nn.MSELoss(), ["mae"])
    stats = est.fit((x, x[:, :1]), (x, x[:, :1]), epochs=2, trainers="sgd", device="cpu",
                    progress=False)  # fmt: skip
    assert stats.history.columns == [
        "epoch", "step", "time", "lr", "complete", "train_loss", "train_mae", "val_loss", "val_mae",
    ]  # fmt: skip
    read = json.loads(stats.history.to_json(tmp_path / "h.json").read_text("utf-8"))
    assert read == stats.history.to_dict()
    assert 0 < stats["time"][0] < stats["time"][1]
    assert stats["val_loss"][-1] == est.evaluate((x, x[:, :1]))["loss"]

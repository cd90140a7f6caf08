"""`estimator.runs`: many runs read, compared, ranked and written, damaged ones among them."""

from __future__ import annotations

import builtins
import csv
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_reader import read_page
from run_folders import HOSTILE, history, record, write_run

from estimator import ArgumentError, FolderError, MonitorError
from estimator.history import History
from estimator.report import build
from estimator.runs import Comparison, Run, best, compare, load
from estimator.runs import comparison as module
from estimator.runs._table import Value, rank


def results(**columns: list[float | None]) -> History:
    """A history of one row an epoch."""
    table = History(["epoch", "step", "complete"])
    for i, values in enumerate(zip(*columns.values(), strict=True), start=1):
        named = dict(zip(columns, values, strict=True))
        table.append({"epoch": i, "step": 10 * i, "complete": True, **named})
    return table


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three runs that can be ranked, and three that are damaged each in its own way."""
    root = tmp_path / "runs"
    for name, rate, loss, accuracy in (
        ("a_r0", "0.1", [0.9, 0.5, 0.7], [0.5, 0.6, 0.8]),
        ("a_r1", "0.02", [0.9, math.nan, 0.4], [0.4, 0.9, 0.3]),
        ("a_r10", "1e-3", [math.nan, math.inf, None], [0.1, 0.1, 0.1]),
    ):
        table = results(val_loss=list(loss), val_accuracy=list(accuracy), val_x=[1.0, 2.0, 3.0])
        settings = {"lr": rate, "epochs": "3", "epoch": f"e{rate}"}
        write_run(root / name, table, arguments=settings, epoch=3)
    (write_run(root / "cut") / "run.json").write_text('{"schema": 1,')
    write_run(root / "bare", History())
    (root / "bare" / "run.json").unlink()
    (root / "datasets").mkdir()
    (root / "file.txt").write_text("no run")
    (root / "empty").mkdir()
    (root / "empty" / "run.json").write_text(json.dumps(record("empty", outcome="failed")))
    return root


def test_load_lists_every_run_and_what_is_wrong_with_it(folder: Path) -> None:
    runs = load(folder)
    assert [(run.name, run.outcome) for run in runs] == [
        ("a_r0", "completed"), ("a_r1", "completed"), ("a_r10", "completed"),
        ("bare", "damaged"), ("cut", "damaged"), ("empty", "failed"),
    ]  # fmt: skip
    assert [run.reason for run in runs[3:5]] == [
        "run.json: it is not there", runs[4].reason,
    ]  # fmt: skip
    assert runs[4].reason.startswith("run.json: it is no JSON")
    assert runs[5].history_problem == "there is no history" and len(runs[5].history) == 0
    assert len(runs[4].history) == 12, "what is left of it is there"
    assert isinstance(runs[0], Run) and runs[0].folder == folder / "a_r0"
    assert [run.name for run in load(folder / "a_r0")] == ["a_r0"], "the folder of one run"


def test_load_needs_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FolderError, match=r"load\(folder=\.\.\.\).*received 'runs'"):
        load()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the files that are opened."""
    opened: list[str] = []
    original = io.open

    def counting(file: Any, *args: Any, **options: Any) -> Any:
        opened.append(Path(file).name)
        return original(file, *args, **options)

    monkeypatch.setattr(io, "open", counting)
    monkeypatch.setattr(builtins, "open", counting)
    yield opened


def test_a_thousand_runs_cost_one_read_each(tmp_path: Path, reads: list[str]) -> None:
    text = json.dumps(record())
    for i in range(1000):
        place = tmp_path / f"r{i}"
        place.mkdir()
        (place / "run.json").write_text(text)
    reads.clear()
    assert len(load(tmp_path)) == 1000
    assert reads == ["run.json"] * 1000


def test_a_comparison_reads_each_history_once(folder: Path, reads: list[str]) -> None:
    runs = load(folder)
    reads.clear()
    ranked = compare(runs).sort("val_loss")
    str(ranked)
    ranked.to_html()
    assert sorted(name for name in reads if name.startswith("history")) == ["history.csv"] * 5


def test_a_comparison_shows_what_differs_and_what_came_of_it(folder: Path) -> None:
    found = compare(load(folder))
    assert found.columns == [
        *("run", "outcome", "lr", "epochs", "epoch (setting)", "batch_size", "trainers"),
        *("epoch", "seconds", "best val_loss", "last val_loss", "best val_accuracy"),
        *("last val_accuracy", "last val_x", "best train_loss", "last train_loss"),
        "last train_accuracy",
    ]
    assert found.same == {"seed": "7", "commit": "0123456789abcdef", "device": "cpu"}
    first, second, third, _, cut, empty = found.rows
    assert (first["lr"], first["epoch (setting)"], first["epoch"]) == ("0.1", "e0.1", 3)
    assert (first["best val_loss"], first["last val_loss"]) == (0.5, 0.7)
    assert (second["best val_accuracy"], second["last val_accuracy"]) == (0.9, 0.3)
    assert third["best val_loss"] is None and third["last val_loss"] == math.inf
    assert (cut["outcome"], cut["lr"], cut["seconds"]) == ("damaged", None, None)
    # A run without run.json is ranked in the direction that the others declare.
    assert cut["best val_accuracy"] == history()["val_accuracy"][-1]
    assert empty["last val_loss"] is None
    same = compare(load(folder)[:1])
    assert "lr" not in same.columns and same.same["lr"] == "0.1"


@pytest.mark.parametrize(
    ("by", "mode", "names"),
    [
        ("val_accuracy", None, ["cut", "a_r1", "a_r0", "a_r10", "bare", "empty"]),
        ("last val_accuracy", None, ["cut", "a_r0", "a_r1", "a_r10", "bare", "empty"]),
        ("val_loss", None, ["cut", "a_r1", "a_r0", "a_r10", "bare", "empty"]),
        ("val_loss", "max", ["a_r0", "a_r1", "cut", "a_r10", "bare", "empty"]),
        ("lr", None, ["a_r10", "a_r1", "a_r0", "bare", "cut", "empty"]),
        ("epoch (setting)", None, ["a_r1", "a_r0", "a_r10", "bare", "cut", "empty"]),
        ("lr", "max", ["a_r0", "a_r1", "a_r10", "bare", "cut", "empty"]),
        ("outcome", None, ["a_r0", "a_r1", "a_r10", "bare", "cut", "empty"]),
        ("val_x", "max", ["a_r0", "a_r1", "a_r10", "bare", "cut", "empty"]),
    ],
)
def test_any_column_ranks(by: str, mode: Any, names: list[str], folder: Path) -> None:
    ranked = compare(load(folder)).sort(by, mode)
    assert isinstance(ranked, Comparison)
    assert [run.name for run in ranked] == names
    assert [row["run"] for row in ranked.rows] == names


def test_numbers_rank_before_texts_and_what_is_missing_comes_last() -> None:
    values: list[Value] = [None, math.nan, "nan", "text", math.inf, "2", 1, -math.inf]
    low = sorted(values, key=lambda value: rank(value, False))
    high = sorted(values, key=lambda value: rank(value, True))
    assert low[:5] == [-math.inf, 1, "2", math.inf, "text"]
    assert high[:5] == [math.inf, "2", 1, -math.inf, "text"]


def test_a_direction_that_nobody_declares_is_asked_for(folder: Path) -> None:
    found = compare(load(folder))
    with pytest.raises(ArgumentError, match="no column is called 'val_acuracy'. Did you mean"):
        found.sort("val_acuracy")
    with pytest.raises(MonitorError, match=r"sort\(by='val_x'\): no run says whether higher"):
        found.sort("val_x")
    with pytest.raises(ArgumentError, match="mode must be 'min', 'max' or None"):
        found.sort("lr", "up")  # type: ignore[arg-type]  # wrong on purpose
    text = json.dumps(record(monitors={"val_accuracy": False}))
    (folder / "a_r0" / "run.json").write_text(text)
    with pytest.raises(MonitorError, match="the runs disagree"):
        best(load(folder), "val_accuracy")


def test_best_is_the_run_with_the_best_value(folder: Path) -> None:
    runs = load(folder)
    assert best(runs, "val_accuracy").name == "cut", "its history is whole"
    assert best(runs[:3], "val_accuracy").name == "a_r1"
    assert best(runs, "val_accuracy", "min").name == "a_r10"
    assert best(runs[:3], "val_loss").name == "a_r1"
    assert best(runs, "val_x", "max").name == "a_r0", "the first of equal ones"
    with pytest.raises(MonitorError, match=r"no run has a finite value.*There are: epoch|val_loss"):
        best(runs, "val_los")
    with pytest.raises(MonitorError, match="no run has a finite value"):
        best(runs[2:3], "val_loss")
    with pytest.raises(ArgumentError, match="mode must be"):
        best(runs, "val_loss", "low")  # type: ignore[arg-type]  # wrong on purpose


def test_the_table_as_csv_text_and_html(folder: Path, tmp_path: Path) -> None:
    (folder / "a_r1" / "run.json").write_text(
        json.dumps(record(HOSTILE, arguments={"lr": "0.1\n0.2", HOSTILE: "x" * 99 + "\ud800"}))
    )
    found = compare(load(folder))
    path = found.to_csv(tmp_path / "table.csv")
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == found.columns
    assert (rows[0]["best val_loss"], rows[2]["last val_loss"], rows[3]["lr"]) == ("0.5", "inf", "")
    assert rows[1]["run"] == HOSTILE and rows[1][HOSTILE] == "x" * 99 + "?"
    heads, *lines = str(found).splitlines()
    assert heads.split()[:3] == ["run", "outcome", "lr"] and len(lines) == 6
    assert heads.index("outcome") == lines[0].index("completed")
    assert "0.1 0.2" in lines[1] and max(map(len, lines)) < 400
    assert repr(found).startswith("Comparison(6 runs: run, outcome, lr")
    assert found.to_html() == found._repr_html_()
    assert "<script" not in found.to_html() and "&lt;/script&gt;" in found.to_html()
    assert len(found) == 6


def test_the_page_of_a_comparison(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(folder / "a_r0")
    (folder / "a_r1" / "run.json").write_text(json.dumps(record(HOSTILE, reason=HOSTILE)))
    (folder / "empty" / "history.csv").write_text("epoch\n1,2\n")
    monkeypatch.setattr(module, "_MOST_LINES", 2)
    monkeypatch.setattr(module, "_MOST_CHARTS", 2)
    path = compare(load(folder)).write(folder / "pages")
    assert path == folder / "pages" / "comparison.html"
    page = read_page(path)
    assert list(page) == ["", "Runs", "Curves", "What all runs share", "Ends and damage"]
    table = page["Runs"].tables[0]
    assert [row[0] for row in table[1:]] == ["a_r0", HOSTILE, "a_r10", "bare", "cut", "empty"]
    (link,) = page["Runs"].named("a")
    assert (path.parent / link.attributes["href"]).resolve() == folder / "a_r0" / "report.html"
    assert "The first 2 of 4 runs" in page["Curves"].text
    assert "2 of 3 charts are shown." in page["Curves"].text
    assert len(page["Curves"].named("figure")) == 2
    assert ["seed", "7"] in page["What all runs share"].tables[0]
    troubles = {row[0]: row[2] for row in page["Ends and damage"].tables[0][1:]}
    assert troubles[HOSTILE] == HOSTILE
    assert troubles["empty"] == "history.csv: rows of another length were left out: 1"
    assert len([tag for part in page.values() for tag in part.named("script")]) == 3
    heads = {tag.attributes.get("class") for tag in page["Runs"].named("th")}
    assert heads == {None, "number"}


def test_pages_of_few_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = read_page(compare([]).write(tmp_path))
    assert "There are no runs." in page["Runs"].text and "0 runs" in page[""].text
    assert "There are no values yet." in page["Curves"].text
    assert "No setting is the same" in page["What all runs share"].text
    write_run(tmp_path / "a", history(2))
    cut = history(2)
    cut.rows[1]["complete"] = False
    write_run(tmp_path / "b", cut)
    build(tmp_path / "a")

    def another_drive(*_: object) -> str:
        raise ValueError("path is on mount 'C:', start on mount 'D:'")

    monkeypatch.setattr("os.path.relpath", another_drive)
    page = read_page(compare(load(tmp_path)).write(tmp_path))
    assert page["Runs"].named("a") == []
    assert "loss by step: a ends at" in " ".join(
        tag.attributes.get("aria-label", "") for tag in page["Curves"].named("svg")
    ), "epochs of a run that was cut are placed by step"
    with pytest.raises(FolderError, match=r"Comparison.write\(folder=\.\.\.\)"):
        compare([]).write(tmp_path / "a" / "run.json")

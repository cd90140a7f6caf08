"""Run folders that are absent, half written, damaged or left by a process that was killed."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from run_folders import history, record, write_run

from estimator.report._files import Unreadable, read_bytes, read_history, read_tail
from estimator.report._run import read_run


def outcome(folder: Path, **changes: Any) -> tuple[str, str]:
    run = read_run(write_run(folder, **changes))
    return run.outcome, run.reason


def gone() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(60)
    return process.pid


def test_outcomes_are_those_of_the_record(tmp_path: Path) -> None:
    for known in ("completed", "stopped", "interrupted", "failed"):
        assert outcome(tmp_path, outcome=known, reason="why") == (known, "why")
    assert outcome(tmp_path, outcome="running") == ("running", "")
    assert outcome(tmp_path, outcome="odd")[0] == "damaged"
    assert outcome(tmp_path, outcome=[1]) == ("damaged", "run.json: unknown outcome [1]")
    assert "schema 2" in outcome(tmp_path, schema=2)[1]


def test_a_run_whose_process_is_gone_was_killed(tmp_path: Path) -> None:
    def ended(**machine: Any) -> str:
        return outcome(tmp_path, outcome="running", machine=machine)[0]

    here, dead = platform.node(), gone()
    assert ended(host=here, pid=dead) == "killed"
    assert ended(host=here, pid=10**30) == "killed"
    assert ended(host=here, pid=os.getpid()) == "running"
    assert ended(host="elsewhere", pid=dead) == "running"
    for odd in (0, -1, True, "1", None):
        assert ended(host=here, pid=odd) == "running"
    assert outcome(tmp_path, outcome="running", machine=None)[0] == "running"
    assert outcome(tmp_path, outcome="completed", machine={"host": here, "pid": dead})[0] == (
        "completed"
    )


def test_no_process_is_touched_where_that_would_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(pid: int, number: int) -> None:
        raise PermissionError

    machine = {"host": platform.node(), "pid": gone()}
    monkeypatch.setattr(os, "kill", kill)
    assert outcome(tmp_path, outcome="running", machine=machine)[0] == "running"
    monkeypatch.undo()
    monkeypatch.setattr(sys, "platform", "win32")
    assert outcome(tmp_path, outcome="running", machine=machine)[0] == "running"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "it is no JSON"), ("{", "it is no JSON"), ("[]", "it holds a list"),
        ("[" * 100_000, "it is no JSON"), ("\xff", "it is no JSON"), (None, "it is not there"),
        ("{}", "schema None"),
    ],
)  # fmt: skip
def test_a_damaged_record_is_said(content: str | None, why: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content, "latin-1")
    run = read_run(tmp_path)
    assert run.outcome == "damaged" and why in run.reason and run.name == tmp_path.name
    assert not run.arguments and not run.monitors and not run.missing
    assert run.number("epoch") is None


def test_fields_of_another_kind_are_taken_as_absent(tmp_path: Path) -> None:
    run = read_run(write_run(
        tmp_path / "x", name=5, reason=[1], arguments=[1], monitors={"val_x": "up"}, missing=3,
        epoch="12", seconds=math.nan, step=True, started=7,
    ))  # fmt: skip
    assert (run.name, run.outcome, run.reason) == ("x", "completed", "")
    assert (run.arguments, run.missing, run.monitors) == ({}, {}, {"val_x": None})
    assert [run.number(name) for name in ("epoch", "seconds", "step")] == [None] * 3
    assert run.text("started") == ""


def test_the_history_comes_from_the_table_with_what_is_no_number(tmp_path: Path) -> None:
    table = history(3)
    table.rows[1]["val_loss"] = math.nan
    del table.rows[2]["val_loss"]
    table.rows[2]["complete"] = False
    run = read_run(write_run(tmp_path, table))
    assert run.history.columns == table.columns and run.history_problem == ""
    assert run.history["epoch"] == [1, 2, 3] and run.history["complete"] == [True, True, False]
    assert math.isnan(run.history["val_loss"][1]) and run.history["val_loss"][2] is None
    assert run.history["train_loss"] == table["train_loss"], "full precision"
    assert math.isnan(run.last("val_loss") or 0.0)
    assert run.best("val_loss", False) == (table["val_loss"][0], 1)
    assert run.best("val_accuracy", True) == (table["val_accuracy"][2], 3)
    assert run.best("nothing", True) is None and run.last("nothing") is None
    assert run.higher_is_better("val_accuracy") and run.higher_is_better("a_loss") is False
    assert run.higher_is_better("val_x") is None


def test_json_stands_in_for_a_damaged_table(tmp_path: Path) -> None:
    write_run(tmp_path)
    for damage in (b"", b"\xff\xfe", b'a,b\n"1,2', b"a" * 200_000):
        (tmp_path / "history.csv").write_bytes(damage)
        assert read_history(tmp_path)[0]["val_loss"] == history()["val_loss"]
    for content in ('{"a": 1}', '{"a": [1], "b": [1, 2]}', "[]", "{"):
        (tmp_path / "history.json").write_text(content)
        table, why = read_history(tmp_path)
        assert len(table) == 0 and why.startswith("history.csv: it is no table")
        assert "; history.json: it" in why
    (tmp_path / "history.json").write_text('{"epoch": [1, {}], "val_loss": [null, 0.5]}')
    assert read_history(tmp_path)[0].rows == [
        {"epoch": 1, "val_loss": None}, {"epoch": None, "val_loss": 0.5},
    ]  # fmt: skip


def test_half_a_row_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "history.csv").write_text("epoch,val_loss\n1,0.5\n2,x\n3")
    table, why = read_history(tmp_path)
    assert table.rows == [{"epoch": 1, "val_loss": 0.5}, {"epoch": 2, "val_loss": None}]
    assert why == "history.csv: rows of another length were left out: 1"


def test_numbers_of_thousands_of_digits_do_no_harm(tmp_path: Path) -> None:
    digits = "9" * 5000
    (tmp_path / "history.csv").write_text(f"epoch,val_loss\n1,{digits}\n2,{'9' * 400}\n")
    (tmp_path / "run.json").write_text(json.dumps(record()).replace("3756", "9" * 400))
    run = read_run(tmp_path)
    assert run.last("val_loss") == math.inf and run.best("val_loss", False) is None
    assert run.number("step") is None


def test_only_plain_files_of_bounded_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(bytes(3 * 2**20))
    (tmp_path / "file").write_bytes(b"1")
    for name, why in (
        ("pipe", "no plain file"), ("large", "3.0 MiB, and the limit is 2.0"),
        ("none", "not there"), ("file/x", "not there"), ("a\0b", "cannot be read"), ("", "plain"),
    ):  # fmt: skip
        with pytest.raises(Unreadable, match=why):
            read_bytes(tmp_path / name, 2 * 2**20)
    assert read_bytes(tmp_path / "file", 1) == b"1"


def test_the_tail_of_a_log_begins_with_a_whole_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "trainer.txt"
    assert read_tail(log, 10) == ""
    log.write_bytes(b"first line\nsecond\xff\n")
    assert read_tail(log, 100) == "first line\nsecond�\n"
    assert read_tail(log, 12) == "second�\n"

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "open", refuse)
    assert read_tail(log, 100) == ""

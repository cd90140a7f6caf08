"""The comparison with other libraries, whether they are there or not. No time is judged here."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from benchmark_runs import BENCHMARKS, ROOT, part, run_script, tables

PACKAGES = {
    "Lightning": "lightning",
    "Ignite": "ignite",
    "Keras (torch backend)": "keras",
    "skorch": "skorch",
    "Poutyne": "poutyne",
    "fastai": "fastai",
}
# Any name that is not one of the three is a setting that trains.
FAKE = """
import _variants

def lazy(workload, epochs, moments):
    for _ in range(epochs):
        moments.epochs.append(_variants.now())
    return workload.fresh_net()

def broken(workload, epochs, moments):
    raise ValueError("no such optimizer\\nand more lines")

def brief(workload, epochs, moments):
    return _variants.careful(workload, epochs - 1, moments)

SETTINGS = {name: globals().get(name, _variants.careful) for name in SETTINGS_OF_THE_TEST}
"""


class Report(NamedTuple):
    """What one run of the comparison left."""

    printed: str
    page: str
    workloads: dict[str, dict[str, Any]]
    """By name, with the rows by library."""
    settings: dict[str, Any]


def read(folder: Path, printed: str) -> Report:
    numbers = json.loads((folder / "peers.json").read_text("utf-8"))
    workloads = {
        workload["name"]: workload | {"rows": {row["library"]: row for row in workload["rows"]}}
        for workload in numbers["workloads"]
    }
    return Report(printed, (folder / "peers.md").read_text("utf-8"), workloads, numbers["settings"])


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("peers")
    options = ["--quick", "--workloads", "linear", "mlp", "--out", str(folder)]
    run = run_script("peers.py", *options)
    assert run.returncode == 0, run.stderr
    return read(folder, run.stdout)


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module, which prints no progress."""
    script = part("peers")
    monkeypatch.setattr(script, "tell", lambda line: None)
    return script


def test_the_page_is_printed_and_kept(report: Report) -> None:
    assert report.printed == report.page + "\n"
    assert report.settings["rounds"] == 1 and report.settings["threads"] == 1


def test_every_library_has_a_row_in_every_workload(report: Report) -> None:
    assert list(report.workloads) == ["linear", "MLP"]
    for workload in report.workloads.values():
        assert set(workload["rows"]) == {"fit", "fit with a metric", "careful loop", *PACKAGES}
        assert workload["steps"] == 4


def test_a_library_that_is_not_there_has_a_note_and_no_numbers(report: Report) -> None:
    absent = [name for name, package in PACKAGES.items() if find_spec(package) is None]
    for workload in report.workloads.values():
        for row in (workload["rows"][name] for name in absent):
            assert row["note"] == "not installed"
            assert row["version"] == "" and row["us_per_step"] is row["ratio_to_fit"] is None


def test_the_table_shows_the_numbers(report: Report) -> None:
    for name, workload in report.workloads.items():
        shown = tables(report.page)[f"{name}, batch {workload['batch_size']}"]
        assert [cells["library"] for cells in shown] == list(workload["rows"])
        for cells in shown:
            row = workload["rows"][cells["library"]]
            assert (cells["version"], cells["note"]) == (row["version"], row["note"])
            assert cells["CPU µs/step"] == as_shown(row["us_per_step"], ".1f")
            assert cells["time over fit's"] == as_shown(row["ratio_to_fit"], ".2f")


def as_shown(numbers: dict[str, float] | None, form: str) -> str:
    if numbers is None:
        return ""
    return f"{numbers['median']:{form}} [{numbers['low']:{form}}, {numbers['high']:{form}}]"


def test_fit_and_the_careful_loop_end_alike(report: Report) -> None:
    for workload in report.workloads.values():
        fit, careful = workload["rows"]["fit"], workload["rows"]["careful loop"]
        assert fit["accuracy"] == careful["accuracy"]
        assert fit["ratio_to_fit"] == {"median": 1.0, "low": 1.0, "high": 1.0}
        assert careful["us_per_step"]["median"] > 0


def test_ratios_are_taken_within_each_round(peers: Any) -> None:
    table = part("_peer_table")
    race = part("_peer_measure")
    fit = race.Record(cpu=[10.0, 20.0, 10.0], wall=[10.0, 20.0, 10.0])
    peer = race.Record(cpu=[30.0, 30.0, 50.0], wall=[40.0, 40.0, 40.0], accuracy=0.75)
    slower = race.Record(cpu=[60.0, 60.0, 60.0], wall=[60.0, 60.0, 60.0])
    records = {
        peers.OURS[0]: fit,
        race.Entrant("Peer", "bare", peers.careful): peer,
        race.Entrant("Peer", "dressed", peers.careful): slower,
    }
    rows = table.rows(records, {"fit": "1", "Peer": "2.0"}, {"Other": "not installed"})
    assert [row["library"] for row in rows] == ["fit", "Peer", "Other"]
    assert rows[1] == {
        "library": "Peer",
        "version": "2.0",
        "us_per_step": {"median": 30.0, "low": 30.0, "high": 50.0},
        "ratio_to_fit": {"median": 3.0, "low": 1.5, "high": 5.0},
        "wall_us_per_step": {"median": 40.0, "low": 40.0, "high": 40.0},
        "wall_ratio_to_fit": {"median": 4.0, "low": 2.0, "high": 4.0},
        "accuracy": 0.75,
        "note": "bare; dressed: 60 µs",
    }
    assert rows[2]["us_per_step"] is None and not table.failed(rows[2])


def run_with_fake(
    peers: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, *names: str
) -> tuple[int, Report, str]:
    """A run with a library of that many settings: "broken", "lazy" and "brief" do not train."""
    source = FAKE.replace("SETTINGS_OF_THE_TEST", repr(names))
    (folder / "_peer_fake.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "_peer_fake", raising=False)
    library = peers.Library("Fake", "_peer_fake", "torch", "fake")
    monkeypatch.setattr(peers, "LIBRARIES", {"fake": library})
    threads = str(peers.torch.get_num_threads())
    options = ["--quick", "--workloads", "linear", "--threads", threads, "--out", str(folder)]
    status: int = peers.main(options)
    report = read(folder, "")
    return status, report, report.workloads["linear"]["rows"]["Fake"]["note"]


def test_a_library_is_raced_in_its_settings_and_the_faster_one_counts(
    peers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, report, note = run_with_fake(peers, tmp_path, monkeypatch, "one", "other", "broken")
    rows = report.workloads["linear"]["rows"]
    assert status == 0
    assert rows["Fake"]["version"] == version("torch")
    assert rows["Fake"]["accuracy"] == rows["careful loop"]["accuracy"]
    assert rows["Fake"]["ratio_to_fit"]["median"] == pytest.approx(
        rows["Fake"]["us_per_step"]["median"] / rows["fit"]["us_per_step"]["median"]
    )
    best, slower, fault = note.split("; ")
    assert {best, slower.partition(":")[0]} == {"one", "other"}
    assert fault == "broken: ValueError: no such optimizer"


@pytest.mark.parametrize(
    ("setting", "fault"),
    [
        ("lazy", "lazy: did not learn: its loss went from "),
        ("broken", "broken: ValueError: no such optimizer"),
        ("brief", "brief: trained 4 epochs instead of 5"),
    ],
)
def test_a_library_that_does_not_train_is_an_error(
    setting: str, fault: str, peers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, report, note = run_with_fake(peers, tmp_path, monkeypatch, setting)
    assert status == 1
    assert note.startswith(f"ERROR: {fault}")
    assert report.workloads["linear"]["rows"]["Fake"]["us_per_step"] is None
    assert f"| Fake | {version('torch')} |  |  |  |  |  | {note} |" in report.page


def test_nothing_is_said_where_fit_itself_does_not_train(
    peers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lazy = peers.Entrant("fit", "lazy", lambda workload, epochs, moments: workload.fresh_net())
    monkeypatch.setattr(peers, "OURS", (lazy, peers.OURS[1]))
    with pytest.raises(RuntimeError, match="fit on linear: trained 0 epochs instead of 5"):
        run_with_fake(peers, tmp_path, monkeypatch, "one")


@pytest.mark.parametrize(
    ("error", "note"),
    [
        ("raise ModuleNotFoundError('x', name='fake.sub')", "not installed"),
        (
            "raise ModuleNotFoundError('x', name='torchvision')",
            "needs torchvision, which is not installed",
        ),
        ("raise ImportError('no such name')", "cannot be imported: no such name"),
    ],
)
def test_the_note_says_why_a_library_is_missing(
    error: str, note: str, peers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "_peer_missing.py").write_text(error, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    library = peers.Library("Fake", "_peer_missing", "torch", "fake")
    monkeypatch.setattr(peers, "LIBRARIES", {"fake": library})
    assert peers.Field(["fake"]).missing == {"Fake": note}


def test_nothing_to_measure_is_refused(peers: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        peers.arguments(["--rounds", "0"])
    assert "--rounds and --steps must be at least 1" in capsys.readouterr().err


def test_the_requirements_are_pinned_once_and_name_every_library(peers: Any) -> None:
    lines = (BENCHMARKS / "requirements-peers.txt").read_text("utf-8").splitlines()
    pins = [line.split("#")[0].strip() for line in lines if line and not line.startswith("#")]
    names = {name.lower() for name, _, exact in (pin.partition("==") for pin in pins) if exact}
    assert len(names) == len(pins)
    assert names >= {"lightning", "pytorch-ignite", "keras", "skorch", "poutyne", "fastai"}
    constraints = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    assert names.isdisjoint(line.partition("==")[0].lower() for line in constraints)

"""What a run folder tells about the program: its git commit, machine and source files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from estimator import environment

SCRIPT = """
    import torch
    import helper.part
    from estimator import Estimator, RunFolder
    x = torch.randn(8, 2)
    Estimator(torch.nn.Linear(2, 1), torch.nn.MSELoss()).fit(
        (x, x[:, :1]), trainers="sgd", epochs=1, device="cpu", run=RunFolder("a", sources=True))
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program of three files in a git repository."""
    folder = tmp_path / "program"
    (folder / "helper").mkdir(parents=True)
    (folder / "main.py").write_text(textwrap.dedent(SCRIPT))
    (folder / "helper/__init__.py").write_text("")
    (folder / "helper/part.py").write_text("VALUE = 1\n")
    (folder / "unused.py").write_text("")
    names = ["-c", "user.name=A", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "."], [*names, "commit", "-qm", "x"]):
        subprocess.run(["git", *arguments], cwd=folder, check=True, timeout=60)
    return folder


def run(program: Path, elsewhere: Path) -> dict[str, Any]:
    """Runs it with another working directory; returns its record."""
    script = str(program / "main.py")
    subprocess.run([sys.executable, script], cwd=elsewhere, check=True, timeout=120)
    newest = max((elsewhere / "runs").iterdir())
    found: dict[str, Any] = json.loads((newest / "run.json").read_text("utf-8"))
    return found


def test_the_commit_of_the_program_and_its_own_sources_are_kept(
    program: Path, tmp_path: Path
) -> None:
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=program, capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    found = run(program, tmp_path)
    assert found["git"] == {"commit": head, "dirty": False}
    assert found["command"][-1] == str(program / "main.py")
    sources = tmp_path / "runs/a_r0/sources"
    copied = sorted(path.relative_to(sources) for path in sources.rglob("*.py"))
    assert copied == [Path("helper/__init__.py"), Path("helper/part.py"), Path("main.py")]
    assert (sources / "helper/part.py").read_text() == "VALUE = 1\n"
    (program / "helper/part.py").write_text("VALUE = 2\n")
    assert run(program, tmp_path)["git"] == {"commit": head, "dirty": True}


def test_without_a_repository_or_without_git_there_is_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "own_folder_of_program", lambda: tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert environment.commit() is None
    monkeypatch.setenv("PATH", "")
    assert environment.commit() is None


def test_a_program_without_a_file_has_the_present_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    assert environment.own_folder_of_program() == Path.cwd()


def test_the_machine_is_described_where_little_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    known = environment.machine(torch.device("cpu"))
    assert known["cores"] >= 1 and known["memory"] > 2**20 and known["cpu"]

    def missing(*_: Any) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delattr(os, "sysconf", raising=False)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "a card")
    unknown = environment.machine(torch.device("cuda", 1))
    assert unknown["memory"] is None and unknown["cores"] == os.cpu_count()
    assert unknown["device"] == "cuda:1 (a card)" and unknown["cpu"]


def test_a_package_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert environment.versions()["torch-estimator"] == "not installed"

"""The wheel, its dependencies and their tested versions, a bare checkout, and the rules of CI."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
CORE = {"torch", "numpy", "tqdm", "tensorboard", "onnx", "pyyaml"}
EXTRAS = {
    "report": {"jinja2", "matplotlib", "pillow"},
    "explain": {"captum", "matplotlib", "pillow"},
    "metrics": {"torchmetrics"},
    "datasets": {"pillow", "scikit-learn"},
    "text": {"sacrebleu"},
    "search": {"optuna"},
    "onnx": {"onnxruntime", "onnxscript"},
}


def python(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs this interpreter with some environment variables more, and returns what it printed."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | variables,
        check=False,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel built from the source distribution of a copy of this checkout."""
    copy = tmp_path_factory.mktemp("checkout")
    for folder in ("estimator", "handlers", "tests", "tutorials", "benchmarks"):
        # What training writes has the name of a package.
        written = () if folder == "estimator" else ("runs",)
        junk = shutil.ignore_patterns("__pycache__", *written)
        shutil.copytree(ROOT / folder, copy / folder, ignore=junk)
    for file in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, copy)
    build = python("-m", "build", "--no-isolation", "--outdir", "out", cwd=copy)
    assert build.returncode == 0, build.stdout + build.stderr
    (built,) = (copy / "out").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def requirements(metadata: Message) -> list[Requirement]:
    return [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]


def names(metadata: Message, extra: str) -> set[str]:
    """What `extra` adds to the core; the empty name stands for the core itself."""
    return {
        canonicalize_name(requirement.name)
        for requirement in requirements(metadata)
        if (str(requirement.marker) if requirement.marker else "")
        == (f'extra == "{extra}"' if extra else "")
    }


def expected_files() -> set[str]:
    """Each source file of the two folders, at the place that setup.py maps it to."""
    mapped = {ROOT / "estimator": "estimator", ROOT / "handlers": "estimator/handlers"}
    files = {
        f"{place}/{file.relative_to(folder).as_posix()}"
        for folder, place in mapped.items()
        for file in folder.rglob("*")
        if file.suffix in (".py", ".html", ".css", ".js")
    }
    return files | {"estimator/py.typed"}


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        content = set(archive.namelist())
    dist_info = "torch_estimator-0.1.0.dist-info"
    assert {name for name in content if not name.startswith(f"{dist_info}/")} == expected_files()
    assert {"estimator/__init__.py", "estimator/handlers/base.py"} <= content
    assert f"{dist_info}/licenses/LICENSE" in content


def test_metadata_names_the_distribution(metadata: Message) -> None:
    assert metadata["Name"] == "torch-estimator"
    assert metadata["Version"] == "0.1.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert str(metadata.get_payload()).strip() == (ROOT / "README.md").read_text("utf-8").strip()


def test_dependencies_are_split_by_purpose(metadata: Message) -> None:
    assert names(metadata, "") == CORE
    assert {extra: names(metadata, extra) for extra in EXTRAS} == EXTRAS
    assert set(metadata.get_all("Provides-Extra", [])) == {*EXTRAS, "dev"}
    assert {"pytest", "pytest-cov", "ruff", "mypy", "build"} <= names(metadata, "dev")


def test_each_dependency_says_what_it_is_for() -> None:
    text = (ROOT / "setup.py").read_text("utf-8")
    lines = text[text.index("install_requires") : text.index("classifiers")].splitlines()
    dependencies = [line for line in lines if re.match(r'\s*"[\w-]+[<>=]', line)]
    assert len(dependencies) > len(CORE)
    assert [line for line in dependencies if not re.search(r'",  # \w.{5,}', line)] == []


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    found = [re.fullmatch(r"([\w.-]+)==([\w.]+)", line) for line in lines if line[:1] != "#"]
    assert None not in found, "each line pins one version exactly and holds nothing else"
    return {canonicalize_name(match[1]): match[2] for match in found if match}


def test_each_dependency_has_one_tested_version(metadata: Message) -> None:
    tested = pins()
    assert tested["torch"] == "2.13.0"
    wrong = [
        str(requirement)
        for requirement in requirements(metadata)
        if not requirement.specifier.contains(tested.get(canonicalize_name(requirement.name), "0"))
    ]
    assert wrong == []


def test_installed_wheel_imports_its_own_handlers(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    (tmp_path / "handlers.py").write_text("raise RuntimeError('a file of the user')")
    script = "import estimator.handlers.base as base; print(base.__file__)"
    run = python("-c", script, cwd=tmp_path, PYTHONPATH=str(tmp_path / "installed"))
    assert run.returncode == 0, run.stderr
    assert Path(run.stdout.strip()) == tmp_path / "installed/estimator/handlers/base.py"


def test_a_checkout_that_is_not_installed_gives_the_command(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "estimator", tmp_path / "estimator")
    # Without `site` no .pth file is read, so an editable installation is not found.
    path = os.pathsep.join([str(tmp_path), sysconfig.get_path("purelib")])
    run = python("-S", "-c", "import estimator", cwd=tmp_path, PYTHONPATH=path)
    assert run.returncode == 1
    message = run.stderr.strip().splitlines()[-1]
    assert message.startswith("ImportError")
    assert "pip install -e ." in message


SKIPS = """
import pytest

def test_skip(): pytest.skip("no data")

@pytest.mark.xfail
def test_xfail(): assert False

def test_pass(): pass
"""


@pytest.mark.parametrize(
    ("forbidden", "outcome"),
    [("1", "2 failed, 1 passed, 1 error"), ("0", "1 passed, 2 skipped, 1 xfailed")],
)
def test_ci_fails_on_a_skip(forbidden: str, outcome: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests/conftest.py", tmp_path)
    (tmp_path / "test_one.py").write_text(SKIPS)
    (tmp_path / "test_all.py").write_text("import pytest\npytest.importorskip('no_such_module')\n")
    options = ("-q", "--continue-on-collection-errors", ".")
    run = python("-m", "pytest", *options, cwd=tmp_path, ESTIMATOR_NO_SKIPS=forbidden)
    assert f"{outcome} in" in run.stdout
    assert run.returncode == int(forbidden)


def test_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    phony = makefile.split(".PHONY:")[1].splitlines()[0].split()
    command = ["make", "--no-print-directory"]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert [line.split()[1] for line in run.stdout.splitlines()] == phony

"""Who may import whom, read from the syntax trees of all modules."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
HANDLERS = "estimator.handlers"
SUB_PACKAGES = {
    *("sequences", "transforms", "datasets", "outputs", "losses", "layers", "report", "runs"),
    *("sessions", "search", "architecture", "explain", "export", "testing"),
}
PARTS_OF_BASE = {"_errors", "_folder", "_monitor", "_reporting", "_schedule", "_section"}
OUTSIDE = {"tests", "benchmarks", "tutorials", "handlers", "conftest"}
HANDLER_LIBRARIES = {"torch", "numpy", "tqdm", "matplotlib", "PIL", "tensorboard", "IPython"}
HANDLER_LIBRARIES |= {"onnxscript", "onnxruntime"}
HEAVY = {"matplotlib", "tensorboard", "onnx", "sklearn", "torchmetrics", "optuna", "yaml", "PIL"}
HEAVY |= {"captum", "jinja2", "onnxruntime", "onnxscript", "pandas"}


class Import(NamedTuple):
    """One imported module, and whether only type checkers see it."""

    line: int
    target: str
    typing_only: bool


def module_files() -> dict[str, Path]:
    """Dotted name of each module of the distribution, and its file."""
    files = {}
    for package, folder in (("estimator", ROOT / "estimator"), (HANDLERS, ROOT / "handlers")):
        for file in sorted(folder.rglob("*.py")):
            parts = file.relative_to(folder).with_suffix("").parts
            files[".".join((package, *parts)).removesuffix(".__init__")] = file
    return files


MODULES = module_files()


def imports(source: str, package: str) -> list[Import]:
    """All imports of a module that lies in `package`, those inside functions too."""
    return list(_walk(ast.parse(source), package, typing_only=False))


def _walk(node: ast.AST, package: str, typing_only: bool) -> Iterator[Import]:
    for target in _targets(node, package):
        yield Import(getattr(node, "lineno", 0), target, typing_only)
    for child in ast.iter_child_nodes(node):
        guarded = isinstance(node, ast.If) and child in node.body and _is_type_checking(node.test)
        yield from _walk(child, package, typing_only or guarded)


def _is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def _targets(node: ast.AST, package: str) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(names=names):
            origin = _absolute(node, package)
            return [_module_of(origin, alias.name) for alias in names]
        case ast.Call(
            func=ast.Name(id=name) | ast.Attribute(attr=name),
            args=[ast.Constant(value=str(target)), *_],
        ) if name in {"require", "import_module", "__import__"}:
            return [target]
    return []


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parents = package.split(".")
    return ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [node.module])])


def _module_of(origin: str, name: str) -> str:
    full = f"{origin}.{name}"
    is_module = full in MODULES or (origin == "estimator" and name in SUB_PACKAGES)
    return full if is_module else origin


def violations(module: str, source: str) -> list[str]:
    """Every import of `module` that breaks a rule of the layers, with its line and the rule."""
    is_package = MODULES.get(module, Path()).name == "__init__.py"
    package = module if is_package else module.rpartition(".")[0]
    return [
        f"{module}:{found.line} imports {found.target}: {rule}"
        for found in imports(source, package)
        if (rule := _broken_rule(module, found)) is not None
    ]


def _broken_rule(module: str, found: Import) -> str | None:
    if found.target.partition(".")[0] in OUTSIDE:
        return "the package stands alone, and handlers/ is imported as estimator.handlers"
    if module == HANDLERS or module.startswith(f"{HANDLERS}."):
        return None if found.typing_only else _broken_handler_rule(module, found.target)
    importer, target = _second(module), _second(found.target)
    if importer not in SUB_PACKAGES and found.target.startswith("estimator."):
        return "the core never imports a sub-package" if target in SUB_PACKAGES else None
    return None


def _second(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def _broken_handler_rule(module: str, target: str) -> str | None:
    top = target.partition(".")[0]
    stem = module.removeprefix(HANDLERS).lstrip(".")
    if top != "estimator":
        allowed = top in HANDLER_LIBRARIES or top in sys.stdlib_module_names
        rule = "a handler adds at most its own third-party library"
    elif not stem:
        allowed = target.startswith(f"{HANDLERS}.")
        rule = "the list of handlers imports handlers only"
    elif stem == "base" or stem in PARTS_OF_BASE:
        allowed = target.removeprefix(f"{HANDLERS}.") in PARTS_OF_BASE
        rule = "base and its parts import its parts only"
    else:
        private = target.startswith(f"{HANDLERS}._")
        part = target.removeprefix(f"{HANDLERS}.") in PARTS_OF_BASE
        allowed = target == f"{HANDLERS}.base" or (private and not part)
        rule = "a handler imports estimator.handlers.base and private parts of its own only"
    return None if allowed else rule


def test_all_modules_keep_to_their_layer() -> None:
    assert {"estimator", HANDLERS, f"{HANDLERS}.base"} <= set(MODULES)
    found = [v for name, file in MODULES.items() for v in violations(name, file.read_text("utf-8"))]
    assert found == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("estimator.handlers.csv_log", "import pandas"),
        ("estimator.handlers.csv_log", "from estimator.stats import TrainStats"),
        ("estimator.handlers.csv_log", "def f():\n    import estimator.stats"),
        ("estimator.handlers.csv_log", "from estimator.handlers._errors import nearest"),
        ("estimator.handlers.csv_log", "from ._errors import nearest"),
        ("estimator.handlers.csv_log", "from estimator.handlers import CheckpointHandler"),
        ("estimator.handlers.csv_log", "from .. import Estimator"),
        ("estimator.handlers.csv_log", "require('pandas', 'report', 'the log')"),
        ("estimator.handlers.csv_log", "import handlers"),
        ("estimator.handlers.csv_log", "if TYPE_CHECKING:\n    pass\nelse:\n    import estimator"),
        ("estimator.handlers.base", "from estimator.stats import TrainStats"),
        ("estimator.handlers._errors", "from estimator.handlers.base import EventHandler"),
        ("estimator.handlers", "from estimator import Estimator"),
        ("estimator", "from .report import full"),
        ("estimator", "from . import report"),
        ("estimator.loop", "from estimator import report"),
        ("estimator.loop", "def f():\n    import estimator.search.space"),
        ("estimator.loop", "importlib.import_module('estimator.export')"),
        ("estimator.metrics.base", "from ..outputs import LossOutput"),
        ("estimator.report.page", "from tests.conftest import data_root"),
    ],
)
def test_a_broken_rule_is_found(module: str, source: str) -> None:
    assert len(violations(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("estimator.handlers.csv_log", "import csv, torch.nn, numpy as np"),
        ("estimator.handlers.csv_log", "from estimator.handlers.base import EventHandler"),
        ("estimator.handlers.csv_log", "from .base import EventHandler"),
        ("estimator.handlers.csv_log", "from estimator.handlers import base"),
        ("estimator.handlers.csv_log", "if TYPE_CHECKING:\n    from estimator.stats import Row"),
        ("estimator.handlers.csv_log", "require('matplotlib.pyplot', 'report', 'the picture')"),
        ("estimator.handlers.base", "from estimator.handlers._errors import nearest"),
        ("estimator.handlers", "from .base import EventHandler"),
        ("estimator.loop", "from estimator.handlers import EventHandler"),
        ("estimator.loop", "from estimator.metrics import Metric\nimport yaml"),
        ("estimator.report.page", "from estimator.runs import load\nimport matplotlib"),
    ],
)
def test_an_allowed_import_is_not_reported(module: str, source: str) -> None:
    assert violations(module, source) == []


def loaded_by(statement: str, baseline: str) -> set[str]:
    """Top-level modules that `statement` loads in a fresh interpreter which has run `baseline`."""
    script = (
        f"import sys; {baseline}; before = set(sys.modules); {statement}\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(run.stdout.split())


def test_import_estimator_loads_no_heavy_library() -> None:
    loaded = loaded_by("import estimator", baseline="import torch")
    assert "estimator" in loaded
    assert loaded & HEAVY == set()


def test_a_heavy_library_would_be_seen() -> None:
    assert loaded_by("import yaml", baseline="pass") & HEAVY == {"yaml"}


def test_a_handler_is_imported_when_it_is_asked_for() -> None:
    script = (
        "import sys, estimator.handlers as handlers\n"
        "before = 'estimator.handlers.random_samples' in sys.modules\n"
        "kind = handlers.RandomSamplesHandler\n"
        "print(before, kind.__module__, kind is handlers.RandomSamplesHandler)\n"
        "from estimator.handlers import *\n"
        "print(ErrorsHandler.__module__, hasattr(handlers, 'NoSuchHandler'))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert run.stdout.splitlines() == [
        "False estimator.handlers.random_samples True", "estimator.handlers.errors False",
    ]  # fmt: skip


def test_every_public_handler_is_found() -> None:
    package = importlib.import_module(HANDLERS)
    assert [name for name in package.__all__ if not hasattr(package, name)] == []
    assert set(package._FILES) <= set(package.__all__)

"""Runs each example that a reader may copy: `make docs-test`.

Every docstring example of the package is a test, and so is every page: the `python` blocks of
the README and of the guide run in their order, in one namespace a page, inside an empty folder.
"""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import estimator
import estimator.handlers

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "tutorials/guide").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def module_names() -> list[str]:
    """Every module of the package; the folder of the handlers is mapped, so it is walked too."""
    packages = {package.__name__: package.__path__ for package in (estimator, estimator.handlers)}
    found = {
        module.name
        for name, path in packages.items()
        for module in pkgutil.walk_packages(path, f"{name}.")
    }
    return sorted(found | set(packages))


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", module_names())
def test_docstrings(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("__main__")
    # Classes of the page are pickled and looked up by the name of the module that holds them.
    monkeypatch.setitem(sys.modules, "__main__", module)
    text = page.read_text("utf-8")
    for block in BLOCK.finditer(text):
        # As many empty lines as stand above the block: a traceback then points into the page.
        above = "\n" * text[: block.start(1)].count("\n")
        exec(compile(above + block[1], page, "exec"), module.__dict__)

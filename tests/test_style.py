"""Sizes and words that the code keeps to, where no linter has a rule for it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ("estimator", "handlers")
FILE_LINES = 330  # 300, and a tenth of slack for a file that would not gain by a cut
FUNCTION_LINES = 50
SHORT_FUNCTION_LINES = 25
SHORT_SHARE = 0.9
PARAMETERS = 8
MORE_PARAMETERS = {
    "Estimator.fit": "the one call of a training script, where each setting is said once",
    "EarlyStoppingHandler.__init__": "its rule has that many free parts, as in its peers",
}
BANNED = {
    "an open end": re.compile(r"\b(TODO|FIXME|XXX|HACK)\b"),
    "a section banner": re.compile(r"^\s*#+\s*[-=*#~_]{4,}", re.MULTILINE),
    "a linter silenced for a whole file": re.compile(r"#\s*(ruff|flake8):\s*noqa", re.I),
    "a check silenced without its code": re.compile(r"#\s*(noqa(?!:)|type:\s*ignore(?!\[))"),
}

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef


def python_files(*folders: str) -> list[Path]:
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


def all_files() -> list[Path]:
    return [ROOT / "setup.py", *python_files(*PACKAGE, "tests", "tutorials", "benchmarks")]


def definitions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Definition]]:
    """Every class and function with its qualified name, those inside functions too."""
    for node in ast.iter_child_nodes(tree):
        name = prefix
        if isinstance(node, Definition):
            name = f"{prefix}{node.name}"
            yield name, node
            name += "." if isinstance(node, ast.ClassDef) else ".<locals>."
        yield from definitions(node, name)


def functions(source: str) -> list[tuple[str, Function]]:
    found = definitions(ast.parse(source))
    return [(name, node) for name, node in found if isinstance(node, Function)]


def code_lines(function: Function, source: str) -> int:
    """Lines from `def` to the end, without docstrings, comments and blank lines."""
    lines = set(range(function.lineno, (function.end_lineno or 0) + 1))
    for node in ast.walk(function):
        if isinstance(node, Definition) and ast.get_docstring(node) is not None:
            lines -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    text = source.splitlines()
    return sum(bool(text[i - 1].strip()) and text[i - 1].lstrip()[0] != "#" for i in lines)


def parameters(function: Function) -> int:
    """How many settings a caller may give: `self`, `cls` and catch-alls are not among them."""
    arguments = function.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def undocumented(source: str) -> list[str]:
    """Public names without a docstring; an overload is documented by its implementation."""
    tree = ast.parse(source)
    missing = [] if ast.get_docstring(tree) else ["the module"]
    for name, node in definitions(tree):
        public = not any(part.startswith(("_", "<")) for part in name.split("."))
        repeats = {"overload", f"{node.name}.setter", f"{node.name}.deleter"}
        decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
        if public and not decorators & repeats and not ast.get_docstring(node):
            missing.append(name)
    return missing


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    """Text of each file of the package, by its path in the repository."""
    files = python_files(*PACKAGE)
    assert len(files) > 10
    return {str(file.relative_to(ROOT)): file.read_text("utf-8") for file in files}


def test_files_are_short() -> None:
    counts = {str(f.relative_to(ROOT)): len(f.read_text("utf-8").splitlines()) for f in all_files()}
    assert {name: count for name, count in counts.items() if count > FILE_LINES} == {}


def test_no_function_is_long() -> None:
    sizes = {
        f"{file.relative_to(ROOT)}:{name}": code_lines(node, source)
        for file in all_files()
        for source in [file.read_text("utf-8")]
        for name, node in functions(source)
    }
    assert {name: size for name, size in sizes.items() if size > FUNCTION_LINES} == {}


def test_nearly_all_functions_of_the_package_are_short(sources: dict[str, str]) -> None:
    sizes = [code_lines(node, text) for text in sources.values() for _, node in functions(text)]
    short = sum(size <= SHORT_FUNCTION_LINES for size in sizes)
    assert short >= SHORT_SHARE * len(sizes)


def test_functions_have_few_parameters(sources: dict[str, str]) -> None:
    counts = {name: parameters(node) for text in sources.values() for name, node in functions(text)}
    many = {name for name, count in counts.items() if count > PARAMETERS}
    assert many == set(MORE_PARAMETERS), "the list of exceptions names those that need one, only"


def test_public_names_are_documented(sources: dict[str, str]) -> None:
    missing = {path: names for path, text in sources.items() if (names := undocumented(text))}
    assert missing == {}


def test_no_module_is_a_drawer() -> None:
    assert [
        f for f in all_files() if f.stem in {"utils", "util", "helpers", "misc", "common"}
    ] == []


@pytest.mark.parametrize("what", BANNED)
def test_files_contain_no(what: str) -> None:
    found = [
        f"{file.relative_to(ROOT)}:{text[: match.start()].count(chr(10)) + 1}"
        for file in all_files()
        if file != Path(__file__)
        for text in [file.read_text("utf-8")]
        for match in BANNED[what].finditer(text)
    ]
    assert found == []


EXAMPLE = '''"""Module."""

class Net:
    """Doc."""

    @property
    def size(self):
        """Doc
        of two lines."""
        # why

        return 1

    @size.setter
    def size(self, value): ...

    def open(self, a, /, b, *c, d, **e): return a

    def _private(self):
        def inner(): ...
        return inner
'''


def test_the_checks_see_what_they_look_for() -> None:
    found = functions(EXAMPLE)
    assert [name for name, _ in found] == [
        "Net.size",
        "Net.size",
        "Net.open",
        "Net._private",
        "Net._private.<locals>.inner",
    ]
    assert [code_lines(node, EXAMPLE) for _, node in found] == [2, 1, 1, 3, 1]
    assert [parameters(node) for _, node in found] == [0, 1, 3, 0, 0]
    assert undocumented(EXAMPLE) == ["Net.open"]
    assert undocumented("def open(): ...") == ["the module", "open"]


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("an open end", "x = 1  # TODO later"),
        ("a section banner", "    # ----- losses -----"),
        ("a section banner", "#" * 20),
        ("a linter silenced for a whole file", "# ruff: noqa: D100"),
        ("a check silenced without its code", "import x  # noqa"),
        ("a check silenced without its code", "f(1)  # type: ignore"),
    ],
)
def test_a_banned_text_is_found(what: str, text: str) -> None:
    assert BANNED[what].search(text)
    assert not BANNED[what].search("x = f(1)  # type: ignore[arg-type]  # noqa: E501, a reason")

"""The scripts of linear and logistic regression: as good as scikit-learn's fit, on any table."""

from __future__ import annotations

import ast
import math
import os
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_lessons import write_housing, write_titanic

MODELS = Path(__file__).parents[1] / "tutorials/models"
SCRIPTS = ("linear_regression", "logistic_regression")
SET = {"linear_regression": "california-housing", "logistic_regression": "titanic"}
# Of the validation data, in the mean and in the worst of three seeds: explained variance, and
# share of right answers.
MEAN_GOAL = {"linear_regression": 0.62, "logistic_regression": 0.76}
WORST_GOAL = {"linear_regression": 0.6, "logistic_regression": 0.74}
SEED_LINE = re.compile(r"^seed (\d+): .*? loss ([\d.]+), scikit-learn's ([\d.]+), ", re.MULTILINE)
Main = Callable[..., str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    write_housing(root)
    write_titanic(root)
    return root


@pytest.fixture(scope="module")
def lessons(made: Path) -> Path:
    """The real tables where they are, else made-up ones."""
    return Path(os.environ.get("ESTIMATOR_DATA") or made)


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Main:
    """Runs a script in this process, where a warning is an error, and returns what it printed."""

    def run(name: str, *arguments: str) -> str:
        monkeypatch.delenv("ESTIMATOR_DATA", raising=False)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        runpy.run_path(str(MODELS / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


def script(name: str) -> dict[str, Any]:
    return runpy.run_path(str(MODELS / f"{name}.py"), run_name=name)


def reader(name: str, names: dict[str, Any]) -> Callable[..., Any]:
    found: Callable[..., Any] = names[SET[name].replace("-", "_")]
    return found


@pytest.mark.parametrize("name", SCRIPTS)
def test_three_seeds_reach_the_goal_on_validation_data(name: str, lessons: Path) -> None:
    names = script(name)
    results = []
    for seed in range(3):
        data = reader(name, names)(lessons / SET[name], missing="fill", seed=seed)
        results.append(names["run"](data, seed, 60 if name.startswith("linear") else 100))
    reached = [r.explained if name.startswith("linear") else r.accuracy for r in results]
    assert sum(reached) / 3 >= MEAN_GOAL[name] and min(reached) >= WORST_GOAL[name]
    assert all(result.good() for result in results)
    for result in results:
        assert result.train_loss == pytest.approx(result.reference_train_loss, rel=0.01)
        assert result.val_loss == pytest.approx(result.reference_val_loss, rel=0.01)
    assert len({result.val_loss for result in results}) == 3, "each seed has its own split"


@pytest.mark.parametrize("name", SCRIPTS)
def test_quick_mode_is_one_seed(name: str, made: Path, main: Main) -> None:
    printed = main(name, "--quick", "--data", str(made), "--seeds", "5", "6")
    ((seed, loss, reference),) = SEED_LINE.findall(printed)
    assert seed == "5"
    assert float(loss) == pytest.approx(float(reference), rel=0.01)


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_folder_may_come_from_the_environment(
    name: str, made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ESTIMATOR_DATA", str(made))
    monkeypatch.setattr(sys, "argv", [name, "--seeds", "1", "2"])
    runpy.run_path(str(MODELS / f"{name}.py"), run_name="__main__")
    seeds = [seed for seed, _, _ in SEED_LINE.findall(capsys.readouterr().out)]
    assert seeds == ["1", "2"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_rows_with_empty_cells_may_be_dropped(name: str, made: Path, main: Main) -> None:
    assert "seed 0:" in main(name, "--quick", "--data", str(made), "--missing", "drop")
    read = reader(name, script(name))
    filled = read(made / SET[name], missing="fill").train[0]
    dropped = read(made / SET[name], missing="drop").train[0]
    assert not filled.isnan().any() and not dropped.isnan().any()
    assert len(dropped) < len(filled)


@pytest.mark.parametrize(
    ("name", "column", "count"),
    [("linear_regression", "total_bedrooms", 12), ("logistic_regression", "Age", 40)],
)
def test_empty_cells_are_refused_by_name(
    name: str, column: str, count: int, made: Path, main: Main
) -> None:
    with pytest.raises(SystemExit, match=f"{count} in '{column}'") as stop:
        main(name, "--quick", "--data", str(made), "--missing", "error")
    assert SET[name] in str(stop.value) and "missing='drop'" in str(stop.value)


@pytest.mark.parametrize("name", SCRIPTS)
def test_without_its_table_a_script_says_where_it_looked(
    name: str, tmp_path: Path, main: Main
) -> None:
    with pytest.raises(SystemExit, match=SET[name]) as stop:
        main(name, "--quick", "--data", str(tmp_path))
    assert str(tmp_path) in str(stop.value)
    with pytest.raises(SystemExit, match="ESTIMATOR_DATA"):
        main(name, "--quick")


@pytest.mark.parametrize(
    ("name", "what"),
    [("linear_regression", "R2 must be at least 0.6"), ("logistic_regression", "accuracy must")],
)
def test_a_table_of_noise_fails(name: str, what: str, tmp_path: Path, main: Main) -> None:
    write_housing(tmp_path, 300, noise=1e6)
    write_titanic(tmp_path, 300, strength=0.0)
    with pytest.raises(SystemExit, match=what):
        main(name, "--quick", "--data", str(tmp_path))


def test_a_loss_apart_from_the_reference_is_not_good() -> None:
    linear = script("linear_regression")["Result"](0, 1.0, 1.0, 1.0, 1.0, 0.9, 1.0)
    assert linear.good()
    for change in ({"train_loss": 1.02}, {"val_loss": 0.98}, {"explained": 0.5}):
        assert not linear._replace(**change).good()
    logistic = script("logistic_regression")["Result"](0, 1.0, 1.0, 1.0, 1.0, 0.9, 0.9, 1.0)
    assert logistic.good()
    for change in ({"train_loss": math.nan}, {"val_loss": 1.02}, {"accuracy": 0.5}):
        assert not logistic._replace(**change).good()


def with_ones(x: torch.Tensor) -> Any:
    return np.column_stack([x.double().numpy(), np.ones(len(x))])


def test_the_reference_of_the_line_is_least_squares(made: Path) -> None:
    names = script("linear_regression")
    train, val = names["standardised"](reader("linear_regression", names)(
        made / "california-housing", missing="fill", seed=0
    ))  # fmt: skip
    solution = np.linalg.lstsq(with_ones(train[0]), train[1].double().numpy(), rcond=None)[0]
    wanted = [
        float(((with_ones(x) @ solution - y.double().numpy()) ** 2).mean()) for x, y in (train, val)
    ]
    assert list(names["reference"](train, val)) == pytest.approx(wanted, rel=1e-6)


def test_the_reference_of_the_logistic_fit_has_no_gradient(made: Path) -> None:
    names = script("logistic_regression")
    train, val = names["standardised"](reader("logistic_regression", names)(
        made / "titanic", missing="fill", seed=0
    ))  # fmt: skip
    # Newton's method, another than either side uses.
    design, answers = with_ones(train[0]), train[1].double().numpy().ravel()
    weights = np.zeros(design.shape[1])
    for _ in range(20):
        chance = 1 / (1 + np.exp(-design @ weights))
        curvature = design.T @ (design * (chance * (1 - chance))[:, None])
        weights += np.linalg.pinv(curvature) @ (design.T @ (answers - chance))
    wanted = []
    for x, y in (train, val):
        scores, signs = with_ones(x) @ weights, 2 * y.double().numpy().ravel() - 1
        wanted.append(float(np.logaddexp(0, -signs * scores).mean()))
    assert list(names["reference"](train, val)) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("name", SCRIPTS)
def test_columns_are_standardised_by_the_training_part(name: str, made: Path) -> None:
    names = script(name)
    data = reader(name, names)(made / SET[name], missing="fill", seed=0)
    # A word that only the validation part knows.
    data.train[0][:, -1] = 0
    (x, _), (x_val, _) = names["standardised"](data)
    assert torch.isfinite(x).all() and torch.isfinite(x_val).all()
    assert x.mean(dim=0).tolist() == pytest.approx([0] * x.shape[1], abs=1e-3)
    assert x[:, :-1].std(dim=0).tolist() == pytest.approx([1] * (x.shape[1] - 1), abs=1e-3)
    mean = data.train[0].mean(dim=0)
    std = data.train[0].std(dim=0)
    row = (data.val[0][0] - mean)[:-1] / std[:-1]
    assert x_val[0, :-1].tolist() == pytest.approx(row.tolist(), abs=1e-3)


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_short_and_their_call_too(name: str) -> None:
    source = (MODELS / f"{name}.py").read_text("utf-8")
    assert len(source.splitlines()) <= 150
    made, *rest = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.Assign, ast.Expr))
        and re.search(r"\b(Estimator|Trainer)\(|\.fit\((?!\*)", ast.unparse(node))
    ]
    lines = sum((node.end_lineno or 0) - node.lineno + 1 for node in (made, *rest))
    assert ".fit(train" in "".join(map(ast.unparse, rest)) and lines <= 6

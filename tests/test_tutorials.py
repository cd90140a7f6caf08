"""The notebooks: committed without outputs, and true when they are executed."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from notebook_runs import TUTORIALS, Executed, complaints, execute, read
from PIL import Image

NOTEBOOKS = sorted(TUTORIALS.glob("*.ipynb"))


@pytest.fixture(scope="module")
def first_fit(tmp_path_factory: pytest.TempPathFactory) -> Executed:
    return execute("01_first_fit.ipynb", tmp_path_factory)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_committed_without_outputs(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


def test_there_is_a_first_notebook() -> None:
    assert [path.name for path in NOTEBOOKS][:1] == ["01_first_fit.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_links_of_notebooks_lead_somewhere(path: Path) -> None:
    cells = read(path).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert [link for link in links if not (path.parent / link).is_file()] == []


def test_every_cell_runs_without_a_complaint(first_fit: Executed) -> None:
    assert complaints(first_fit) == []


def test_the_net_learns(first_fit: Executed) -> None:
    assert "epoch 10, step 430" in first_fit.result("train")
    accuracies = ast.literal_eval(first_fit.result("column"))
    assert len(accuracies) == 10 and accuracies[-1] > 0.9
    measured = ast.literal_eval(first_fit.result("evaluate"))
    assert measured["accuracy"] > 0.9 and 0 < measured["loss"] < 0.5
    assert round(measured["accuracy"], 3) == accuracies[-1]


def test_predictions_are_digits_that_mostly_agree(first_fit: Executed) -> None:
    predicted, labelled = (line.split()[1:] for line in first_fit.printed("predict").splitlines())
    assert len(predicted) == len(labelled) == 20
    assert sum(p == t for p, t in zip(predicted, labelled, strict=True)) >= 17
    assert set(predicted) <= set("0123456789")


def test_the_loss_graph_shows_two_curves(first_fit: Executed) -> None:
    image = first_fit.picture("graph").astype(int)
    assert image.shape == (480, 768, 3)
    for colour in ((31, 119, 180), (255, 127, 14)):
        drawn = (abs(image - colour).max(axis=2) < 10).any(axis=0)
        assert drawn.sum() > 500, "a curve runs over most of the picture's width"


def test_the_handler_of_the_notebook_stops_the_run(first_fit: Executed) -> None:
    lines = first_fit.printed("train-with-handlers").splitlines()
    values = [float(line.rpartition(" ")[2]) for line in lines]
    assert [line.partition(":")[0] for line in lines] == [
        f"epoch {number}" for number in range(1, len(lines) + 1)
    ]
    assert values[-1] >= 0.985 > max(values[:-1])
    assert first_fit.result("train-with-handlers") == "'StopWhenGood: accuracy 0.985 is reached'"
    plan = first_fit.printed("show-plan")
    assert re.search(r"^ +validation_end +.*StopWhenGood$", plan, re.M)


def test_the_worst_samples_are_shown(first_fit: Executed) -> None:
    gallery = first_fit.picture("show-gallery")
    with Image.open(first_fit.folder / "runs/first-fit/gallery_validation.png") as file:
        assert (np.asarray(file.convert("RGB")) == gallery).all()
    # Two rows of ten dark pictures on white.
    assert 0.2 < (gallery.max(axis=2) < 60).mean() < 0.8
    colours = first_fit.picture("show-map").reshape(-1, 3)
    yellow, red = ((colours == colour).all(axis=1).sum() for colour in ((255, 255, 0), (255, 0, 0)))
    assert yellow > red > 100

"""The notebook about run folders: it trains what it promises, and shows what it names."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import pytest
from made_lessons import write_digits
from notebook_runs import Executed, complaints, execute
from page_reader import read_page

SETTINGS = "epochs, samples = 3, 12_800"
PICTURES = ("samples", "augmentations", "matrix", "map", "worst", "why", "layers")


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Executed:
    """Executed on the real digits where they are, else on ones made up."""
    root = os.environ.get("ESTIMATOR_DATA")
    data = tmp_path_factory.mktemp("made") if root is None else Path(root).resolve()
    if root is None:
        write_digits(data)
    return execute(
        "02_mnist_run_folder.ipynb", tmp_path_factory, settings=SETTINGS,
        ESTIMATOR_DATA=str(data),
    )  # fmt: skip


def test_every_cell_runs_without_a_complaint(tutorial: Executed) -> None:
    assert complaints(tutorial) == []


def test_the_net_reaches_what_is_promised(tutorial: Executed) -> None:
    assert float(tutorial.printed("test").split()[-1]) >= 0.95


def test_the_folder_holds_what_the_text_names(tutorial: Executed) -> None:
    names = {line.split()[0] for line in tutorial.printed("folder").splitlines()}
    assert names >= {
        "augmentations", "best_history.txt", "checkpoints", "errors", "explanations", "history",
        "last.model", "last.model.result", "lr_recorder", "model.onnx", "random_samples",
        "report.html", "run.json", "softmax-train-cm.png", "softmax-train-report.txt",
        "softmax-val-cm.png", "softmax-val-report.txt", "tensorboard", "trainer.txt",
        "worst_samples_by_epoch", "embedding", "layers",
    }  # fmt: skip


def test_texts_tell_of_the_run(tutorial: Executed) -> None:
    assert tutorial.printed("record").startswith("completed 3 ")
    assert re.search(r"val_softmax_accuracy=0\.9\d+, epoch=\d", tutorial.printed("record"))
    assert "uid=" in tutorial.printed("samples") and "target" in tutorial.printed("samples")
    assert tutorial.printed("report").startswith("softmax, val\n")
    assert float(tutorial.printed("take")) < 1e-4


@pytest.mark.parametrize("cell", PICTURES)
def test_pictures_show_something(tutorial: Executed, cell: str) -> None:
    picture = tutorial.picture(cell)
    assert min(picture.shape[:2]) > 50 and picture.std() > 5


def test_the_page_has_all_sections(tutorial: Executed) -> None:
    assert tutorial.printed("page") == "report.html True\n"
    page = read_page(tutorial.folder / "runs/mnist_cnn_r0/report.html")
    assert set(page) >= {
        "Outcome", "Curves", "Classification: softmax, val", "Errors: softmax, validation",
        "Worst samples: train", "Random samples", "Augmentations", "Explanations", "Learning rate",
        "Layers", "Net", "Data", "Exported net", "Environment",
    }  # fmt: skip


def test_the_better_run_is_found(tutorial: Executed) -> None:
    assert tutorial.printed("compare").strip() == "mnist_cnn_r0"
    assert "trainers['trainer']" in ast.literal_eval(tutorial.result("compare"))
    assert (tutorial.folder / "runs/comparison.html").is_file()

"""`make demo`: what it prints, and what it leaves behind."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from page_reader import read_page
from PIL import Image

from estimator.handlers.checkpoint import load_checkpoint

TUTORIALS = Path(__file__).parents[1] / "tutorials"
HELD_OUT = 1797 // 5


class Demo(NamedTuple):
    """One run of the demo: where it ran, what it printed, and the paths among that."""

    cwd: Path
    printed: str
    paths: dict[str, Path]

    def history(self) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = json.loads(self.paths["history as JSON"].read_text("utf-8"))
        return columns

    def best_row(self) -> int:
        losses = self.history()["val_loss"]
        return losses.index(min(losses))


def printed_paths(printed: str, cwd: Path) -> dict[str, Path]:
    lines = re.findall(r"^(\w+(?: \w+)*) {2,}(\S+)$", printed, re.M)
    return {what: cwd / path for what, path in lines}


def table(path: Path, delimiter: str = ",") -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file, delimiter=delimiter))


def pixels(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


def run_demo(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(TUTORIALS / "demo.py"), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    cwd = tmp_path_factory.mktemp("demo")
    run = run_demo(cwd, "--data", "digits")
    assert run.returncode == 0, run.stderr
    assert "Warning" not in run.stderr
    return Demo(cwd, run.stdout, printed_paths(run.stdout, cwd))


def test_all_reports_are_on_the_page(demo: Demo) -> None:
    page = read_page(demo.paths["page"])
    assert set(page) >= {
        "Outcome", "Curves", "Classification: output, val", "Errors: output, validation",
        "Worst samples: train", "Random samples", "Explanations", "Learning rate", "Layers",
        "Embedding", "Net", "Data", "Exported net",
    }  # fmt: skip
    assert "Nothing is missing." in page["Missing reports"].text
    assert demo.paths["ONNX"].stat().st_size > 10_000


def test_the_demo_reaches_its_goal(demo: Demo) -> None:
    assert demo.history()["val_accuracy"][-1] >= 0.97
    # What it has in the end are the best averaged weights, which its validation has measured.
    best = demo.history()["val_accuracy"][demo.best_row()]
    assert f"Validation accuracy {best:.4f}\n" in demo.printed
    assert best >= 0.97


def test_everything_lies_in_a_folder_of_the_run(demo: Demo) -> None:
    folder = Path("runs/demo-digits_r0")
    assert f"tensorboard --logdir {folder}\n" in demo.printed
    assert list(demo.paths) == [
        *("page", "loss graph", "history", "history as JSON", "log", "best weights"),
        *("best checkpoint", "confusion matrix", "worst samples", "learning rate", "gradients"),
        *("activations", "embedding", "ONNX"),
    ]
    assert {path.relative_to(demo.cwd).parts[:2] for path in demo.paths.values()} == {folder.parts}
    assert [path.name for path in demo.cwd.iterdir()] == ["runs"]


def test_the_tables_have_a_row_for_each_epoch(demo: Demo) -> None:
    header, *rows = table(demo.paths["history"])
    history = demo.history()
    lines = demo.paths["log"].read_text("utf-8").splitlines()
    assert history["epoch"] == list(range(1, len(rows) + 1))
    assert sum(re.search(r" Epoch \d+/15 ", line) is not None for line in lines) == len(rows)
    assert header == list(history)
    for column, cells in zip(header, zip(*rows, strict=True), strict=True):
        assert [json.loads(cell.lower()) for cell in cells] == history[column]
    head, *rates = table(demo.paths["learning rate"])
    assert head == ["epoch", "step", "trainer"]
    assert [float(rate) for _, _, rate in rates] == history["lr"]
    assert history["lr"][0] == 2e-3 and history["lr"] == sorted(history["lr"], reverse=True)


@pytest.mark.parametrize(
    ("what", "size"),
    [("loss graph", (800, 450)), ("worst samples", (1550, 1120))],
)
def test_the_pictures_show_something(demo: Demo, what: str, size: tuple[int, int]) -> None:
    image = pixels(demo.paths[what])
    assert image.shape == size[::-1]
    ink = image < 250
    assert 0.01 < ink.mean() < 0.9
    # Nothing is cut off at the edges, and no quarter of the picture is empty.
    assert not ink[0].any() and not ink[-1].any()
    assert all(quarter.any() for half in np.split(ink, 2) for quarter in np.split(half, 2, axis=1))


def test_the_best_checkpoint_holds_the_best_weights(demo: Demo) -> None:
    state = load_checkpoint(demo.paths["best checkpoint"])
    assert state["stats"]["epoch"] == demo.history()["epoch"][demo.best_row()]
    weights = torch.load(demo.paths["best weights"], weights_only=True)
    assert list(weights) == list(state["net"])
    (average,) = [s["shadow"] for s in state["handlers"].values() if "shadow" in s]
    for name, weight in weights.items():
        torch.testing.assert_close(weight, average[name], rtol=0, atol=0)


def test_gradients_and_activations_are_of_every_layer_and_epoch(demo: Demo) -> None:
    weights = torch.load(demo.paths["best weights"], weights_only=True)
    epochs = demo.history()["epoch"]
    _, *gradients = table(demo.paths["gradients"])
    assert [row[2] for row in gradients] == list(weights) * len(epochs)
    assert all(float(row[3]) > 0 for row in gradients)
    _, *activations = table(demo.paths["activations"])
    first = [row[2] for row in activations[: len(activations) // len(epochs)]]
    assert {"conv1", "features", "classifier"} <= set(first)
    assert [row[2] for row in activations] == first * len(epochs)


def test_the_embedding_has_a_vector_for_each_held_out_digit(demo: Demo) -> None:
    config = demo.paths["embedding"]
    found = dict(re.findall(r'(\w+_path): "(.*)"', config.read_text("utf-8")))
    vectors = table(config.parent / found["tensor_path"], "\t")
    assert len(vectors) == HELD_OUT
    assert np.isfinite(np.array(vectors, float)).all() and {len(row) for row in vectors} == {64}
    header, *rows = table(config.parent / found["metadata_path"], "\t")
    answers = [dict(zip(header, row, strict=True)) for row in rows]
    assert len(answers) == len({answer["uid"] for answer in answers}) == HELD_OUT
    right = [answer["target_class"] == answer["prediction_class"] for answer in answers]
    assert np.mean(right) == pytest.approx(demo.history()["val_accuracy"][-1])
    sprite = pixels(config.parent / found["image_path"])
    assert sprite.shape == (19 * 8, 19 * 8) and sprite.std() > 50


def test_a_second_run_has_its_own_folder_and_fails_below_the_goal(demo: Demo) -> None:
    before = demo.paths["history"].read_bytes()
    run = run_demo(demo.cwd, "--epochs", "1")
    assert run.returncode == 1
    assert re.search(r"must be at least 0\.97; it is 0\.\d+\.$", run.stderr)
    paths = printed_paths(run.stdout, demo.cwd)
    assert paths["history"] == demo.cwd / "runs/demo-digits_r1/history.csv"
    assert len(table(paths["history"])) == 2
    assert demo.paths["history"].read_bytes() == before

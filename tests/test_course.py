"""The course notebook: each step does what its text says, and its nets learn."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_lessons import write_digits, write_pictures
from notebook_runs import TUTORIALS, Executed, complaints, execute, read

SETTINGS = "seed, mnist_epochs, cnn_epochs, cifar_images, cifar_held_out = {}, 2, 2, 192, 100"
DIGITS = ("mnist", "logistic-net", "logistic-untrained", "logistic-fit", "hidden-fit")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of the real data where it is, else of data made up for the course."""
    root = os.environ.get("ESTIMATOR_DATA")
    if root:
        return str(Path(root).resolve())
    made = tmp_path_factory.mktemp("made")
    write_digits(made)
    write_pictures(made)
    return str(made)


@pytest.fixture(scope="module")
def course(data: str, tmp_path_factory: pytest.TempPathFactory) -> Executed:
    """Executed with settings that take little time."""
    settings = SETTINGS.format(0)
    return execute("course.ipynb", tmp_path_factory, settings=settings, ESTIMATOR_DATA=data)


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+\.\d+", text)]


def test_every_cell_runs_without_a_complaint(course: Executed) -> None:
    assert complaints(course) == []


def test_gradients_are_those_of_the_formula(course: Executed) -> None:
    assert course.result("autograd") == "(tensor(12.), tensor(9.), None)"


def test_the_line_by_hand_ends_at_the_best_one(course: Executed) -> None:
    losses = [float(line.split()[-1]) for line in course.printed("by-hand").splitlines()]
    assert len(losses) == 5 and losses[0] > 2 and losses == sorted(losses, reverse=True)
    by_hand, best = numbers(course.printed("closed-form"))
    assert by_hand == pytest.approx(best, abs=2e-6) and round(best, 4) == losses[-1]


def test_loop_and_call_are_equal(course: Executed) -> None:
    assert course.result("first-fit") == "True"
    assert numbers(course.printed("first-fit")) == numbers(course.printed("loop"))


def test_chances_add_up_and_an_untrained_net_knows_nothing(course: Executed) -> None:
    assert numbers(course.printed("logistic-net")) == pytest.approx([1] * 4, abs=1e-6)
    untrained = ast.literal_eval(course.result("logistic-untrained"))
    assert untrained["loss"] == pytest.approx(2.3, abs=0.35) and untrained["accuracy"] < 0.35


def test_the_hidden_layer_is_better_than_the_line(course: Executed) -> None:
    line = ast.literal_eval(course.result("logistic-fit"))
    hidden = ast.literal_eval(course.result("hidden-fit"))
    assert len(line) == len(hidden) == 2
    assert line[-1] >= 0.9 and hidden[-1] >= 0.95 and hidden[-1] >= line[-1]
    line_test, hidden_test = numbers(course.printed("test-set"))
    assert line_test >= 0.88 and hidden_test >= 0.94
    guessed, labelled = (row.split()[1:] for row in course.printed("predict").splitlines())
    assert sum(g == t for g, t in zip(guessed, labelled, strict=True)) >= 10


@pytest.mark.parametrize("seed", [1, 2])
def test_other_seeds_reach_the_same(seed: int, data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESTIMATOR_DATA", data)
    source = {cell.id: cell.source for cell in read(TUTORIALS / "course.ipynb").cells}
    names: dict[str, Any] = {}
    imports = (source[cell] for cell in ("autograd", "irises", "loop", "first-fit"))
    for code in (SETTINGS.format(seed), *imports, *(source[cell] for cell in DIGITS)):
        exec(code, names)
    line, hidden = (names[name].train_stats["val_accuracy"][-1] for name in ("est", "hidden"))
    assert line >= 0.9 and hidden >= 0.95


def test_the_kernel_shows_edges_only(course: Executed) -> None:
    digits, edges = course.picture("mnist"), course.picture("kernel")
    assert digits.shape == edges.shape == (3 * 28, 12 * 3 * 28, 3)
    assert digits.any() and edges.max() == 255 and (digits != edges).any()


def test_a_convolution_has_few_weights(course: Executed) -> None:
    assert "(1, 32, 16, 16); 896 weights, and 100,696,064" in course.printed("sizes")
    # Six convolutions and three dense layers, with their biases.
    channels, dense = [3, 32, 64, 128, 128, 256, 256], [4096, 1024, 512, 10]
    weights = sum((9 * a + 1) * b for a, b in zip(channels, channels[1:], strict=False))
    weights += sum((a + 1) * b for a, b in zip(dense, dense[1:], strict=False))
    assert int(course.result("cnn")) == weights


def test_augmented_pictures_differ_from_one_another(course: Executed) -> None:
    shown = course.picture("augment")
    tiles = np.split(shown, 8, axis=1)
    assert len({tile.tobytes() for tile in tiles}) >= 6
    # Sides that were moved in are grey, and some are mirrored: nothing else of the picture changes.
    assert all(abs(float(tile.mean()) - float(shown.mean())) < 60 for tile in tiles)


def test_the_cnn_is_trained_on_what_was_asked_for(course: Executed) -> None:
    assert "192 to train on, 100 to validate with" in course.printed("load-cifar")
    accuracies = ast.literal_eval(course.result("cnn-fit"))
    assert len(accuracies) == 2 and all(0 <= value <= 1 for value in accuracies)
    predicted, labelled = course.printed("cnn-predict").splitlines()
    assert len(predicted.split()) == len(labelled.split()) == 9
    for graph in ("logistic-graph", "cnn-graph"):
        assert course.picture(graph).shape == (480, 768, 3)

"""The picture of `LRRecorderHandler`: what its axes hold, and some of its pixels."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import matplotlib.figure
import matplotlib.image
import pytest
import torch
from lr_runs import column, fit, two_trainers
from torch import nn
from torch.optim.lr_scheduler import StepLR

from estimator import Trainer
from estimator.handlers import lr_recorder
from estimator.handlers.base import MissingExtraError, every
from estimator.handlers.lr_recorder import LRRecorderHandler


class Drawn:
    """The figures that were saved, in place of their files' pixels."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.figures: list[matplotlib.figure.Figure] = []
        save = matplotlib.figure.Figure.savefig

        def keep(figure: matplotlib.figure.Figure, *args: Any, **options: Any) -> None:
            self.figures.append(figure)
            save(figure, *args, **options)

        monkeypatch.setattr(matplotlib.figure.Figure, "savefig", keep)

    @property
    def axes(self) -> Any:
        return self.figures[-1].axes[0]

    def labels(self) -> list[str]:
        return [text.get_text() for text in self.axes.get_legend().get_texts()]


def test_picture_shows_each_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Drawn(monkeypatch)
    fit(LRRecorderHandler(tmp_path), trainers=two_trainers(), epochs=2)
    axes = drawn.axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert {name: list(line.get_ydata()) for name, line in lines.items()} == {
        "body/group0": [0.5, 0.5],
        "body/group1": [0.25, 0.25],
        "head": [1e-3, 1e-3],
    }
    assert [list(line.get_xdata()) for line in lines.values()] == [[4, 8]] * 3
    assert {line.get_drawstyle() for line in lines.values()} == {"steps-pre"}
    assert drawn.labels() == ["body/group0", "body/group1", "head"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Optimizer step", "Learning rate")
    assert axes.get_yscale() == "log"
    assert matplotlib.image.imread(tmp_path / "lr.png").shape == (540, 960, 4)


def test_one_point_can_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Drawn(monkeypatch)
    fit(LRRecorderHandler(tmp_path), epochs=1)
    (line,) = drawn.axes.get_lines()
    assert (list(line.get_ydata()), line.get_marker()) == ([0.001], "o")
    assert drawn.axes.get_yscale() == "linear"
    pixels = matplotlib.image.imread(tmp_path / "lr.png")[..., :3]
    # The first colour of matplotlib's cycle fills the marker.
    blue = abs(pixels - [0x1F / 255, 0x77 / 255, 0xB4 / 255]).max(axis=2) < 0.01
    assert blue.sum() > 30


def test_a_rate_of_zero_keeps_the_scale_linear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = Drawn(monkeypatch)
    rates = functools.partial(StepLR, step_size=1, gamma=0.0)
    fit(LRRecorderHandler(tmp_path), trainers=Trainer("sgd", lr=1.0, scheduler=rates))
    assert column(tmp_path, "trainer") == [1.0, 0.0, 0.0]
    assert drawn.axes.get_yscale() == "linear"


def test_a_picture_of_many_groups_names_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def groups(net: nn.Module) -> list[dict[str, Any]]:
        first = [{"params": [p]} for p in net.parameters()]
        return first + [{"params": [nn.Parameter(torch.zeros(1))]} for _ in range(41)]

    drawn = Drawn(monkeypatch)
    fit(LRRecorderHandler(tmp_path), trainers=Trainer("sgd", lr=0.1, params=groups), epochs=1)
    assert len(drawn.axes.get_lines()) == 45
    assert drawn.labels() == [f"trainer/group{i}" for i in range(0, 45, 3)]
    assert drawn.axes.get_legend().get_title().get_text() == "15 of 45 lines"


def test_a_picture_of_many_steps_is_thinned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lr_recorder, "_MOST_POINTS", 5)
    monkeypatch.setattr(lr_recorder, "_MOST_MARKERS", 4)
    drawn = Drawn(monkeypatch)
    fit(LRRecorderHandler(tmp_path, every=every(1)))
    (line,) = drawn.axes.get_lines()
    assert list(line.get_xdata()) == [1, 4, 7, 10, 12]
    assert line.get_marker() == "None"
    assert len(column(tmp_path, "step")) == 12


def test_without_matplotlib_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"LRRecorderHandler needs matplotlib.*\[report\]"):
        fit(LRRecorderHandler(tmp_path))
    assert list(tmp_path.iterdir()) == []

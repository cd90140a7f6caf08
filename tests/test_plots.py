"""The loss graph and the picture of the range test: what is drawn, and how it is labelled."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from estimator import Estimator, History
from estimator.handlers.base import ArgumentError, MissingExtraError
from estimator.lr_finder import LRFinderResult
from estimator.plots import new_axes, plot_losses


def history(*rows: dict[str, float | int | bool | None]) -> History:
    made = History(["epoch", "step", "complete", "train_loss", "val_loss"])
    for row in rows:
        made.append(row)
    return made


def lines(figure: Figure) -> dict[str, tuple[list[float], list[float]]]:
    return {
        str(line.get_label()): (
            list(np.asarray(line.get_xdata())),
            list(np.asarray(line.get_ydata())),
        )
        for line in figure.axes[0].lines
    }


def legend(figure: Figure) -> list[str]:
    box = figure.axes[0].get_legend()
    return [] if box is None else [text.get_text() for text in box.get_texts()]


def test_losses_over_epochs() -> None:
    figure = plot_losses(
        history(
            {"epoch": 1, "step": 4, "complete": True, "train_loss": 2.0, "val_loss": 3.0},
            {"epoch": 2, "step": 8, "complete": True, "train_loss": 1.0},
            {"epoch": 3, "step": 12, "complete": True, "train_loss": 0.5, "val_loss": 1.5},
        )
    )
    assert lines(figure) == {
        "training": ([1, 2, 3], [2.0, 1.0, 0.5]),
        "validation": ([1, 3], [3.0, 1.5]),
    }
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "loss")
    assert legend(figure) == ["training", "validation"]


def test_losses_over_steps_where_rows_lie_inside_epochs() -> None:
    figure = plot_losses(
        history(
            {"epoch": 0, "step": 2, "complete": False, "train_loss": 2.0, "val_loss": 3.0},
            {"epoch": 1, "step": 4, "complete": True, "train_loss": 1.0, "val_loss": math.nan},
        )
    )
    assert lines(figure)["training"] == ([2, 4], [2.0, 1.0])
    assert figure.axes[0].get_xlabel() == "optimizer step"


def test_a_history_without_values_is_drawn_empty() -> None:
    bare = History(["epoch", "complete"])
    bare.append({"epoch": 1, "complete": True})
    assert lines(plot_losses(bare)) == {} and legend(plot_losses(bare)) == []
    assert lines(plot_losses(history({"epoch": 1, "complete": True, "train_loss": 1.0}))) == {
        "training": ([1], [1.0])
    }


def test_a_figure_shows_itself_in_a_notebook() -> None:
    png = new_axes().get_figure()._repr_png_()  # type: ignore[union-attr]  # a figure of ours
    assert png.startswith(b"\x89PNG\r\n") and len(png) > 1000


def test_the_graph_of_an_estimator() -> None:
    x = torch.randn(8, 2)
    est = Estimator(torch.nn.Linear(2, 1), torch.nn.MSELoss())
    with pytest.raises(ArgumentError, match="draws a history; there is none yet"):
        est.plot_loss_graph()
    stats = est.fit((x, x[:, :1]), (x, x[:, :1]), 3, "sgd", "cpu", progress=False)
    axes = new_axes()
    figure = est.plot_loss_graph(axes)
    assert figure is axes.figure
    assert lines(figure)["training"] == (stats["epoch"], stats["train_loss"])
    assert lines(figure)["validation"] == (stats["epoch"], stats["val_loss"])


def test_the_range_test_is_drawn_over_logarithmic_rates() -> None:
    lrs = [0.001, 0.01, 0.1, 1.0]
    result = LRFinderResult(lrs, [1.2, 0.6, 0.5, math.inf], [1.0, 0.6, 0.55, math.nan])
    axes = new_axes()
    figure = result.plot(axes)
    assert figure is axes.figure and axes.get_xscale() == "log"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("learning rate", "loss")
    drawn = lines(figure)
    assert drawn["loss of the step"] == (lrs, result.losses)
    assert drawn["smoothed"][0] == lrs
    assert drawn[f"suggestion {result.suggestion:.2g}"][0] == [result.suggestion] * 2
    assert axes.get_ylim() == pytest.approx((0.5 - 0.05, 1.0 + 0.05))
    assert len(legend(figure)) == 3


def test_a_flat_range_test_is_drawn() -> None:
    assert LRFinderResult([0.1, 0.2, 0.3], [1.0] * 3, [1.0] * 3).plot().axes[0].get_ylim() == (
        pytest.approx((0.9, 1.1))
    )


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from estimator import plots

    plots._figure_class.cache_clear()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'torch-estimator\[report\]'"):
        new_axes()
    plots._figure_class.cache_clear()

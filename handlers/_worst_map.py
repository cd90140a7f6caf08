"""The map of losses: one column a sample, one row an epoch; as pictures, text and table."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from estimator.handlers._loss_table import Array, Rank, Ranking
from estimator.handlers._sample_pictures import save_figure
from estimator.handlers._sample_rows import one_line, shortened
from estimator.handlers.base import require

DRAWN_SAMPLES = 1000
UNSEEN = (150, 150, 150)
_LABELLED_SAMPLES = 30
_LABELLED_EPOCHS = 20


def colour_limits(loss: Array) -> tuple[float, float]:
    """The losses that are drawn yellow and red.

    Yellow is the median of the last epoch, red its mean plus six standard deviations, but no more
    than the largest finite loss there is; where that leaves no range, the largest loss is red.

    Args:
        loss: (N, E) with NaN where a sample was not seen.
    """
    finite = loss[np.isfinite(loss)].astype(np.float64)
    if not len(finite):
        return 0.0, 1.0
    last = loss[:, -1].astype(np.float64)
    last = last[np.isfinite(last)] if np.isfinite(last).any() else finite
    low, high = float(np.median(last)), float(last.mean() + 6 * last.std())
    largest = float(finite.max())
    high = min(high, largest) if high > low else largest
    return (low, high) if high > low else (low, low + 1.0)


def paint(loss: Array, low: float, high: float) -> NDArray[np.uint8]:
    """The colours (E, N, 3) of losses (N, E): yellow to red, grey where not seen."""
    share = np.clip((loss.T.astype(np.float64) - low) / (high - low), 0.0, 1.0)
    unseen = np.isnan(share)
    colours = np.zeros((*share.shape, 3), np.uint8)
    colours[..., 0] = 255
    colours[..., 1] = np.rint(255 * (1 - np.where(unseen, 0.0, share)))
    colours[unseen] = UNSEEN
    return colours


def write_map(stem: Path, ranking: Ranking, epochs: list[int], *, rank: Rank, split: str) -> None:
    """Writes the map of one split.

    `<stem>.png` draws the worst samples with axes, `<stem>.csv` is its table: one line a drawn
    column, with the loss of each epoch. `<stem>_raw.png` has one pixel a sample and epoch, for
    all samples, and `<stem>.txt` one line for each of its columns: uid, score, epochs seen.

    Args:
        stem: Path of the files without their endings.
        ranking: The samples, worst first.
        epochs: The number of each epoch (a row of the map).
        rank: What the samples are ordered by.
        split: The name that stands in the title.
    """
    image = require("PIL.Image", "report", "WorstSamplesHandler")
    limits = colour_limits(ranking.loss)
    raw = image.fromarray(paint(ranking.loss, *limits))
    raw.save(stem.with_name(f"{stem.name}_raw.png"))
    drawn = Ranking(*(column[:DRAWN_SAMPLES] for column in ranking))
    _write_text(stem.with_name(f"{stem.name}.txt"), ranking, rank)
    _write_table(stem.with_name(f"{stem.name}.csv"), drawn, epochs, rank)
    count = len(ranking.uids)
    samples = f"{count:,} sample{'s' if count > 1 else ''}"
    if count > DRAWN_SAMPLES:
        samples = f"the {DRAWN_SAMPLES:,} worst of {samples}"
    title = f"{split}: loss by epoch of {samples}, ordered by {rank} loss"
    _draw(stem.with_name(f"{stem.name}.png"), drawn, epochs, limits, title)


def _write_text(path: Path, ranking: Ranking, rank: Rank) -> None:
    names = map(one_line, ranking.uids.tolist())
    rows = zip(names, ranking.score.tolist(), ranking.seen.tolist(), strict=True)
    lines = [f"uid\t{rank}_loss\tseen", *(f"{u}\t{score:.9g}\t{seen}" for u, score, seen in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_table(path: Path, drawn: Ranking, epochs: list[int], rank: Rank) -> None:
    with open(path, "w", newline="", encoding="utf-8", errors="replace") as file:
        writer = csv.writer(file)
        writer.writerow(["uid", f"{rank}_loss", "seen", *(f"epoch_{epoch}" for epoch in epochs)])
        columns = (drawn.uids.tolist(), drawn.score.tolist(), drawn.seen.tolist(), drawn.loss)
        for uid, score, seen, losses in zip(*columns, strict=True):
            cells = ["" if np.isnan(loss) else f"{loss:.9g}" for loss in losses]
            writer.writerow([uid, f"{score:.9g}", seen, *cells])


def _draw(
    path: Path, drawn: Ranking, epochs: list[int], limits: tuple[float, float], title: str
) -> None:
    figures = require("matplotlib.figure", "report", "WorstSamplesHandler")
    agg = require("matplotlib.backends.backend_agg", "report", "WorstSamplesHandler")
    height = float(np.clip(2.6 + 0.22 * len(epochs), 3.4, 10))
    figure = figures.Figure(figsize=(13, height), dpi=100, layout="constrained")
    agg.FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(paint(drawn.loss, *limits), aspect="auto", interpolation="nearest")
    axes.set_title(title, fontsize=11)
    _label_axes(axes, drawn, epochs)
    _add_colour_bar(figure, axes, limits)
    if np.isnan(drawn.loss).any():
        patches = require("matplotlib.patches", "report", "WorstSamplesHandler")
        grey = patches.Patch(color=np.array(UNSEEN) / 255, label="not seen in that epoch")
        figure.legend(handles=[grey], loc="outside lower right", fontsize=9, frameon=False)
    save_figure(path, figure)


def _label_axes(axes: Any, drawn: Ranking, epochs: list[int]) -> None:
    count = len(drawn.uids)
    if count <= _LABELLED_SAMPLES:
        names = [shortened(one_line(uid), 16) for uid in drawn.uids.tolist()]
        turned = max(map(len, names)) > 3
        axes.set_xticks(range(count), names, rotation=90 if turned else 0, parse_math=False)
        axes.set_xlabel("uid of the sample, worst first")
    else:
        step = 10 if count <= 100 else 50 if count <= 500 else 100
        ranks = [1, *range(step, count + 1, step)]
        axes.set_xticks([rank - 1 for rank in ranks], [f"{rank:,}" for rank in ranks])
        axes.set_xlabel("rank of the sample, worst first")
    rows = range(0, len(epochs), -(-len(epochs) // _LABELLED_EPOCHS))
    axes.set_yticks(rows, [str(epochs[row]) for row in rows])
    axes.set_ylabel("epoch")
    axes.tick_params(labelsize=8)


def _add_colour_bar(figure: Any, axes: Any, limits: tuple[float, float]) -> None:
    scalars = require("matplotlib.cm", "report", "WorstSamplesHandler")
    colors = require("matplotlib.colors", "report", "WorstSamplesHandler")
    scale = scalars.ScalarMappable(colors.Normalize(*limits), "autumn_r")
    bar = figure.colorbar(scale, ax=axes, extend="both", pad=0.01, aspect=25)
    bar.set_label("loss", fontsize=9)
    bar.ax.tick_params(labelsize=8)

"""Segmentation reports: overlaps as of scikit-learn, and what the pictures show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from output_nets import Net, batches, data, fit
from report_runs import Fold, Run, files, section, table
from sklearn import metrics
from torch import Tensor

from estimator.handlers import SegmentationReportHandler, _mask_pictures
from estimator.handlers.base import ArgumentError
from estimator.outputs import SegmentationOutput

NAN = float("nan")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are written; nothing is drawn."""
    found: list[Any] = []
    monkeypatch.setattr(_mask_pictures, "write_figure", lambda path, figure: found.append(figure))
    return found


def logits_of(predicted: Tensor, classes: int) -> Tensor:
    return torch.eye(classes)[predicted].movedim(-1, 1)


def rows_of(folder: Path, name: str = "output-val") -> list[dict[str, Any]]:
    return table(folder, "By class", name)


@pytest.mark.parametrize("seed", range(3))
def test_overlaps_of_classes(tmp_path: Path, drawn: list[Any], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    target, predicted = torch.randint(3 + seed, (2, 5, 6, 7), generator=generator)
    handler = SegmentationReportHandler(tmp_path, classes=[*"abcdef"])
    pairs = [(logits_of(predicted[part], 6), target[part]) for part in ([0, 1], [2, 3, 4])]
    Run(handler).validate(*pairs).end()
    every = {"labels": range(6), "average": None, "zero_division": 0}
    flat = target.flatten(), predicted.flatten()
    iou, dice = metrics.jaccard_score(*flat, **every), metrics.f1_score(*flat, **every)
    rows = rows_of(tmp_path)
    assert [row["class"] for row in rows] == [*"abcdef"]
    occurs = 3 + seed
    assert [row["IoU"] for row in rows[:occurs]] == pytest.approx(iou[:occurs])
    assert [row["Dice"] for row in rows[:occurs]] == pytest.approx(dice[:occurs])
    assert all(row["IoU"] == row["Dice"] == "NaN" for row in rows[occurs:])
    counts = torch.bincount(target.flatten(), minlength=6).tolist()
    assert [row["pixels of target"] for row in rows] == counts
    accuracy = (target == predicted).double().mean()
    assert section(tmp_path)["text"] == (
        f"210 pixels, accuracy {accuracy:.4f}, mean IoU {np.nanmean(iou[:occurs]):.4f}, "
        f"mean Dice {np.nanmean(dice[:occurs]):.4f}."
    )
    text = (tmp_path / "output-val-report.txt").read_text("utf-8")
    assert [line.split()[:2] for line in text.splitlines()[5:7]] == [
        ["a", f"{iou[0]:.4f}"], ["b", f"{iou[1]:.4f}"]
    ]  # fmt: skip


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("floating", [False, True])
def test_masks_of_one_class(tmp_path: Path, drawn: list[Any], flat: bool, floating: bool) -> None:
    target = torch.tensor([[[[1, 1], [0, 0]]], [[[1, 0], [0, -100]]]])
    logits = torch.tensor([[[[2.0, -1.0], [0.5, -1]]], [[[3.0, -2.0], [NAN, 1.0]]]])
    given = target.float().masked_fill(target < 0, NAN) if floating else target
    given = given[:, 0] if flat else given
    Run(SegmentationReportHandler(tmp_path)).validate((logits, given)).end()
    row = rows_of(tmp_path)[1]
    assert (row["IoU"], row["pixels of target"], row["pixels predicted"]) == (0.5, 3, 3)
    assert "1 have no target, 1 have an answer that is no number" in section(tmp_path)["text"]


def test_pictures_show_images_masks_and_differences(tmp_path: Path, drawn: list[Any]) -> None:
    target = torch.zeros(3, 4, 4).long()
    target[:, 0] = 1
    predicted = target.clone()
    predicted[0, 0, 0], predicted[0, 3, 3] = 0, 1
    target[0, 2, 2] = -100
    image = torch.rand(3, 1, 4, 4)
    handler = SegmentationReportHandler(tmp_path, samples=2)
    Run(handler).validate((logits_of(predicted, 2), target, {"x": image, "age": image})).end()
    (figure,) = drawn
    shown = [axes.images[0].get_array() for axes in figure.axes]
    assert len(shown) == 8
    assert [axes.get_title() for axes in figure.axes[:4]] == [
        "image", "target", "predicted", "differences"
    ]  # fmt: skip
    np.testing.assert_allclose(shown[0][..., 0], image[0, 0])
    np.testing.assert_allclose(shown[1][1:2], shown[0][1:2])
    assert not np.allclose(shown[1][0, 0], shown[0][0, 0])
    np.testing.assert_allclose(shown[2][0, 0], shown[0][0, 0])
    assert tuple(shown[3][0, 0]) == _mask_pictures._MISSED
    assert tuple(shown[3][3, 3]) == _mask_pictures._ADDED
    assert tuple(shown[3][2, 2]) == tuple(shown[1][2, 2]) == _mask_pictures._IGNORED
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["1", "too much", "missed", "no target"]


def test_pictures_are_files_that_the_section_names(tmp_path: Path) -> None:
    names = ["<script>", "$\\frac{", "a" * 300]
    target = torch.randint(3, (2, 8, 8))
    run = Run(SegmentationReportHandler(tmp_path, classes=names))
    images = torch.rand(2, 4, 8, 8)
    run.validate((torch.randn(2, 3, 8, 8), target, images)).train().end()
    (picture,) = section(tmp_path)["pictures"]
    assert (tmp_path / picture["file"]).read_bytes().startswith(b"\x89PNG")
    assert [row["class"] for row in rows_of(tmp_path)] == names
    assert len(files(tmp_path)) == 3


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_large_images_and_volumes_are_thinned_out(
    tmp_path: Path, drawn: list[Any], channels: int
) -> None:
    run = Run(SegmentationReportHandler(tmp_path))
    run.validate(
        (
            torch.zeros(1, 2, 9, 1100),
            torch.zeros(1, 9, 1100).long(),
            torch.rand(1, channels, 9, 1100),
        )
    ).end()
    assert drawn[0].axes[0].images[0].get_array().shape == (3, 367, 3)
    target = torch.zeros(1, 5, 4, 4).long()
    target[:, 2] = 1
    run = Run(SegmentationReportHandler(tmp_path / "volume"))
    run.validate((torch.zeros(1, 2, 5, 4, 4), target, torch.rand(1, channels, 5, 4, 4))).end()
    assert (drawn[1].axes[3].images[0].get_array() == _mask_pictures._MISSED).all()


def test_many_classes_without_images(tmp_path: Path, drawn: list[Any]) -> None:
    target = torch.randint(40, (2, 6, 6))
    run = Run(SegmentationReportHandler(tmp_path))
    run.validate((torch.randn(2, 40, 6, 6), target, torch.rand(2, 3, 12, 12))).end()
    assert (drawn[0].axes[0].images[0].get_array() == 1).all()
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["wrong", "no target"]


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        (torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 4)),
        (torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)),
        (torch.rand(2, 3), torch.tensor([0, 1])),
        (torch.rand(2, 600, 4, 4), torch.zeros(2, 4, 4).long()),
        (torch.zeros(2, 3, 4, 4).long(), torch.zeros(2, 4, 4).long()),
        (torch.rand(2, 1, 4, 4), torch.zeros(2, 5, 5)),
    ],
)
def test_what_is_no_segmentation(tmp_path: Path, outputs: Tensor, targets: Tensor) -> None:
    Run(SegmentationReportHandler(tmp_path)).validate((outputs, targets)).end()
    assert files(tmp_path) == set()


def test_batches_of_other_classes_are_left_out(tmp_path: Path, drawn: list[Any]) -> None:
    target = torch.zeros(2, 4, 4).long()
    run = Run(SegmentationReportHandler(tmp_path))
    run.validate((torch.rand(2, 3, 4, 4), target), (torch.rand(2, 4, 4, 4), target)).end()
    assert section(tmp_path)["text"].startswith("32 pixels")


def test_processes_are_added_up(tmp_path: Path, drawn: list[Any]) -> None:
    logits, target = torch.randn(5, 3, 4, 4), torch.randint(3, (5, 4, 4))
    whole, half = tmp_path / "whole", tmp_path / "half"
    Run(SegmentationReportHandler(whole, samples=4)).validate((logits, target)).end()
    other = SegmentationReportHandler(half, samples=4)
    Run(other).validate((logits[3:], target[3:]))
    run = Run(SegmentationReportHandler(half, samples=4), world=Fold(other._whole["val"].taken()))
    run.validate((logits[:3], target[:3])).end()
    assert section(half)["tables"] == section(whole)["tables"]
    assert len(drawn[0].axes) == len(drawn[1].axes) == 16


def test_outputs_that_describe_themselves(tmp_path: Path, drawn: list[Any]) -> None:
    def make(z: Tensor, batch: dict[str, Any]) -> dict[str, Any]:
        maps = z[:, :, None, None].expand(-1, -1, 4, 4)
        return {
            "many": SegmentationOutput(maps, "map"),
            "one": SegmentationOutput(maps[:, :1], "mask"),
        }

    columns = data(8, map=torch.randint(3, (8, 4, 4)), mask=torch.rand(8, 4, 4).round())
    columns["map"][:, 0] = -100
    columns["mask"][0] = -100
    handler = SegmentationReportHandler(tmp_path)
    _, stats = fit(Net(make), batches(columns, 3), batches(columns, 3), handlers=handler)
    for name in ("many", "one"):
        rows = rows_of(tmp_path, f"{name}-val")[name == "one" :]
        found = [row["IoU"] for row in rows if row["IoU"] != "NaN"]
        assert np.mean(found) == pytest.approx(stats[f"val_{name}_iou"][-1])
    assert "32 have no target" in section(tmp_path, "many-val")["text"]
    assert "16 have no target" in section(tmp_path, "one-val")["text"]


def test_nothing_known_at_all(tmp_path: Path) -> None:
    handler = SegmentationReportHandler(tmp_path)
    Run(handler).validate((torch.rand(1, 2, 3, 3), torch.full((1, 3, 3), -100))).end()
    assert section(tmp_path)["text"].startswith("0 pixels, accuracy nan, mean IoU nan")
    Run(handler).validate((torch.rand(0, 2, 3, 3), torch.zeros(0, 3, 3).long())).end()
    assert section(tmp_path)["pictures"] == []


def test_samples_are_a_number_above_0() -> None:
    with pytest.raises(ArgumentError, match=r"SegmentationReportHandler\(samples=\.\.\.\) must be"):
        SegmentationReportHandler(samples=0)

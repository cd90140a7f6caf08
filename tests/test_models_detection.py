"""The detector of the tutorials: its average precision, and that it learns."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detection_cases import LEVELS, boxes, detection, precision, random_outputs, random_targets
from PIL import Image
from torch import Tensor

from estimator.datasets import bccd


def test_average_precision_of_a_case_worked_out_by_hand() -> None:
    """Of 4 boxes 3 are found, at ranks 1, 3 and 4, out of 5 detections."""
    scores = torch.tensor([0.9, 0.5, 0.8, 0.7, 0.6, 0.0])
    right = torch.tensor([True, False, False, True, True, False])
    # The shares 0 to 0.25 have the precision 1, those up to 0.75 have 3 / 4, the others none.
    expected = (26 * 1 + 50 * 3 / 4) / 101
    value = precision.average_precision(scores, right, torch.tensor(4))
    assert value.item() == pytest.approx(expected)
    assert precision.average_precision(scores, right & False, torch.tensor(4)).item() == 0
    assert precision.average_precision(scores, right & False, torch.tensor(0)).isnan()


def test_a_box_is_found_once() -> None:
    one = torch.tensor([0.0, 0, 10, 10])
    found = boxes.Detections(one.expand(1, 2, 3, 4), torch.tensor([[[0.9, 0.8, 0.0], [0.9, 0, 0]]]))
    targets = {"boxes": one.expand(1, 2, 4), "labels": torch.tensor([[1, 2]])}
    valid = torch.tensor([[True, False]])
    hits = precision.hits(found, {**targets, "valid": valid})
    # The copy is a mistake, and a box that is padding cannot be found.
    assert hits.tolist() == [[[True, False, False], [False, False, False]]]


def coco_precision(found: Any, targets: dict[str, Tensor], classes: int) -> list[float]:
    """Average precision at 0.5 of each class by pycocotools; -1 for one without boxes."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def entry(image: int, label: int, box: Tensor, **more: float) -> dict[str, Any]:
        x1, y1, x2, y2 = box.double().tolist()
        place = [x1, y1, x2 - x1, y2 - y1]
        area = place[2] * place[3]
        return {"image_id": image, "category_id": label, "bbox": place, "area": area, **more}

    truth, answers = COCO(), []
    annotations = [
        entry(i, int(targets["labels"][i, j]), targets["boxes"][i, j], id=n + 1, iscrowd=0)
        for n, (i, j) in enumerate(targets["valid"].nonzero().tolist())
    ]
    for i, c, k in (found.scores > 0).nonzero().tolist():
        answers.append(entry(i, c + 1, found.boxes[i, c, k], score=found.scores[i, c, k].item()))
    truth.dataset = {
        "images": [{"id": i} for i in range(len(found.scores))],
        "categories": [{"id": c + 1} for c in range(classes)],
        "annotations": annotations,
        "info": {},
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(answers), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    # Threshold 0.5, all shares, each class, boxes of any size, 100 detections.
    curves = evaluation.eval["precision"][0, :, :, 0, -1]
    return [float(curve.mean()) for curve in curves.T]


@pytest.mark.parametrize("noise", [1.0, 4.0])
def test_average_precision_is_that_of_coco(noise: float) -> None:
    targets = random_targets(12, most=6, classes=3)
    targets["labels"][targets["labels"] == 3] = 1
    scores = torch.rand(12, 3, 10).sort(descending=True).values
    near = targets["boxes"][:, torch.randint(0, 6, (30,))] + noise * torch.randn(12, 30, 4)
    # COCO takes boxes of a negative area for none.
    near[..., 2:] = torch.maximum(near[..., :2] + 1, near[..., 2:])
    found = boxes.Detections(near.view(12, 3, 10, 4), scores.where(scores > 0.2, 0))
    metric = precision.MeanAveragePrecision(torch.zeros(1, 4))
    for part in (slice(5), slice(5, 12)):
        share = boxes.Detections(found.boxes[part], found.scores[part])
        metric.update_found(share, {name: value[part] for name, value in targets.items()})
    first, second, none = metric.by_class().tolist()
    expected = coco_precision(found, targets, 3)
    assert [first, second] == pytest.approx(expected[:2], abs=1e-9)
    assert np.isnan(none) and expected[2] == -1
    assert all(0.01 < value < 0.99 for value in (first, second))
    assert metric.compute().item() == pytest.approx((first + second) / 2)


def test_the_metric_goes_on_from_a_state_and_joins_processes() -> None:
    anchors = boxes.make_anchors(LEVELS, 64, 64)
    outputs, targets = random_outputs(8, anchors), random_targets(8)
    whole, *shares = (precision.MeanAveragePrecision(anchors) for _ in range(3))
    assert whole.compute().isnan()
    whole.update(outputs, targets)
    for metric, part in zip(shares, (slice(3), slice(3, 8)), strict=True):
        metric.update(*({k: v[part] for k, v in d.items()} for d in (outputs, targets)))
    states = [metric.state_dict() for metric in shares]
    joined = precision.MeanAveragePrecision(anchors)
    joined.merge(states)
    assert joined.compute() == whole.compute()
    joined.load_state_dict(states[0])
    assert joined.compute() == shares[0].compute() != whole.compute()
    joined.reset()
    assert joined.compute().isnan()


def run_script(patch: pytest.MonkeyPatch, *arguments: str) -> None:
    patch.setattr(sys, "argv", ["detection.py", *arguments])
    detection.main()


def seed_line(printed: str) -> re.Match[str]:
    match = re.search(r"seed (\d): .* ([\d.]+) in validation, ([\d.]+) in test \((.*)\)", printed)
    assert match is not None, printed
    return match


def test_the_quick_script_learns_and_shows_the_worst(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run_script(monkeypatch, "--quick", "--out", str(tmp_path))
    seed, val, test, each = seed_line(capsys.readouterr().out).groups()
    assert seed == "0" and float(val) >= 0.35 and float(test) >= 0.3
    assert re.sub(r" [\d.]+", "", each) == "circle, square, triangle"
    with np.load(tmp_path / "seed0/validation.npz") as table:
        assert table["uids"].tolist() == list(range(51)) and np.isfinite(table["loss"]).all()
        # All classes and places of all boxes are learnt, and each image gains by it.
        assert (table["loss"][:, -1] < 0.7 * table["loss"][:, 0]).mean() > 0.9
    assert len(list((tmp_path / "seed0/samples_validation").glob("*.png"))) == 50


def made_bccd(root: Path, bad: str = "") -> None:
    """A folder like that of bccd, with two images a part."""
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / "bccd" / name).mkdir(parents=True)
    for part in ("train", "val", "test"):
        names = [f"{part}{i}" for i in range(2)]
        (root / f"bccd/ImageSets/Main/{part}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            Image.new("RGB", (160, 120), "white").save(root / f"bccd/JPEGImages/{name}.jpg")
            ends = "<xmin>20</xmin><ymin>30</ymin><xmax>60</xmax><ymax>70</ymax>"
            good = f"<object><name>RBC</name><bndbox>{ends}</bndbox></object>"
            text = f"<annotation>{good}{bad if name == 'val1' else ''}</annotation>"
            (root / f"bccd/Annotations/{name}.xml").write_text(text)


NO_AREA = (
    "<object><name>WBC</name><bndbox><xmin>7</xmin><ymin>8</ymin><xmax>7</xmax><ymax>8</ymax>"
    "</bndbox></object>"
)


def test_a_box_without_area_is_dropped_or_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    made_bccd(tmp_path, NO_AREA)
    options = ("--data", str(tmp_path), "--height", "48", "--epochs", "1", "--seeds", "3")
    with (
        pytest.warns(UserWarning, match=r"val1\.xml: WBC at \(7\.0, 8\.0, 7\.0, 8\.0\)"),
        pytest.raises(SystemExit, match=r"must be at least 0\.\d+\.$"),
    ):
        run_script(monkeypatch, *options)
    seed, _, _, each = seed_line(capsys.readouterr().out).groups()
    assert seed == "3" and "WBC nan" in each
    with pytest.raises(SystemExit, match=r"val1\.xml: WBC at .*on_bad_box='drop'"):
        run_script(monkeypatch, *options, "--bad-boxes", "raise")


def test_a_missing_folder_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=f"{tmp_path / 'bccd'}"):
        run_script(monkeypatch, "--data", str(tmp_path))


def test_boxes_are_those_of_the_smaller_images(tmp_path: Path) -> None:
    made_bccd(tmp_path)
    part = bccd(tmp_path / "bccd", size=(48, 64)).train
    assert part["boxes"][:, 0].tolist() == [[8, 12, 24, 28]] * 2
    assert part["images"].shape == (2, 3, 48, 64)


@pytest.mark.full
def test_the_script_reaches_its_goal_on_cells(
    data_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.warns(UserWarning, match=r"2 boxes .*BloodImage_00343\.xml"):
        run_script(monkeypatch, "--data", str(data_root), "--seeds", "0", "1", "2")
    lines = [seed_line(line) for line in capsys.readouterr().out.splitlines()]
    assert [match[1] for match in lines] == ["0", "1", "2"]
    assert all(float(match[2]) >= detection.GOAL for match in lines)

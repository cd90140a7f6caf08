"""The detector of the tutorials: its boxes and its loss."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detection_cases import (
    LEVELS,
    boxes,
    detection,
    precision,
    random_boxes,
    random_outputs,
    random_targets,
)
from torch import Tensor

from estimator import Estimator


def test_intersection_over_union_is_that_of_areas() -> None:
    one = torch.tensor([[0.0, 0.0, 4.0, 2.0]])
    others = [[0, 0, 4, 2], [2, 0, 6, 2], [4, 0, 8, 2], [1, 0, 2, 2], [1, 1, 1, 1]]
    expected = [1, 4 / 12, 0, 2 / 8, 0]
    torch.testing.assert_close(boxes.iou(one, torch.tensor(others)), torch.tensor([expected]))
    empty = torch.zeros(1, 4)
    assert boxes.iou(empty, empty).item() == 0


@pytest.mark.parametrize("size", [(64, 64), (50, 71)])
def test_there_is_an_anchor_for_each_output_of_the_net(size: tuple[int, int]) -> None:
    anchors = boxes.make_anchors(detection.LEVELS, *size)
    outputs = detection.SSD(3).eval()(torch.zeros(2, 3, *size, dtype=torch.uint8))
    assert outputs["scores"].shape == (2, len(anchors), 3)
    assert outputs["offsets"].shape == (2, len(anchors), 4)


def test_anchors_lie_row_by_row_and_have_their_size_and_ratio() -> None:
    anchors = boxes.make_anchors([boxes.Level(8, (0.25,), (1.0, 4.0))], 16, 24)
    middles = (anchors[:, :2] + anchors[:, 2:]) / 2
    assert middles[::2].tolist() == [[x, y] for y in (4, 12) for x in (4, 12, 20)]
    assert (anchors[:, 2:] - anchors[:, :2])[:2].tolist() == [[4, 4], [8, 2]]


def test_a_net_that_sees_an_anchor_answers_at_its_place() -> None:
    """The order of the outputs is that of the anchors: what one pixel changes is near it."""
    net = detection.SSD(3).eval()
    images = torch.full((2, 3, 128, 160), 120, dtype=torch.uint8)
    images[1, :, 100, 40] = 255
    scores = net(images)["scores"]
    changed = (scores[0] - scores[1]).abs().sum(-1) > 1e-6
    anchors = boxes.make_anchors(detection.LEVELS, 128, 160)[changed]
    middle = (anchors[:, :2] + anchors[:, 2:]).mean(0) / 2
    torch.testing.assert_close(middle, torch.tensor([40.0, 100.0]), atol=12, rtol=0)
    assert changed.any() and not changed.all()


def test_decoding_gives_back_what_was_encoded() -> None:
    anchors = boxes.make_anchors(LEVELS, 64, 64)
    wanted = random_boxes(3, len(anchors))
    torch.testing.assert_close(boxes.decode(boxes.encode(wanted, anchors), anchors), wanted)
    same = boxes.encode(anchors, anchors)
    torch.testing.assert_close(same, torch.zeros_like(same), atol=1e-5, rtol=0)
    moved = boxes.encode(torch.tensor([[1.0, 0.0, 5.0, 8.0]]), torch.tensor([[0.0, 0, 4, 4]]))
    torch.testing.assert_close(moved, torch.tensor([[2.5, 5.0, 0.0, 5 * np.log(2.0)]]).float())


def test_padding_and_wild_guesses_stay_finite() -> None:
    anchors = boxes.make_anchors(LEVELS, 64, 64)
    assert boxes.encode(torch.zeros(len(anchors), 4), anchors).isfinite().all()
    assert boxes.decode(torch.full((len(anchors), 4), 1e4), anchors).isfinite().all()


def test_an_anchor_finds_the_box_that_it_covers_by_half_or_best() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [20, 0, 30, 10], [40, 0, 50, 10]])
    placed = torch.tensor([[[0.0, 0, 10, 10], [25, 0, 45, 4], [0, 0, 50, 50], [40, 0, 50, 10]]])
    valid = torch.tensor([[True, True, False, False]])
    # The second box covers no anchor by half and has its best one anyway; padding has none.
    assert boxes.match(anchors, placed, valid).tolist() == [[0, 0, 1, -1]]
    assert boxes.match(anchors, placed, torch.zeros_like(valid)).tolist() == [[-1] * 4]
    twins = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 9.9]]])
    assert boxes.match(anchors[:1], twins, torch.tensor([[True, True]])).tolist() == [[1]]


def test_three_hard_negatives_are_taken_for_each_match() -> None:
    losses = torch.tensor([[9.0, 1, 5, 4, 3, 2, 8], [1, 7, 6, 5, 4, 3, 2]])
    found = torch.tensor([[True] + [False] * 6, [False] * 7])
    taken = boxes.hard_negatives(losses, found)
    assert [row.nonzero().flatten().tolist() for row in taken] == [[2, 3, 6], [1, 2, 3]]
    many = torch.tensor([[True] * 3 + [False] * 4])
    assert boxes.hard_negatives(losses[:1], many).tolist() == [[False] * 3 + [True] * 4]


def row(batch: dict[str, Tensor], place: int) -> dict[str, Tensor]:
    return {name: value[place] for name, value in batch.items()}


def loss_of_one(outputs: dict[str, Tensor], targets: dict[str, Tensor], anchors: Tensor) -> float:
    """The loss of one sample, anchor by anchor."""
    (place,) = boxes.match(anchors, targets["boxes"][None], targets["valid"][None]).tolist()
    total, background = 0.0, []
    for a, j in enumerate(place):
        chance = outputs["scores"][a].log_softmax(-1)
        if j < 0:
            background.append(-chance[0].item())
            continue
        goal = boxes.encode(targets["boxes"][j], anchors[a][None])[0]
        total += F.smooth_l1_loss(outputs["offsets"][a], goal, reduction="sum").item()
        total -= chance[int(targets["labels"][j])].item()
    matches = max(1, len(place) - len(background))
    return (total + sum(sorted(background)[::-1][: 3 * matches])) / matches


def test_the_loss_is_the_mean_of_those_of_the_samples() -> None:
    anchors = boxes.make_anchors(LEVELS, 64, 64)
    outputs, targets = random_outputs(6, anchors), random_targets(6)
    targets["valid"][0] = False
    loss = boxes.MultiBoxLoss(anchors)
    est = Estimator(torch.nn.Identity(), loss, targets=list(targets))
    single = est.processor.sample_losses(outputs, targets)
    expected = [loss_of_one(row(outputs, i), row(targets, i), anchors) for i in range(6)]
    torch.testing.assert_close(single, torch.tensor(expected))
    torch.testing.assert_close(loss(outputs, targets), single.mean())


def test_gradients_are_finite_where_places_and_images_are_empty() -> None:
    anchors = boxes.make_anchors(LEVELS, 64, 64)
    outputs, targets = random_outputs(4, anchors), random_targets(4)
    targets["valid"][:2] = False
    for value in outputs.values():
        value.requires_grad_()
    boxes.MultiBoxLoss(anchors)(outputs, targets).backward()
    assert all(v.grad is not None and v.grad.isfinite().all() for v in outputs.values())
    # Without a box there is no place to learn, only what is background.
    assert outputs["offsets"].grad is not None and outputs["scores"].grad is not None
    assert not outputs["offsets"].grad[:2].any() and outputs["scores"].grad[:2].any()


def greedy(one: Tensor, threshold: float) -> list[int]:
    """Places of boxes that stay, of one group in falling order."""
    stay: list[int] = []
    for k in range(len(one)):
        if all(boxes.iou(one[k, None], one[j, None]).item() <= threshold for j in stay):
            stay.append(k)
    return stay


def test_suppression_leaves_the_best_of_boxes_on_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.ops", None)
    found = random_boxes(4, 30)
    scores = torch.rand(4, 30).sort(descending=True).values
    keep = boxes.keep_best(found, scores)
    stay = [row.nonzero().flatten().tolist() for row in keep]
    assert stay == [greedy(group, 0.45) for group in found]
    assert all(1 < len(row) < 30 for row in stay)
    # One that is suppressed suppresses nothing.
    line = torch.tensor([[[0.0, 0, 10, 10], [3, 0, 13, 10], [6, 0, 16, 10]]])
    assert boxes.keep_best(line, torch.ones(1, 3)).tolist() == [[True, False, True]]


def test_suppression_is_left_to_torchvision_where_it_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def batched_nms(flat: Tensor, scores: Tensor, group: Tensor, threshold: float) -> Tensor:
        kept = [
            rows[k]
            for g in group.unique()
            for rows in [(group == g).nonzero().flatten()]
            for k in greedy(flat[rows], threshold)
        ]
        indices = torch.stack(kept)
        return indices[scores[indices].argsort(descending=True)]

    found = random_boxes(3, 20)
    scores = torch.rand(3, 20).sort(descending=True).values
    monkeypatch.setitem(sys.modules, "torchvision.ops", None)
    own = boxes.keep_best(found, scores, threshold=0.3)
    library = types.ModuleType("torchvision.ops")
    library.batched_nms = batched_nms  # type: ignore[attr-defined]  # a stand-in
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.ops", library)
    assert torch.equal(boxes.keep_best(found, scores, threshold=0.3), own)


def perfect_outputs(targets: dict[str, Tensor], anchors: Tensor, classes: int) -> dict[str, Tensor]:
    place = boxes.match(anchors, targets["boxes"], targets["valid"])
    goal = targets["boxes"].gather(1, place.clamp(min=0)[..., None].expand(-1, -1, 4))
    labels = targets["labels"].gather(1, place.clamp(min=0)).where(place >= 0, 0)
    scores = 20.0 * F.one_hot(labels, classes + 1)
    return {"scores": scores, "offsets": boxes.encode(goal, anchors)}


def test_perfect_outputs_are_the_boxes_again() -> None:
    anchors = boxes.make_anchors(LEVELS, 64, 64)
    placed = torch.tensor([[[4.0, 4, 24, 20], [30, 30, 60, 62]], [[8.0, 20, 44, 50], [0, 0, 0, 0]]])
    targets = {
        "boxes": placed,
        "labels": torch.tensor([[2, 1], [2, 0]]),
        "valid": torch.tensor([[True, True], [True, False]]),
    }
    outputs = perfect_outputs(targets, anchors, 2)
    found = boxes.detect(outputs, anchors, best=20)
    assert found.boxes.shape == (2, 2, 20, 4) and found.scores.shape == (2, 2, 20)
    assert (found.scores > 0).sum(2).tolist() == [[1, 1], [0, 1]]
    first = torch.stack([found.boxes[0, 1, 0], found.boxes[0, 0, 0], found.boxes[1, 1, 0]])
    torch.testing.assert_close(first, placed[targets["valid"]], atol=1e-3, rtol=1e-4)
    metric = precision.MeanAveragePrecision(anchors)
    metric.update(outputs, targets)
    assert metric.compute().item() == pytest.approx(1)

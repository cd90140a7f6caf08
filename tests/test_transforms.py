"""Transforms of batches: each alone, on images, masks and boxes, and put together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from scenes import around, copied, scene_batch

from estimator import ArgumentError, DataError
from estimator.transforms import (
    Compose,
    Normalize,
    OneOf,
    RandomAffine,
    RandomCrop,
    RandomCutout,
    RandomFlip,
    Resize,
    Transform,
)

KEYS: Any = {"masks": "masks", "boxes": "boxes", "valid": "valid"}
EVERY: dict[str, Callable[..., Transform]] = {
    "flip": lambda **keys: RandomFlip(**keys),
    "vertical flip": lambda **keys: RandomFlip(axis="vertical", **keys),
    "crop": lambda **keys: RandomCrop(24, padding=4, **keys),
    "cutout": lambda **keys: RandomCutout((5, 8), **keys),
    "affine": lambda **keys: RandomAffine(30, translate=0.2, scale=(0.7, 1.2), shear=10, **keys),
    "resize": lambda **keys: Resize((20, 28), **keys),
    "normalize": lambda **keys: Normalize(0.5, 0.2, **keys),
    "one of": lambda **keys: OneOf([RandomFlip(1.0, **keys), RandomAffine(20, **keys)], [0.4, 0.3]),
    "compose": lambda **keys: Compose([RandomFlip(**keys), RandomCrop(24, padding=2, **keys)]),
}


@pytest.mark.parametrize("name", EVERY)
def test_the_batch_that_is_given_stays_as_it_was(name: str) -> None:
    batch = scene_batch()
    before = copied(batch)
    changed = EVERY[name](**KEYS)(batch)
    assert list(changed) == list(batch) and changed is not batch
    for key in before:
        assert torch.equal(batch[key], before[key])
    for key in ("labels", "sample_uid"):
        assert torch.equal(changed[key], before[key])


@pytest.mark.parametrize("name", EVERY)
def test_what_is_not_named_is_not_touched(name: str) -> None:
    """Fault 12 of an earlier library: a crop altered masks that the caller had not chosen."""
    batch = scene_batch()
    changed = EVERY[name]()(batch)
    for key in ("masks", "boxes", "valid"):
        assert changed[key] is batch[key]
    only = Compose([RandomCrop(20, images="masks2")])
    small = only({**batch, "masks2": batch["images"]})
    assert small["images"] is batch["images"] and small["masks2"].shape[-1] == 20


@pytest.mark.parametrize("name", EVERY)
def test_a_generator_makes_it_reproducible(name: str) -> None:
    transform, batch = EVERY[name](**KEYS), scene_batch()
    first, second = (transform(batch, torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    before = torch.get_rng_state()
    transform(batch, torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), before), "the global stream is left alone"
    torch.manual_seed(3)
    third = transform(batch)
    assert all(torch.equal(first[key], third[key]) for key in first), "both streams draw alike"


@pytest.mark.parametrize("name", sorted(set(EVERY) - {"normalize"}))
def test_bytes_stay_bytes(name: str) -> None:
    batch = scene_batch()
    changed = EVERY[name](**KEYS)(batch)
    assert changed["images"].dtype == torch.uint8 and changed["masks"].dtype == torch.int64
    assert changed["boxes"].dtype == torch.float32 and changed["valid"].dtype == torch.bool
    assert set(changed["masks"].unique().tolist()) <= {0, 7}, "masks are never interpolated"


@pytest.mark.parametrize("name", ["flip", "vertical flip", "crop", "affine", "one of"])
def test_each_sample_draws_for_itself(name: str) -> None:
    row = torch.arange(24 * 24).view(1, 1, 24, 24).float()
    changed = EVERY[name]()(row.repeat(64, 1, 1, 1))
    kinds = {tuple(image.flatten().tolist()) for image in changed}
    assert len(kinds) == 2 if "flip" in name else len(kinds) > 10


@pytest.mark.parametrize("name", ["flip", "vertical flip", "crop"])
def test_boxes_masks_and_images_stay_together(name: str) -> None:
    changed = EVERY[name](**KEYS)(scene_batch(40))
    for image, mask, boxes, valid in zip(
        *(changed[key] for key in ("images", "masks", "boxes", "valid")), strict=True
    ):
        assert torch.equal(image[0] > 0, mask > 0)
        assert boxes[0].tolist() == around(mask) and bool(valid[0]) == bool(mask.any())
        assert boxes[1].tolist() == [0, 0, 0, 0] and not valid[1]


def test_affine_boxes_hold_what_they_held() -> None:
    changed = EVERY["affine"](**KEYS)(scene_batch(40))
    for mask, boxes, valid in zip(*(changed[k] for k in ("masks", "boxes", "valid")), strict=True):
        x1, y1, x2, y2 = around(mask)
        if mask.any():
            assert valid[0]
            assert boxes[0, 0] <= x1 + 0.5 and boxes[0, 1] <= y1 + 0.5
            assert boxes[0, 2] >= x2 - 0.5 and boxes[0, 3] >= y2 - 0.5
        assert boxes.min() >= 0 and boxes.max() <= 24
        assert boxes[1].tolist() == [0, 0, 0, 0] and not valid[1]


def test_flip_by_hand() -> None:
    batch = {
        "images": torch.tensor([[[[1, 2, 3], [4, 5, 6]]]]),
        "boxes": torch.tensor([[[0, 0, 2, 1], [0, 0, 0, 0]]]),
    }
    across = RandomFlip(1.0, boxes="boxes")(batch)
    assert across["images"].tolist() == [[[[3, 2, 1], [6, 5, 4]]]]
    assert across["boxes"].tolist() == [[[1.0, 0.0, 3.0, 1.0], [0.0, 0.0, 0.0, 0.0]]]
    down = RandomFlip(1.0, "vertical", boxes="boxes")(batch)
    assert down["images"].tolist() == [[[[4, 5, 6], [1, 2, 3]]]]
    assert down["boxes"].tolist() == [[[0.0, 1.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0]]]
    assert RandomFlip(0.0)(batch)["images"].tolist() == batch["images"].tolist()


def test_crop_by_hand() -> None:
    image = torch.arange(1.0, 10).view(1, 1, 3, 3)
    seen = set()
    for seed in range(200):
        part = RandomCrop((1, 2), padding=(1, 0), fill=0.5)(
            image, torch.Generator().manual_seed(seed)
        )
        seen.add(tuple(part.flatten().tolist()))
    rows = ([0.5] * 3, [1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0])
    assert seen == {tuple(row[i : i + 2]) for row in rows for i in range(2)}


def test_a_box_that_is_cut_off_is_flagged() -> None:
    batch = {
        "images": torch.zeros(1, 1, 8, 8),
        "boxes": torch.tensor([[[0.0, 0.0, 2.0, 2.0], [3.0, 3.0, 8.0, 8.0]]]),
        "valid": torch.tensor([[True, True]]),
    }
    seeds = (torch.Generator().manual_seed(i) for i in range(100))
    crops = [RandomCrop(4, boxes="boxes", valid="valid")(batch, seed) for seed in seeds]
    corner = [crop for crop in crops if not crop["valid"][0, 0]]
    assert corner and all(crop["boxes"][0, 0].tolist() == [0, 0, 0, 0] for crop in corner)
    assert all(crop["boxes"].min() >= 0 and crop["boxes"].max() <= 4 for crop in crops)
    assert all(crop["valid"][0, 1] for crop in crops)
    unflagged = RandomCrop(4, boxes="boxes")(batch, torch.Generator().manual_seed(0))
    assert unflagged["valid"] is batch["valid"], "without valid= zeros say that there is no box"


def test_a_box_that_is_not_valid_stays_so() -> None:
    batch = scene_batch(2)
    batch["valid"][:] = False
    changed = RandomFlip(1.0, **KEYS)(batch)
    assert not changed["valid"].any() and (changed["boxes"] == 0).all()


@pytest.mark.parametrize(
    "box", [[1, 1, 1, 5], [5, 5, 2, 2], [50, 50, 60, 60], [-9, -9, -1, -1], [float("nan")] * 4]
)
def test_a_box_without_area_or_outside_the_image_is_none(box: list[float]) -> None:
    batch = {
        "images": torch.zeros(1, 1, 8, 8),
        "boxes": torch.tensor([[box]], dtype=torch.float32),
        "valid": torch.tensor([[True]]),
    }
    keys: Any = {"boxes": "boxes", "valid": "valid"}
    for transform in (RandomFlip(1.0, **keys), RandomCrop(8, **keys)):
        changed = transform(batch)
        assert changed["boxes"].tolist() == [[[0, 0, 0, 0]]] and not changed["valid"].any()


def test_cutout_takes_away_a_rectangle() -> None:
    images = torch.ones(200, 2, 9, 9)
    changed = RandomCutout((3, 5), fill=0.25)(images)
    taken = changed == 0.25
    assert torch.equal(taken[:, 0], taken[:, 1]) and (changed[~taken] == 1).all()
    for mask in taken[:, 0]:
        x1, y1, x2, y2 = around(mask)
        assert mask[y1:y2, x1:x2].all() and y2 - y1 <= 3 and x2 - x1 <= 5
    sizes = taken[:, 0].flatten(1).sum(1)
    assert sizes.max() == 15 and sizes.min() < 15, "it may reach over the border"


def test_affine_by_hand() -> None:
    image = torch.arange(9.0).view(1, 1, 3, 3)
    same = RandomAffine()(image)
    torch.testing.assert_close(same, image)
    torch.testing.assert_close(RandomAffine((90, 90))(image), image.rot90(-1, (2, 3)))
    moved = RandomAffine(translate=(1 / 3, 1 / 3), fill=9)(image)
    wanted = torch.tensor([[9.0, 9, 9], [9, 0, 1], [9, 3, 4]]).view(1, 1, 3, 3)
    torch.testing.assert_close(moved, wanted)
    larger = RandomAffine(scale=(2, 2), masks=1)(
        (torch.zeros(1, 1, 4, 4), torch.arange(16).view(1, 4, 4))
    )
    assert larger[1].tolist() == [[[5, 5, 6, 6], [5, 5, 6, 6], [9, 9, 10, 10], [9, 9, 10, 10]]]
    slanted = RandomAffine(shear=(45, 45))(torch.ones(1, 1, 3, 3), None)
    torch.testing.assert_close(slanted[0, 0, 1], torch.ones(3))
    assert slanted[0, 0, 0].sum() < 3 and slanted[0, 0, 2].sum() < 3


def test_affine_moves_boxes_with_their_corners() -> None:
    batch = (torch.zeros(1, 1, 10, 20), torch.tensor([[[2.0, 3.0, 6.0, 5.0]]]))
    _, turned = RandomAffine((180, 180), boxes=1)(batch)
    torch.testing.assert_close(turned, torch.tensor([[[14.0, 5.0, 18.0, 7.0]]]))
    _, moved = RandomAffine(translate=(0.1, 0.1), boxes=1)(batch)
    torch.testing.assert_close(moved, torch.tensor([[[4.0, 4.0, 8.0, 6.0]]]))
    _, gone = RandomAffine(translate=(0.9, 0.9), boxes=1)(batch)
    assert gone.tolist() == [[[0, 0, 0, 0]]]
    doubles = RandomAffine(30)(torch.ones(1, 1, 4, 4, dtype=torch.float64))
    assert doubles.dtype == torch.float64


def test_resize() -> None:
    batch = scene_batch(3)
    changed = Resize((12, 48), **KEYS)(batch)
    assert changed["images"].shape == (3, 3, 12, 48) and changed["masks"].shape == (3, 12, 48)
    factor = torch.tensor([2, 0.5, 2, 0.5])
    torch.testing.assert_close(changed["boxes"], batch["boxes"] * factor)
    same = Resize(24)(batch)
    assert torch.equal(same["images"], batch["images"])
    doubled = Resize(4, masks=1)((torch.zeros(1, 1, 2, 2), torch.tensor([[[1, 2], [3, 4]]])))
    assert doubled[1].tolist() == [[[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]]


def test_normalize_in_the_batch_and_in_the_net() -> None:
    images = torch.tensor([[[[0, 255]], [[51, 102]]]], dtype=torch.uint8)
    transform = Normalize((0.0, 0.2), (1.0, 0.1))
    wanted = torch.tensor([[[[0.0, 1.0]], [[0.0, 2.0]]]])
    torch.testing.assert_close(transform(images), wanted)
    torch.testing.assert_close(transform(images.float() / 255), wanted)
    net = torch.nn.Sequential(transform.layer(), torch.nn.Flatten())
    torch.testing.assert_close(net(images), wanted.flatten(1))
    assert list(net.state_dict()) == [] and list(net.parameters()) == []
    assert net.double()(images).dtype == torch.float64
    with pytest.raises(DataError, match=r"has 2 numbers, one a channel; received .*\(1, 3, 2, 2\)"):
        transform(torch.zeros(1, 3, 2, 2))
    assert Normalize(0, 1)(torch.zeros(1, 3, 2, 2)).shape == (1, 3, 2, 2)


@pytest.mark.parametrize(("mean", "std"), [((), ()), (0, 0), ((1, 2), 1), (0, (1, -1))])
def test_normalize_with_numbers_that_cannot_be_meant(mean: Any, std: Any) -> None:
    with pytest.raises(ArgumentError, match="one number a channel each, std above 0"):
        Normalize(mean, std)

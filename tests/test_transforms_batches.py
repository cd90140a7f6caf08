"""Transforms put together, the structures of batches, and what they refuse."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scenes import scene_batch

from estimator import ArgumentError, ArgumentTypeError, DataError, with_uids
from estimator.processor import UidSample
from estimator.sequences import SequenceArray
from estimator.transforms import (
    Compose,
    FieldTransform,
    OneOf,
    RandomAffine,
    RandomCrop,
    RandomFlip,
    Resize,
    Scene,
    Transform,
)


def test_one_of_gives_each_sample_its_share() -> None:
    batch = {"images": torch.zeros(3000, 1, 1, 1), "sample_uid": torch.arange(3000)}

    def add(value: float) -> Add:
        return Add(value)

    changed = OneOf([add(1), add(2)], [0.5, 0.2])(batch)
    shares = torch.bincount(changed["images"].flatten().long()) / 3000
    assert shares.tolist() == pytest.approx([0.3, 0.5, 0.2], abs=0.03)
    assert changed["sample_uid"] is batch["sample_uid"]
    thirds = OneOf([add(1), add(2), add(3)])(batch)
    counts = torch.bincount(thirds["images"].flatten().long(), minlength=4)
    assert counts[0] == 0 and (counts[1:] > 900).all()


def test_one_of_keeps_every_structure() -> None:
    images = torch.zeros(4, 1, 2, 2)
    choose = OneOf([Add(1), Add(1)])
    assert torch.equal(choose(images), images + 1)
    pair = choose((images, torch.arange(4)))
    assert isinstance(pair, tuple) and torch.equal(pair[0], images + 1)
    listed = choose([images])
    assert isinstance(listed, list) and torch.equal(listed[0], images + 1)
    named = choose(UidSample((images, None), "abcd"))
    assert isinstance(named, UidSample) and named.sample_uid == "abcd"
    crops = OneOf([RandomCrop(1), Resize(1)])(images)
    assert crops.shape == (4, 1, 1, 1), "no sample stays as it is, so all may change their size"


def test_one_of_with_results_that_differ() -> None:
    images = torch.zeros(4, 1, 4, 4)
    with pytest.raises(DataError, match="whose results are alike; received .*2, 2.*4, 4"):
        OneOf([RandomCrop(2), RandomFlip()])(images)
    with pytest.raises(DataError, match="whose results are alike"):
        OneOf([RandomCrop(2)], [0.5])(images)
    with pytest.raises(DataError, match="needs a batch with tensors; received"):
        OneOf([RandomFlip()])({"a": ["text"], "b": 5, "c": torch.tensor(1)})
    for wrong in ([0.5], [0.8, 0.3]):
        with pytest.raises(ArgumentError, match="one number for each of 2 transforms, and add up"):
            OneOf([RandomFlip(), RandomFlip()], wrong)
    with pytest.raises(
        ArgumentError, match=r"each of OneOf\(probabilities=\.\.\.\) must be a number"
    ):
        OneOf([RandomFlip()], [-1])


class Add(FieldTransform):
    """Adds a number."""

    def __init__(self, value: float, **keys: Any) -> None:
        super().__init__(**keys)
        self.value = value

    def change(self, scene: Scene, generator: torch.Generator | None) -> Scene:
        return Scene(tuple(image + self.value for image in scene.images))


class Half(Transform):
    """Loses samples."""

    def __call__(self, batch: Any, generator: torch.Generator | None = None) -> Any:
        return {**batch, "images": batch["images"][::2]}


def test_compose_names_the_transform_that_loses_samples() -> None:
    both = Compose([RandomFlip(), Half()])
    with pytest.raises(
        DataError, match=r"Half\(\) must keep .* got 6 and returned 3 in .*'images'"
    ):
        both(scene_batch())
    with pytest.raises(DataError, match=r"Half\(\) must keep"):
        OneOf([Half()])(scene_batch())
    shown = repr(Compose([RandomFlip(0.25, masks="masks")]))
    assert shown == (
        "Compose(transforms=(RandomFlip(fields={'masks': 'masks'}, probability=0.25, "
        "axis='horizontal'),))"
    )


@pytest.mark.parametrize("wrong", [[], RandomFlip(), [torch.nn.Identity()], [RandomFlip]])
def test_compose_takes_transforms(wrong: Any) -> None:
    with pytest.raises(ArgumentTypeError, match=r"Compose\(transforms=.*Adapt\(function\)"):
        Compose(wrong)


def test_transforms_are_applied_once_and_batches_not_written_to() -> None:
    """Fault 19 of an earlier library: transforms ran twice, and the caller's dict was changed."""
    arrays = {"images": torch.zeros(8, 1, 2, 2), "labels": torch.arange(8)}
    sequence = SequenceArray(arrays, batch_size=4)
    once = [Compose([Add(1.0)])(batch) for batch in sequence]
    again = [Compose([Add(1.0)])(batch) for batch in sequence]
    for batch in (*once, *again):
        assert (batch["images"] == 1).all() and "sample_uid" in batch
    assert list(arrays) == ["images", "labels"] and (arrays["images"] == 0).all()


Pair = namedtuple("Pair", "image target")  # noqa: PYI024, as users make them


def test_every_structure_of_a_batch() -> None:
    images, labels = torch.tensor([[[[1, 2]]]]), torch.tensor([3])
    flip, flipped = RandomFlip(1.0), [[[[2, 1]]]]
    assert flip(images).tolist() == flipped
    pair = flip((images, labels))
    assert isinstance(pair, tuple) and pair[0].tolist() == flipped and pair[1] is labels
    listed = flip([images, labels])
    assert isinstance(listed, list) and listed[0].tolist() == flipped
    named = RandomFlip(1.0, images="image")(Pair(images, labels))
    assert isinstance(named, Pair) and named.image.tolist() == flipped
    last = RandomFlip(1.0, images=-1)((labels, images))
    assert last[0] is labels and last[1].tolist() == flipped
    single = flip({"image": images})
    assert single["image"].tolist() == flipped
    two = RandomFlip(1.0, images=("left", "right"))({"left": images, "right": images + 1})
    assert two["right"].tolist() == [[[[3, 2]]]]
    dataset = with_uids((images, labels), ["a"])
    (sample,) = torch.utils.data.DataLoader(dataset, batch_size=1)
    uid = flip(sample)
    assert isinstance(uid, UidSample) and uid.sample_uid == ("a",)
    assert uid.sample[0].tolist() == flipped


@pytest.mark.parametrize(
    ("batch", "keys", "message"),
    [
        ({"x": torch.zeros(1, 1, 2, 2)}, {}, r"finds no images .*Name the key"),
        ({"images": 1}, {"masks": "mask"}, r"finds no masks \['mask'\]"),
        ((torch.zeros(1, 1, 2, 2),), {"masks": 1}, r"finds no masks \[1\]"),
        ((torch.zeros(1, 1, 2, 2),), {"images": "a"}, r"finds no images \['a'\]"),
        (torch.zeros(1, 1, 2, 2), {"masks": 1}, r"finds no masks \[1\]"),
        (5, {}, r"finds no images \[0\]"),
        ([torch.zeros(2, 2)], {}, r"needs images as tensors \(N, C, H, W\).*tensor\(2, 2\)"),
        (
            {"images": [torch.zeros(3, 4, 4), torch.zeros(3, 5, 5)]}, {},
            r"needs images as tensors .*3, 4, 4.*3, 5, 5.*Give images of several sizes one size",
        ),
        (
            (torch.zeros(1, 1, 2, 2), torch.zeros(1, 3, 3)), {"masks": 1},
            r"images and masks of one height and width",
        ),
        ((torch.zeros(1, 1, 2, 2), torch.zeros(2)), {"masks": 1}, "needs masks as tensors"),
        ((torch.zeros(1, 1, 2, 2), torch.zeros(1, 4)), {"boxes": 1}, "needs boxes as a tensor"),
        ((torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 5)), {"boxes": 1}, "needs boxes as a tensor"),
        (
            (torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 4), torch.zeros(1)),
            {"boxes": 1, "valid": 2}, r"needs valid as a bool tensor \(N, M\)",
        ),
    ],
)  # fmt: skip
def test_a_batch_that_is_not_made_for_it(batch: Any, keys: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        RandomFlip(**keys)(batch)


flip: Any = RandomFlip
crop: Any = RandomCrop
affine: Any = RandomAffine


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: flip(1.5), r"RandomFlip\(probability=\.\.\.\) must be a number from 0 to 1"),
        (lambda: flip(True), "from 0 to 1; received True"),
        (lambda: flip("1"), "from 0 to 1; received '1'"),
        (lambda: flip(axis="up"), "'horizontal' or 'vertical'; received 'up'"),
        (lambda: crop(0), r"RandomCrop\(size=\.\.\.\) must be a whole number from 1 up"),
        (lambda: crop((3, 2.5)), r"two of them .*; received \(3, 2\.5\)"),
        (lambda: crop((1, 2, 3)), r"received \(1, 2, 3\)"),
        (lambda: crop(3, padding=-1), r"padding=\.\.\.\) must be a whole number from 0 up"),
        (lambda: affine(-5), r"degrees=\.\.\.\) must be a number from 0 up, or two"),
        (lambda: affine((3, 1)), r"received \(3, 1\)"),
        (lambda: affine("a"), "received 'a'"),
        (lambda: affine((1, 2, 3)), r"received \(1, 2, 3\)"),
        (lambda: affine(scale=(0, 1)), "two factors above 0"),
        (lambda: affine(shear=90), "within -90 and 90 degrees; received 90"),
    ],
)
def test_settings_that_cannot_be_meant(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make()


def test_other_errors_name_what_was_wrong() -> None:
    with pytest.raises(ArgumentTypeError, match="no argument 'mask'. Did you mean 'masks'"):
        RandomFlip(mask="mask")  # type: ignore[call-arg]  # what it is for
    with pytest.raises(
        DataError, match=r"parts of \(9, 9\) pixels; received images of \(4, 4\), \(6, 6\)"
    ):
        RandomCrop(9, padding=1)(torch.zeros(1, 1, 4, 4))
    assert RandomFlip(masks=None).fields == {}

"""Functions, and transforms with the interface of torchvision, among the others."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from estimator import ArgumentTypeError, DataError
from estimator.processor import UidSample
from estimator.transforms import Adapt, Compose, RandomFlip


class Image(Tensor):
    """As torchvision's own."""


class Mask(Tensor):
    """As torchvision's own."""


class BoundingBoxes(Tensor):
    """As torchvision's own: boxes that know the size of their image."""

    canvas_size: tuple[int, int]
    format: str


def boxes_of(data: Tensor, *, format: str, canvas_size: tuple[int, int]) -> Tensor:
    boxes = data.as_subclass(BoundingBoxes)
    boxes.canvas_size, boxes.format = canvas_size, format
    return boxes


class FakeCrop:
    """Cuts the left half off, with the interface of a transform of torchvision's.

    It tells kinds apart by their class, draws from the global stream, and leaves plain tensors.
    """

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, sample: Any) -> Any:
        torch.rand(())
        if isinstance(sample, dict):
            return {key: self(value) for key, value in sample.items()}
        if isinstance(sample, tuple):
            return tuple(self(value) for value in sample)
        self.seen.append(type(sample).__name__)
        if isinstance(sample, (Image, Mask)):
            return sample[..., sample.shape[-1] // 2 :]
        if isinstance(sample, BoundingBoxes):
            assert sample.format == "XYXY"
            width = sample.canvas_size[1]
            return sample - torch.tensor([width // 2, 0, width // 2, 0])
        return sample


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> FakeCrop:
    """A module of the name that has what the adapter takes from it, and a transform of it."""
    package, kinds = ModuleType("torchvision"), ModuleType("torchvision.tv_tensors")
    kinds.Image = lambda data: data.as_subclass(Image)  # type: ignore[attr-defined]  # a made module
    kinds.Mask = lambda data: data.as_subclass(Mask)  # type: ignore[attr-defined]  # a made module
    kinds.BoundingBoxes = boxes_of  # type: ignore[attr-defined]  # a made module
    package.tv_tensors = kinds  # type: ignore[attr-defined]  # a made module
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.tv_tensors", kinds)
    monkeypatch.setattr(FakeCrop, "__module__", "torchvision.transforms.v2._geometry")
    return FakeCrop()


def batch() -> dict[str, Any]:
    return {
        "images": torch.arange(2 * 4 * 6, dtype=torch.uint8).view(2, 1, 4, 6),
        "masks": torch.arange(2 * 4 * 6).view(2, 4, 6),
        "boxes": torch.tensor([[[0.0, 0, 2, 2], [1, 1, 5, 3]], [[3.0, 0, 6, 4], [0, 0, 0, 0]]]),
        "valid": torch.tensor([[True, True], [True, False]]),
        "labels": torch.tensor([4, 5]),
        "sample_uid": torch.tensor([7, 9]),
    }


@pytest.mark.parametrize("per_sample", [True, False])
def test_torchvision_moves_images_masks_and_boxes_jointly(
    torchvision: FakeCrop, per_sample: bool
) -> None:
    given = batch()
    transform = Adapt(
        torchvision, per_sample=per_sample, masks="masks", boxes="boxes", valid="valid"
    )
    changed = transform(given)
    assert list(changed) == list(given)
    assert torch.equal(changed["images"], given["images"][..., 3:])
    assert torch.equal(changed["masks"], given["masks"][..., 3:])
    wanted = [[[0, 0, 0, 0], [0, 1, 2, 3]], [[0, 0, 3, 4], [0, 0, 0, 0]]]
    assert changed["boxes"].tolist() == wanted
    assert changed["valid"].tolist() == [[False, True], [True, False]]
    assert all(type(value) is Tensor for value in changed.values())
    assert changed["images"].dtype == torch.uint8 and changed["sample_uid"].tolist() == [7, 9]
    kinds = ["Image", "Mask", "BoundingBoxes", "Tensor", "Tensor"]
    assert torchvision.seen == kinds * (2 if per_sample else 1)


def test_torchvision_takes_tuples(torchvision: FakeCrop) -> None:
    images, labels = batch()["images"], batch()["labels"]
    changed = Adapt(torchvision)((images, labels))
    assert torch.equal(changed[0], images[..., 3:]) and torch.equal(changed[1], labels)
    (named, uid) = Adapt(torchvision)(UidSample((images, labels), "ab"))
    assert torch.equal(named[0], images[..., 3:]) and uid == "ab"
    told = Adapt(torchvision)({"images": images, "name": ["a", "b"]})
    assert told["name"] == ["a", "b"] and torch.equal(told["images"], images[..., 3:])
    with pytest.raises(DataError, match=r"finds no images"):
        Adapt(torchvision)({"pixels": images})


def test_a_transform_derived_from_one_of_torchvision_is_one(torchvision: FakeCrop) -> None:
    own = type("Own", (FakeCrop,), {"__module__": __name__})
    assert Adapt(own())(batch())["images"].shape == (2, 1, 4, 3)


def test_a_plain_function_gets_samples_or_batches() -> None:
    seen: list[Any] = []

    def double(sample: Any) -> Any:
        seen.append(sample)
        return {**sample, "x": sample["x"] * 2}

    given: dict[str, Any] = {
        "x": torch.ones(2, 3), "name": ["a", "b"], "n": np.arange(2), "k": 5,
        "scale": torch.tensor(3.0), "sample_uid": torch.tensor([1, 2]),
    }  # fmt: skip
    changed = Adapt(double)(given)
    assert torch.equal(changed["x"], given["x"] * 2) and changed["name"] == ["a", "b"]
    assert changed["n"].tolist() == [0, 1] and changed["sample_uid"] is given["sample_uid"]
    assert [sample["name"] for sample in seen] == ["a", "b"] and "sample_uid" not in seen[0]
    whole = Adapt(double, per_sample=False)(given)
    assert torch.equal(whole["x"], given["x"] * 2) and whole["name"] is given["name"]


def test_rows_of_tuples() -> None:
    pair = Adapt(lambda sample: (sample[0] + 1, sample[1]))((torch.zeros(2, 3), torch.arange(2)))
    assert torch.equal(pair[0], torch.ones(2, 3)) and pair[1].tolist() == [0, 1]
    single = Adapt(lambda image: image + 1)(torch.zeros(2, 3))
    assert torch.equal(single, torch.ones(2, 3))
    inner = Adapt(lambda sample: sample)({"x": UidSample(torch.zeros(2), torch.arange(2))})
    assert isinstance(inner["x"], UidSample) and inner["x"].sample_uid.tolist() == [0, 1]


def noisy(image: Tensor) -> Tensor:
    return image + torch.rand(())


def test_a_generator_seeds_what_draws_from_the_global_stream() -> None:
    images, transform = torch.zeros(3, 1, 2, 2), Compose([Adapt(noisy), RandomFlip()])
    before = torch.get_rng_state()
    first, second = (transform(images, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, second) and len(first.unique()) == 3
    third = transform(images, torch.Generator().manual_seed(6))
    assert not torch.equal(first, third)
    torch.manual_seed(0)
    free = Adapt(noisy)(images)
    torch.manual_seed(0)
    assert torch.equal(Adapt(noisy)(images), free)


@pytest.mark.parametrize(
    ("function", "per_sample", "message"),
    [
        (lambda batch: None, False, r"must return the changed batch; it returned None"),
        (lambda sample: None, True, r"must return a sample; it returned None\. Add a return"),
        (
            lambda batch: {**batch, "images": batch["images"][:1]}, False,
            r"must keep the number of samples; it got 2 and returned 1 in batch\['images'\]",
        ),
        (
            lambda sample: sample["images"][..., : 1 + int(sample["labels"]) % 2], True,
            "must give all samples of a batch one size; received .*resize or a crop",
        ),
    ],
)  # fmt: skip
def test_a_function_that_breaks_the_rules_is_named(
    function: Any, per_sample: bool, message: str
) -> None:
    with pytest.raises(DataError, match=rf"Adapt\(.*function=<function .*{message}"):
        Adapt(function, per_sample=per_sample)(batch())


def test_what_cannot_be_adapted() -> None:
    for wrong in (5, RandomFlip):
        with pytest.raises(ArgumentTypeError, match=r"Adapt\(function=\.\.\.\) must be a function"):
            Adapt(wrong)  # type: ignore[arg-type]  # what it is for
    with pytest.raises(DataError, match="needs a batch with tensors"):
        Adapt(noisy)({"name": ["a"]})

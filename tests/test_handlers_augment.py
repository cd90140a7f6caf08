"""Training batches that are changed on the device, and batches of validation that are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from graph_runs import FUSED, recorder
from torch import Tensor, nn
from torch.utils.data import Subset, TensorDataset

from estimator import ArgumentTypeError, BatchProcessor, DataError, Estimator, TrainStats, with_uids
from estimator.handlers import AugmentHandler, Band, EventHandler
from estimator.transforms import Compose, Normalize, RandomCrop, RandomFlip


class Recorder(EventHandler):
    """Keeps what net and loss got."""

    band = Band.OBSERVE

    def __init__(self) -> None:
        super().__init__()
        self.train: list[tuple[Any, Any, Any]] = []
        self.val: list[tuple[Any, Any, Any]] = []

    def forward_end(self, stats: TrainStats) -> None:
        self.train.append((stats.inputs, stats.targets, stats.uids))

    def validation_batch_end(self, stats: TrainStats) -> None:
        self.val.append((stats.inputs, stats.targets, stats.uids))


class Net(nn.Module):
    """Takes images by position or by name."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 2)

    def forward(self, images: Tensor, extra: Tensor | None = None) -> Tensor:
        outputs: Tensor = self.layer(images.float().mean((1, 2, 3))[:, None])
        return outputs


class Whole(nn.Module):
    """Takes the whole dict."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 2)

    def forward(self, batch: dict[str, Any]) -> Tensor:
        outputs: Tensor = self.layer(batch["images"].float().mean((1, 2, 3))[:, None])
        return outputs


def record(
    transform: Any, train: Any, *, net: nn.Module | None = None, val: Any = None, **settings: Any
) -> Recorder:
    recorder = Recorder()
    names = {"targets", "loss", "processor"} & set(settings)
    own = {name: settings.pop(name) for name in names}
    loss = own.pop("loss", nn.CrossEntropyLoss())
    if not isinstance(train, list):
        settings["batch_size"] = 4
    Estimator(net or Net(), loss, **own).fit(
        train, val, epochs=1, device="cpu", progress=False,
        handlers=[AugmentHandler(transform), recorder], **settings,
    )  # fmt: skip
    return recorder


def plus_one(batch: Any) -> Any:
    """Adds one to the images of a tuple or a dict."""
    if isinstance(batch, dict):
        return {**batch, "images": batch["images"] + 1}
    return (batch[0] + 1, *batch[1:])


IMAGES, LABELS = torch.zeros(8, 1, 2, 2, dtype=torch.uint8), torch.arange(8) % 2


def test_a_batch_is_changed_once_in_training_only() -> None:
    """Fault 19 of an earlier library: transforms ran twice on a part of the data."""
    part = Subset(TensorDataset(IMAGES, LABELS), [1, 3, 5, 7])
    arrays = IMAGES.clone()
    for train in ((IMAGES, LABELS), part, with_uids((IMAGES, LABELS))):
        seen = record(plus_one, train, val=(IMAGES, LABELS))
        assert all((inputs == 1).all() for inputs, _, _ in seen.train)
        assert all((inputs == 0).all() for inputs, _, _ in seen.val)
        assert all(inputs.dtype == torch.uint8 for inputs, _, _ in seen.train + seen.val)
    assert torch.equal(IMAGES, arrays)


def test_identities_stay_with_their_samples() -> None:
    images = torch.arange(8).view(8, 1, 1, 1).float()
    seen = record(plus_one, with_uids((images, LABELS)))
    for inputs, targets, uids in seen.train:
        assert (inputs.flatten() - 1).tolist() == uids.tolist()
        assert (uids % 2).tolist() == targets.tolist()
    arrays = {"images": images, "labels": LABELS, "sample_uid": torch.arange(8) * 10}
    seen = record(plus_one, arrays, targets="labels")
    for named, _, uids in seen.train:
        assert ((named["images"].flatten() - 1) * 10).tolist() == uids.tolist()


def test_a_dict_is_shown_with_its_own_keys() -> None:
    shown: list[set[str]] = []

    def watch(batch: dict[str, Any]) -> dict[str, Any]:
        shown.append(set(batch))
        return {**plus_one(batch), "labels": 1 - batch["labels"]}

    arrays = {"images": IMAGES.numpy(), "labels": LABELS, "sample_uid": torch.arange(8)}
    for net, targets, extra in ((Net(), "labels", {}), (Net(), ["labels"], {"extra": IMAGES}),
                                (Whole(), "labels", {})):  # fmt: skip
        shown.clear()
        loss: Any = nn.CrossEntropyLoss()
        if isinstance(targets, list):
            loss = lambda outputs, targets: nn.functional.cross_entropy(outputs, targets["labels"])  # noqa: E731  # as users write them
        seen = record(watch, {**arrays, **extra}, net=net, targets=targets, loss=loss)
        names = {"images", "labels", *extra} | ({"sample_uid"} if isinstance(net, Whole) else set())
        assert shown == [names] * 2
        for inputs, target, uids in seen.train:
            images = inputs["images"] if isinstance(inputs, dict) else inputs
            labels = target["labels"] if isinstance(target, dict) else target
            assert (images == 1).all() and ((uids + 1) % 2).tolist() == labels.tolist()


def test_masks_are_found_among_targets_of_the_same_form() -> None:
    """Images and masks of one shape and type are told apart, also where copies are moved."""
    masks = torch.arange(8.0).view(8, 1, 1, 1)

    class Copies(BatchProcessor):
        def split(self, batch: Any) -> Any:
            return batch["images"].clone(), batch["masks"].clone()

        def loss(self, outputs: Any, targets: Any) -> Any:
            return outputs.mean()

    data = {"names": ["a"] * 8, "same": masks[:1], "images": -masks, "masks": masks}
    seen = record(plus_one, [data], processor=Copies())
    for inputs, targets, _ in seen.train:
        assert torch.equal(inputs, 1 - targets)


def test_inputs_and_targets_of_one_content_are_two_fields() -> None:
    class Copies(BatchProcessor):
        def split(self, batch: Any) -> Any:
            return batch["images"].clone(), batch["clean"].clone()

        def loss(self, outputs: Any, targets: Any) -> Any:
            return outputs.mean()

    data = [{"images": torch.ones(4, 1, 2, 2), "clean": torch.ones(4, 1, 2, 2)}]
    ((inputs, targets, _),) = record(plus_one, data, processor=Copies()).train
    assert (inputs == 2).all() and (targets == 1).all()


def test_losses_by_position_and_inputs_in_a_tuple() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def forward(self, images: Tensor, other: Tensor) -> list[Tensor]:
            outputs = self.layer((images + other).flatten(1)[:, :1].float())
            return [outputs, outputs]

    a, b = torch.zeros(8, 1, 1, 1), torch.ones(8, 1)
    seen = record(
        plus_one, {"images": a, "other": a, "y": b, "z": b + 1}, net=Two(), targets=["y", "z"],
        loss=[nn.MSELoss(), nn.MSELoss()],
    )  # fmt: skip
    for inputs, targets, _ in seen.train:
        assert (inputs["images"] == 1).all() and (inputs["other"] == 0).all()
        assert [float(t[0]) for t in targets] == [1, 2]

    def loss(outputs: Any, targets: Tensor) -> Tensor:
        return nn.functional.mse_loss(outputs[0], targets)

    seen = record(plus_one, (a, a, b), net=Two(), loss=loss)
    for inputs, targets, _ in seen.train:
        assert isinstance(inputs, tuple) and (inputs[0] == 1).all() and (targets == 1).all()


def test_a_batch_whose_parts_cannot_be_found_is_shown_as_a_tuple() -> None:
    class Own(BatchProcessor):
        def split(self, batch: Any) -> Any:
            return batch["images"].float() * 2, batch["labels"]

    shown = []

    def watch(batch: Any) -> Any:
        shown.append(type(batch))
        return plus_one(batch)

    seen = record(watch, {"images": IMAGES + 1, "labels": LABELS}, processor=Own())
    assert shown == [tuple, tuple] and all((inputs == 3).all() for inputs, _, _ in seen.train)


def test_batches_may_change_their_keys() -> None:
    full = {"images": IMAGES[:4], "labels": LABELS[:4], "extra": IMAGES[:4]}
    seen = record(plus_one, [full, {k: full[k] for k in ("images", "labels")}], targets="labels")
    first, second = (inputs for inputs, _, _ in seen.train)
    assert (first["images"] == 1).all() and (first["extra"] == 0).all()
    assert (second["images"] == 1).all()


def test_augmentation_follows_the_seed_and_reaches_the_net() -> None:
    images = torch.randint(0, 256, (8, 1, 6, 6), dtype=torch.uint8)
    transform = Compose([RandomCrop(6, padding=2), RandomFlip()])
    net = nn.Sequential(Normalize(0.5, 0.5).layer(), nn.Flatten(), nn.Linear(36, 2))
    first, same, other = (
        record(transform, (images, LABELS), net=net, seed=seed).train for seed in (1, 1, 2)
    )
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, same, strict=True))
    assert not all(torch.equal(a[0], b[0]) for a, b in zip(first, other, strict=True))
    assert all(inputs.dtype == torch.uint8 for inputs, _, _ in first)


def test_the_tiers_of_the_engine_see_the_changed_batches() -> None:
    images = torch.rand(160, 1, 6, 6)
    weights: list[Tensor] = []
    with recorder() as made:
        for engine in ("eager", "graph", "replay"):
            torch.manual_seed(0)
            layer = nn.Linear(36, 2)
            net = nn.Sequential(nn.Flatten(), layer)
            Estimator(net, nn.CrossEntropyLoss()).fit(
                (images, torch.arange(160) % 2), epochs=1, trainers=FUSED, batch_size=4, seed=1,
                device="cpu", progress=False, engine=engine,
                handlers=[AugmentHandler(RandomCrop(6, padding=2))],
            )  # fmt: skip
            weights.append(layer.weight)
        assert made.replays > 10
    for other in weights[1:]:
        torch.testing.assert_close(other, weights[0])


def test_the_batch_that_was_loaded_can_still_be_seen() -> None:
    raw = []

    class Look(EventHandler):
        def forward_end(self, stats: TrainStats) -> None:
            raw.append((stats.batch[0], stats.inputs))

    Estimator(Net(), nn.CrossEntropyLoss()).fit(
        (IMAGES, LABELS), epochs=1, device="cpu", progress=False,
        handlers=[AugmentHandler(plus_one), Look()],
    )  # fmt: skip
    assert all((batch == 0).all() and (inputs == 1).all() for batch, inputs in raw)


@pytest.mark.parametrize(
    ("transform", "data", "message"),
    [
        (
            lambda b: (b[0][:1], b[1]),
            "pair",
            r"keep the number of samples; it got 4 and returned 1",
        ),
        (lambda b: (b[0][:1], b[1][:1]), "pair", r"it got 4 and returned 1 in batch\[0\]"),
        (lambda b: None, "pair", "must return the changed batch; it returned None"),
        (lambda b: b[0], "pair", "must return the structure that it got, 2 values; .* Tensor"),
        (lambda b: (*b, b[0]), "pair", "must return the structure that it got, 2 values"),
        (
            lambda b: {"images": b["images"]},
            "dict",
            r"\['images', 'labels'\]; it returned \['images'\]",
        ),
        (lambda b: (b["images"],), "dict", "must return the structure .* it returned tuple"),
    ],
)
def test_a_transform_that_breaks_the_rules_is_named(
    transform: Any, data: str, message: str
) -> None:
    pair = {"pair": (IMAGES, LABELS), "dict": {"images": IMAGES, "labels": LABELS}}[data]
    with pytest.raises(DataError, match=rf"<function .*{message}"):
        record(transform, pair, targets="labels" if data == "dict" else None)


def test_what_is_no_transform() -> None:
    for wrong in (5, RandomFlip):
        with pytest.raises(ArgumentTypeError, match=r"AugmentHandler\(transform=\.\.\.\) must be"):
            AugmentHandler(wrong)  # type: ignore[arg-type]  # what it is for
    assert AugmentHandler(plus_one).band is Band.PREPARE
    assert AugmentHandler(plus_one, band=Band.OBSERVE).band is Band.OBSERVE


def test_arrays_of_numpy_are_found_under_their_keys() -> None:
    arrays = {"images": np.zeros((4, 1, 2, 2)), "labels": np.arange(4) % 2}
    seen = record(plus_one, [arrays], targets="labels")
    assert (seen.train[0][0]["images"] == 1).all()

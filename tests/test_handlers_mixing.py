"""MixUp and CutMix: what becomes of inputs, targets, losses and metrics."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from estimator import Estimator, Trainer
from estimator.handlers import Band, CutMixHandler, EventHandler, MixUpHandler
from estimator.handlers.base import ArgumentError, DataError
from estimator.stats import TrainStats


class Seen(EventHandler):
    """Keeps what the net was given and compared with, and what metrics were."""

    def __init__(self) -> None:
        super().__init__(band=Band.OBSERVE)
        self.mixed: list[tuple[Any, Any]] = []
        self.measured: list[Any] = []
        self.validated: list[Any] = []

    def batch_begin(self, stats: TrainStats) -> None:
        self.mixed.append((stats.inputs, stats.targets))

    def batch_end(self, stats: TrainStats) -> None:
        self.measured.append(stats.targets)

    def validation_batch_end(self, stats: TrainStats) -> None:
        self.validated.append((stats.inputs, stats.targets))


def by_hand(handler: EventHandler, inputs: Any, targets: Any) -> TrainStats:
    """A batch as the loop takes it through the events of a handler."""
    stats = TrainStats(nn.Identity(), torch.device("cpu"))
    stats.inputs, stats.targets = inputs, targets
    handler.batch_begin(stats)
    return stats


def pictures(samples: int, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Each picture is full of its own number."""
    numbers = torch.arange(1.0, samples + 1).view(-1, 1, 1, 1)
    return numbers.expand(samples, 2, 8, 12).clone(), torch.arange(samples) % classes


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_mixup_mixes_inputs_and_targets_with_one_share(alpha: float) -> None:
    x, y = torch.randn(6, 4), torch.arange(6) % 3
    kept = x.clone()
    stats = by_hand(MixUpHandler(3, alpha=alpha), x, y)
    torch.manual_seed(0)
    torch.randn(6, 4)
    share = torch.distributions.Beta(alpha, alpha).sample()
    partner = torch.randperm(6)
    hot = torch.eye(3)[y]
    assert torch.allclose(stats.inputs, share * x + (1 - share) * x[partner])
    assert torch.allclose(stats.targets, share * hot + (1 - share) * hot[partner])
    assert torch.equal(x, kept)


def test_cutmix_mixes_targets_by_the_area_of_the_rectangle() -> None:
    x, y = pictures(6, 6)
    for seed in range(20):
        torch.manual_seed(seed)
        stats = by_hand(CutMixHandler(6), x, y)
        patches = (stats.inputs != x)[:, 0]
        foreign = patches.flatten(1).any(1)
        area = patches[foreign].double().mean().item() if foreign.any() else 0.0
        for i in range(6):
            (partner, *more) = set(stats.inputs[i].unique().tolist()) - {i + 1.0} or {i + 1.0}
            assert not more
            expected = torch.zeros(6)
            expected[i] = 1 - area
            expected[int(partner) - 1] += area
            alone = not foreign[i] and area > 0
            assert torch.allclose(stats.targets[i], torch.eye(6)[i] if alone else expected)
        for patch in patches[foreign]:
            rows, columns = patch.nonzero().T
            assert patch[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()


def net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(3))


@pytest.mark.parametrize("handler", [MixUpHandler(3), CutMixHandler(3)])
def test_metrics_see_the_target_of_the_greater_part(handler: EventHandler) -> None:
    x, y = pictures(30)
    seen = Seen()
    est = Estimator(net(), nn.CrossEntropyLoss(), ["accuracy"])
    stats = est.fit(
        (x, y), (x, y), epochs=2, trainers=Trainer("sgd", lr=1e-3), handlers=[handler, seen],
        device="cpu", batch_size=10, progress=False,
    )  # fmt: skip
    for (_, soft), hard in zip(seen.mixed, seen.measured, strict=True):
        assert soft.shape == (10, 3)
        assert hard.dtype == torch.int64
        rows = torch.arange(10)
        assert (soft[rows, hard] >= 0.5 - 1e-6).all()
    for inputs, targets in seen.validated:
        assert inputs.flatten(1).var(1).max() == 0
        assert targets.dtype == torch.int64
    assert 0 <= stats.train["accuracy"] <= 1


def test_the_loss_is_that_of_the_mixed_targets() -> None:
    x, y = torch.randn(8, 4), torch.arange(8) % 3
    seen = Seen()
    est = Estimator(nn.Linear(4, 3), nn.CrossEntropyLoss())
    weights = [p.detach().clone() for p in est.net.parameters()]
    stats = est.fit(
        (x, y), epochs=1, trainers=Trainer("sgd", lr=0.1), handlers=[MixUpHandler(3), seen],
        device="cpu", batch_size=8, progress=False,
    )  # fmt: skip
    ((inputs, soft),) = seen.mixed
    outputs = nn.functional.linear(inputs, weights[0], weights[1])
    expected = nn.functional.cross_entropy(outputs, soft)
    assert stats.train["loss"] == pytest.approx(expected.item(), rel=1e-6)


def test_dicts_of_inputs_and_targets_are_mixed_by_key() -> None:
    inputs = {"image": torch.randn(6, 2), "scale": torch.ones(6), "token": torch.arange(6)}
    ages = torch.randn(6)
    targets = {
        "digit": torch.arange(6) % 3, "age": ages, "count": 3,
        "maps": [torch.zeros(6, 4, 5).long(), torch.zeros(6, 4, 5)],
    }  # fmt: skip
    handler = MixUpHandler({"digit": 3, "maps": 2}, keys=["image"])
    stats = by_hand(handler, inputs, targets)
    assert not torch.equal(stats.inputs["image"], inputs["image"])
    assert stats.inputs["scale"] is inputs["scale"]
    assert stats.inputs["token"] is inputs["token"]
    assert stats.targets["digit"].shape == (6, 3)
    assert stats.targets["maps"][0].shape == (6, 2, 4, 5)
    assert stats.targets["maps"][1].shape == (6, 4, 5)
    assert stats.targets["count"] == 3
    stats.batch_size = 6
    handler.batch_end(stats)
    assert stats.targets["digit"].dtype == stats.targets["maps"][0].dtype == torch.int64
    assert set(stats.targets["age"].tolist()) <= set(ages.tolist())


def test_tuples_of_inputs_are_mixed_and_others_stay() -> None:
    first, other = torch.randn(4, 3), torch.arange(4)
    stats = by_hand(MixUpHandler(), (first, [other], "name"), torch.randn(4, 1))
    assert isinstance(stats.inputs, tuple)
    assert not torch.equal(stats.inputs[0], first)
    assert stats.inputs[1][0] is other
    assert stats.inputs[2] == "name"


def test_an_ignored_class_has_no_probabilities() -> None:
    stats = by_hand(MixUpHandler(3), torch.randn(4, 2), torch.tensor([-100, -100, -100, -100]))
    assert torch.equal(stats.targets, torch.zeros(4, 3))


def test_mixtures_follow_the_stream_of_torch() -> None:
    def trained(seed: int) -> Tensor:
        torch.manual_seed(7)
        est = Estimator(nn.Linear(4, 3), nn.CrossEntropyLoss())
        x, y = torch.randn(12, 4), torch.arange(12) % 3
        est.fit(
            (x, y), epochs=2, trainers=Trainer("sgd", lr=0.1), handlers=[MixUpHandler(3)],
            device="cpu", batch_size=4, seed=seed, progress=False,
        )  # fmt: skip
        return next(est.net.parameters()).detach()

    assert torch.equal(trained(1), trained(1))
    assert not torch.equal(trained(1), trained(2))


def test_a_batch_without_samples_here_keeps_its_hidden_targets() -> None:
    handler = MixUpHandler(3)
    stats = by_hand(handler, torch.randn(1, 2), torch.tensor([1]))
    stats.batch_size, stats.targets = 0, torch.zeros(0)
    handler.batch_end(stats)
    assert len(stats.targets) == 0
    handler.batch_end(stats)
    handler.train_end(stats)


@pytest.mark.parametrize("handler", [MixUpHandler, CutMixHandler])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 0.0}, r"alpha=...\) must be a number above 0; received 0.0"),
        ({"alpha": float("nan")}, "received nan"),
        ({"alpha": float("inf")}, "received inf"),
        ({"alpha": "1"}, "received '1'"),
        ({"classes": 1}, "whole number from 2 up"),
        ({"classes": True}, "received True"),
        ({"classes": {"digit": None}}, "by the names of targets"),
        ({"keys": "image"}, "must be a list of keys; received 'image'"),
    ],
)
def test_bad_settings_are_refused(handler: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        handler(**settings)


@pytest.mark.parametrize(
    ("handler", "inputs", "targets", "message"),
    [
        (MixUpHandler(3), torch.arange(4), torch.zeros(4), "the inputs of this batch have none"),
        (CutMixHandler(3), torch.randn(4, 5), torch.zeros(4), r"floating tensors \(N, C, H, W\)"),
        (MixUpHandler(keys=["x"]), {"y": torch.randn(4)}, torch.zeros(4), r"keys \['x'\]"),
        (MixUpHandler(3), (torch.arange(4), 3), torch.zeros(4), "have none"),
        (MixUpHandler(3), torch.randn(4), None, "received NoneType"),
        (MixUpHandler(3), torch.randn(4), {"a": torch.tensor(1)}, "received dict"),
    ],
)  # fmt: skip
def test_data_that_cannot_be_mixed_is_named(
    handler: EventHandler, inputs: Any, targets: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        by_hand(handler, inputs, targets)


@pytest.mark.parametrize("classes", [None, {"other": 3}])
def test_class_indices_need_their_number(classes: Any) -> None:
    with pytest.raises(ArgumentError, match="how many classes there are for the target 'digit'"):
        by_hand(MixUpHandler(classes), torch.randn(4, 2), {"digit": torch.zeros(4).long()})
    with pytest.raises(ArgumentError, match="how many classes there are, which is an index"):
        by_hand(MixUpHandler(), torch.randn(4, 2), torch.zeros(4).long())


def test_replayed_steps_train_on_the_same_mixtures() -> None:
    x, y = torch.linspace(-1, 1, 1280).view(320, 4), torch.arange(320) % 3
    losses = []
    for engine in ("replay", "eager"):
        torch.manual_seed(0)
        est = Estimator(nn.Linear(4, 3), nn.CrossEntropyLoss(), ["accuracy"])
        stats = est.fit(
            (x, y), epochs=3, trainers=Trainer("sgd", lr=0.1), device="cpu", batch_size=4,
            handlers=[MixUpHandler(3)], seed=1, engine=engine, progress=False,
        )  # fmt: skip
        losses.append((stats["train_loss"], stats["train_accuracy"]))
    assert losses[0] == losses[1]

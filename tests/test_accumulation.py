"""Gradients of groups are those of the whole group; recorded losses are those of the whole set."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from loss_cases import CASES, IGNORED, Batch, classes, group_gradients, linear, loss_of, whole
from torch import nn

from estimator import Estimator, Trainer, TrainStats
from estimator.accumulation import Accumulation
from estimator.handlers import EventHandler
from estimator.handlers.base import ArgumentError


class Gradients(EventHandler):
    """Keeps the gradients that every optimizer step is to use."""

    def train_begin(self, stats: TrainStats) -> None:
        self.seen: list[list[torch.Tensor]] = []

    def backward_end(self, stats: TrainStats) -> None:
        grads = [p.grad for p in stats.net.parameters()]
        self.seen.append([g.clone() for g in grads if g is not None])


class Unsized:
    """A loader that does not say how many batches it has."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


class Lying(Unsized):
    """A loader that says a wrong number of batches."""

    def __init__(self, batches: list[Batch], said: int) -> None:
        super().__init__(batches)
        self.said = said

    def __len__(self) -> int:
        return self.said


def seen_gradients(net: nn.Module, spec: Any, data: Any, accumulate: int) -> Gradients:
    handler = Gradients()
    # A rate of 0 keeps the weights, so that every group can be checked against the first net.
    Estimator(net, spec).fit(
        data,
        epochs=1,
        trainers=Trainer("sgd", lr=0.0),
        device="cpu",
        accumulate=accumulate,
        handlers=handler,
        progress=False,
    )
    return handler


def assert_groups(
    net: nn.Module, spec: Any, groups: list[list[Batch]], seen: list[list[torch.Tensor]]
) -> None:
    assert len(seen) == len(groups)
    double = next(net.parameters()).dtype == torch.float64
    for group, ours in zip(groups, seen, strict=True):
        ours_flat = torch.cat([g.flatten() for g in ours])
        exact = torch.cat([g.flatten() for g in group_gradients(net, spec, group)])
        error = (ours_flat - exact).norm() / exact.norm()
        assert error < (1e-10 if double else 1e-6)


def grouped(batches: list[Batch], size: int) -> list[list[Batch]]:
    return [batches[i : i + size] for i in range(0, len(batches), size)]


def to_double(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: to_double(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(to_double(item) for item in value)
    return value.double() if value.is_floating_point() else value


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("draw", range(50))
def test_groups_have_the_gradient_of_their_concatenation(name: str, draw: int) -> None:
    spec, make, new_net = CASES[name]
    spec = copy.deepcopy(spec)
    torch.manual_seed(draw)
    rng = random.Random(draw)
    accumulate = rng.choice([2, 3, 4])
    batches = [make(rng.randint(1, 9)) for _ in range(rng.randint(1, 9))]
    # A group without a single counted item has no mean to compare with.
    batches = [b if rng.random() < 0.7 else make(rng.randint(20, 30)) for b in batches]
    net = new_net()
    if draw % 2:
        net, batches = net.double(), [to_double(b) for b in batches]
        if isinstance(spec, nn.Module):
            spec.double()
    data = rng.choice(
        [batches, Unsized(batches), Lying(batches, len(batches) + 2), Lying(batches, 1)]
    )
    handler = seen_gradients(net, spec, data, accumulate)
    # A loader that says 1 has its first batch taken for its last, which closes a group.
    first = 1 if isinstance(data, Lying) and data.said == 1 else 0
    groups = [batches[:1]] * first + grouped(batches[first:], accumulate)
    assert_groups(net, spec, groups, handler.seen)


@pytest.mark.parametrize("where", [0, 1, 2])
@pytest.mark.parametrize("accumulate", [2, 3])
@pytest.mark.parametrize("name", ["ignore_index of its own", "tokens"])
def test_a_batch_without_any_counted_target(name: str, accumulate: int, where: int) -> None:
    spec, make, new_net = CASES[name]
    batches = [make(6) for _ in range(6)]
    batches[where][1].fill_(spec.ignore_index)
    net = new_net()
    handler = seen_gradients(net, spec, batches, accumulate)
    assert_groups(net, spec, grouped(batches, accumulate), handler.seen)


@pytest.mark.parametrize("name", ["ignore_index of its own", "tokens", "class weights"])
def test_a_group_without_any_counted_target_changes_nothing(name: str) -> None:
    spec, make, new_net = CASES[name]
    spec = nn.CrossEntropyLoss(weight=spec.weight, ignore_index=spec.ignore_index)
    batches = [make(5), make(5)]
    for _, y in batches:
        y.fill_(spec.ignore_index)
    net = new_net()
    before = copy.deepcopy(net.state_dict())
    Estimator(net, spec).fit(batches, None, 1, "sgd", "cpu", accumulate=2, progress=False)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("where", [0, 1])
def test_a_batch_of_minus_hundreds_in_a_group(where: int) -> None:
    spec = nn.CrossEntropyLoss()
    batches = [classes(5) for _ in range(2)]
    batches[where][1].fill_(IGNORED)
    net = linear()
    handler = seen_gradients(net, spec, batches, 2)
    assert_groups(net, spec, [batches], handler.seen)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("draw", range(4))
def test_recorded_losses_are_those_of_the_whole_set(name: str, draw: int) -> None:
    spec, make, new_net = CASES[name]
    torch.manual_seed(draw)
    rng = random.Random(draw)
    batches = [make(rng.randint(1, 9)) for _ in range(6)]
    # The first batch gives all batches something to count.
    batches[0] = make(30)
    net = new_net()
    x, y = whole(batches)
    with torch.no_grad():
        exact = loss_of(spec, net(x), y).item()
    if name == "sum":
        exact /= len(x)
    est = Estimator(net, spec)
    trainers = Trainer("sgd", lr=0.0)
    stats = est.fit(batches, batches, 1, trainers, "cpu", progress=False)
    assert stats["val_loss"][0] == pytest.approx(exact, rel=1e-6)
    assert stats["train_loss"][0] == pytest.approx(exact, rel=1e-6)
    assert est.evaluate(batches)["loss"] == pytest.approx(exact, rel=1e-6)
    twice = est.fit(
        batches, epochs=1, trainers=trainers, device="cpu", accumulate=2, progress=False
    )
    assert twice["train_loss"][0] == pytest.approx(exact, rel=1e-6)


def test_validation_leaves_ignored_targets_out() -> None:
    spec = nn.CrossEntropyLoss()
    batches = [classes(8) for _ in range(3)]
    batches[0][1][:5] = IGNORED
    batches[1][1].fill_(IGNORED)
    net = linear()
    x, y = whole(batches)
    with torch.no_grad():
        exact = spec(net(x), y).item()
    est = Estimator(net, spec)
    assert est.evaluate(batches)["loss"] == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "2"])
def test_a_size_that_is_no_count(size: Any) -> None:
    with pytest.raises(ArgumentError, match=r"fit\(accumulate=...\) .* from 1 up; received"):
        Accumulation(size)


def test_a_parameter_without_gradients_in_a_group_has_none() -> None:
    net = nn.Sequential(linear(), nn.ReLU())
    batches = [CASES["mse"][1](n) for n in (4, 6)]
    net.register_parameter("spare", nn.Parameter(torch.ones(2)))
    Estimator(net, nn.MSELoss()).fit(batches, None, 1, "sgd", "cpu", accumulate=2, progress=False)
    spare = net.get_parameter("spare")
    assert spare.grad is None and torch.equal(spare, torch.ones(2))


def test_each_group_counts_as_one_step() -> None:
    batches = [classes(4) for _ in range(7)]

    class Steps(EventHandler):
        def train_begin(self, stats: TrainStats) -> None:
            self.seen: list[tuple[int, bool]] = []

        def batch_end(self, stats: TrainStats) -> None:
            self.seen.append((stats.step, stats.stepped))

    handler = Steps()
    stats = Estimator(linear(), nn.CrossEntropyLoss()).fit(
        batches, epochs=1, trainers="sgd", device="cpu", accumulate=3, handlers=handler,
        progress=False,
    )  # fmt: skip
    assert handler.seen == [
        (0, False), (0, False), (1, True), (1, False), (1, False), (2, True), (3, True),
    ]  # fmt: skip
    assert (stats.step, stats.samples) == (3, 28)

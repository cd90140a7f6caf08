"""Gradients of groups are those of the whole group; recorded losses are those of the whole set."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from estimator import Estimator, Trainer, TrainStats
from estimator.accumulation import Accumulation
from estimator.handlers import EventHandler
from estimator.handlers.base import ArgumentError

Batch = tuple[Any, Any]
Make = Callable[[int], Batch]
IGNORED = -100
CLASS_WEIGHTS = torch.tensor([0.2, 1.0, 3.0])


class OwnCount(nn.Module):
    """The mean over all that is above 0 in the targets, which it counts itself."""

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        kept = targets > 0
        return ((outputs - targets) ** 2 * kept).sum() / kept.sum()

    def item_count(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (targets > 0).sum()


def mean_of_logs(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return ((outputs - targets) ** 2).mean(1).log1p().mean()


def classes(n: int) -> Batch:
    return torch.randn(n, 4), torch.randint(3, (n,))


def classes_with_ignored(n: int) -> Batch:
    x, y = classes(n)
    return x, y.masked_fill(torch.rand(n) < 0.5, 2)


def sequences(n: int) -> Batch:
    x, y = torch.randn(n, 4), torch.randint(3, (n, 5))
    return x, y.masked_fill(torch.rand(n, 5) < 0.4, IGNORED)


def vectors(n: int) -> Batch:
    return torch.randn(n, 4), torch.randn(n, 3)


def bits(n: int) -> Batch:
    return torch.randn(n, 4), torch.rand(n, 3).round()


def positive(n: int) -> Batch:
    x, y = vectors(n)
    y[0, 0] = 1.0
    return x, y


def two(n: int) -> Batch:
    x, y = classes(n)
    return x, {"kind": y, "size": torch.randn(n, 2)}


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kind, self.size = nn.Linear(4, 3), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"kind": self.kind(x), "size": self.size(x)}


class Tokens(nn.Module):
    """Scores of 3 classes at 5 places."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 15)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.linear(x)
        return scores.view(-1, 3, 5)


def linear() -> nn.Module:
    return nn.Linear(4, 3)


CASES: dict[str, tuple[Any, Make, Callable[[], nn.Module]]] = {
    "cross entropy": (nn.CrossEntropyLoss(), classes, linear),
    "its function": (F.cross_entropy, classes, linear),
    "ignore_index of its own": (
        nn.CrossEntropyLoss(ignore_index=2),
        classes_with_ignored,
        linear,
    ),
    "tokens": (nn.CrossEntropyLoss(), sequences, Tokens),
    "class weights": (nn.CrossEntropyLoss(weight=CLASS_WEIGHTS), classes, linear),
    "smoothing": (nn.CrossEntropyLoss(label_smoothing=0.1), classes, linear),
    "mse": (nn.MSELoss(), vectors, linear),
    "l1": (nn.L1Loss(), vectors, linear),
    "bce": (nn.BCEWithLogitsLoss(), bits, linear),
    "sum": (nn.MSELoss(reduction="sum"), vectors, linear),
    "a function": (mean_of_logs, vectors, linear),
    "its own count": (OwnCount(), positive, linear),
    "a dict": ({"kind": nn.CrossEntropyLoss(), "size": (nn.MSELoss(), 0.5)}, two, TwoHeads),
}


def whole(batches: list[Batch]) -> Batch:
    x = torch.cat([x for x, _ in batches])
    first = batches[0][1]
    if isinstance(first, dict):
        return x, {key: torch.cat([y[key] for _, y in batches]) for key in first}
    return x, torch.cat([y for _, y in batches])


def loss_of(spec: Any, outputs: Any, targets: Any) -> torch.Tensor:
    if isinstance(spec, dict):
        kind, (size, weight) = spec["kind"], spec["size"]
        total: torch.Tensor = kind(outputs["kind"], targets["kind"])
        return total + weight * size(outputs["size"], targets["size"])
    result: torch.Tensor = spec(outputs, targets)
    return result


def group_gradients(net: nn.Module, spec: Any, group: list[Batch]) -> list[torch.Tensor]:
    x, y = whole(group)
    return list(torch.autograd.grad(loss_of(spec, net(x), y), list(net.parameters())))


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
    net: nn.Module, spec: Any, batches: list[Batch], accumulate: int, seen: Gradients
) -> None:
    groups = [batches[i : i + accumulate] for i in range(0, len(batches), accumulate)]
    assert len(seen.seen) == len(groups)
    double = next(net.parameters()).dtype == torch.float64
    for group, ours in zip(groups, seen.seen, strict=True):
        exact = group_gradients(net, spec, group)
        ours_flat = torch.cat([g.flatten() for g in ours])
        exact_flat = torch.cat([g.flatten() for g in exact])
        error = (ours_flat - exact_flat).norm() / exact_flat.norm()
        assert error < (1e-10 if double else 1e-6)


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
    batches[::accumulate] = [make(30) for _ in batches[::accumulate]]
    net = new_net()
    if draw % 2:
        net, batches = net.double(), [to_double(b) for b in batches]
        if isinstance(spec, nn.Module):
            spec.double()
    data = rng.choice(
        [batches, Unsized(batches), Lying(batches, len(batches) + 2), Lying(batches, 1)]
    )
    handler = seen_gradients(net, spec, data, accumulate)
    if isinstance(data, Lying) and data.said < len(batches):
        return
    assert_groups(net, spec, batches, accumulate, handler)


@pytest.mark.parametrize("where", [0, 1, 2])
@pytest.mark.parametrize("accumulate", [2, 3])
@pytest.mark.parametrize("name", ["ignore_index of its own", "tokens"])
def test_a_batch_without_any_counted_target(name: str, accumulate: int, where: int) -> None:
    spec, make, new_net = CASES[name]
    batches = [make(6) for _ in range(6)]
    batches[where][1].fill_(spec.ignore_index)
    net = new_net()
    handler = seen_gradients(net, spec, batches, accumulate)
    assert_groups(net, spec, batches, accumulate, handler)


@pytest.mark.parametrize("where", [0, 1])
def test_a_batch_of_minus_hundreds_in_a_group(where: int) -> None:
    spec = nn.CrossEntropyLoss()
    batches = [classes(5) for _ in range(2)]
    batches[where][1].fill_(IGNORED)
    net = linear()
    handler = seen_gradients(net, spec, batches, 2)
    assert_groups(net, spec, batches, 2, handler)


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
    if name == "a dict":
        with torch.no_grad():
            exact = loss_of(spec, net(x), y).item()
    est = Estimator(net, spec)
    trainers = Trainer("sgd", lr=0.0)
    stats = est.fit(batches, batches, 1, trainers, "cpu", progress=False)
    assert stats["val_loss"][0] == pytest.approx(exact, rel=1e-6)
    assert stats["train_loss"][0] == pytest.approx(exact, rel=1e-6)
    assert est.evaluate(batches)["loss"] == pytest.approx(exact, rel=1e-6)
    twice = est.fit(batches, epochs=1, trainers=trainers, device="cpu", accumulate=2, progress=False)
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

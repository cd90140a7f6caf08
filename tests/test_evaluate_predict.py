"""`evaluate` and `predict`: every form of data, exact, in order, and nothing changed by it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from batch_runs import Counted, Named, Pairs, Recorder, Stream, UidRecorder, line, numbers, pairs
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from estimator import ArgumentError, DataError, Estimator, TrainStats, with_uids
from estimator.handlers import EventHandler

# Of errors from 0 to 9: their mean, and that of their squares.
# The same sizes are asked of all forms, also of those that come in batches.
pytestmark = pytest.mark.filterwarnings("ignore:batch_size=.* has no effect")

RESULTS = pytest.approx({"loss": 28.5, "mae": 4.5}, rel=1e-6)
FORMS: list[Callable[[int], Any]] = [
    lambda size: DataLoader(Pairs(10), size),
    lambda size: DataLoader(Pairs(10), size, num_workers=1),
    lambda size: DataLoader(Stream(10), size),
    lambda size: pairs(10, size),
    lambda size: iter(pairs(10, size)),
    lambda size: Counted(pairs(10, size)),
    lambda size: (numbers(10), 2 * numbers(10)),
    lambda size: (numbers(10).double().numpy(), (2 * numbers(10)).double().numpy()),
    lambda size: Pairs(10),
    lambda size: Subset(Pairs(20), range(10)),
    lambda size: Stream(10),
    lambda size: with_uids(Pairs(10)),
    lambda size: [{"x": x, "y": y} for x, y in pairs(10, size)],
    lambda size: {"x": numbers(10), "y": 2 * numbers(10)},
    lambda size: DataLoader(with_uids(Named(10)), size),
]


@pytest.mark.parametrize("make", FORMS)
@pytest.mark.parametrize("size", [3, 10])
def test_every_form_is_evaluated_and_predicted(make: Callable[[int], Any], size: int) -> None:
    est = Estimator(line(), nn.MSELoss(), ["mae"], targets="y")
    assert est.evaluate(make(size), batch_size=size) == RESULTS
    assert torch.equal(est.predict(make(size), batch_size=size), 3 * numbers(10))


def test_arrays_come_in_batches_of_32() -> None:
    recorder = Recorder()
    Estimator(line()).predict(numbers(70), handlers=recorder)
    assert [len(batch) for batch in recorder.val] == [32, 32, 6]


@pytest.mark.parametrize("sizes", [[10], [1] * 10, [7, 3], [3, 7], [9, 1], [2, 3, 5]])
def test_results_are_exact_under_any_split(sizes: list[int]) -> None:
    torch.manual_seed(1)
    x, y = torch.randn(10, 4), torch.randint(3, (10,))
    y[:7] = -100  # most targets of the first batches do not count
    net = nn.Linear(4, 3)
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5]))
    batches = list(zip(x.split(sizes), y.split(sizes), strict=True))
    found = Estimator(net, loss).evaluate(batches)["loss"]
    assert found == pytest.approx(loss(net(x), y).item(), rel=1e-6)
    plain = Estimator(net, nn.CrossEntropyLoss(), ["accuracy", "f1"])
    whole = plain.evaluate((x, y.clamp(min=0)))
    found_whole = plain.evaluate([(a, b.clamp(min=0)) for a, b in batches])
    assert found_whole == pytest.approx(whole, rel=1e-6)


def test_metrics_alone_can_be_evaluated() -> None:
    assert Estimator(line(), metrics=["mae"]).evaluate(pairs(10, 4)) == {"mae": 4.5}
    named = Estimator(line(), metrics=["mae"], targets="y")
    assert named.evaluate(DataLoader(Named(10), 4)) == {"mae": 4.5}


def test_a_loss_alone_can_be_evaluated() -> None:
    assert Estimator(line(), nn.L1Loss()).evaluate(pairs(10, 4)) == {"loss": 4.5}


def test_there_must_be_something_to_evaluate() -> None:
    with pytest.raises(ArgumentError, match="loss=None and metrics=None"):
        Estimator(line()).evaluate(pairs(4, 2))


def body() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
    net[1].eval()
    return net


@pytest.mark.parametrize("call", ["evaluate", "predict"])
def test_the_net_and_the_random_streams_are_as_before(call: str) -> None:
    net = body()
    est = Estimator(net, nn.MSELoss())
    seeds = (
        random.getstate(),
        np.random.get_state(legacy=False)["state"]["key"].tolist(),
        torch.get_rng_state(),
    )
    state = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    first = getattr(est, call)(pairs(10, 4))
    assert [module.training for module in net.modules()] == modes == [True, True, False, True, True]
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert random.getstate() == seeds[0]
    assert np.random.get_state(legacy=False)["state"]["key"].tolist() == seeds[1]
    assert torch.equal(torch.get_rng_state(), seeds[2])
    second = getattr(est, call)(pairs(10, 4))
    assert first == second if call == "evaluate" else torch.equal(first, second)


def test_an_error_leaves_the_net_as_before() -> None:
    net = body()
    with pytest.raises(RuntimeError):
        Estimator(net, nn.MSELoss()).evaluate([(numbers(2), numbers(2)), (torch.ones(2, 5), 1)])
    assert [module.training for module in net.modules()] == [True, True, False, True, True]


def test_evaluate_does_not_touch_the_results_of_a_fit() -> None:
    est = Estimator(line(), nn.MSELoss())
    stats = est.fit(pairs(4, 2), pairs(4, 2), 1, device="cpu", progress=False, trainers="sgd")
    rows = stats.history.to_dict()
    val = dict(stats.val)
    est.evaluate((numbers(3), numbers(3)))
    est.predict(numbers(3))
    assert est.train_stats is stats
    assert (stats.history.to_dict(), stats.val) == (rows, val)


class Moments(EventHandler):
    """Which events fired, and in which phase."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, str]] = []

    def train_begin(self, stats: TrainStats) -> None:
        self.seen.append(("train_begin", stats.phase))

    def validation_begin(self, stats: TrainStats) -> None:
        self.seen.append(("begin", stats.phase))

    def validation_batch_end(self, stats: TrainStats) -> None:
        self.seen.append((f"batch {stats.batch_index} of {stats.batches}", stats.phase))

    def validation_end(self, stats: TrainStats) -> None:
        self.seen.append(("end", stats.phase))


@pytest.mark.parametrize("call", ["evaluate", "predict"])
def test_handlers_see_the_events_of_a_validation(call: str) -> None:
    moments, added = Moments(), Moments()
    est = Estimator(line(), nn.MSELoss())
    est.add(added)
    getattr(est, call)(pairs(4, 2), handlers=moments)
    expected = ["begin", "batch 0 of 2", "batch 1 of 2", "end"]
    assert moments.seen == added.seen == [(name, call) for name in expected]


@pytest.mark.parametrize("call", ["evaluate", "predict"])
def test_identities_are_there_for_handlers_that_need_them(call: str) -> None:
    recorder = UidRecorder()
    est = Estimator(line(), nn.MSELoss())
    getattr(est, call)(Subset(Pairs(9), [8, 6, 4]), handlers=recorder, batch_size=2)
    assert [uids.tolist() for uids in recorder.uids] == [[8, 6], [4]]


class Sum(nn.Module):
    """Two inputs."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


class Difference(nn.Module):
    """Takes the batch as it comes."""

    def forward(self, batch: Any) -> Any:
        return batch["a"] - batch["b"]


A, B = numbers(5), 10 * numbers(5)


@pytest.mark.parametrize(
    ("net", "data", "expected"),
    [
        (line(), A, 3 * A),
        (line(), A.numpy(), 3 * A),
        (line(), (A,), 3 * A),
        (line(), [A[:3], A[3:]], 3 * A),
        (line(), [A[:3].numpy(), A[3:].numpy()], 3 * A),
        (line(), [[A[:3]], [A[3:]]], 3 * A),
        (line(), DataLoader(TensorDataset(A), 2), 3 * A),
        (line(), DataLoader(A, 2), 3 * A),  # type: ignore[arg-type]  # a tensor is a dataset too
        (line(), {"input": A}, 3 * A),
        (line(), {"image": A, "y": B}, 3 * A),
        (line(), [{"image": A[:3]}, {"image": A[3:]}], 3 * A),
        (Sum(), (A, B), A + B),
        (Sum(), (A, B, A), A + B),
        (Sum(), [(A, B)], A + B),
        (Sum(), DataLoader(TensorDataset(A, B), 2), A + B),
        (Sum(), {"a": A, "b": B}, A + B),
        (Sum(), {"a": A, "b": B, "y": A}, A + B),
        (Sum(), [{"b": B, "a": A, "sample_uid": torch.arange(5)}], A + B),
        (Difference(), {"a": A, "b": B}, A - B),
        (Difference(), [{"a": A, "b": B, "y": A}], A - B),
    ],
)
def test_predict_needs_no_targets(net: nn.Module, data: Any, expected: Tensor) -> None:
    assert torch.equal(Estimator(net, targets="y").predict(data, batch_size=2), expected)


def test_targets_named_by_the_losses_stay_out_of_the_net() -> None:
    est = Estimator(Outputs("dict"), {"double": nn.MSELoss()})
    for data in ({"x": A}, {"x": A, "double": 2 * A}):
        assert torch.equal(est.predict(data)["double"], 2 * A)
    by_place = Estimator(Outputs("tuple"), [nn.MSELoss(), nn.MSELoss()])
    assert torch.equal(by_place.predict({"x": A})[1], 3 * A)


class Point(NamedTuple):
    double: Any
    triple: Any


class Outputs(nn.Module):
    """A net with outputs of any make."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: Tensor) -> Any:
        forms: dict[str, Any] = {
            "tensor": 2 * x,
            "tuple": (2 * x, 3 * x),
            "list": [2 * x, 3 * x],
            "dict": {"double": 2 * x, "triple": 3 * x},
            "point": Point(2 * x, 3 * x),
            "nested": {"all": (2 * x, {"more": [3 * x]})},
            "scalar": x.sum(),
            "vector": x.squeeze(1),
            "words": ["a", "b"],
            "none": (2 * x, None),
        }
        return forms[self.form]


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("tensor", 2 * A),
        ("tuple", (2 * A, 3 * A)),
        ("list", [2 * A, 3 * A]),
        ("dict", {"double": 2 * A, "triple": 3 * A}),
        ("point", Point(2 * A, 3 * A)),
        ("nested", {"all": (2 * A, {"more": [3 * A]})}),
        ("scalar", torch.tensor([1.0, 5.0, 4.0])),
        ("vector", A.squeeze(1)),
        ("words", [["a", "a", "a"], ["b", "b", "b"]]),
        ("none", (2 * A, [None, None, None])),
    ],
)
def test_outputs_keep_their_structure_and_order(form: str, expected: Any) -> None:
    found = Estimator(Outputs(form)).predict(A, batch_size=2)
    assert same(found, expected), found


def same(one: Any, other: Any) -> bool:
    """Whether two nested values have the same types and values."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def test_predictions_carry_no_gradient() -> None:
    found = Estimator(line()).predict(A)
    assert not found.requires_grad
    found += 1  # not made in inference mode, so that it can be worked on


@pytest.mark.parametrize("data", [[], iter([]), Counted([])])
def test_there_must_be_something_to_predict(data: Any) -> None:
    with pytest.raises(DataError, match=r"predict\(data=\.\.\.\) must yield at least one batch"):
        Estimator(line()).predict(data)


@pytest.mark.parametrize("call", ["evaluate", "predict"])
def test_there_must_be_data(call: str) -> None:
    est = Estimator(line(), nn.MSELoss())
    for data, message in (
        (None, "needs data"),
        (3, "received 3"),
        ((A[:0], A[:0]), "length, abo"),
    ):
        with pytest.raises((ArgumentError, TypeError), match=rf"{call}\(data=\.\.\.\).*{message}"):
            getattr(est, call)(data)


def test_a_batch_that_cannot_be_parted_is_refused_in_evaluation_too() -> None:
    est = Estimator(line(), nn.MSELoss())
    with pytest.raises(DataError, match="must hold inputs and a target"):
        est.evaluate(A)
    with pytest.raises(DataError, match=r"Estimator\(targets=\.\.\.\) must name the keys"):
        est.evaluate({"x": A, "y": B})

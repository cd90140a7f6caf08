"""`SequenceArray`: batches with identities, in an order that `fit` shares and finds again."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import resume_runs
import torch
from resume_runs import SIZE, Case, differences, train
from torch import nn
from torch.utils.data import TensorDataset

from estimator import Estimator
from estimator.data import Source
from estimator.handlers import EventHandler, WorstSamplesHandler
from estimator.handlers.base import ArgumentError, ArgumentTypeError, DataError, EstimatorError
from estimator.processor import UidSample
from estimator.sequences import SequenceArray
from estimator.stats import TrainStats

X = torch.arange(22.0).view(11, 2)
Y = torch.arange(11.0)
WORDS = [f"s{i}" for i in range(11)]


def order(batches: Any) -> list[list[Any]]:
    """The identities, batch by batch."""
    uids = [b.sample_uid if isinstance(b, UidSample) else b["sample_uid"] for b in batches]
    return [each.tolist() if isinstance(each, torch.Tensor) else list(each) for each in uids]


def test_a_tuple_yields_pairs_with_identities() -> None:
    sequence = SequenceArray((X, Y.numpy().astype("uint8")), 4)
    batches = list(sequence)
    assert len(sequence) == len(batches) == 3
    assert order(batches) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    (x, y), _ = batches[1]
    assert torch.equal(x, X[4:8]) and torch.equal(y, torch.tensor([4, 5, 6, 7], dtype=torch.uint8))
    x.zero_()
    assert X[4].tolist() == [8.0, 9.0]


def test_a_dict_yields_dicts_with_identities() -> None:
    nested = {"a": X, "b": {"c": Y.numpy(), "d": (X, np.array(WORDS))}}
    batch = list(SequenceArray(nested, 4, drop_last=True))[1]
    assert list(batch) == ["a", "b", "sample_uid"]
    assert torch.equal(batch["a"], X[4:8]) and torch.equal(batch["b"]["c"], Y[4:8])
    assert torch.equal(batch["b"]["d"][0], X[4:8])
    assert list(batch["b"]["d"][1]) == WORDS[4:8]
    assert batch["sample_uid"].tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize(
    ("uids", "expected"),
    [
        (WORDS, WORDS),
        (np.array(WORDS), WORDS),
        (range(5, 16), list(range(5, 16))),
        (list(range(5, 16)), list(range(5, 16))),
        (np.arange(5, 16), list(range(5, 16))),
        (torch.arange(5, 16), list(range(5, 16))),
    ],
)
def test_identities_may_be_given(uids: Any, expected: list[Any]) -> None:
    for arrays in ((X, Y), {"x": X, "sample_uid": np.array(WORDS[::-1])}):
        assert list(itertools.chain(*order(SequenceArray(arrays, 4, uids=uids)))) == expected
        shuffled = order(SequenceArray(arrays, 4, uids=uids, shuffle=True, seed=1))
        assert shuffled != [expected[:4], expected[4:8], expected[8:]]
        assert sorted(itertools.chain(*shuffled)) == sorted(expected)


def test_a_dict_may_bring_its_identities() -> None:
    found = order(SequenceArray({"x": X, "sample_uid": np.array(WORDS)}, 6))
    assert found == [WORDS[:6], WORDS[6:]]


def test_each_pass_has_an_order_of_its_own() -> None:
    sequence, again = (SequenceArray((X, Y), 4, shuffle=True, seed=3) for _ in range(2))
    first, second = order(sequence), order(sequence)
    assert first != second and sorted(sum(second, [])) == list(range(11))
    assert [order(again), order(again)] == [first, second]
    assert order(SequenceArray((X, Y), 4, shuffle=True, seed=4)) != first
    in_order = SequenceArray((X, Y), 4)
    assert order(in_order) == order(in_order)


def test_a_pass_that_was_left_is_over() -> None:
    left, whole = (SequenceArray((X, Y), 4, shuffle=True, seed=3) for _ in range(2))
    next(iter(left))
    order(whole)
    assert order(left) == order(whole)


def test_a_seed_is_drawn_only_for_a_shuffled_order() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    SequenceArray((X, Y), 4)
    list(SequenceArray((X, Y), 4, shuffle=True, seed=1))
    assert torch.equal(torch.get_rng_state(), state)
    drawn = SequenceArray((X, Y), 4, shuffle=True)
    torch.manual_seed(1)
    assert order(SequenceArray((X, Y), 4, shuffle=True)) == order(drawn)


@pytest.mark.parametrize("done", [0, 1, 2, 3])
def test_a_pass_goes_on_where_its_state_was_taken(done: int) -> None:
    sequence = SequenceArray((X, Y), 4, shuffle=True, seed=3)
    order(sequence)
    batches = iter(sequence)
    for _ in range(done):
        next(batches)
    state = sequence.state_dict()
    rest, following = order(batches), order(sequence)
    other = SequenceArray((X, Y), 4, shuffle=True, seed=9)
    other.load_state_dict(state)
    if done < 3:
        assert order(other) == rest
    assert order(other) == following
    with pytest.raises(DataError, match="'samples': 11, 'batch_size': 4.*received.*: 5}"):
        SequenceArray((X, Y), 5).load_state_dict(state)


class Met(EventHandler):
    """The targets that a run meets, batch by batch."""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[list[float]] = []
        self.uids: list[Any] = []

    def batch_end(self, stats: TrainStats) -> None:
        assert isinstance(stats.targets, torch.Tensor)
        self.order.append(stats.targets.flatten().tolist())
        self.uids.append(stats.uids)

    def validation_batch_end(self, stats: TrainStats) -> None:
        self.batch_end(stats)


def fitted(data: Any, **settings: Any) -> tuple[Met, Estimator]:
    torch.manual_seed(2)
    est, met = Estimator(nn.Linear(2, 1), nn.MSELoss()), Met()
    est.fit(data, trainers="sgd", epochs=3, device="cpu", handlers=met, progress=False, **settings)
    return met, est


def test_fit_has_the_order_that_arrays_have(caplog: pytest.LogCaptureFixture) -> None:
    arrays = (X / 22, Y.view(11, 1))
    sequence = SequenceArray(arrays, 4, shuffle=True, seed=6)
    with caplog.at_level("INFO", "estimator"):
        met, est = fitted(sequence)
    assert not caplog.messages  # nothing takes the place of what was given
    plain, other = fitted(arrays, batch_size=4, seed=6)
    assert met.order == plain.order and plain.uids[0] is None
    assert [uids.tolist() for uids in met.uids] == met.order
    for mine, theirs in zip(est.net.parameters(), other.net.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert [each for _ in range(3) for each in order(sequence)] == met.order
    assert fitted(sequence)[0].order == met.order  # passes in between change nothing


def test_one_object_may_train_and_validate() -> None:
    sequence = SequenceArray((X, Y.view(11, 1)), 4, shuffle=True, seed=6)
    met, _ = fitted(sequence, val=sequence)
    plain, _ = fitted(sequence)
    assert [batch for at in (0, 6, 12) for batch in met.order[at : at + 3]] == plain.order
    assert met.order[3:6] == met.order[9:12] == plain.order[:3]


def test_evaluation_and_prediction_take_it() -> None:
    arrays = (X / 22, Y.view(11, 1) / 11)
    est = fitted(SequenceArray(arrays, 4))[1]
    sequence = SequenceArray(arrays, 4, uids=WORDS)
    assert est.evaluate(sequence) == est.evaluate(arrays, batch_size=4)
    assert torch.equal(est.predict(sequence), est.predict(arrays, batch_size=4))
    alone = est.predict(SequenceArray(X / 22, 5))
    assert torch.equal(alone, est.predict(X / 22, batch_size=5)) and alone.shape == (11, 1)


def test_dicts_train_without_their_identities() -> None:
    torch.manual_seed(2)
    est = Estimator(nn.Linear(2, 1), nn.MSELoss(), targets="y")
    met = Met()
    sequence = SequenceArray({"x": X, "y": Y.view(11, 1)}, 4, shuffle=True, seed=1)
    est.fit(sequence, trainers="sgd", device="cpu", handlers=met, progress=False, epochs=1)
    assert [uids.tolist() for uids in met.uids] == met.order


def test_a_fraction_is_held_out() -> None:
    sequence = SequenceArray((X, Y.view(11, 1)), 4, shuffle=True, uids=range(11), seed=1)
    met, _ = fitted(sequence, val=0.25)
    samples = [sorted(int(i) for b in met.uids[at : at + 3] for i in b) for at in (0, 3)]
    assert samples[0] == samples[1] == list(range(11))  # eight of them in training, three held out
    assert all(uids.tolist() == y for uids, y in zip(met.uids, met.order, strict=True))


def test_handlers_follow_single_samples(tmp_path: Path) -> None:
    handler = WorstSamplesHandler(tmp_path, worst=2)
    est = Estimator(nn.Linear(2, 1), nn.MSELoss())
    est.fit(
        SequenceArray((X, Y.view(11, 1) * 1e-3), 4, shuffle=True, uids=WORDS), trainers="sgd",
        epochs=1, device="cpu", handlers=handler, progress=False,
    )  # fmt: skip
    with np.load(tmp_path / "train.npz") as table:
        assert sorted(table["uids"].tolist()) == sorted(WORDS)


@pytest.mark.parametrize("stop", ["mid-epoch", "epoch end", "last batch"])
def test_a_resumed_run_equals_a_whole_one(
    stop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def feed(case: Case) -> SequenceArray:
        arrays = {"x": resume_runs.X, "y": resume_runs.Y}
        return SequenceArray(tuple(arrays.values()), SIZE, shuffle=True, seed=next(seeds))

    monkeypatch.setattr(resume_runs, "feed", feed)
    seeds = iter([5, 5, 8])  # a run that goes on has the order that was begun
    case = Case(feed="sampler", stop=stop)
    whole = train(case._replace(stop="never"), tmp_path / "whole")
    cut = train(case, tmp_path / "cut", stops=True)
    assert cut["counts"][1] < whole["counts"][1]
    assert differences(whole, train(case, tmp_path / "cut", resume=True)) == []


def test_a_batch_size_beside_it_has_no_effect() -> None:
    with pytest.warns(UserWarning, match="batch_size=5 has no effect"):
        fitted(SequenceArray((X, Y.view(11, 1)), 4), batch_size=5)


def test_its_place_can_be_let_go() -> None:
    source = Source(SequenceArray((X, Y), 4), "data")
    source.first()
    source.release()
    assert source.kind == "sampler" and len(list(source.epoch())) == 3


BAD: dict[str, tuple[dict[str, Any], type[EstimatorError], str]] = {
    "a list": ({"arrays": [X, Y]}, ArgumentTypeError, r"must be a dict or a tuple.*received \(te"),
    "a dataset": ({"arrays": TensorDataset(X)}, ArgumentTypeError, "received TensorDataset"),
    "nothing": ({"arrays": None}, ArgumentTypeError, "received None"),
    "a number": ({"arrays": torch.tensor(1.0)}, ArgumentTypeError, r"received tensor\(\)"),
    "no arrays": ({"arrays": ()}, ArgumentTypeError, "must be a dict or a tuple"),
    "lengths": ({"arrays": (X, Y[1:])}, ArgumentError, "the same number in each"),
    "no rows": ({"arrays": (X[:0], Y[:0])}, ArgumentError, "received 0, with"),
    "a graph": ({"arrays": X.clone().requires_grad_()}, ArgumentTypeError, "without a graph"),
    "objects": ({"arrays": np.array([{}, {}])}, ArgumentTypeError, "arrays of numbers"),
    "size 0": ({"arrays": X, "batch_size": 0}, ArgumentError, r"batch_size=...\).*received 0"),
    "size True": ({"arrays": X, "batch_size": True}, ArgumentError, "received True"),
    "size 2.0": ({"arrays": X, "batch_size": 2.0}, ArgumentError, "received 2.0"),
    "no batch": (
        {"arrays": X, "batch_size": 12, "drop_last": True}, ArgumentError,
        "received 11, with batch_size=12 and drop_last=True",
    ),
    "fewer uids": ({"arrays": X, "uids": [1]}, ArgumentError, r"SequenceArray\(uids=.*received 1 "),
    "a word": ({"arrays": X, "uids": "abcdefghijk"}, ArgumentTypeError, "must be a list"),
    "mixed uids": ({"arrays": X, "uids": [*range(10), "a"]}, ArgumentTypeError, "all integers or"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_such_data_is_refused(name: str) -> None:
    arguments, error, message = BAD[name]
    with pytest.raises(error, match=message):
        SequenceArray(**arguments)

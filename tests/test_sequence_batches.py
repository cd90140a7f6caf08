"""Batches of sequences: structures taken apart and joined, other sizes, and orders of drawing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from sequence_fns import fails_on_thirds, padded, plus_one, ragged
from torch import nn

from estimator import Estimator
from estimator.data import Source
from estimator.handlers.base import ArgumentError, ArgumentTypeError, DataError
from estimator.processor import UidSample
from estimator.sequences import (
    Sequence,
    SequenceArray,
)
from estimator.sequences.batches import collated, joined, named, samples_of

X = torch.arange(11.0)


def array(batch_size: int = 4, **options: Any) -> SequenceArray:
    return SequenceArray({"x": X}, batch_size, **options)


def uids(batches: Any) -> list[list[Any]]:
    found = [b.sample_uid if isinstance(b, UidSample) else b["sample_uid"] for b in batches]
    return [each.tolist() if isinstance(each, torch.Tensor) else list(each) for each in found]


def stacked(samples: list[Any]) -> dict[str, torch.Tensor]:
    return {"x": torch.stack([sample["x"] for sample in samples])}


class Own(Sequence):
    """A sequence of a user's own."""

    def __init__(self, batches: list[Any], sizes: list[int] | None = None) -> None:
        self.batches, self.sizes = batches, sizes

    def _batches(self, epoch: int, start: int) -> Iterator[Any]:
        return iter(self.batches[start:])

    def _sizes(self) -> list[int] | None:
        return self.sizes


class Pair(NamedTuple):
    first: Any
    second: Any


def test_batches_of_any_structure_are_taken_apart_and_joined() -> None:
    content = {
        "a": torch.arange(6).view(3, 2), "words": ["p", "q", "r"],
        "pair": Pair(np.arange(3.0), (torch.ones(3), ("u", "v", "w"))), "none": (),
    }  # fmt: skip
    content.pop("none")
    batch = named({**content, "sample_uid": torch.tensor([7, 8, 9])}, "it")
    assert batch.uids == [7, 8, 9]
    parts = [batch.rows(0, 2), batch.rows(2, 3)]
    whole = joined(parts)
    assert whole.uids == batch.uids and whole.content["words"] == ["p", "q", "r"]
    assert torch.equal(whole.content["a"], content["a"])  # type: ignore[arg-type]  # a tensor
    assert isinstance(whole.content["pair"], Pair)
    assert whole.content["pair"].second[1] == ["u", "v", "w"]
    samples = samples_of(whole.content, 3)
    assert samples[1]["words"] == "q" and samples[1]["pair"][0] == 1.0
    again = collated(samples, whole.uids)
    assert torch.equal(again["a"], whole.content["a"]) and again["words"] == ["p", "q", "r"]
    assert samples_of((), 2) == [] and samples_of({}, 2) == [{}, {}]


def test_samples_become_tensors_as_arrays_given_to_fit_do() -> None:
    samples = [(np.ones(2), 1.5, True, np.float32(2), Pair(1, "a")) for _ in range(2)]
    batch = collated(samples, [0, 1])
    assert isinstance(batch, tuple) and isinstance(batch[4], Pair)
    assert [t.dtype for t in batch[:4]] == [torch.float32, torch.float32, torch.bool, torch.float32]
    assert batch[4].first.tolist() == [1, 1] and batch[4].second == ["a", "a"]


ALIKE: dict[str, tuple[list[Any], str]] = {
    "shapes": (
        [torch.ones(2, 3), torch.ones(2, 4)],
        r"one shape.*\(2, 3\) for 'p' and \(2, 4\) for 'q'. Resize or pad",
    ),
    "keys": ([{"a": 1}, {"b": 1}], "one structure.*for 'p' and .*'b'.* for 'q'"),
    "lengths": ([(1, 2), (1, 2, 3)], "one structure"),
    "kinds": ([1, "a"], "one structure.*int for 'p' and str for 'q'"),
    "nothing": ([None, None], r"must be a tensor, an array.*received None for the sample 'p'"),
    "inside": ([{"a": (object(),)}] * 2, r"sample\['a'\]\[0\] must be a tensor"),
}


@pytest.mark.parametrize("name", ALIKE)
def test_samples_that_make_no_batch_are_named(name: str) -> None:
    samples, message = ALIKE[name]
    with pytest.raises(DataError, match=message):
        collated(samples, ["p", "q"])


def test_tensors_that_fail_for_another_reason_keep_its_message() -> None:
    with pytest.raises(RuntimeError):
        collated([torch.ones(1), torch.ones(1).to_sparse()], ["p", "q"])


def test_batches_need_an_identity_a_sample() -> None:
    with pytest.raises(DataError, match="batches of it must bring the identity of each sample"):
        named({"x": X}, "it")
    for batch in ({"x": X}, (X,), np.ones(11), {"w": ["a"] * 11}, [{"w": ["a"] * 11}]):
        with pytest.raises(DataError, match="received 2 for 11 samples, the first of which is 5"):
            named(UidSample(batch, [5, 6]), "it")
    assert named(UidSample({"nothing": None}, ["a"]), "it").uids == ["a"]
    with pytest.raises(DataError, match="batches of Own must bring the identity"):
        list(Own([{"x": X}]).rebatch(2))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda s: s.batch(2), [8, 3]),
        (lambda s: s.rebatch(3), [3, 3, 3, 2]),
        (lambda s: s.rebatch(3, drop_last=True), [3, 3, 3]),
        (lambda s: s.rebatch(20), [11]),
        (lambda s: s.rebatch(20, drop_last=True), []),
        (lambda s: s.sub_batch(3), [3, 1, 3, 1, 3]),
        (lambda s: s.max_samples(6), [4, 2]),
        (lambda s: s.max_samples(8), [4, 4]),
        (lambda s: s.max_samples(99), [4, 4, 3]),
        (lambda s: s.collate(stacked), [4, 4, 3]),
        (lambda s: s.map(plus_one, batched=True).sub_batch(2).batch(3).rebatch(5), [5, 5, 1]),
    ],
)
def test_batches_have_the_sizes_asked_for(
    make: Callable[[Sequence], Sequence], expected: list[int]
) -> None:
    sequence = make(array())
    found = uids(sequence)
    assert [len(batch) for batch in found] == expected and len(sequence) == len(expected)
    assert list(itertools.chain(*found)) == list(range(sum(expected)))
    assert uids(sequence) == found
    state = sequence.state_dict()
    assert (state["done"], state["batches"]) == (0, len(expected))


def test_nothing_of_a_pass_that_was_left_reaches_the_next() -> None:
    """Another library's rebatch gave the samples that it held back to the next epoch."""
    for method, n in (("rebatch", 3), ("sub_batch", 3), ("batch", 2)):
        left, whole = (getattr(array(shuffle=True, seed=1), method)(n) for _ in range(2))
        next(iter(left))
        list(whole)
        assert uids(left) == uids(whole)
        assert sorted(itertools.chain(*uids(left))) == list(range(11))


def test_no_sample_is_lost_where_batches_are_cut() -> None:
    """Another library's sub_batch left out 30 of 40 samples."""
    sequence = SequenceArray({"x": torch.arange(40.0)}, 20).sub_batch(6)
    assert list(itertools.chain(*uids(sequence))) == list(range(40))


@pytest.mark.parametrize("done", [0, 1, 2, 4])
def test_any_pipeline_goes_on_where_its_state_was_taken(done: int) -> None:
    def make() -> Sequence:
        return array(shuffle=True, seed=3).map(noise, seed=4).rebatch(3)

    def noise(sample: Any) -> Any:
        return {"x": sample["x"] + torch.rand(())}

    sequence, other = make(), make()
    list(sequence)
    batches = iter(sequence)
    for _ in range(done):
        next(batches)
    state = sequence.state_dict()
    rest = [batch["x"].tolist() for batch in batches]
    other.load_state_dict(state)
    if done < 4:
        assert [batch["x"].tolist() for batch in other] == rest
    assert uids(other) == uids(sequence)
    with pytest.raises(DataError, match="must have the 4 batches.*received one of 6"):
        array().rebatch(2).load_state_dict(state)


def test_two_passes_at_a_time_do_not_meet() -> None:
    sequence = array().rebatch(3)
    first, second = iter(sequence), iter(sequence)
    pairs = [(a["x"].tolist(), b["x"].tolist()) for a, b in zip(first, second, strict=True)]
    assert all(a == b for a, b in pairs) and len(pairs) == 4


def test_a_sequence_that_does_not_know_its_length_has_none() -> None:
    own = Own([{"x": X, "sample_uid": range(11)}])
    assert uids(own.rebatch(4)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    for sequence in (own, own.rebatch(4), own.map(plus_one)):
        assert Source(sequence, "data").batches is None
        with pytest.raises(TypeError, match="does not know how many batches"):
            len(sequence)
    assert own.rebatch(4).state_dict()["batches"] is None


def test_a_part_of_the_samples_goes_through_the_same_steps_once() -> None:
    """Another library applied a function twice after it had taken a part."""
    given = {"x": torch.zeros(11)}
    base = SequenceArray(given, 4, shuffle=True, seed=2)
    for part in (base.map(plus_one).subsample(5), base.subsample(5).map(plus_one)):
        batches = list(part)
        assert torch.cat([batch["x"] for batch in batches]).tolist() == [1.0] * 5
        assert sorted(itertools.chain(*uids(batches))) == [0, 2, 4, 6, 8]
    assert list(given) == ["x"] and given["x"].sum() == 0


def test_samples_are_found_by_their_identity_in_the_order_given() -> None:
    words = [f"s{i}" for i in range(11)]
    for base in (
        array(uids=words),
        SequenceArray({"x": X, "sample_uid": np.array(words)}, 4),
        array(uids=words).map(plus_one, batched=True),
        array(uids=words).rebatch(3),
        array(uids=words).batch(2).collate(stacked),
        array(uids=words).rebatch(5, drop_last=False).max_samples(9),
    ):
        assert list(itertools.chain(*uids(base.subsample_uids(["s9", "s2", "s5"])))) == [
            "s9", "s2", "s5",
        ]  # fmt: skip
        with pytest.raises(ArgumentError, match=r"identities of samples.*received \['z'\]"):
            base.subsample_uids(["s1", "z"])
    pairs = SequenceArray((X.numpy(), X), 4).subsample_uids(torch.tensor([10, 3]))
    assert next(iter(pairs)).sample[0].tolist() == [10.0, 3.0]
    assert uids(pairs) == [[10, 3]]
    with pytest.raises(ArgumentError, match=r"one or more; received \[\]"):
        array().subsample_uids([])
    for wrong in (0, 12, "a"):
        with pytest.raises(ArgumentError, match=f"from 1 to 11; received {wrong!r}"):
            array().subsample(wrong)  # type: ignore[arg-type]  # the wrong kind on purpose


def test_samples_that_cannot_be_chosen_are_told() -> None:
    own = Own([{"x": X, "sample_uid": range(11)}]).rebatch(2)
    with pytest.raises(ArgumentTypeError, match="the samples of a Own cannot be chosen"):
        own.subsample(2)
    with pytest.raises(ArgumentTypeError, match="the samples of a Own cannot be chosen"):
        own.subsample_uids([1])


def test_a_collate_function_pads_what_a_map_made() -> None:
    lengths = array().map(ragged)
    with pytest.raises(DataError, match=r"\['x'\] must have one shape.*pad"):
        list(lengths)
    batches = list(lengths.collate(padded))
    assert [tuple(batch["x"].shape) for batch in batches] == [(4, 4), (4, 8), (3, 11)]
    assert uids(batches) == uids(array())
    assert uids(array().map(ragged, collate=padded).collate(padded)) == uids(array())
    batched = array().map(plus_one, batched=True).collate(stacked)
    assert uids(batched) == uids(array())


@pytest.mark.parametrize(
    ("result", "received"), [(None, "None"), ({"x": torch.ones(3)}, "3 of them")]
)
def test_a_function_of_batches_keeps_their_samples(result: Any, received: str) -> None:
    message = f"must return a batch of the 4 samples that it got, from 0 to 3; received {received}"
    with pytest.raises(DataError, match=f"collate {message}"):
        list(array().collate(lambda samples: result))
    with pytest.raises(DataError, match=f"fn {message}"):
        list(array().map(lambda batch: result, batched=True))
    with pytest.raises(DataError, match=f"collate {message}"):
        list(array().map(plus_one, collate=lambda samples: result))


def test_wrong_sizes_are_refused() -> None:
    for method in ("batch", "rebatch", "sub_batch", "max_samples"):
        for wrong in (0, True, 2.0):
            with pytest.raises(ArgumentError, match=f"whole number from 1 up; received {wrong}"):
                getattr(array(), method)(wrong)
    with pytest.raises(ArgumentTypeError, match="must be a function of a list of samples"):
        array().collate(None)  # type: ignore[arg-type]  # no function on purpose


def test_means_are_of_samples_whatever_the_sizes_of_batches() -> None:
    """Another library averaged the means of batches, and counted 600 samples for 500."""
    arrays = (torch.rand(11, 2), torch.rand(11, 1))
    est = Estimator(nn.Linear(2, 1), nn.MSELoss(), metrics=["mae"])
    expected = est.evaluate(arrays, batch_size=11)
    for sequence in (SequenceArray(arrays, 4).rebatch(5), SequenceArray(arrays, 8).sub_batch(3)):
        found = est.evaluate(sequence)
        assert found == pytest.approx(expected, rel=1e-6)
        assert torch.allclose(est.predict(sequence), est.predict(arrays), atol=1e-7)
    stats = est.fit(
        SequenceArray(arrays, 4).rebatch(5), epochs=2, trainers="sgd", progress=False, device="cpu"
    )
    assert stats.samples == 22


def test_failures_of_a_function_in_this_process_are_named() -> None:
    with pytest.raises(DataError, match="the sample 0 could not be made: ValueError: no 0"):
        list(array().map(fails_on_thirds))

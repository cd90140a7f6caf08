"""A fraction of the training data is held out once: disjoint, complete, the same each time."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from batch_runs import NoLength, Pairs, Recorder, Stream, fitted, numbers, pairs
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    Sampler,
    SequentialSampler,
    random_split,
)

from estimator import ArgumentError, ArgumentTypeError
from estimator.sequences import ResumableSampler
from estimator.splitting import split_fraction


class Doubling(DataLoader[Any]):
    """A loader that changes what its dataset gives."""

    def __iter__(self) -> Any:
        return ((2 * x, 2 * y) for x, y in super().__iter__())


class Backwards(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(9, -1, -1))

    def __len__(self) -> int:
        return 10


TEN = Pairs(10)
DRAWS = RandomSampler(TEN, replacement=True)
FEW = RandomSampler(TEN, num_samples=5)
BATCHES = BatchSampler(Backwards(), 4, False)


def held_out(seen: Recorder) -> tuple[list[int], list[int]]:
    """Numbers that were trained and numbers that were held out."""
    return sum(seen.train, []), sum(seen.val, [])


@pytest.mark.parametrize(
    "make",
    [
        lambda: (numbers(20), 2 * numbers(20).numpy()),
        lambda: Pairs(20),
        lambda: DataLoader(Pairs(20), 4, shuffle=True),
        lambda: DataLoader(Pairs(20), 4),
    ],
)
def test_a_fraction_holds_out_the_same_samples_each_time(make: Callable[[], Any]) -> None:
    train, val = held_out(fitted(make(), 0.25))
    assert (len(train), len(val)) == (15, 5)
    assert sorted(train + val) == list(range(20))
    assert held_out(fitted(make(), 0.25, seed=0))[1] == val
    assert set(held_out(fitted(make(), 0.25, seed=1))[1]) != set(val)
    assert val == held_out(fitted(Pairs(20), 0.25))[1]


def test_a_fraction_of_a_dict_of_arrays() -> None:
    data = {"x": numbers(20), "y": numbers(20)}
    train, val = held_out(fitted(data, 0.1, targets="y"))
    assert sorted(train + val) == list(range(20))


def test_a_fraction_trains_as_two_loaders_over_the_parts_do() -> None:
    generator = torch.Generator().manual_seed(3)
    train, val = random_split(Pairs(20), [15, 5], generator=generator)
    parts = fitted(DataLoader(train, 4, shuffle=True), DataLoader(val, 4), epochs=3, seed=3)
    split = fitted(DataLoader(Pairs(20), 4, shuffle=True), 0.25, epochs=3, seed=3)
    assert (split.train, split.val) == (parts.train, parts.val)


def set_up(number: int) -> None:
    """What a worker does first."""


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_split_loader_keeps_its_settings(shuffle: bool) -> None:
    kept: dict[str, Any] = {
        "num_workers": 1,
        "prefetch_factor": 3,
        "persistent_workers": True,
        "timeout": 20,
        "worker_init_fn": set_up,
        "multiprocessing_context": multiprocessing.get_context("fork"),
        "collate_fn": list,
        "in_order": False,
        "batch_size": 4,
    }
    generator = torch.Generator() if shuffle else None
    loader: DataLoader[Any] = DataLoader(
        Pairs(22), shuffle=shuffle, drop_last=True, generator=generator, **kept
    )
    train, val = split_fraction(loader, 0.5, None)
    for part in (train, val):
        assert {name: getattr(part, name) for name in kept} == kept
    assert isinstance(train.sampler, RandomSampler if shuffle else SequentialSampler)
    assert (train.drop_last, train.generator) == (True, generator)
    # The held-out samples are all seen, and draw nothing from the training's stream.
    assert (type(val.sampler), val.drop_last, val.generator) == (SequentialSampler, False, None)
    assert (len(train), len(val)) == (2, 3)


def test_a_split_loader_draws_its_order_from_the_generator_of_its_sampler() -> None:
    def order(seed: int) -> list[list[int]]:
        sampler = RandomSampler(TEN, generator=torch.Generator().manual_seed(seed))
        return fitted(DataLoader(TEN, 4, sampler=sampler), 0.2).train

    assert order(1) == order(1) != order(2)


def test_a_resumable_order_is_split_into_two() -> None:
    order = ResumableSampler(10, 3, seed=4, drop_last=True)
    dataset: Any = numbers(10)
    train, val = split_fraction(DataLoader(dataset, batch_sampler=order), 0.2, None)
    sampler = train.batch_sampler
    assert isinstance(sampler, ResumableSampler)
    assert (sampler.seed, sampler.batch_size, sampler.drop_last) == (4, 3, True)
    assert (len(train), len(val)) == (2, 1)
    seen = [int(x) for batch in val for x in batch.flatten()]
    again = [int(x) for batch in val for x in batch.flatten()]
    assert len(seen) == 2 and seen == again
    assert not set(seen) & {int(x) for batch in train for x in batch.flatten()}


def test_a_fraction_needs_samples_to_split() -> None:
    for fraction in (0.0, 1.0, -0.5, 1.5, 0.01, 0.99, True, 0):
        with pytest.raises(ArgumentError, match=rf"received {float(fraction)} of 10 samples"):
            fitted(Pairs(10), fraction)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pairs(10, 4), "splits a train that has a length and indices.*received list"),
        (iter(pairs(10, 4)), "received list_iterator"),
        (Stream(10), "received Stream"),
        (DataLoader(Stream(10), 4), "received DataLoader"),
        (NoLength(), "received NoLength"),
        (DataLoader(TEN, 4, sampler=Backwards()), "received batch_size=4 and Backwards"),
        (DataLoader(TEN, 4, sampler=DRAWS), "received batch_size=4 and RandomSampler"),
        (DataLoader(TEN, 4, sampler=FEW), "received batch_size=4 and RandomSampler"),
        (DataLoader(TEN, batch_sampler=BATCHES), "received batch_size=None"),
        (DataLoader(TEN, batch_size=None), "received batch_size=None"),
        (Doubling(TEN, 4), "a Doubling cannot be made again.*an __iter__ of its own"),
    ],
)
def test_what_cannot_be_split_is_refused(data: Any, message: str) -> None:
    with pytest.raises((ArgumentError, ArgumentTypeError), match=message):
        fitted(data, 0.5)

"""Orders of drawing: with replacement, by class, and by turns."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from test_sequence_batches import array, uids
from torch.utils.data import DataLoader, TensorDataset

from estimator.data import Source
from estimator.gather import gathered
from estimator.handlers.base import ArgumentError, ArgumentTypeError
from estimator.sequences import (
    BalancedSampler,
    InterleavedSampler,
    ReplacementSampler,
    ResumableSampler,
)

LABELS = [0] * 6 + [1] * 3 + [2] * 2


def draws(sampler: ResumableSampler, epoch: int = 0) -> list[int]:
    sampler.set_epoch(epoch)
    return list(itertools.chain(*sampler))


def test_drawing_with_replacement_gives_as_many_as_asked_for() -> None:
    sampler = ReplacementSampler(11, 4, samples=50, seed=1)
    first, second = draws(sampler), draws(sampler, 1)
    assert len(first) == len(second) == 50 and first != second and first == draws(sampler)
    assert set(first) <= set(range(11)) and max(Counter(first).values()) > 1
    assert len(draws(ReplacementSampler(11, 4))) == 11


def test_balanced_classes_come_equally_often() -> None:
    sampler = BalancedSampler(torch.tensor(LABELS), 5, samples=12, seed=1)
    for epoch in range(3):
        drawn = draws(sampler, epoch)
        assert Counter(LABELS[i] for i in drawn) == {0: 4, 1: 4, 2: 4}
        assert len({i for i in drawn if LABELS[i] == 0}) == 4  # none twice where there are enough
        assert Counter(i for i in drawn if LABELS[i] == 2) == {9: 2, 10: 2}
    rest = [Counter(LABELS[i] for i in draws(BalancedSampler(LABELS, 5), e)) for e in range(8)]
    assert all(sorted(counts.values()) == [3, 4, 4] for counts in rest)
    assert len({min(counts, key=lambda c: counts[c]) for counts in rest}) > 1
    assert Counter(draws(BalancedSampler(LABELS, 5, samples=2)))


def test_interleaved_groups_take_turns() -> None:
    sampler = InterleavedSampler(np.array(LABELS), 4, seed=1)
    first, second = draws(sampler), draws(sampler, 1)
    assert [LABELS[i] for i in first] == [0, 1, 2] * 2 == [LABELS[i] for i in second]
    assert len(set(first)) == 6 and first != second


@pytest.mark.parametrize(
    "sampler",
    [
        ReplacementSampler(11, 4, samples=30, seed=1),
        BalancedSampler(LABELS, 4, samples=30, seed=1),
        InterleavedSampler(LABELS, 4, seed=1),
    ],
)
def test_a_drawn_order_is_served_from_the_arrays_and_found_again(sampler: Any) -> None:
    sequence = array(sampler=sampler)
    assert gathered(sequence.loader) is not None and Source(sequence, "data").kind == "sampler"
    found = uids(sequence)
    assert list(itertools.chain(*found)) == draws(sampler)
    assert len(sequence) == len(found) == -(-sampler.samples // 4)
    assert [len(batch) for batch in found] == sequence._sizes()
    loader: DataLoader[Any] = DataLoader(TensorDataset(torch.arange(11)), batch_sampler=sampler)
    sampler.set_epoch(0, start=1)
    assert [batch.tolist() for (batch,) in loader] == found[1:]
    assert sorted(itertools.chain(*uids(sequence.subsample(11)))) == list(range(11))


def test_wrong_samplers_are_refused() -> None:
    with pytest.raises(ArgumentError, match="a sample of each class; received none of 3, 4"):
        BalancedSampler(LABELS, 4, classes=[0, 1, 2, 3, 4])
    with pytest.raises(ArgumentError, match=r"of the classes \[0, 1\]; received 2 for sample 9"):
        BalancedSampler(LABELS, 4, classes=[0, 1])
    with pytest.raises(ArgumentError, match="received none of any class"):
        InterleavedSampler([], 4)
    with pytest.raises(ArgumentError, match=r"ReplacementSampler\(population=...\).*received 0"):
        ReplacementSampler(0, 4)
    with pytest.raises(ArgumentError, match=r"ReplacementSampler\(samples=...\).*received 0"):
        ReplacementSampler(5, 4, samples=0)
    with pytest.raises(ArgumentError, match="the 11 samples.*received one that draws from 5"):
        array(sampler=ReplacementSampler(5, 4))
    with pytest.raises(ArgumentTypeError, match="such as BalancedSampler.*received list"):
        array(sampler=[[0, 1]])

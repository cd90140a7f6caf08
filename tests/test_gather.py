"""Batches that are gathered are those of the DataLoader, bit for bit, and so are the draws."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

from estimator import Estimator, with_uids
from estimator.data import Source
from estimator.gather import gathered
from estimator.handlers import EventHandler
from estimator.loaders import as_dataset
from estimator.sequences import ResumableSampler, SeededDataset
from estimator.stats import TrainStats
from estimator.uids import UidCollate, UidDataset

X = torch.arange(22.0).view(11, 2)
OWN = {"x": X, "sample_uid": np.array(list("abcdefghijk"))}
PAIRS = TensorDataset(X, torch.arange(11))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def drawn(count: int, **settings: Any) -> RandomSampler:
    return RandomSampler(PAIRS, num_samples=count, **settings)


LOADERS: dict[str, Callable[[], DataLoader[Any]]] = {
    "in order": lambda: DataLoader(PAIRS, 4),
    "shuffled": lambda: DataLoader(PAIRS, 4, shuffle=True),
    "whole batches": lambda: DataLoader(PAIRS, 4, shuffle=True, drop_last=True),
    "no whole batch": lambda: DataLoader(Subset(PAIRS, [1, 2]), 4, drop_last=True),
    "own generator": lambda: DataLoader(PAIRS, 4, shuffle=True, generator=generator()),
    "sampler's generator": lambda: DataLoader(PAIRS, 4, sampler=drawn(11, generator=generator())),
    "some": lambda: DataLoader(PAIRS, 4, sampler=drawn(7)),
    "more than all": lambda: DataLoader(PAIRS, 4, sampler=drawn(25)),
    "with replacement": lambda: DataLoader(PAIRS, 4, sampler=drawn(9, replacement=True)),
    "weighted": lambda: DataLoader(PAIRS, 4, sampler=WeightedRandomSampler([1.0] * 11, 6)),
    "own batches": lambda: DataLoader(PAIRS, batch_sampler=[[0, 3], [5], [10, 1, 1]]),
    "odd batches": lambda: DataLoader(PAIRS, batch_sampler=Backwards(drawn(11), 4, False)),
    "resumable": lambda: DataLoader(PAIRS, batch_sampler=ResumableSampler(PAIRS, 4, seed=2)),
    "seeded": lambda: DataLoader(
        SeededDataset(PAIRS), batch_sampler=ResumableSampler(PAIRS, 4, shuffle=False)
    ),
    "part": lambda: DataLoader(Subset(Subset(PAIRS, range(9, -1, -1)), [0, 8, 3]), 2, shuffle=True),
    "nested": lambda: DataLoader(nested(), 4, shuffle=True),
    "one array": lambda: DataLoader(TensorDataset(X), 4),
    "identities": lambda: DataLoader(with_uids(PAIRS), 4, shuffle=True),
    "identities of a part": lambda: DataLoader(with_uids(Subset(PAIRS, [7, 2, 9])), 2),
    "identities of a loader": lambda: with_uids(DataLoader(PAIRS, 4, shuffle=True)),
    "given numbers": lambda: DataLoader(with_uids(PAIRS, range(20, 31)), 4, shuffle=True),
    "given words": lambda: DataLoader(with_uids(PAIRS, list("abcdefghijk")), 4, shuffle=True),
    "an array of numbers": lambda: DataLoader(with_uids(PAIRS, np.arange(11, dtype="int32")), 4),
    "an array of words": lambda: DataLoader(with_uids(PAIRS, np.array(list("abcdefghijk"))), 4),
    "a tensor of identities": lambda: DataLoader(with_uids(PAIRS, torch.arange(11) * 3), 4),
    "identities given twice": lambda: DataLoader(with_uids(with_uids(PAIRS), range(11)), 4),
    "identities kept": lambda: DataLoader(with_uids(with_uids(PAIRS, range(5, 16))), 4),
    "identities in dicts": lambda: DataLoader(with_uids(nested()), 4),
    "identities in dicts of a loader": lambda: with_uids(DataLoader(nested(), 4, shuffle=True)),
    "identities beside dicts": lambda: DataLoader(UidDataset(nested(), paired=True), 4),
    "identities that dicts bring": lambda: DataLoader(with_uids(as_dataset(OWN, "data")), 4),
    "identities of a seeded part": lambda: DataLoader(
        with_uids(SeededDataset(Subset(PAIRS, [7, 2, 9]))), 2
    ),
    "part of identities": lambda: DataLoader(Subset(with_uids(PAIRS), [7, 2, 9]), 2),
    "identities beside what has them": lambda: DataLoader(
        with_uids(as_dataset(OWN, "data")), 4, collate_fn=UidCollate(default_collate)
    ),
    "part of a loader's": lambda: DataLoader(
        Subset(UidDataset(nested(), paired=True), [7, 2, 9]),
        2,
        collate_fn=UidCollate(default_collate),
    ),
    "words for a loader": lambda: with_uids(DataLoader(PAIRS, 4), list("abcdefghijk")),
    "words for dicts": lambda: with_uids(DataLoader(nested(), 4), list("abcdefghijk")),
    "words within": lambda: DataLoader(rows({"a": X, "b": np.array(list("abcdefghijk"))}, X), 4),
    "words": lambda: DataLoader(rows(X, np.array(list("abcdefghijk"))), 4),
    "from the end": lambda: DataLoader(PAIRS, batch_sampler=[[-1, 3], [-11, 0]]),
    "own generator, full batches": lambda: DataLoader(
        Subset(PAIRS, range(8)), 4, shuffle=True, generator=generator()
    ),
    "own generator, whole batches": lambda: DataLoader(
        PAIRS, 4, shuffle=True, generator=generator(), drop_last=True
    ),
    "workers": lambda: DataLoader(PAIRS, 4, shuffle=True, num_workers=1),
    "lasting workers": lambda: DataLoader(
        PAIRS, 4, shuffle=True, num_workers=1, persistent_workers=True
    ),
}


class Backwards(BatchSampler):
    """Batches in which the last comes first."""

    def __iter__(self) -> Iterator[list[int]]:
        return (batch[::-1] for batch in super().__iter__())


def rows(*arrays: Any) -> Any:
    return as_dataset(arrays, "data")


def nested() -> Any:
    return as_dataset({"a": X, "b": (torch.arange(11), X.byte())}, "data")


def epochs(data: Any) -> tuple[list[Any], torch.Tensor]:
    """What two epochs yield, and where torch's stream stands then."""
    torch.manual_seed(1)
    batches = [batch for _ in range(2) for batch in data]
    return batches, torch.get_rng_state()


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, str):
        return isinstance(b, str) and a == b
    return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))


@pytest.mark.parametrize("name", LOADERS)
def test_batches_and_draws_are_those_of_the_loader(name: str) -> None:
    fast = gathered(LOADERS[name]())
    assert fast is not None and len(fast) == len(LOADERS[name]())
    (batches, stream), (theirs, their_stream) = epochs(fast), epochs(LOADERS[name]())
    assert same(batches, theirs)
    assert torch.equal(stream, their_stream)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([(X[0], 0)])


class Noisy(TensorDataset):
    def __getitem__(self, index: Any) -> Any:
        row: Any = self.tensors[0][index]
        return row + random.random(), row


REFUSED: dict[str, Callable[[], Any]] = {
    "a list": lambda: [(X, X)],
    "a stream": lambda: DataLoader(Stream()),
    "single samples": lambda: DataLoader(PAIRS, batch_size=None),
    "own collate": lambda: DataLoader(PAIRS, 4, collate_fn=lambda rows: default_collate(rows)),
    "own workers": lambda: DataLoader(PAIRS, 4, worker_init_fn=lambda number: None),
    "own samples": lambda: DataLoader(Noisy(X, X), 4),
    "own samples in part": lambda: DataLoader(Subset(Noisy(X, X), [1]), 4),
    "a graph": lambda: DataLoader(TensorDataset(X.clone().requires_grad_()), 4),
    "sparse rows": lambda: DataLoader(TensorDataset(X.to_sparse()), 4),
    "bytes": lambda: DataLoader(rows(X, np.array([b"a"] * 11)), 4),
    "rows of words": lambda: DataLoader(rows(X, np.array([["a", "b"]] * 11)), 4),
    "identities of an own collate": lambda: with_uids(
        DataLoader(PAIRS, 4, collate_fn=lambda rows: default_collate(rows))
    ),
    "mixed identities": lambda: DataLoader(with_uids(PAIRS, [*range(10), "a"]), 4),
    "fractions as identities": lambda: DataLoader(with_uids(PAIRS, np.arange(11.0)), 4),
    "rows as identities": lambda: DataLoader(with_uids(PAIRS, X), 4),
    "identities of own samples": lambda: DataLoader(with_uids(Noisy(X, X)), 4),
    "from the end of a part": lambda: DataLoader(Subset(PAIRS, [-1, 2]), 4),
    "beyond a part": lambda: DataLoader(Subset(PAIRS, [2, 11]), 4),
    "more samples than there are": lambda: DataLoader(PAIRS, batch_sampler=ResumableSampler(12, 4)),
    "a longer order": lambda: DataLoader(PAIRS, 4, sampler=SequentialSampler(range(12))),
    "another device": lambda: DataLoader(TensorDataset(X.to("meta")), 4),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_may_give_other_batches_stays_with_its_loader(name: str) -> None:
    assert gathered(REFUSED[name]()) is None


def test_a_subclass_with_an_iterator_of_its_own_is_left_alone() -> None:
    class Doubled(DataLoader[Any]):
        def __iter__(self) -> Any:
            return itertools_twice(super().__iter__())

    def itertools_twice(batches: Any) -> Iterator[Any]:
        for batch in batches:
            yield batch
            yield batch

    assert gathered(Doubled(PAIRS, 4)) is None
    assert len(list(Source(Doubled(PAIRS, 4), "data").epoch())) == 6


def test_an_epoch_has_the_rows_that_the_dataset_has_by_then() -> None:
    data = TensorDataset(X.clone(), torch.arange(11))
    part = Subset(data, [0, 1, 2])
    fast, chosen = gathered(DataLoader(data, 11)), gathered(DataLoader(part, 3))
    assert fast is not None and chosen is not None
    data.tensors = (X + 100, torch.arange(11) + 5)
    part.indices = [9, 8, 7]
    assert same(list(fast), list(DataLoader(data, 11)))
    assert same(list(chosen), list(DataLoader(part, 3)))
    assert isinstance(fast.loader.dataset, TensorDataset)
    fast.loader.dataset.tensors = (X.clone().requires_grad_(),)  # which the loader serves
    assert same(list(fast), [[X]])


def test_draws_in_the_middle_of_an_epoch_are_those_of_the_loader() -> None:
    for samples in (8, 11):
        for drop_last in (False, True):
            streams = []
            for of in (gathered, lambda loader: loader):
                own, stands = generator(), []
                loader = DataLoader(
                    Subset(PAIRS, range(samples)),
                    4,
                    shuffle=True,
                    generator=own,
                    drop_last=drop_last,
                )
                batches = of(loader)
                assert batches is not None
                for _ in batches:
                    stands.append(own.get_state())
                streams.append([*stands, own.get_state()])
            assert same(*streams)


def test_batches_beyond_the_data_are_refused_as_by_the_dataset() -> None:
    for indices in ([0, 11], [-12, 0]):
        fast = gathered(DataLoader(PAIRS, batch_sampler=[[1], indices]))
        assert fast is not None
        with pytest.raises(IndexError, match="for a dataset of 11 samples"):
            list(fast)


def test_an_epoch_has_the_identities_that_the_dataset_has_by_then() -> None:
    data = with_uids(PAIRS, list(range(11)))
    fast = gathered(DataLoader(data, 11))
    assert fast is not None
    data.uids = list("abcdefghijk")
    assert next(iter(fast)).sample_uid == tuple("abcdefghijk")
    data.uids = list("abc")  # which the loader finds out
    assert gathered(DataLoader(data, 11)) is None
    with pytest.raises(IndexError):
        list(fast)


def test_rows_are_copies() -> None:
    for shuffle in (False, True):
        fast = gathered(DataLoader(PAIRS, 11, shuffle=shuffle))
        assert fast is not None
        (x, _) = next(iter(fast))
        x.zero_()
        assert PAIRS.tensors[0].sum() == sum(range(22))


def test_fit_says_what_it_replaced(caplog: pytest.LogCaptureFixture) -> None:
    class Seen(EventHandler):
        def __init__(self) -> None:
            super().__init__()
            self.order: list[int] = []

        def batch_end(self, stats: TrainStats) -> None:
            self.order += stats.targets[:, 0].long().tolist()

    data, seen = TensorDataset(X, X), Seen()
    torch.manual_seed(4)
    est = Estimator(nn.Linear(2, 2), nn.MSELoss())
    with caplog.at_level("INFO", "estimator"):
        loader = DataLoader(data, 4, shuffle=True)
        est.fit(loader, trainers="sgd", epochs=1, device="cpu", handlers=seen, progress=False)
    torch.manual_seed(4)
    nn.Linear(2, 2)
    expected = [int(t) for _, y in DataLoader(data, 4, shuffle=True) for t in y[:, 0]]
    assert seen.order == expected
    assert (
        "fit(train=...): batches are gathered from the tensors of the TensorDataset, in the "
        "DataLoader's order."
    ) in caplog.messages

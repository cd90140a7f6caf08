"""Every form of data goes through a run whole, in its order, once an epoch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from batch_runs import (
    QUIET,
    Counted,
    NoLength,
    Pairs,
    Recorder,
    Stream,
    fitted,
    line,
    numbers,
    pairs,
)
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from estimator import ArgumentError, ArgumentTypeError, DataError, Estimator
from estimator.data import Source
from estimator.loaders import as_dataset
from estimator.sequences import ResumableSampler

IN_ORDER = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


class Unsized:
    """Nothing but an `__iter__`."""

    def __iter__(self) -> Iterator[Any]:
        yield from pairs(10, 4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: DataLoader(Pairs(10), 4),
        lambda: DataLoader(Pairs(10), 4, num_workers=2),
        lambda: DataLoader(Stream(10), 4),
        lambda: DataLoader(TensorDataset(numbers(10), 2 * numbers(10)), 4),
        lambda: pairs(10, 4),
        lambda: tuple([x, y] for x, y in pairs(10, 4)),
        lambda: deque(pairs(10, 4)),
        lambda: [(x.numpy(), y.numpy()) for x, y in pairs(10, 4)],
        Unsized,
    ],
)
def test_batches_come_in_their_order_each_epoch(make: Callable[[], Any]) -> None:
    seen = fitted(make(), make(), epochs=2)
    assert seen.train == IN_ORDER * 2
    assert seen.val == IN_ORDER * 2


def test_a_stream_with_workers_gives_every_sample_once() -> None:
    seen = fitted(DataLoader(Stream(10), 2, num_workers=2), epochs=2)
    for epoch in (seen.train[:6], seen.train[6:]):
        assert sorted(n for batch in epoch for n in batch) == list(range(10))
        assert sorted(map(len, epoch)) == [1, 1, 2, 2, 2, 2]


def test_an_iterable_dataset_is_batched() -> None:
    assert fitted(Stream(10), batch_size=4).train == IN_ORDER


@pytest.mark.parametrize(
    "data",
    [
        (numbers(10), 2 * numbers(10)),
        (numbers(10).numpy(), (2 * numbers(10)).numpy()),
        (numbers(10), (2 * numbers(10)).numpy()),
        (numbers(10).numpy().astype(np.float64), (2 * numbers(10)).numpy().astype(np.float64)),
        TensorDataset(numbers(10), 2 * numbers(10)),
        Pairs(10),
        Subset(Pairs(20), range(10)),
    ],
)
def test_arrays_and_datasets_are_shuffled_by_a_resumable_sampler(data: Any) -> None:
    sampler = ResumableSampler(10, 4, seed=3)
    expected = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        loader = DataLoader(Pairs(10), batch_sampler=sampler)
        expected += [[int(n) for n in x] for x, _ in loader]
    seen = fitted(data, data, epochs=2, batch_size=4, seed=3)
    assert seen.train == expected and expected[:3] != expected[3:] and expected[:3] != IN_ORDER
    assert seen.val == IN_ORDER * 2


def test_a_dict_of_arrays_needs_only_targets() -> None:
    data = {"x": numbers(10).numpy(), "y": 2 * numbers(10)}
    seen = fitted(data, data, targets="y", batch_size=4)
    assert sorted(n for batch in seen.train for n in batch) == list(range(10))
    assert seen.val == IN_ORDER


def test_the_batch_size_of_arrays_is_32() -> None:
    assert [len(batch) for batch in fitted((numbers(70), numbers(70))).train] == [32, 32, 6]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_float64_arrays_become_the_default_dtype(dtype: torch.dtype) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        dataset: Any = as_dataset((np.arange(4.0), torch.arange(4).double(), np.arange(4)), "data")
        assert [column.dtype for column in dataset[0]] == [dtype, torch.float64, torch.int64]
    finally:
        torch.set_default_dtype(before)


def test_arrays_may_be_nested() -> None:
    x = np.arange(6)
    pair: Any = as_dataset(((x, 10 * x), 100 * x), "data")
    assert (len(pair), pair[2]) == (6, ((2, 20), 200))
    named: Any = as_dataset({"in": {"a": x, "b": 10 * x}, "name": np.array(list("uvwxyz"))}, "data")
    assert named[5] == {"in": {"a": 5, "b": 50}, "name": "z"}
    words: Any = as_dataset((x, np.array(list("uvwxyz"))), "data")
    assert [batch[1] for batch in DataLoader(words, 4)] == [("u", "v", "w", "x"), ("y", "z")]


def test_a_single_array_is_a_dataset_of_its_rows() -> None:
    dataset: Any = as_dataset(numbers(3), "data")
    assert [row[0].item() for row in dataset] == [0, 1, 2]


def test_a_list_of_arrays_is_batches_and_never_columns() -> None:
    assert as_dataset([numbers(4), numbers(4)], "data") is None
    with pytest.raises(DataError, match=r"received tensor\(4, 1\) float32.*arrays as a tuple"):
        fitted([numbers(4), numbers(4)])


def test_what_is_no_array_is_no_dataset() -> None:
    assert as_dataset((), "data") is None
    assert as_dataset({}, "data") is None
    assert as_dataset((numbers(2), "words"), "data") is None
    assert as_dataset(torch.tensor(1.0), "data") is None
    assert as_dataset(DataLoader(Pairs(4)), "data") is None


def test_each_epoch_begins_a_pass_and_the_look_at_a_first_batch_begins_none() -> None:
    train, val = Counted(pairs(10, 4)), Counted(pairs(10, 4))
    seen = fitted(train, val, epochs=3)
    assert (train.begun, val.begun) == (3, 3)
    assert seen.train == seen.val == IN_ORDER * 3


def test_an_iterator_is_trained_from_its_first_batch_and_no_further_than_asked() -> None:
    stream = iter(pairs(20, 2))
    assert fitted(stream, iterations=3).train == [[0, 1], [2, 3], [4, 5]]
    assert fitted(stream, iterations=2).train == [[6, 7], [8, 9]]
    assert [int(x[0]) for x, _ in stream] == [10, 12, 14, 16, 18]


def test_an_iterator_as_long_as_asked_ends_without_a_warning() -> None:
    assert fitted(iter(pairs(10, 4)), iterations=3).train == IN_ORDER


def test_groups_of_an_iterator_are_whole_and_in_order() -> None:
    stream = iter(pairs(10, 2))
    assert fitted(stream, iterations=2, accumulate=2).train == [[0, 1], [2, 3], [4, 5], [6, 7]]
    with pytest.warns(UserWarning, match="ended after 2 of 9 iterations"):
        seen = fitted(iter(pairs(6, 2)), iterations=9, accumulate=2)
    assert seen.train == [[0, 1], [2, 3], [4, 5]]


def test_an_iterator_lasts_for_one_epoch_and_one_validation() -> None:
    seen = fitted(iter(pairs(10, 4)), (batch for batch in pairs(10, 4)), epochs=1)
    assert seen.train == seen.val == IN_ORDER


def test_an_iterator_that_ends_early_is_reported() -> None:
    recorder = Recorder()
    est = Estimator(line(), nn.MSELoss())
    with pytest.warns(UserWarning, match=r"fit\(train=\.\.\.\) ended after 3 of 8 iterations"):
        stats = est.fit(iter(pairs(10, 4)), iterations=8, handlers=recorder, **QUIET)
    assert recorder.train == IN_ORDER
    assert (stats.step, stats.samples, stats["complete"]) == (3, 10, [True])


def test_epochs_go_on_through_iterations() -> None:
    seen = fitted(pairs(10, 4), iterations=7)
    assert seen.train == (IN_ORDER * 3)[:7]


def test_an_iterator_does_not_last_for_several_epochs() -> None:
    stream = iter(pairs(4, 2))
    with pytest.raises(ArgumentError, match=r"fit\(train=\.\.\.\) is an iterator.*epochs=2"):
        fitted(stream, epochs=2)
    with pytest.raises(ArgumentError, match=r"fit\(val=\.\.\.\) is an iterator.*epochs=2"):
        fitted(pairs(4, 2), stream, epochs=2)
    with pytest.raises(ArgumentError, match=r"fit\(val=\.\.\.\) is an iterator.*iterations"):
        fitted(pairs(4, 2), stream, iterations=2)
    assert len(list(stream)) == 2


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (None, ArgumentError, r"fit\(train=\.\.\.\) needs data: .*received None"),
        (3, ArgumentTypeError, r"must be a DataLoader.*received 3"),
        ("words", ArgumentTypeError, "received 'words'"),
        ({"x": [1, 2]}, ArgumentTypeError, r"received \{'x': \[1, 2\]\}"),
        ({}, ArgumentTypeError, r"received \{\}"),
        ((numbers(3), numbers(4)), ArgumentError, r"tensor\(3, 1\) float32, tensor\(4, 1\)"),
        ((numbers(0), numbers(0)), ArgumentError, "length, above 0; .*TensorDataset of length 0"),
        (NoLength(), ArgumentError, r"NoLength of length None\. Derive from IterableDataset"),
        ([], DataError, r"fit\(train=\.\.\.\) must yield at least one batch an epoch"),
        (iter(()), DataError, "whether an iterator was used up"),
        (Counted([]), DataError, "yielded none"),
        (DataLoader(Pairs(3), 4, drop_last=True), DataError, "drop_last"),
    ],
)
def test_bad_data_is_refused(data: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fitted(data)


@pytest.mark.parametrize("val", [[], Counted([]), DataLoader(Pairs(3), 4, drop_last=True)])
def test_validation_data_without_a_batch_is_refused_before_training(val: Any) -> None:
    recorder = Recorder()
    with pytest.raises(DataError, match=r"fit\(val=\.\.\.\) must yield at least one batch"):
        fitted(pairs(4, 2), val, recorder=recorder)
    assert recorder.train == []


@pytest.mark.parametrize("size", [0, 2.0, True, None])
def test_a_batch_size_must_be_a_whole_number(size: Any) -> None:
    with pytest.raises(ArgumentError, match=rf"fit\(batch_size=.*from 1 up; received {size!r}"):
        fitted((numbers(4), numbers(4)), batch_size=size)
    with pytest.raises(ArgumentError, match=r"predict\(batch_size="):
        Estimator(line()).predict(numbers(4), batch_size=size)


def test_the_number_of_batches_is_known_where_data_says_it() -> None:
    class Refuses:
        def __iter__(self) -> Iterator[Any]:
            return iter(())

        def __len__(self) -> int:
            raise NotImplementedError

    sources: list[Any] = [pairs(10, 4), Pairs(10), DataLoader(Stream(4)), Unsized(), Refuses()]
    assert [Source(data, "data").batches for data in sources] == [3, 1, None, None, None]

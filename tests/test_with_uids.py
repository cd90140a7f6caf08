"""Every sample keeps its identity, whatever it goes through."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from batch_runs import Named, NoLength, Pairs, Stream, UidRecorder, fitted, numbers, pairs
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    SequentialSampler,
    Subset,
    default_collate,
    random_split,
)

from estimator import ArgumentError, ArgumentTypeError, DataError, with_uids

# The same sizes are asked of all forms, also of those that come in batches.
pytestmark = pytest.mark.filterwarnings("ignore:batch_size=.* has no effect")

NAMES = list("abcdefghij")


def uids_of(data: Any, **arguments: Any) -> list[list[Any]]:
    """The identities that handlers meet, batch by batch."""
    recorder = UidRecorder()
    fitted(data, recorder=recorder, **arguments)
    return [listed(uids) for uids in recorder.uids]


def listed(uids: Any) -> list[Any]:
    """Identities as a list, whatever holds them."""
    return uids.tolist() if isinstance(uids, Tensor) else list(uids)


def together(samples: list[Any]) -> Any:
    """A collate function that knows of pairs only."""
    x, y = zip(*samples, strict=True)
    return torch.stack(x), torch.stack(y)


def together_named(samples: list[Any]) -> dict[str, Tensor]:
    """A collate function that knows of two keys only."""
    assert all(sample.keys() == {"x", "y"} for sample in samples)
    return {name: torch.stack([sample[name] for sample in samples]) for name in ("x", "y")}


def test_samples_of_a_dataset_are_pairs_with_their_index() -> None:
    dataset = with_uids(Pairs(4))
    sample = dataset[2]
    assert (sample.sample[0].item(), sample.sample_uid, len(dataset)) == (2.0, 2, 4)


def test_dict_samples_get_a_key() -> None:
    assert with_uids(Named(4))[3] == {"x": 3.0, "y": 6.0, "sample_uid": 3}
    assert [b["sample_uid"].tolist() for b in DataLoader(with_uids(Named(3)), 2)] == [[0, 1], [2]]


@pytest.mark.parametrize("make", [Pairs, Named])
@pytest.mark.parametrize(
    ("uids", "expected"),
    [
        (None, list(range(10))),
        (range(100, 110), list(range(100, 110))),
        (NAMES, NAMES),
        (tuple(NAMES), NAMES),
        (np.array(NAMES), NAMES),
        (np.arange(10) * 7, [7 * i for i in range(10)]),
        (torch.arange(10) * 7, [7 * i for i in range(10)]),
    ],
)
def test_identities_reach_handlers_from_datasets_and_loaders(
    make: Callable[[int], Any], uids: Any, expected: list[Any]
) -> None:
    dataset = with_uids(make(10), uids)
    for data in (DataLoader(dataset, 4), with_uids(DataLoader(make(10), 4), uids)):
        found = uids_of(data, targets="y")
        assert found == [expected[:4], expected[4:8], expected[8:]]
    assert sorted(sum(uids_of(dataset, targets="y", batch_size=4), [])) == sorted(expected)


def test_arrays_get_identities_too() -> None:
    dataset = with_uids((np.arange(3.0), np.arange(3)), ["u", "v", "w"])
    assert (len(dataset), dataset[1].sample_uid, dataset[1].sample[0].item()) == (3, "v", 1.0)


@pytest.mark.parametrize(
    ("make", "collate"), [(Pairs, together), (Named, together_named), (Pairs, default_collate)]
)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_collate_function_of_its_own_does_not_meet_them(
    make: Callable[[int], Any], collate: Callable[[Any], Any], workers: int
) -> None:
    loader: DataLoader[Any] = DataLoader(make(6), 4, collate_fn=collate, num_workers=workers)
    named = with_uids(loader)
    assert uids_of(named, targets="y", epochs=2) == [[0, 1, 2, 3], [4, 5]] * 2
    batch = next(iter(named))
    if make is Named:
        assert list(batch) == ["x", "y", "sample_uid"]
        assert batch["sample_uid"].tolist() == [0, 1, 2, 3]
    else:
        assert [int(x) for x in batch.sample[0]] == batch.sample_uid.tolist() == [0, 1, 2, 3]


def test_a_batch_of_a_type_of_its_own_stays_as_it_is() -> None:
    class Encoding(UserDict[str, Any]):
        pass

    def encode(samples: list[Any]) -> Encoding:
        return Encoding(together_named(samples))

    named = with_uids(DataLoader(Named(4), 2, collate_fn=encode))
    assert [type(batch.sample) for batch in named] == [Encoding, Encoding]
    assert uids_of(named, targets="y") == [[0, 1], [2, 3]]


def test_identities_that_samples_bring_are_kept() -> None:
    class Patients(Named):
        def __getitem__(self, index: int) -> dict[str, Any]:
            return {**super().__getitem__(index), "sample_uid": f"p{index}"}

    for data in (
        DataLoader(Patients(4), 2),
        DataLoader(with_uids(Patients(4)), 2),
        with_uids(DataLoader(Patients(4), 2)),
        with_uids(with_uids(DataLoader(Patients(4), 2))),
    ):
        assert uids_of(data, targets="y") == [["p0", "p1"], ["p2", "p3"]]
    assert sorted(uids_of(Patients(4), targets="y", batch_size=1)) == [
        ["p0"],
        ["p1"],
        ["p2"],
        ["p3"],
    ]
    replaced = with_uids(Patients(4), [5, 6, 7, 8])
    assert uids_of(DataLoader(replaced, 2), targets="y") == [[5, 6], [7, 8]]
    column = {"x": numbers(3), "y": numbers(3), "sample_uid": np.array(["u", "v", "w"])}
    assert sorted(uids_of(column, targets="y", batch_size=1)) == [["u"], ["v"], ["w"]]


def test_identities_given_twice_are_not_nested() -> None:
    once = with_uids(Pairs(4), NAMES[:4])
    assert listed(with_uids(once)[2]) == listed(once[2])
    assert with_uids(once, [4, 3, 2, 1])[2].sample_uid == 2
    assert with_uids(once, [4, 3, 2, 1])[2].sample[0].item() == 2.0
    twice = with_uids(with_uids(DataLoader(once, 2)))
    assert uids_of(twice) == [["a", "b"], ["c", "d"]]


def test_a_part_keeps_the_identities_of_the_whole() -> None:
    outer = Subset(Pairs(10), [9, 7, 5, 3])
    inner = Subset(outer, torch.tensor([3, 0]).tolist())
    assert [with_uids(outer)[i].sample_uid for i in range(4)] == [9, 7, 5, 3]
    assert [with_uids(inner)[i].sample_uid for i in range(2)] == [3, 9]
    arrays = Subset(Pairs(10), np.array([4, 2]))  # type: ignore[arg-type]  # any indices do
    assert [type(with_uids(arrays)[i].sample_uid) for i in range(2)] == [int, int]
    named = Subset(Subset(with_uids(Pairs(10), NAMES), [8, 6, 4]), [2, 0])
    for data in (named, with_uids(named)):
        assert uids_of(DataLoader(data, 2)) == [["e", "i"]]
    assert sorted(sum(uids_of(named, batch_size=1), [])) == ["e", "i"]
    assert with_uids(inner, ["first", "second"])[1].sample_uid == "second"


@pytest.mark.parametrize(
    ("make", "targets"),
    [
        (lambda: (numbers(10), 2 * numbers(10)), None),
        (lambda: {"x": numbers(10), "y": numbers(10)}, "y"),
        (lambda: Pairs(10), None),
        (lambda: Named(10), "y"),
        (lambda: with_uids(Pairs(10)), None),
        (lambda: DataLoader(with_uids(Pairs(10)), 3, shuffle=True), None),
        (lambda: with_uids(DataLoader(Pairs(10), 3, shuffle=True)), None),
        (lambda: with_uids(DataLoader(Named(10), 3, shuffle=True, collate_fn=together_named)), "y"),
    ],
)
def test_a_fraction_keeps_the_identities_of_the_whole(
    make: Callable[[], Any], targets: str | None
) -> None:
    recorder = UidRecorder()
    fitted(make(), 0.3, recorder=recorder, targets=targets, batch_size=3)
    seen = [listed(uids) for uids in recorder.uids]
    assert sum(seen, []) == sum(recorder.train + recorder.val, [])
    assert sorted(sum(seen, [])) == list(range(10))


def test_parts_of_one_dataset_share_no_identity() -> None:
    train, val = random_split(Pairs(10), [7, 3], generator=torch.Generator().manual_seed(1))
    recorder = UidRecorder()
    fitted(train, val, recorder=recorder)
    assert sorted(sum(map(listed, recorder.uids), [])) == list(range(10))
    assert sum(map(listed, recorder.uids), []) == sum(recorder.train + recorder.val, [])


def test_datasets_in_a_row_keep_what_each_brings() -> None:
    row: Any = ConcatDataset([with_uids(Pairs(2), ["a", "b"]), with_uids(Pairs(1), ["c"])])
    assert uids_of(DataLoader(row, 3)) == [["a", "b", "c"]]
    assert sorted(sum(uids_of(row, batch_size=1), [])) == ["a", "b", "c"]


def test_several_samples_are_asked_for_at_once_where_the_dataset_can() -> None:
    asked: list[list[int]] = []

    class Several(Pairs):
        def __getitems__(self, indices: list[int]) -> list[Any]:
            asked.append(indices)
            return [self[i] for i in indices]

    assert uids_of(DataLoader(with_uids(Several(5), NAMES[:5]), 3)) == [["a", "b", "c"], ["d", "e"]]
    assert asked == [[0, 1, 2], [3, 4]]


def test_loaders_that_do_not_batch() -> None:
    class Sliced(Dataset[Any]):
        def __len__(self) -> int:
            return 5

        def __getitem__(self, indices: list[int]) -> Any:
            return numbers(5)[indices], 2 * numbers(5)[indices]

    sampler = BatchSampler(SequentialSampler(range(5)), 3, False)
    plain: DataLoader[Any] = DataLoader(Sliced(), None, sampler=sampler)
    assert uids_of(with_uids(plain)) == [[0, 1, 2], [3, 4]]
    assert uids_of(with_uids(plain, NAMES[:5])) == [["a", "b", "c"], ["d", "e"]]
    assert uids_of(DataLoader(with_uids(Sliced()), None, sampler=sampler)) == [[0, 1, 2], [3, 4]]


def test_a_loader_keeps_its_settings_and_its_order() -> None:
    generator = torch.Generator().manual_seed(1)
    loader: DataLoader[Any] = DataLoader(Pairs(10), 4, True, drop_last=True, generator=generator)
    named = with_uids(loader)
    kept = ("batch_size", "sampler", "drop_last", "generator", "num_workers", "pin_memory")
    assert all(getattr(named, name) is getattr(loader, name) for name in kept)
    order = uids_of(named)
    generator.manual_seed(1)
    assert [whole.flatten().tolist() for whole, _ in loader] == order
    batches: DataLoader[Any] = DataLoader(Pairs(10), batch_sampler=[[4, 2], [7]])
    assert uids_of(with_uids(batches)) == [[4, 2], [7]]
    assert with_uids(batches).batch_sampler is batches.batch_sampler


class Doubling(DataLoader[Any]):
    """A loader that changes what its dataset gives."""

    def __iter__(self) -> Any:
        raise AssertionError("never gone through")


@pytest.mark.parametrize(
    ("data", "uids", "error", "message"),
    [
        (Pairs(3), [1, 2], ArgumentError, r"uids=\.\.\.\) must hold one.*received 2 for 3"),
        (DataLoader(Pairs(3)), [1, 2], ArgumentError, "received 2 for 3 samples"),
        (Pairs(3), "abc", ArgumentTypeError, "list, array or tensor.*received str"),
        (Pairs(3), {1: 2}, ArgumentTypeError, "received dict"),
        (Pairs(3), {1, 2, 3}, ArgumentTypeError, "received set"),
        (Pairs(3), iter([1, 2, 3]), ArgumentTypeError, "received list_iterator"),
        (Stream(3), None, ArgumentTypeError, "with a length.*received Stream.*'sample_uid' of its"),
        (DataLoader(Stream(3)), None, ArgumentTypeError, "received Stream"),
        (NoLength(), None, ArgumentTypeError, "received NoLength"),
        (iter(pairs(4, 2)), None, ArgumentTypeError, "received list_iterator"),
        (Doubling(Pairs(3)), None, ArgumentTypeError, "a Doubling cannot be made again"),
        ((numbers(2), numbers(3)), None, ArgumentError, r"with_uids\(data=\.\.\.\): arrays must"),
    ],
)
def test_bad_arguments(data: Any, uids: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        with_uids(data, uids)


@pytest.mark.parametrize(
    ("data", "targets"),
    [
        (DataLoader(Pairs(4), 2), None),
        (pairs(4, 2), None),
        (DataLoader(Named(4), 2), "y"),
    ],
)
def test_a_batch_without_identities_says_where_to_get_them(data: Any, targets: Any) -> None:
    with pytest.raises(DataError, match=r"Wrap the data: with_uids\(loader\), or add a key 'sampl"):
        uids_of(data, targets=targets)


def test_a_batch_may_bring_identities_itself() -> None:
    batches = [{"x": numbers(2), "y": numbers(2), "sample_uid": ["left", "right"]}]
    assert uids_of(batches, targets="y") == [["left", "right"]]

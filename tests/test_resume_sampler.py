"""The order of a `ResumableSampler`, and transformations that come with it, from any place."""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from estimator import ArgumentError, ArgumentTypeError
from estimator.sampler import Indices, mixed
from estimator.sequences import ResumableSampler, SeededDataset


def batches(sampler: ResumableSampler, epoch: int = 0, start: int = 0) -> list[list[int]]:
    sampler.set_epoch(epoch, start)
    return [list(batch) for batch in sampler]


def numpy_key() -> Any:
    """The numbers that NumPy's global stream stands at."""
    state: Any = np.random.get_state()
    return state[1].tolist(), state[2]


def seeds(sampler: ResumableSampler) -> list[int]:
    return [batch.seed for batch in sampler if isinstance(batch, Indices)]


def test_an_order_is_that_of_its_seed_and_epoch() -> None:
    sampler = ResumableSampler(20, 6, seed=3)
    first, second = batches(sampler), batches(sampler, 1)
    assert sorted(sum(first, [])) == list(range(20)) and [len(b) for b in first] == [6, 6, 6, 2]
    assert first != second and batches(sampler) == first
    assert batches(ResumableSampler(20, 6, seed=3), 1) == second
    assert batches(ResumableSampler(20, 6, seed=4)) != first
    assert batches(ResumableSampler(range(20), 6, seed=3)) == first


def test_it_takes_nothing_from_global_streams() -> None:
    before = random.getstate(), numpy_key(), torch.get_rng_state()
    batches(ResumableSampler(20, 6, seed=3))
    assert random.getstate() == before[0] and numpy_key() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


@pytest.mark.parametrize("start", [0, 1, 3, 4])
def test_it_begins_anywhere(start: int) -> None:
    sampler = ResumableSampler(20, 6, seed=3)
    whole = batches(sampler, 5)
    whole_seeds = seeds(sampler)
    assert batches(sampler, 5, start) == whole[start:]
    assert seeds(sampler) == whole_seeds[start:] and len(sampler) == 4
    assert len(set(whole_seeds)) == 4


def test_without_shuffling_and_without_the_rest() -> None:
    assert batches(ResumableSampler(5, 2, shuffle=False), 7) == [[0, 1], [2, 3], [4]]
    short = ResumableSampler(5, 2, shuffle=False, drop_last=True)
    assert batches(short) == [[0, 1], [2, 3]] and len(short) == 2


@pytest.mark.parametrize("samples", [16, 17, 21])
@pytest.mark.parametrize("world", [2, 3, 5])
def test_processes_share_each_batch(world: int, samples: int) -> None:
    whole = ResumableSampler(samples, 4, seed=9)
    parts = [
        ResumableSampler(samples, 4, seed=9, rank=rank, world_size=world) for rank in range(world)
    ]
    shares = [batches(part, 2) for part in parts]
    for number, batch in enumerate(batches(whole, 2)):
        dealt = [share[number] for share in shares]
        counts = [part.share(number) for part in parts]
        # A process without a sample of its own gets one that counts for nothing.
        assert [len(own) for own in dealt] == [max(count.here, 1) for count in counts]
        mine = [own[: count.here] for own, count in zip(dealt, counts, strict=True)]
        assert sorted(sum(mine, [])) == sorted(batch)
        assert all(own == batch[:1] for own, c in zip(dealt, counts, strict=True) if not c.here)
        assert {count.everywhere for count in counts} == {len(batch)}
    assert len({len(share) for share in shares}) == 1
    assert len({seed for part in parts for seed in seeds(part)}) == world * len(whole)


def test_a_seed_of_its_own_comes_from_torch() -> None:
    torch.manual_seed(1)
    one = ResumableSampler(9, 2, seed=None).seed
    torch.manual_seed(1)
    assert ResumableSampler(9, 2, seed=None).seed == one
    assert ResumableSampler(9, 2, seed=None).seed != one


def test_neighbouring_seeds_share_nothing() -> None:
    numbers = [mixed(seed, epoch, batch) for seed in range(8) for epoch in range(8)
               for batch in range(8)]  # fmt: skip
    assert len(set(numbers)) == 512 and all(0 <= n < 2**64 for n in numbers)
    ones = [bin(mixed(5, i) ^ mixed(5, i + 1)).count("1") for i in range(64)]
    assert 28 < sum(ones) / 64 < 36
    # Reference values of SplitMix64 from the state 0.
    assert mixed(0) == 0xE220A8397B1DCDAF


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": 0}, r"data=...\) must be a whole number from 1 up; received 0"),
        ({"data": []}, r"data=...\) must be a whole number from 1 up; received 0"),
        ({"data": True}, "must be a whole number from 1 up; received True"),
        ({"batch_size": 0}, r"batch_size=...\) must be a whole number from 1 up; received 0"),
        ({"batch_size": 2.0}, "received 2.0"),
        ({"rank": 2, "world_size": 2}, "0 <= rank < world_size; received 2 of 2"),
        ({"rank": -1}, "received -1 of 1"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        ResumableSampler(**({"data": 4, "batch_size": 2} | arguments))


def test_data_without_a_length() -> None:
    data: Any = iter([1])
    with pytest.raises(ArgumentTypeError, match="dataset with a length.*list_iterator"):
        ResumableSampler(data, 2)


class Noise(Dataset[Any]):
    """What three libraries draw for a sample."""

    def __len__(self) -> int:
        return 11

    def __getitem__(self, index: int) -> torch.Tensor:
        drawn = [random.random(), float(np.random.rand()), float(torch.rand(())), index]
        return torch.tensor(drawn, dtype=torch.float64)


class Several(Noise):
    """One that makes a batch at once."""

    def __getitems__(self, indices: list[int]) -> list[torch.Tensor]:
        shift = random.random()
        return [self[i] + shift for i in indices]


def loaded(data: Any, workers: int = 0, epoch: int = 0, start: int = 0) -> list[torch.Tensor]:
    sampler = ResumableSampler(data, 3, seed=8)
    sampler.set_epoch(epoch, start)
    own = torch.Generator()
    return list(
        DataLoader(
            SeededDataset(data), batch_sampler=sampler, num_workers=workers, generator=own
        )
    )  # fmt: skip


def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("data", [Noise(), Several()])
def test_transformations_are_those_of_the_batch(data: Any) -> None:
    whole = loaded(data, epoch=1)
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    assert equal(loaded(data, epoch=1), whole)
    assert equal(loaded(data, workers=1, epoch=1), whole)
    assert equal(loaded(data, workers=2, epoch=1), whole)
    assert equal(loaded(data, workers=2, epoch=1, start=2), whole[2:])
    assert not torch.equal(torch.cat(loaded(data)).sort(0)[0], torch.cat(whole).sort(0)[0])
    # No two samples have the same draws.
    assert len({row[:3].sum().item() for batch in whole for row in batch}) == 11


def test_global_streams_are_afterwards_as_they_were() -> None:
    before = random.getstate(), numpy_key(), torch.get_rng_state()
    loaded(Noise())
    assert random.getstate() == before[0] and numpy_key() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_also_after_an_exception() -> None:
    class Broken(Noise):
        def __getitem__(self, index: int) -> torch.Tensor:
            random.random(), np.random.rand(), torch.rand(())
            raise OSError("unreadable")

    before = random.getstate(), numpy_key(), torch.get_rng_state()
    with pytest.raises(OSError, match="unreadable"):
        loaded(Broken())
    assert random.getstate() == before[0] and numpy_key() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_other_samplers_get_the_plain_dataset() -> None:
    data = SeededDataset(Noise())
    torch.manual_seed(2), random.seed(2), np.random.seed(2)
    expected = torch.stack([Noise()[i] for i in (4, 5)])
    torch.manual_seed(2), random.seed(2), np.random.seed(2)
    assert torch.equal(torch.stack(data.__getitems__([4, 5])), expected)
    assert len(data) == 11 and data[3][3] == 3


def test_an_order_does_not_depend_on_the_process() -> None:
    hears, says = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(says, str(batches(ResumableSampler(9, 2, seed=1), 3)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(hears, 4096).decode() == str(batches(ResumableSampler(9, 2, seed=1), 3))
    os.close(hears)
    os.close(says)

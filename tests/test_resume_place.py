"""Which data can be resumed where, and the messages when it cannot."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from batch_runs import QUIET, Counted, Pairs, Recorder, Stream, line, numbers, pairs
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from estimator import DataError, Estimator
from estimator.data import Source
from estimator.handlers import CheckpointHandler
from estimator.place import generators, kind_of, set_epoch
from estimator.randomness import random_states, set_random_states
from estimator.sequences import ResumableSampler


class OwnLoader(DataLoader[Any]):
    def __iter__(self) -> Any:
        yield from pairs(10, 4)


class OwnBatches(BatchSampler):
    pass


class OwnOrder(Sampler[int]):
    def __init__(self) -> None:
        self.epochs: list[int] = []

    def __len__(self) -> int:
        return 10

    def __iter__(self) -> Iterator[int]:
        yield from reversed(range(10))

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)


class Stated:
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass

    def __iter__(self) -> Iterator[Any]:
        yield from pairs(10, 4)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: DataLoader(Pairs(10), batch_sampler=ResumableSampler(10, 4)), "sampler"),
        (Stated, "state"),
        (lambda: DataLoader(Pairs(10), 4), "again"),
        (lambda: DataLoader(Pairs(10), 4, shuffle=True), "again"),
        (lambda: DataLoader(Pairs(10), 4, sampler=SubsetRandomSampler(range(8))), "again"),
        (lambda: DataLoader(Pairs(10), 4, sampler=WeightedRandomSampler([0.1] * 10, 8)), "again"),
        (lambda: DataLoader(Pairs(10), 4, sampler=DistributedSampler(Pairs(10), 2, 0)), "again"),
        (lambda: DataLoader(Stream(10), 4), "ends"),
        (lambda: DataLoader(Pairs(10), None), "ends"),
        (lambda: DataLoader(Pairs(10), 4, sampler=OwnOrder()), "ends"),
        (
            lambda: DataLoader(
                Pairs(10), batch_sampler=OwnBatches(SequentialSampler(range(10)), 4, False)
            ),
            "ends",
        ),
        (lambda: OwnLoader(Pairs(10), 4), "ends"),
        (lambda: Counted(pairs(10, 4)), "ends"),
    ],
)
def test_kinds(make: Any, kind: str) -> None:
    assert kind_of(make()) == kind


def test_an_iterator_has_no_place() -> None:
    assert Source(iter(pairs(10, 4)), "data").kind == "ends"


def test_generators_are_found_once_each() -> None:
    own, other = torch.Generator(), torch.Generator()
    loader = DataLoader(Pairs(4), 2, shuffle=True, generator=own)
    assert generators(loader) == [own]
    sampler = RandomSampler(range(4), generator=other)
    assert generators(DataLoader(Pairs(4), 2, sampler=sampler, generator=own)) == [own, other]
    assert generators(pairs(4, 2)) == []


def test_samplers_are_told_the_epoch() -> None:
    sampler = OwnOrder()
    loader = DataLoader(Pairs(10), 4, sampler=sampler)
    set_epoch(loader, 3, start=2)
    assert sampler.epochs == [3]
    own = ResumableSampler(10, 4)
    set_epoch(DataLoader(Pairs(10), batch_sampler=own), 4, start=1)
    assert (own.epoch, own.start) == (4, 1)
    set_epoch(pairs(4, 2), 1)


def test_random_states_make_a_round_trip() -> None:
    import random

    states = random_states(torch.device("cpu"))
    drawn = random.random(), np.random.rand(3).tolist(), torch.rand(3).tolist()
    gauss = random.gauss(0, 1), np.random.randn(1).tolist(), torch.randn(3).tolist()
    plain = states["numpy"]["state"]["key"]
    assert plain.dtype == torch.int64 and set(states) == {"python", "numpy", "torch"}
    set_random_states(states, torch.device("cpu"))
    assert drawn == (random.random(), np.random.rand(3).tolist(), torch.rand(3).tolist())
    assert gauss == (random.gauss(0, 1), np.random.randn(1).tolist(), torch.randn(3).tolist())


def fit(folder: Path, data: Any, *, stop: int = 0, resume: bool = False, **more: Any) -> Recorder:
    """Trains on a line's data, up to a batch, or goes on from there."""

    class Seen(Recorder):
        def batch_end(self, stats: Any) -> None:
            super().batch_end(stats)
            if len(self.train) == stop:
                stats.stop("planned")

    seen = Seen()
    more = {"epochs": 2, **more}
    Estimator(line(), nn.MSELoss()).fit(
        data, handlers=[seen, CheckpointHandler(folder, keep_last=9)],
        resume=folder if resume else None,
        **QUIET | {"trainers": "adam"} | more,
    )  # fmt: skip
    return seen


def test_data_without_a_place_goes_on_from_the_last_epoch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "estimator")
    data = Counted(pairs(10, 4))
    assert len(fit(tmp_path, data, stop=5).train) == 5
    told = [message for message in caplog.messages if "at the ends of epochs only" in message]
    assert len(told) == 1 and "a Counted does not say its place" in told[0]
    caplog.clear()
    assert fit(tmp_path, data, resume=True).train == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert "Fell back to" in caplog.text and "epoch 1, iteration 3" in caplog.text


def test_data_without_a_place_and_without_an_epoch(tmp_path: Path) -> None:
    fit(tmp_path, Counted(pairs(10, 4)), stop=2)
    with pytest.raises(DataError, match="does not fit"):
        fit(tmp_path, Counted(pairs(10, 4)), resume=True)


def test_a_resumed_pass_is_not_a_pass_over_other_data(tmp_path: Path) -> None:
    def sampled(count: int, size: int = 4) -> Any:
        return DataLoader(Pairs(count), batch_sampler=ResumableSampler(count, size))

    fit(tmp_path, sampled(10), stop=2)
    message = r"fit\(train=...\) must be of the size that it had.*Resume with the data"
    for other in (sampled(20), sampled(11), sampled(10, 5), sampled(9, 3)):
        with pytest.raises(DataError, match=message):
            fit(tmp_path, other, resume=True)


def test_another_kind_of_data_begins_at_an_epoch_only(tmp_path: Path) -> None:
    fit(tmp_path, (numbers(10), 2 * numbers(10)), stop=4, batch_size=4)
    again = DataLoader(TensorDataset(numbers(10), 2 * numbers(10)), 4)
    seen = fit(tmp_path, again, resume=True)
    assert seen.train == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_loader_with_other_generators(tmp_path: Path) -> None:
    own = torch.Generator().manual_seed(1)
    fit(tmp_path, DataLoader(Pairs(10), 4, shuffle=True, generator=own), stop=2)
    with pytest.raises(DataError, match="must have the generators.*1; received a loader with 0"):
        fit(tmp_path, DataLoader(Pairs(10), 4, shuffle=True), resume=True)


def test_a_loader_that_ends_before_its_place(tmp_path: Path) -> None:
    class Shrinking(Pairs):
        def __init__(self, count: int) -> None:
            super().__init__(10)
            self.count = count

        def __len__(self) -> int:
            return self.count

    fit(tmp_path, DataLoader(Shrinking(10), 4), stop=2)

    class Short(SequentialSampler):
        """One that has fewer samples than it says."""

        def __iter__(self) -> Iterator[int]:
            return itertools.islice(super().__iter__(), 3)

    short = DataLoader(Pairs(10), 4, sampler=Short(range(10)))
    with pytest.raises(DataError, match="must yield the 2 batches.*it ended after 1"):
        fit(tmp_path, short, resume=True)

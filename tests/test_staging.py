"""Batches on their way to a device: right values whatever is late, and nothing taken too early."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from fake_streams import (
    ALL_LATE,
    COMPUTE,
    COPY,
    LATE_COMPUTING,
    LATE_COPIES,
    FakeStreams,
    same,
)
from torch.utils.data import DataLoader, TensorDataset

from estimator import staging, with_uids
from estimator.engine.options import Engine
from estimator.gather import gathered
from estimator.residence import Residence
from estimator.staging import staged, streams_for
from estimator.taking import Taking, taking

X = torch.arange(40.0).view(20, 2)
Y = torch.arange(20, dtype=torch.uint8)
ORDER = torch.randperm(20, generator=torch.Generator().manual_seed(1))
SIZES = {"odd last": [3, 3, 3, 3, 2, 5, 1], "no two alike": [3, 2] * 4}


def plan() -> Taking:
    found = taking(TensorDataset(X, Y))
    assert found is not None
    return found


def results(
    streams: FakeStreams, sizes: str, ahead: int, *, keeps: bool = False
) -> tuple[Any, Any]:
    """What is computed of the batches, and what would be right."""
    seen: list[list[torch.Tensor]] = []
    kept: list[Any] = []
    rows = ORDER.split(SIZES[sizes])
    for batch in staged(iter(rows), plan().make, streams, ahead=ahead):
        taken: list[torch.Tensor] = []
        for tensor in batch:
            streams.compute(tensor, taken.append)
        seen.append(taken)
        kept += [batch] if keeps else []
        del batch, tensor
    streams.run(COMPUTE)
    expected = [[X[each], Y[each]] for each in rows]
    return (kept if keeps else seen), expected


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("ahead", [0, 1, 3])
@pytest.mark.parametrize("late", [LATE_COPIES, LATE_COMPUTING, ALL_LATE, ()])
def test_batches_are_right_whatever_is_late(
    late: tuple[str, ...], ahead: int, keeps: bool, sizes: str
) -> None:
    assert same(*results(FakeStreams(late), sizes, ahead, keeps=keeps))


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize(
    ("late", "without"),
    [
        (ALL_LATE, "host_waits"),
        (LATE_COPIES, "computing_waits"),
        (LATE_COMPUTING, "copies_wait"),
    ],
)
def test_each_wait_is_needed(late: tuple[str, ...], without: str, ahead: int, sizes: str) -> None:
    streams = FakeStreams(late, without)
    found, expected = results(streams, sizes, ahead)
    streams.run(COPY)
    assert not same(found, expected)


def test_memory_of_the_host_is_used_in_turn() -> None:
    streams = FakeStreams(ALL_LATE)
    rows = torch.arange(20).split(2)
    assert len(list(staged(iter(rows), plan().make, streams, ahead=1))) == 10
    # Three batches of two tensors; the later seven wait until theirs is copied.
    assert streams.calls.count("pinned") == 6
    assert streams.calls.count("host waits") == 7


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_copy_does_not_wait_for_the_batch_that_is_computed(ahead: int) -> None:
    streams = FakeStreams(LATE_COMPUTING)
    seen: list[torch.Tensor] = []
    for number, (x, y) in enumerate(
        staged(iter(ORDER.split(4)), plan().make, streams, ahead=ahead)
    ):
        # What is computed last has not been waited for, and this batch is there.
        assert len(seen) <= max(number - 1, 0)
        assert torch.equal(x, X[ORDER.split(4)[number]])
        streams.compute(x, seen.append)
        del x, y


@pytest.mark.parametrize("ahead", [0, 2])
def test_no_more_is_taken_than_was_said(ahead: int) -> None:
    taken = 0

    def rows() -> Iterator[torch.Tensor]:
        nonlocal taken
        for each in ORDER.split(4):
            taken += 1
            yield each

    for number, _ in enumerate(staged(rows(), plan().make, FakeStreams(ALL_LATE), ahead=ahead), 1):
        assert taken == min(number + ahead, 5)


def test_a_pass_that_is_given_up_waits_for_what_is_under_way() -> None:
    streams = FakeStreams(ALL_LATE)
    batches = staged(iter(ORDER.split(4)), plan().make, streams, ahead=2)
    next(batches)
    assert streams.done[COPY] == 0
    batches.close()  # type: ignore[attr-defined]  # a generator
    streams.run(COMPUTE)
    assert streams.done[COPY] == len(streams.queues[COPY]) > 6


def test_identities_and_words_stay_on_the_host() -> None:
    found = taking(with_uids(TensorDataset(X, Y), [f"s{i}" for i in range(20)]))
    assert found is not None
    (batch,) = staged(
        iter([torch.tensor([4, 2])]), found.make, FakeStreams(LATE_COMPUTING), ahead=1
    )
    assert batch.sample_uid == ("s4", "s2")
    assert torch.equal(batch.sample[0], X[[4, 2]])


def test_a_host_has_no_streams() -> None:
    assert streams_for(torch.device("cpu")) is None
    assert Residence(torch.device("cpu"), Engine()).streams is None


def test_a_device_that_refuses_streams_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(device: torch.device) -> None:
        raise RuntimeError("no stream")

    monkeypatch.setattr(staging, "CudaStreams", refuse)
    assert streams_for(torch.device("cuda")) is None


class Calls:
    """Stands for what torch.cuda offers, and writes down how it is called."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def stream(self, name: str) -> Any:
        return _Stream(name, self.log)


class _Stream:
    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def wait_event(self, event: _Event) -> None:
        self.log.append(f"{self.name} waits for {event.recorded}")

    def __enter__(self) -> None:
        self.log.append(f"on {self.name}")

    def __exit__(self, *error: object) -> None:
        self.log.append(f"off {self.name}")


class _Event:
    log: list[str]
    recorded = ""

    def record(self, stream: _Stream) -> None:
        self.recorded = stream.name

    def synchronize(self) -> None:
        self.log.append(f"host waits for {self.recorded}")


def test_cuda_is_asked_for_what_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls()
    _Event.log = calls.log
    copying, computing = calls.stream("copying"), calls.stream("computing")
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: copying)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: computing)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "Event", _Event)
    empty, pins = torch.empty, []

    def unpinned(*size: Any, pin_memory: bool = False, **settings: Any) -> torch.Tensor:
        pins.append(pin_memory)
        return empty(*size, **(settings | {"device": "cpu"}))

    monkeypatch.setattr(torch, "empty", unpinned)
    streams = staging.CudaStreams(torch.device("cuda"))
    pinned, placed = streams.pinned(Y, 3), streams.placed(X)
    assert (pinned.shape, pinned.dtype, placed.shape) == ((3,), torch.uint8, X.shape)
    assert pins == [True, True, False]
    streams.copy(placed, X)
    assert torch.equal(placed, X)
    streams.host_waits(streams.mark_copies())
    streams.computing_waits(streams.mark_copies())
    streams.copies_wait(streams.mark_computing())
    assert calls.log == [
        *("on copying", "off copying", "host waits for copying"),
        *("computing waits for copying", "copying waits for computing"),
    ]


def test_gathered_data_that_does_not_fit_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = FakeStreams(LATE_COMPUTING)
    monkeypatch.setattr("estimator.residence.is_accelerator", lambda device: True)
    monkeypatch.setattr("estimator.residence.streams_for", lambda device: streams)
    monkeypatch.setattr("estimator.residence.free_memory", lambda device: 0)
    data = TensorDataset(X, Y)
    torch.manual_seed(3)
    expected = list(DataLoader(data, 6, shuffle=True))
    torch.manual_seed(3)
    fast = gathered(DataLoader(data, 6, shuffle=True), Residence(torch.device("cpu"), Engine()))
    assert fast is not None and fast.where() == "streamed to cpu"
    assert same(list(fast), expected)
    assert streams.calls.count("copy") == 8

"""Data that is kept on the device: copied once, in step with the host, and let go at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from fake_streams import opened, pretend, same
from torch.utils.data import DataLoader, Subset, TensorDataset

from estimator import residence, with_uids
from estimator.data import Source
from estimator.engine.options import Engine
from estimator.gather import Gathered, Picked, gathered
from estimator.residence import Residence, bytes_of, free_memory, in_words, is_accelerator
from estimator.sequences import ResumableSampler

CPU = torch.device("cpu")
X = torch.arange(22, dtype=torch.uint8).view(11, 2)
Y = torch.arange(11)


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)


def data() -> TensorDataset:
    return TensorDataset(X.clone(), Y.clone())


def kept(loader: Any, engine: Engine | None = None) -> Gathered:
    fast = gathered(loader, Residence(CPU, engine or Engine()), "fit(train=...)")
    assert fast is not None
    return fast


class Places:
    """Where rows were read from and to, by the addresses of the tensors."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read: list[int] = []
        index_select = torch.Tensor.index_select

        def spied(tensor: torch.Tensor, dim: int, rows: torch.Tensor) -> torch.Tensor:
            self.read.append(tensor.data_ptr())
            return index_select(tensor, dim, rows)

        monkeypatch.setattr(torch.Tensor, "index_select", spied)


LOADERS: dict[str, Callable[[Any], DataLoader[Any]]] = {
    "in order": lambda data: DataLoader(data, 4),
    "shuffled": lambda data: DataLoader(data, 4, shuffle=True, drop_last=True),
    "own generator": lambda data: DataLoader(
        data, 4, shuffle=True, generator=torch.Generator().manual_seed(2)
    ),
    "resumable": lambda data: DataLoader(data, batch_sampler=ResumableSampler(data, 4, seed=2)),
    "dealt": lambda data: DataLoader(
        data, batch_sampler=ResumableSampler(data, 4, seed=2, rank=1, world_size=2)
    ),
    "own batches": lambda data: DataLoader(data, batch_sampler=[[0, -1], [5, 5, 2]]),
    "part": lambda data: DataLoader(Subset(data, range(9, 1, -1)), 4, shuffle=True),
    "identities": lambda data: with_uids(DataLoader(Subset(data, [4, 2, 9]), 2)),
    "given identities": lambda data: DataLoader(with_uids(data, range(11, 22)), 4),
    "words": lambda data: DataLoader(with_uids(Subset(data, [4, 2, 9]), list("abc")), 2),
}


@pytest.mark.parametrize("name", LOADERS)
def test_batches_are_those_of_the_loader(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = data()
    torch.manual_seed(1)
    theirs = [batch for loader in [LOADERS[name](own)] for _ in range(2) for batch in loader]
    stream = torch.get_rng_state()
    torch.manual_seed(1)
    fast, places = kept(LOADERS[name](own)), Places(monkeypatch)
    batches = [batch for _ in range(2) for batch in fast]
    assert same([opened(batch) for batch in batches], theirs)
    assert torch.equal(torch.get_rng_state(), stream)
    assert all(isinstance(batch, Picked) for batch in batches) is (name != "words")
    assert not {tensor.data_ptr() for tensor in own.tensors} & set(places.read)
    assert fast.where() == "0.1 kB kept on cpu"


def test_a_captured_step_reads_the_same_memory_in_every_epoch() -> None:
    own = Subset(data(), [3, 1, 4])
    fast = kept(DataLoader(own, 3))
    (first,) = fast
    own.indices = [5, 9, 2]
    own.dataset.tensors[0].add_(100)  # type: ignore[attr-defined]  # of a TensorDataset
    (second,) = fast
    assert first.take is second.take
    assert same(first.take(second.rows), [X[[5, 9, 2]] + 100, Y[[5, 9, 2]]])


def test_another_form_of_the_data_is_read_from_elsewhere() -> None:
    own = data()
    part = Subset(own, [3, 1, 4])
    fast = kept(DataLoader(part, 3))
    (first,) = fast
    part.indices = [5, 9, 2, 0]
    assert same([opened(batch) for batch in fast], list(DataLoader(part, 3)))
    own.tensors = (X.double(), Y, Y)
    assert same([opened(batch) for batch in fast], list(DataLoader(part, 3)))
    assert next(iter(fast)).take is not first.take


CHANGES: dict[str, Callable[[Any], Any]] = {
    "in place": lambda data: data.tensors[0].mul_(2),
    "replaced": lambda data: setattr(data, "tensors", (X + 7, Y + 1)),
    "its memory": lambda data: setattr(data.tensors[0], "data", X + 9),
    "its size": lambda data: [t.resize_(t.shape[0] - 1, *t.shape[1:]) for t in data.tensors],
    "through numpy": lambda data: np.copyto(data.tensors[1].numpy(), 3),
    "its dtype": lambda data: setattr(data, "tensors", (X.half(), Y)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_between_epochs_is_followed(name: str) -> None:
    own = data()
    if name == "through numpy":
        own.tensors = (own.tensors[0], torch.from_numpy(Y.numpy().copy()))
    fast = kept(DataLoader(own, batch_sampler=[[0, 9, 3]]))
    list(fast)
    CHANGES[name](own)
    assert same([opened(batch) for batch in fast], list(DataLoader(own, batch_sampler=[[0, 9, 3]])))


def test_words_are_those_of_the_epoch() -> None:
    own = with_uids(data(), [f"a{i}" for i in range(11)])
    fast = kept(DataLoader(own, batch_sampler=[[3, 1]]))
    list(fast)
    own.uids = [f"b{i}" for i in range(11)]
    assert next(iter(fast)).sample_uid == ("b3", "b1")


def test_tensors_of_inference_mode_are_copied_in_each_epoch() -> None:
    with torch.inference_mode():
        values = torch.ones(3)
    fast = kept(DataLoader(TensorDataset(values), 3))
    list(fast)
    with torch.inference_mode():
        values.add_(1)
    assert same([opened(batch) for batch in fast], [[torch.full((3,), 2.0)]])


def test_what_does_not_change_is_copied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[int] = []
    follow = residence._Copy.follow

    def counted(copy: Any) -> None:
        before = copy.there._version
        follow(copy)
        copies.append(copy.there._version - before)

    monkeypatch.setattr(residence._Copy, "follow", counted)
    own = data()
    fast = kept(DataLoader(own, 4))
    for _ in range(3):
        list(fast)
    assert copies == [1, 1, 0, 0, 0, 0]


def test_training_and_validation_share_a_copy() -> None:
    own, home = data(), Residence(CPU, Engine())
    parts = [gathered(DataLoader(Subset(own, rows), 4), home) for rows in ([0, 1], [2])]
    for part in parts:
        assert part is not None
        list(part)
    assert len(home._copies) == 2
    own.tensors = (own.tensors[0], Y + 1)
    for part in parts:
        assert part is not None
        list(part)
    assert len(home._copies) == 2


def test_the_share_of_free_memory_decides(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    loader = DataLoader(data(), 4)  # 110 bytes
    for free, found in ((275, True), (274, False)):
        monkeypatch.setattr(residence, "free_memory", lambda device, free=free: free)
        assert kept(loader).where().startswith("0.1 kB kept") is found
    with caplog.at_level("INFO", "estimator"):
        assert kept(loader).where() == "streamed to cpu"
        assert not caplog.messages
        assert kept(loader, Engine(data="device")).where() == "0.1 kB kept on cpu"
        assert kept(loader, Engine(data="host")).where() == "streamed to cpu"
    monkeypatch.setattr(residence, "streams_for", lambda device: None)
    fast = kept(loader)
    assert fast.where() == ""
    assert same(list(fast), list(loader))


def test_data_that_does_not_fit_says_so_once(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setattr(residence, "free_memory", lambda device: 109)
    fast = kept(DataLoader(data(), 4), Engine(data="device"))
    with caplog.at_level("INFO", "estimator"):
        for _ in range(2):
            assert same(list(fast), list(DataLoader(data(), 4)))
    assert caplog.messages == [
        "Data is streamed from the host. [fit:E115] fit(train=...) is not kept on cpu: 0.1 kB do "
        "not fit into the 0.1 kB known to be free. Keep it in a smaller dtype such as uint8, or "
        "pass Engine(data='host') to mean it."
    ]
    monkeypatch.setattr(residence, "free_memory", lambda device: 10**6)
    assert fast.where() == "streamed to cpu"  # as it was said
    fast.release()
    assert fast.where() == "0.1 kB kept on cpu"


def test_an_allocator_that_finds_no_room_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    empty_like, calls = torch.empty_like, []

    def full(*args: Any, **settings: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("no room in one piece")
        return empty_like(*args, **settings)

    monkeypatch.setattr(torch, "empty_like", full)
    fast = kept(DataLoader(data(), 4))
    assert fast.where() == "streamed to cpu" and len(calls) == 2
    assert fast.residence is not None and not fast.residence._copies


def test_tensors_that_are_on_the_device_stay_where_they_are() -> None:
    home = Residence(torch.device("cpu"), Engine(data="host"))
    home.device = torch.device("meta")
    meta = X.to("meta")
    fast = gathered(DataLoader(TensorDataset(meta), 4), home)
    assert fast is not None
    assert [batch.take(batch.rows)[0].shape for batch in fast] == [(4, 2), (4, 2), (3, 2)]
    mixed = gathered(DataLoader(TensorDataset(meta, Y), 4), home)
    assert mixed is not None and mixed.where() == ""
    assert [batch[0].device.type for batch in mixed] == ["meta"] * 3


def test_a_loader_that_pins_is_served_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    loader = DataLoader(data(), 4, pin_memory=True)
    assert gathered(loader) is None
    assert kept(loader).where() == "0.1 kB kept on cpu"


class Endless:
    """A sampler of batches that does not say how many."""

    def __iter__(self) -> Iterator[list[int]]:
        return iter([[1, 2], [3]])


def test_batches_of_unknown_number_are_not_streamed() -> None:
    loader = DataLoader(data(), batch_sampler=Endless())
    fast = kept(loader, Engine(data="host"))
    assert fast.where() == ""
    assert same(list(fast), [[X[[1, 2]], Y[[1, 2]]], [X[[3]], Y[[3]]]])


@pytest.mark.parametrize("where", ["device", "host"])
@pytest.mark.parametrize("name", ["shuffled", "own generator", "resumable", "part", "own batches"])
def test_a_place_is_that_of_the_loader(name: str, where: Any) -> None:
    """Whatever is read ahead: generators and streams, and what comes after the place."""
    found = []
    for home in (None, Residence(CPU, Engine(data=where))):
        torch.manual_seed(5)
        source = Source(LOADERS[name](data()), "data", residence=home)
        batches, rest, places = source.epoch(), [], []
        for done, batch in enumerate(batches, 1):
            rest.append(opened(batch))
            places.append((source.place(done), torch.get_rng_state()))
        place, rest = places[0][0], rest[1:]
        found.append((places, rest, torch.get_rng_state()))
        if source.finds(place):
            other = Source(LOADERS[name](data()), "data", residence=home)
            other.take_up(place)
            assert same([opened(batch) for batch in other.rest(0, place)], rest)
    assert same(*found)


def test_sizes_in_words() -> None:
    assert [in_words(n) for n in (47_040_000, 1_240_000, 110)] == ["47 MB", "1.2 MB", "0.1 kB"]
    assert bytes_of([X, Y, X]) == 22 + 88


def test_free_memory_is_what_tensors_can_still_take(monkeypatch: pytest.MonkeyPatch) -> None:
    class Module:
        mem_get_info = staticmethod(lambda device: (100, 500))
        memory_reserved = staticmethod(lambda device: 70)
        memory_allocated = staticmethod(lambda device: 50)

    monkeypatch.setattr(torch, "get_device_module", lambda device: Module)
    assert free_memory(torch.device("cuda")) == 120
    monkeypatch.setattr(torch, "get_device_module", lambda device: torch.cpu)
    assert free_memory(CPU) == 0


def test_a_host_keeps_nothing_twice() -> None:
    assert [is_accelerator(torch.device(name)) for name in ("cpu", "meta", "cuda", "mps")] == [
        *(False, False, True, True)
    ]

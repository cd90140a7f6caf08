"""The look at first batches before a run takes nothing from streams, loaders and nets."""

from __future__ import annotations

import copy
import multiprocessing
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from batch_runs import QUIET, Counted, Pairs, Recorder, Stream, fitted, numbers, pairs, whole
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from estimator import DataError, Estimator, Trainer, TrainStats, with_uids
from estimator.data import Source
from estimator.handlers import EventHandler
from estimator.randomness import random_state_kept

READY: Any = pairs(10, 4)
ROWS: Any = list(zip(numbers(4), numbers(4), strict=True))


def draw() -> float:
    """A number from each of the global random streams, put together."""
    return random.random() + float(np.random.random()) + torch.rand(()).item()


class Augmented(Pairs):
    """Samples that differ each time they are asked for."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = super().__getitem__(index)
        return x + draw(), y


class Drawing:
    """Batches that are made with random numbers, anew each time."""

    def __iter__(self) -> Iterator[Any]:
        for x, y in pairs(10, 4):
            yield x + draw(), y


def noisy_net() -> nn.Module:
    body = [nn.Linear(1, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1)]
    return nn.Sequential(*body)


def written_out(net: nn.Module, train: Any, val: Any) -> None:
    """Three epochs of a loop without an Estimator."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for _ in range(3):
        net.train()
        for x, y in train:
            optimizer.zero_grad()
            nn.functional.mse_loss(net(x), y).backward()
            optimizer.step()
        net.eval()
        for x, _y in val:
            net(x)


def own_stream(seed: int) -> DataLoader[Any]:
    return DataLoader(Pairs(10), 4, True, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "make",
    [
        lambda: (DataLoader(Pairs(10), 4, shuffle=True), DataLoader(Pairs(10), 4)),
        lambda: (DataLoader(Augmented(10), 4, shuffle=True), DataLoader(Augmented(10), 4)),
        lambda: (DataLoader(READY, None, shuffle=True), DataLoader(READY, None)),
        lambda: (own_stream(1), own_stream(2)),
        lambda: (pairs(10, 4), pairs(10, 4)),
        lambda: (Drawing(), Drawing()),
        lambda: (Drawing(), DataLoader(Stream(10), 4)),
        lambda: (DataLoader(Augmented(10), 4, True), DataLoader(Pairs(10), 4, num_workers=1)),
        lambda: ([pairs(10, 4)[0]], Counted(pairs(10, 4))),
    ],
)
def test_a_run_draws_what_a_loop_without_a_look_draws(make: Callable[[], Any]) -> None:
    net = noisy_net()
    twin = copy.deepcopy(net)
    seeds = random.getstate(), np.random.get_state(), torch.get_rng_state()
    written_out(twin, *make())
    expected = draw()
    random.setstate(seeds[0])
    np.random.set_state(seeds[1])
    torch.set_rng_state(seeds[2])
    train, val = make()
    trainers = Trainer("sgd", lr=0.01)
    Estimator(net, nn.MSELoss()).fit(train, val, 3, **QUIET | {"trainers": trainers})
    assert draw() == expected
    for name, value in net.state_dict().items():
        assert torch.equal(value, twin.state_dict()[name]), name


class AtBegin(EventHandler):
    """Looks around before the first step."""

    def __init__(self, look: Callable[[TrainStats], Any]) -> None:
        super().__init__()
        self.look, self.seen = look, None

    def train_begin(self, stats: TrainStats) -> None:
        self.seen = self.look(stats)


def test_the_buffers_of_the_net_are_those_from_before() -> None:
    net = noisy_net()
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    handler = AtBegin(lambda stats: {n: b.clone() for n, b in net.named_buffers()})
    est = Estimator(net, nn.MSELoss())
    est.fit(pairs(10, 4), pairs(10, 4), 1, handlers=handler, **QUIET)
    seen = handler.seen
    assert seen is not None and before.keys() == seen.keys()
    assert all(torch.equal(before[name], seen[name]) for name in before)
    assert int(net.get_buffer("1.num_batches_tracked")) == 3


def test_the_look_at_validation_data_starts_no_workers_and_draws_no_order() -> None:
    generator = torch.Generator().manual_seed(4)
    val: DataLoader[Any] = DataLoader(Pairs(10), 4, True, num_workers=1, generator=generator)
    handler = AtBegin(lambda stats: (multiprocessing.active_children(), generator.get_state()))
    est = Estimator(nn.Linear(1, 1), nn.MSELoss())
    before = generator.get_state()
    est.fit(pairs(10, 4), val, 1, handlers=handler, **QUIET)
    assert handler.seen is not None
    workers, state = handler.seen
    assert workers == []
    assert torch.equal(state, before)
    assert not torch.equal(generator.get_state(), before)


class Opening(Dataset[Any]):
    """Opens its file at the first sample, and remembers which process did."""

    def __init__(self) -> None:
        self.file: int | None = None

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Any:
        if self.file is None:
            self.file = multiprocessing.current_process().pid
        return numbers(6)[index], torch.tensor([float(self.file or 0)])


@pytest.mark.parametrize(
    "wrap", [lambda d: d, lambda d: Subset(d, range(6)), lambda d: with_uids(d)]
)
def test_what_workers_open_stays_closed_for_the_look(wrap: Callable[[Any], Any]) -> None:
    dataset = Opening()
    source = Source(DataLoader(wrap(dataset), 4, num_workers=1), "val")
    assert source.sample() is not None
    assert dataset.file is None
    Source(DataLoader(wrap(dataset), 4), "val").sample()
    assert dataset.file == multiprocessing.current_process().pid


def test_what_workers_open_stays_closed_in_parts_too() -> None:
    parts = [Opening(), Opening()]
    source = Source(DataLoader(ConcatDataset(parts), 9, num_workers=1), "val")
    assert whole(source.sample()[0]) == [0, 1, 2, 3, 4, 5, 0, 1, 2]
    assert [part.file for part in parts] == [None, None]


class Scaled(DataLoader[Any]):
    """A loader that changes what its dataset gives."""

    def __iter__(self) -> Any:
        return ((2 * x, 2 * y) for x, y in super().__iter__())


def set_up(worker: int) -> None:
    """What a worker does first."""


TEN = Pairs(10)
NO_LOOK: list[Callable[[], Any]] = [
    lambda: DataLoader(Stream(10), 4),
    lambda: DataLoader(Stream(10), None),
    lambda: DataLoader(TEN, batch_sampler=BatchSampler(SequentialSampler(TEN), 4, False)),
    lambda: DataLoader(TEN, None, sampler=BatchSampler(SequentialSampler(TEN), 4, False)),
    lambda: DataLoader(TEN, 4, sampler=[3, 2, 1]),
    lambda: DataLoader(TEN, 4, sampler=WeightedRandomSampler([1.0] * 10, 10)),
    lambda: DataLoader(TEN, 4, num_workers=1, worker_init_fn=set_up),
    lambda: Scaled(TEN, 4),
]


@pytest.mark.parametrize("make", NO_LOOK)
def test_no_look_where_it_would_cost_or_mislead(make: Callable[[], Any]) -> None:
    assert Source(make(), "val").sample() is None


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: DataLoader(TEN, 4, shuffle=True), [0, 1, 2, 3]),
        (lambda: DataLoader(TEN, 16), list(range(10))),
        (lambda: DataLoader(TEN, 4, num_workers=2), [0, 1, 2, 3]),
        (lambda: DataLoader(TEN, 4, sampler=SubsetRandomSampler([7, 9, 8])), [7, 9, 8]),
        (lambda: DataLoader(TEN, 4, sampler=RandomSampler(TEN)), [0, 1, 2, 3]),
        (lambda: DataLoader(TEN, 2, sampler=DistributedSampler(TEN, 2, 1)), [0, 1]),
        (lambda: DataLoader(Subset(TEN, [5, 6, 7]), 2), [5, 6]),
        (lambda: DataLoader(TEN, None), [0]),
        (lambda: DataLoader(ROWS, 3, num_workers=1), [0, 1, 2]),
        (lambda: pairs(10, 3), [0, 1, 2]),
        (lambda: Counted(pairs(10, 3)), [0, 1, 2]),
        (lambda: iter(pairs(10, 3)), [0, 1, 2]),
        (lambda: TensorDataset(numbers(40), numbers(40)), list(range(32))),
    ],
)
def test_the_look_shows_a_batch_as_the_loader_makes_it(
    make: Callable[[], Any], expected: list[int]
) -> None:
    assert whole(Source(make(), "val").sample()[0]) == expected


def test_the_look_uses_what_the_loader_uses() -> None:
    class Several(Pairs):
        def __getitem__(self, index: int) -> Any:
            raise AssertionError("one sample is never asked for")

        def __getitems__(self, indices: list[int]) -> Any:
            return [(self.x[i], i) for i in indices]

    def collate(samples: list[Any]) -> Any:
        return torch.stack([x for x, _ in samples]), [i for _, i in samples]

    x, indices = Source(DataLoader(Several(10), 3, collate_fn=collate), "val").sample()
    assert (whole(x), indices) == ([0, 1, 2], [0, 1, 2])


def test_a_loader_with_an_iter_of_its_own_is_gone_through_as_it_is() -> None:
    seen = fitted(Scaled(TEN, 4), Scaled(TEN, 4), epochs=2)
    assert seen.train == seen.val == [[0, 2, 4, 6], [8, 10, 12, 14], [16, 18]] * 2


def test_a_loader_of_ready_batches_is_not_misread() -> None:
    class Sliced(Dataset[Any]):
        def __len__(self) -> int:
            return 10

        def __getitem__(self, indices: list[int]) -> Any:
            return numbers(10)[indices], 2 * numbers(10)[indices]

    loader = DataLoader(
        Sliced(), None, sampler=BatchSampler(SequentialSampler(range(10)), 4, False)
    )
    assert fitted(loader, loader).val == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize("workers", [0, 1])
def test_validation_data_that_does_not_fit_is_found_before_training(workers: int) -> None:
    recorder = Recorder()
    wrong = DataLoader(TensorDataset(numbers(4), torch.zeros(4, 2)), 4, num_workers=workers)
    with pytest.raises(DataError, match=r"tensor\(4, 2\)"):
        fitted(pairs(10, 4), wrong, recorder=recorder)
    assert recorder.train == []


def test_a_drawing_iterator_keeps_the_batch_of_the_look() -> None:
    seen = fitted(pairs(10, 4), iter(Drawing()), epochs=1)
    assert [len(batch) for batch in seen.val] == [4, 4, 2]


def test_lazy_modules_take_their_shapes_before_optimizers_take_them() -> None:
    net = nn.Sequential(nn.LazyLinear(3), nn.ReLU(), nn.LazyLinear(1))
    est = Estimator(net, nn.MSELoss())
    handler = AtBegin(lambda stats: [p.detach().clone() for p in net.parameters()])
    stats = est.fit(
        pairs(10, 4), pairs(10, 4), 2, device="cpu", progress=False, handlers=handler,
        trainers=Trainer("sgd", lr=0.1),
    )  # fmt: skip
    assert handler.seen is not None
    assert [tuple(p.shape) for p in net.parameters()] == [(3, 1), (3,), (1, 3), (1,)]
    assert len(next(iter(stats.trainers.values())).params) == 4
    assert not torch.equal(handler.seen[-1], net.get_parameter("2.bias"))
    assert (stats.step, stats.samples) == (6, 20)


@pytest.mark.parametrize(
    ("use", "is_drawn"),
    [
        (random.random, True),
        (np.random.random, True),
        (lambda: torch.rand(1), True),
        (lambda: torch.rand(1, generator=torch.Generator()), False),
        (lambda: np.random.default_rng(0).random(), False),
    ],
)
def test_random_state_kept_says_what_was_drawn(use: Callable[[], Any], is_drawn: bool) -> None:
    with random_state_kept() as drawn:
        assert not drawn()
        use()
        assert drawn() is is_drawn
        first = draw()
    with pytest.raises(KeyError), random_state_kept():
        use()
        assert draw() == first
        raise KeyError
    use()
    assert draw() == first

"""The states of the parts of a run: what is saved in the middle goes on as if never saved."""

from __future__ import annotations

import copy
import functools
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, StepLR

from estimator import Trainer, TrainStats
from estimator.accumulation import Accumulation
from estimator.handlers.base import Every
from estimator.meter import LossMeter
from estimator.rows import Rows
from estimator.validation import Validation

CPU = torch.device("cpu")


def plain(state: Any) -> Any:
    """A state after a way through a file that refuses all but plain values."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def meters(kind: str, batches: int) -> LossMeter:
    meter = LossMeter(CPU)
    add(meter, kind, range(batches))
    return meter


def add(meter: LossMeter, kind: str, numbers: range) -> None:
    generator = torch.Generator().manual_seed(1)
    losses = torch.rand(200, generator=generator)
    for i in numbers:
        weight: Any = torch.tensor(i % 5) if kind == "items" else 3 + i % 2
        meter.add(losses[i], {"l1": losses[-i]}, weight, 4, is_sum=kind == "sum")


@pytest.mark.parametrize("kind", ["samples", "items", "sum"])
@pytest.mark.parametrize("at", [0, 1, 63, 64, 70])
def test_a_meter(kind: str, at: int) -> None:
    part, resumed = meters(kind, at), LossMeter(CPU)
    resumed.load_state_dict(plain(part.state_dict()))
    add(resumed, kind, range(at, 150))
    whole, mine = meters(kind, 150).means(), resumed.means()
    assert mine.keys() == whole.keys() == {"loss", "l1"}
    assert all(torch.equal(mine[name], whole[name]) for name in whole)


def test_a_state_of_a_meter_is_no_look_at_it() -> None:
    meter = meters("items", 5)
    before = meter.state_dict()
    assert len(before["waiting"]) == 5 and len(meter.state_dict()["waiting"]) == 5


def new_group(parameters: list[nn.Parameter], counts: Any, group: Accumulation) -> None:
    """Takes batches of so many items into a group."""
    for i, count in enumerate(counts):
        loss = sum((p * (i + 1)).sum() for p in parameters)
        assert isinstance(loss, Tensor)
        group.weigh(loss, count, 4).backward()
        group.filled += 1


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))]


@pytest.mark.parametrize("counts", [[4, 4, 2], [torch.tensor(3), torch.tensor(0), torch.tensor(2)]])
def test_an_open_group(counts: Any) -> None:
    whole, part, resumed = parameters(), parameters(), parameters()
    group = Accumulation(3)
    new_group(whole, counts, group)
    group.finish(whole)
    first = Accumulation(3)
    new_group(part, counts[:1], first)
    state = plain(first.state_dict(part))
    resumed[0].grad = torch.full((3,), 99.0)  # of another group, which must not leak in
    second = Accumulation(3)
    second.load_state_dict(state, resumed)
    assert (second.filled, second.full(False)) == (1, False)
    for i, count in enumerate(counts[1:], 1):
        loss = sum((p * (i + 1)).sum() for p in resumed)
        assert isinstance(loss, Tensor)
        second.weigh(loss, count, 4).backward()
    second.finish(resumed)
    for one, other in zip(whole, resumed, strict=True):
        assert one.grad is not None and other.grad is not None
        assert torch.equal(one.grad, other.grad)


def test_parameters_without_a_gradient_stay_so() -> None:
    part, resumed = parameters(), parameters()
    group = Accumulation(2)
    new_group(part[:1], [4], group)
    second = Accumulation(2)
    second.load_state_dict(group.state_dict(part), resumed)
    assert resumed[0].grad is not None and resumed[1].grad is None


def test_without_an_open_group_there_is_no_state() -> None:
    group, own = Accumulation(2), parameters()
    assert group.state_dict(own) is None
    new_group(own, [4], group)
    group.load_state_dict(None, own)
    assert group.filled == 0


SCHEDULES: dict[str, Any] = {
    "none": None,
    "step": functools.partial(StepLR, step_size=1, gamma=0.5),
    "cycle": functools.partial(OneCycleLR, max_lr=0.1, total_steps=12),
    "plateau": functools.partial(ReduceLROnPlateau, patience=0, factor=0.1),
}


def advance(bound: Any, epochs: int, stats: TrainStats) -> list[list[float]]:
    rates = []
    for _ in range(epochs):
        for _ in range(2):
            for p in bound.params:
                p.grad = torch.full_like(p, 0.1) + p.detach()
            bound.optimizer.step()
            bound.after_step()
            rates.append(bound.lrs)
        bound.after_value("validation_end", stats)
        bound.after_epoch()
        rates.append(bound.lrs)
    return rates


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_trainer(name: str) -> None:
    spec = Trainer("adam", lr=0.05, scheduler=SCHEDULES[name])
    torch.manual_seed(1)
    net = nn.Linear(2, 2)
    twin, other = copy.deepcopy(net), nn.Linear(2, 2)
    stats = TrainStats(net, CPU)
    stats.monitors, stats.val = {"val_loss": False}, {"loss": 1.0}
    whole, part = spec.bind("all", net), spec.bind("all", twin)
    for bound in (whole, part):
        if bound.monitor is not None:
            bound.monitor.resolve(stats, "Trainer")
    expected = advance(whole, 5, stats)
    begun = advance(part, 2, stats)
    other.load_state_dict(twin.state_dict())
    resumed = spec.bind("all", other)
    if resumed.monitor is not None:
        resumed.monitor.resolve(stats, "Trainer")
    resumed.load_state_dict(plain(part.state_dict()))
    assert resumed.lrs == begun[-1]
    assert begun + advance(resumed, 3, stats) == expected
    assert torch.equal(net.weight, other.weight)
    assert name == "none" or len({rate for rates in expected for rate in rates}) > 1


def row_stats() -> TrainStats:
    return TrainStats(nn.Linear(1, 1), CPU)


def test_the_row_of_a_cut_epoch() -> None:
    stats = row_stats()
    rows = Rows(stats)
    stats.epoch, stats.step, stats.train = 1, 3, {"loss": 1.0}
    rows.close(complete=True)
    assert rows.cut is None
    stats.step = 5
    rows.close(complete=False)
    assert rows.cut == [] and stats["complete"] == [True, False]


def test_the_row_of_an_epoch_that_is_cut_at_a_validation() -> None:
    stats = row_stats()
    rows = Rows(stats)
    stats.step, stats.train, stats.val, stats.validated_at = 2, {"loss": 1.0}, {"loss": 3.0}, 2
    rows.add(complete=False)
    inside = dict(stats.history.rows[0])
    assert not rows.lacks_step()
    stats.train = {"loss": 2.0}
    rows.close(complete=False)
    # One row a step: the second took the place of the first, which a resumed run puts back.
    assert len(stats.history) == 1 and stats["train_loss"] == [2.0] and stats["val_loss"] == [3.0]
    assert rows.cut is not None and rows.cut == [inside]
    stats.step = 3
    assert rows.lacks_step()


@pytest.mark.parametrize(
    ("every", "before", "after"),
    [
        (Every(steps=2), [False, True, False], [True, False, True]),
        (Every(epochs=2), [False, False, False], [False, False, True]),
        (Every(steps=5, kind="once"), [False, False, False], [False, True, False]),
    ],
)
def test_validations_go_on_in_their_rhythm(every: Every, before: Any, after: Any) -> None:
    """Three steps make an epoch; the second one ends with the run's data for it."""
    stats = row_stats()
    stats.stepped, stats.epochs = True, 9
    source: Any = None

    def due(epoch: int) -> list[bool]:
        validation = Validation(stats, source, every)
        validation.begin()
        seen = []
        for number in range(3):
            stats.step += 1
            seen.append(validation.due_after_batch(is_last=number == 2))
        stats.epoch = epoch
        return seen

    assert due(1) == before and due(2) == after

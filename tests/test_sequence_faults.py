"""What sequences with workers leave behind, and wait for, where something goes wrong."""

from __future__ import annotations

import itertools
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sequence_fns as fns
import torch
from torch import nn

from estimator import Estimator
from estimator.dealing import deal
from estimator.distributed import World
from estimator.handlers.base import ArgumentError, DataError
from estimator.sequences import SequenceArray, SequenceAsyncReservoir, SequenceMap
from estimator.sequences.batches import Named
from estimator.sequences.crew import end_all
from estimator.sequences.options import Jobs
from estimator.sequences.pool import Pool, Session
from estimator.sequences.reservoir import MOST_AHEAD
from estimator.sequences.shared import Block, Place, forget
from estimator.sequences.work import Task, Work

X = torch.arange(24.0)
WITH_WORKERS = ["map", "reservoir"]


def numbers(batch_size: int = 4) -> SequenceArray:
    return SequenceArray({"x": X}, batch_size)


def made(kind: str, fn: Any = fns.same, **options: Any) -> SequenceMap | SequenceAsyncReservoir:
    if kind == "map":
        return numbers().map(fn, **{"workers": 1} | options)
    return numbers().async_reservoir(fn=fn, capacity=12, **options)


def pool_of(sequence: Any) -> Pool:
    pool = sequence._pool if isinstance(sequence, SequenceMap) else sequence._state.pool
    assert isinstance(pool, Pool)
    return pool


def task(*uids: int) -> Task:
    return Task(Named({"x": torch.tensor(uids)}, list(uids)), seed=1)


def is_there(name: str) -> bool:
    try:
        Block(name=name).close()
    except FileNotFoundError:
        return False
    return True


def test_results_that_nobody_takes_leave_no_memory_behind() -> None:
    """A worker makes room for a result itself, under a name that the other side must know."""
    pool = Pool(Work(fns.Enlarged()), 1, Jobs(seed=1, timeout=20), "it")
    (worker,) = pool._workers
    while not worker.is_ready:
        pool.step(1)
    Session(pool).submit(0, Task(Named({"x": torch.zeros(1, 1)}, [0]), seed=1))
    (key,) = worker.jobs
    name = worker._answer(key)
    assert worker.connection.poll(20) and is_there(name)
    pool.close()
    assert not is_there(name) and not worker.process.is_alive()
    forget(name)  # once more is no error


def test_a_name_finds_memory_until_it_is_forgotten() -> None:
    here, there = Place(owns=False), Place(owns=False)
    assert there.get(*here.put([1], "te_a_test")) == [1] and is_there("te_a_test")
    here.close()
    there.close()
    assert is_there("te_a_test")
    forget("te_a_test")
    assert not is_there("te_a_test")


def test_a_message_is_short_whatever_it_is_about() -> None:
    """A pipe that is full in both directions would hold up both sides for ever."""
    place, many = Place(owns=True), [torch.tensor([float(i)]) for i in range(3000)]
    where = place.put(many)
    assert len(pickle.dumps(where)) < 100
    assert torch.equal(torch.cat(place.get(*where)), torch.arange(3000.0))
    place.close()


@pytest.mark.parametrize("size", [1, 7, 64, 1000, 8192])
def test_batches_of_any_size_are_made_of_few_tasks(size: int) -> None:
    source = SequenceArray({"x": torch.arange(float(size))}, size)
    with source.async_reservoir(capacity=size, max_reuse=1) as reservoir:
        for batch in (*reservoir, *reservoir):
            assert sorted(batch["sample_uid"].tolist()) == list(range(size))
        assert pool_of(reservoir).ahead <= MOST_AHEAD


def test_one_worker_that_hangs_beside_others_is_told(tmp_path: Path) -> None:
    """The others go on, so that nobody would wait: the run would only be slower, for ever."""
    hangs = fns.HangsOnce(tmp_path / "flag", 20)
    reservoir = made("reservoir", hangs, workers=2, max_reuse=1, timeout=1.0)
    message = r"1 s without a result of 1 of its 2 workers, at work on the samples \[20\]"
    with reservoir, pytest.raises(DataError, match=message):
        for _ in itertools.count():
            list(reservoir)


def test_time_in_which_nobody_looked_is_not_a_time_out(tmp_path: Path) -> None:
    """A validation may last longer than the time-out, or the whole process be stopped."""
    waits = fns.WaitsFor(tmp_path / "flag", 5)
    pool = Pool(Work(waits), 1, Jobs(seed=1, timeout=20), "it")
    session = Session(pool)
    session.submit(0, task(5))
    pool.step(20)
    pool._looked -= 1000
    pool.step(0)
    assert pool._workers[0].silence < 20
    waits.flag.touch()
    session.wait()
    assert session.taken()[0].batch.uids == [5]
    pool.step(0)
    assert pool._workers[0].silence == 0
    pool.close()


@pytest.mark.parametrize("kind", WITH_WORKERS)
def test_a_worker_that_never_starts_is_told(kind: str) -> None:
    sequence = made(kind, fns.StartsLate(), timeout=0.3)
    with sequence, pytest.raises(DataError, match="cannot start .nothing was heard of.* 0.3 s"):
        list(sequence)


@pytest.mark.parametrize("kind", WITH_WORKERS)
def test_ctrl_c_ends_the_workers_and_the_next_pass_is_whole(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may come in the middle of a message, of which the rest would be taken for the next."""

    def interrupted(*_: Any) -> bool:
        raise KeyboardInterrupt

    with made(kind) as sequence:
        batches = iter(sequence)
        next(batches)
        processes = [each.process for each in pool_of(sequence)._workers]
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Pool, "step", interrupted)
            list(batches)
        assert not any(process.is_alive() for process in processes)
        assert sum(len(batch["x"]) for batch in sequence) == 24
        pool = pool_of(sequence)
        next(iter(sequence))  # a pass that is left keeps them
        assert pool_of(sequence) is pool and pool.is_open


def test_ctrl_c_while_workers_are_ended_leaves_none() -> None:
    ended: list[int] = []

    class Fake:
        def __init__(self, number: int) -> None:
            self.number, self.connection = number, self

        def send(self, message: None) -> None:
            if self.number == 1:
                raise BrokenPipeError

        def end(self, until: float) -> None:
            ended.append(self.number)
            if self.number == 1:
                raise KeyboardInterrupt

    workers: list[Any] = [Fake(number) for number in range(3)]
    with pytest.raises(KeyboardInterrupt):
        end_all(workers)
    assert sorted(ended) == [0, 1, 2] and workers == []


def test_a_reservoir_that_cannot_begin_leaves_no_workers() -> None:
    reservoir = numbers().async_reservoir(fn=fns.worded, capacity=12)
    with pytest.raises(DataError, match="reservoir holds tensors") as caught:
        list(reservoir)
    assert caught.value.__traceback__ is not None  # which keeps all that was there
    assert reservoir._state is None and reservoir.failures == []
    reservoir.close()


def test_what_arrives_and_cannot_be_made_again_names_its_samples() -> None:
    with (
        numbers().map(fns.same, workers=1, collate=fns.of_workers) as sequence,
        pytest.raises(DataError, match="the sample 0 could not be made: .*only in a worker"),
    ):
        list(sequence)


def test_a_lack_of_files_is_no_dead_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job whose result could not be opened was lost, and waited for until the time-out."""

    def full(self: Place, name: str, count: int) -> Any:
        raise OSError(24, "Too many open files")

    with numbers().map(fns.Enlarged(), workers=1) as sequence:
        monkeypatch.setattr(Place, "get", full)
        with pytest.raises(OSError, match="Too many open files"):
            list(sequence)
        assert sequence._pool is None


def test_a_budget_without_end_does_not_make_an_endless_wait() -> None:
    options: Any = {"on_error": "drop", "max_drops": 10**9}
    with (
        made("reservoir", fns.fails, **options) as reservoir,
        pytest.warns(UserWarning, match="leaves out the sample 0"),
        pytest.raises(DataError, match="none of the 24 samples of an epoch.*RuntimeError: always"),
    ):
        list(reservoir)


@pytest.mark.parametrize("kind", WITH_WORKERS)
@pytest.mark.parametrize("side", ["train", "val"])
def test_a_fit_over_a_job_that_never_ends_stops(kind: str, side: str, tmp_path: Path) -> None:
    waits = fns.WaitsFor(tmp_path / "flag", 9)
    waits.flag.touch()
    pairs = SequenceArray({"x": X.view(-1, 1), "y": X.view(-1, 1)}, 4)
    hangs: Any = pairs.map(waits, workers=1)
    if kind == "reservoir":
        hangs = pairs.async_reservoir(fn=waits, capacity=24)
    list(hangs)
    pool = pool_of(hangs)
    pool.settings = replace(pool.settings, timeout=0.3)
    waits.flag.unlink()
    data = {"train": pairs, "val": pairs} | {side: hangs}
    model = Estimator(nn.Linear(1, 1), nn.MSELoss(), targets="y")
    with hangs, pytest.raises(DataError, match=r"0\.3 s without a result.*samples \[9\]"):
        model.fit(data["train"], data["val"], epochs=100, progress=False)


def test_an_epoch_without_an_order_goes_on_with_a_warning() -> None:
    with numbers().map(fns.same, workers=1, ordered=False) as sequence:
        pipeline = sequence.rebatch(6)
        next(iter(pipeline))
        state = pipeline.state_dict()
        with pytest.warns(UserWarning, match=r"no fixed order \(ordered=False\)"):
            pipeline.load_state_dict(state)
        pipeline.load_state_dict({**state, "done": 0})
    in_this_process = numbers().map(fns.same, ordered=False)
    next(iter(in_this_process))
    in_this_process.load_state_dict(in_this_process.state_dict())


@pytest.mark.parametrize("done", [1, 2, 5])
def test_an_epoch_goes_on_after_batches_that_came_to_nothing(done: int) -> None:
    """They are not among those that a run counts, and the place after them is none of the source's.

    Batches 0, 3 and 6 of the eight come to nothing.
    """
    sequence = SequenceArray({"x": X[:8]}, 1).map(fns.fails_on_thirds, on_error="drop")
    names = [1, 2, 4, 5, 7]
    with pytest.warns(UserWarning, match="leaves out the sample 0"):
        for batch in itertools.islice(sequence, done):
            assert batch["sample_uid"].item() in names[:done]
        sequence.load_state_dict(sequence.state_dict())
        assert [batch["sample_uid"].item() for batch in sequence] == names[done:]


@pytest.mark.parametrize(
    ("fn", "received"),
    [
        (lambda b: {**b, "y": b["x"][:2]}, r"received 2 rows in batch\['y'\]"),
        (lambda b: (b["x"], b["x"][:3]), r"received 3 rows in batch\[1\]"),
        (lambda b: {"x": b["x"][:1]}, "received 1 of them"),
        (lambda b: {"sample_uid": b["sample_uid"]}, r"received \{'sample_uid'.*\}"),
        (lambda b: {}, r"received \{\}"),
    ],
)
def test_a_function_of_batches_keeps_all_rows(fn: Any, received: str) -> None:
    with pytest.raises(DataError, match=rf"4 samples that it got, from 0 to 3; {received}"):
        list(numbers().map(fn, batched=True))


@pytest.mark.parametrize("nothing", [None, {}, (), []])
def test_a_collate_that_returns_nothing_is_told(nothing: Any) -> None:
    message = r"collate must return a batch of the 4 samples .* received (None|\{\}|\(\)|\[\])\."
    for sequence in (
        numbers().collate(lambda samples: nothing),
        numbers().map(fns.same, collate=lambda samples: nothing),
    ):
        with pytest.raises(DataError, match=message):
            list(sequence)


@pytest.mark.parametrize("kind", [*WITH_WORKERS, "rebatch"])
def test_a_fraction_of_a_sequence_cannot_be_held_out(kind: str) -> None:
    sequence: Any = numbers().rebatch(3) if kind == "rebatch" else made(kind)
    message = rf"fit\(val=0.1\) splits .* received {type(sequence).__name__}.*subsample_uids"
    with pytest.raises(ArgumentError, match=message):
        Estimator(nn.Linear(1, 1), nn.MSELoss()).fit(sequence, 0.1, epochs=1, progress=False)


@pytest.mark.parametrize("kind", WITH_WORKERS)
def test_a_sequence_with_workers_is_not_dealt_to_processes(kind: str) -> None:
    sequence = made(kind)
    message = rf"fit\(train=...\) is dealt to several processes.*received {type(sequence).__name__}"
    with pytest.raises(DataError, match=message):
        deal(sequence, "fit(train=...)", World())

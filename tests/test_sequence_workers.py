"""The parts below sequences: shared memory, a worker's loop, and a pool of workers."""

from __future__ import annotations

import pickle
import signal
import threading
from collections.abc import Iterator
from multiprocessing import Pipe
from typing import Any, NamedTuple

import pytest
import sequence_fns as fns
import torch
from torch import nn

from estimator.handlers.base import DataError
from estimator.sequences import pool as pools
from estimator.sequences import worker
from estimator.sequences.batches import Named
from estimator.sequences.crew import Job
from estimator.sequences.fields import Fields, StoreWork, Target, layout_of
from estimator.sequences.options import Jobs
from estimator.sequences.pool import Pool, Session
from estimator.sequences.shared import Block, Place, dumped, loaded
from estimator.sequences.work import Outcome, Task, Work


class Usage(NamedTuple):
    free: int


@pytest.fixture
def pool() -> Iterator[Pool]:
    made = Pool(Work(fns.same), 1, Jobs(seed=1, timeout=20), "it")
    yield made
    made.close()


def task(*uids: int) -> Task:
    return Task(Named({"x": torch.tensor(uids)}, list(uids)), seed=1)


def test_values_arrive_as_they_were() -> None:
    grad = nn.Parameter(torch.ones(2))
    values = {
        "bfloat": torch.randn(3, 2).to(torch.bfloat16), "empty": torch.empty(0, 4),
        "scalar": torch.tensor(True), "strided": torch.arange(6).view(2, 3).T, "text": "words",
        "complex": torch.randn(2, dtype=torch.complex64), "sparse": torch.eye(2).to_sparse(),
        "grad": grad,
    }  # fmt: skip
    found = loaded([bytearray(piece) for piece in dumped(values)])
    assert list(found) == list(values) and found["text"] == "words"
    for name, tensor in values.items():
        if isinstance(tensor, torch.Tensor):
            assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
            assert torch.equal(found[name].to_dense(), tensor.to_dense())
    assert found["grad"].requires_grad and found["strided"].is_contiguous()


def test_a_place_grows_and_its_old_memory_is_gone() -> None:
    here, there = Place(owns=True), Place(owns=False)
    assert there.get(*here.put([1, 2])) == [1, 2]
    small = here.block
    assert small is not None
    large = torch.randn(5000)
    assert torch.equal(there.get(*here.put(large)), large)
    assert here.block is not small
    with pytest.raises(FileNotFoundError):
        Block(name=small.name)
    assert torch.equal(here.get(*there.put(large * 2)), large * 2)  # and in the other direction
    there.close()
    here.close()
    here.close()


def test_a_lack_of_shared_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(1_000_000))
    with pytest.raises(DataError, match="need 5.0 MB of shared memory.*1.0 MB left.*--shm-size"):
        Block(5_000_000)
    monkeypatch.setattr("sys.platform", "other")
    Block(5_000_000).close(unlink=True)


def test_a_worker_answers_until_it_is_told_to_end() -> None:
    handler = signal.getsignal(signal.SIGINT)
    mine, theirs = Pipe()
    place, progress = Place(owns=True), [-1, 0]
    mine.send((7, 0, None, *place.put(task(4, 5))))
    mine.send(None)
    try:
        worker.run(theirs, pickle.dumps(Work(fns.same)), 1, progress)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, handler)
    assert mine.recv() is None  # it is ready
    number, name, sizes = mine.recv()
    outcome = place.get(name, sizes)
    assert number == 7 and outcome.batch.uids == [4, 5] and outcome.failures == []
    assert progress == [-1, 1]
    place.close()


def test_a_worker_ends_when_nobody_is_left_to_work_for() -> None:
    mine, theirs = Pipe()
    thread = threading.Thread(target=worker.run, args=(theirs, pickle.dumps(Work(fns.same)), 1, []))
    thread.start()
    mine.close()
    thread.join(20)
    assert not thread.is_alive()


def test_a_worker_writes_samples_to_their_places() -> None:
    layout = layout_of({"x": torch.zeros(1, dtype=torch.int64)}, 0, 5)
    fields, (mine, theirs) = Fields(layout), Pipe()
    into = Target(fields.layout, [3, 1])
    places = [Place(owns=True), Place(owns=True)]
    for index, place in enumerate(places):
        mine.send((7, index, None, *place.put(task(4, 5)._replace(into=into))))
    mine.send(None)
    arguments = (theirs, pickle.dumps(StoreWork(fns.same)), 1, [-1, 0])
    thread = threading.Thread(target=worker.run, args=arguments)
    thread.start()
    thread.join(20)
    assert fields.read(torch.tensor([3, 1]))["x"].tolist() == [4, 5]
    StoreWork(fns.same).close()
    fields.close()
    for place in places:
        place.close()


def test_samples_are_written_only_where_they_are_like_the_first() -> None:
    fields = Fields(layout_of({"x": torch.zeros(1), "n": torch.zeros(1, 0)}, 0, 5))
    work, into = StoreWork(fns.of_two_shapes), Target(fields.layout, [4, 2, 0])
    batch = Named({"x": torch.arange(3.0), "n": torch.zeros(3, 0)}, [3, 4, 9])
    outcome = StoreWork(fns.same)(Task(batch, 1, into=into), lambda row: None)
    assert outcome.batch == Named([4, 2, 0], [3, 4, 9]) and not outcome.failures
    assert fields.read(torch.tensor([2, 4]))["x"].tolist() == [1.0, 0.0]
    outcome = work(Task(batch, 1, into=into), lambda row: None)
    assert [each.uid for each in outcome.failures] == [3, 4, 9] and not outcome.batch.uids
    first = StoreWork(fns.same)(Task(batch, 1), lambda row: None)
    assert first.batch.content["x"].tolist() == [0.0, 1.0, 2.0]
    fields.write(1, {"x": torch.tensor(7.0), "n": torch.zeros(0)}, "u")
    with pytest.raises(DataError, match=r"sample\['x'\] of 'u' must be like.*received words"):
        fields.write(1, {"x": "words", "n": torch.zeros(0)}, "u")
    assert fields.read(torch.tensor([1]))["x"].tolist() == [7.0]
    work.close()
    fields.close()


def test_what_a_worker_cannot_send_is_a_failure() -> None:
    mine, theirs = Pipe()
    place = Place(owns=True)
    mine.send((7, 0, None, *place.put(task(4))))
    mine.send(None)
    work = pickle.dumps(Work(fns.same, collate=fns.unsendable))
    thread = threading.Thread(target=worker.run, args=(theirs, work, 1, [-1, 0]))
    thread.start()
    thread.join(20)
    mine.recv()
    _, name, sizes = mine.recv()
    outcome: Outcome = place.get(name, sizes)
    assert [each.uid for each in outcome.failures] == [4] and outcome.batch.uids == []
    place.close()


def test_results_of_a_session_that_is_over_are_forgotten(pool: Pool) -> None:
    over, session = Session(pool), Session(pool)
    for number in range(3):  # the last one waits for room
        over.submit(number, task(number))
    assert pool.room == -1
    over.close()
    session.submit(5, task(5))
    session.wait()
    ((number, outcome),) = session.taken().items()
    assert (number, outcome.batch.uids) == (5, [5]) and not over.results
    assert pool.room == 2 and session.taken() == {}


def test_idle_workers_that_die_are_replaced_within_bounds(pool: Pool) -> None:
    session = Session(pool)
    session.submit(0, task(0))
    session.wait()
    for deaths in range(6):
        process = pool._workers[0].process
        process.kill()
        process.join()
        while pool.restarts == deaths:
            pool.step(10)
        session.taken()
        if deaths % 2:
            session.submit(deaths, task(deaths))
            session.wait()  # a result is a new beginning
    with pytest.raises(DataError, match="workers in a row died, the last with exit code -9"):
        while True:
            while not pool._workers[0].is_ready:
                pool.step(10)
            pool._workers[0].process.kill()
            pool._workers[0].process.join()
            pool.step(10)
    for call in (lambda: pool.step(0), lambda: pool.submit(Job(session, 0, task(0)))):
        with pytest.raises(DataError, match="workers of this it were closed during a pass"):
            call()


def test_a_job_for_a_worker_that_has_just_died_goes_to_the_next(pool: Pool) -> None:
    session = Session(pool)
    session.submit(0, task(0))
    session.wait()
    process = pool._workers[0].process
    process.kill()
    process.join()
    session.taken()
    for number in (1, 2):
        session.submit(number, task(number))
    found: dict[int, Any] = {}
    while len(found) < 2:
        session.wait()
        found |= session.taken()
    assert sorted(found) == [1, 2]


def test_a_server_that_ends_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(*_: Any) -> None:
        raise EOFError

    monkeypatch.setattr(pools, "WorkerProcess", ended)
    with pytest.raises(DataError, match=r"cannot start \(its server ended\)"):
        Pool(Work(fns.same), 1, Jobs(seed=1), "it")

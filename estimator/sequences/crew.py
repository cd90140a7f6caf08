"""A worker process as the one that gives the tasks sees it."""

from __future__ import annotations

import multiprocessing
import secrets
import sys
import weakref
from contextlib import ExitStack, suppress
from multiprocessing import resource_tracker
from time import monotonic
from typing import TYPE_CHECKING, Any

from estimator.sequences import worker
from estimator.sequences.shared import Place, forget
from estimator.sequences.work import Task

if TYPE_CHECKING:
    from estimator.sequences.pool import Session


class Job:
    """A task on its way, for one session; `number` is its place among the session's."""

    def __init__(self, session: Session, number: int, task: Task) -> None:
        # What a worker has is to keep neither the session nor the pool alive.
        self._session = weakref.ref(session)
        self.number, self.task = number, task
        self.crashes: dict[tuple[Any, ...], int] = {}

    @property
    def session(self) -> Session | None:
        """Who waits for the result; None where nobody does any more."""
        session = self._session()
        return session if session is not None and session.is_open else None


class WorkerProcess:
    """A process and the jobs that it has.

    Args:
        context: Of `multiprocessing`.
        work: The pickled function of a task.
        seed: Of its random streams.
        places: How many jobs it can have at a time.
    """

    def __init__(self, context: Any, work: bytes, seed: int, places: int) -> None:
        self.connection, theirs = context.Pipe()
        self.progress = context.RawArray("q", [-1, 0])
        self.places = [Place(owns=True) for _ in range(places)]
        self.jobs: dict[int, tuple[int, Job]] = {}
        self.is_ready = False
        self.silence = 0.0
        """Seconds of watching it without a result, while it had jobs."""
        self._token = secrets.token_hex(6)
        self.process = context.Process(
            target=worker.run, args=(theirs, work, seed, self.progress), daemon=True
        )
        try:
            self.process.start()
        finally:
            theirs.close()

    @property
    def room(self) -> int:
        """How many more jobs it can have."""
        return len(self.places) - len(self.jobs)

    def give(self, key: int, job: Job) -> None:
        """Sends a job, under a key that no other has."""
        taken = {index for index, _ in self.jobs.values()}
        index = next(i for i in range(len(self.places)) if i not in taken)
        self.jobs[key] = (index, job)
        where = self.places[index].put(job.task)
        self.connection.send((key, index, self._answer(key), *where))

    def _answer(self, key: int) -> str:
        """The name of the memory for a result; whoever ends the process can free it by this."""
        return f"te_{self._token}_{key}"

    def culprit(self) -> tuple[Job, list[Any]] | None:
        """The job that it worked on at last, and the identity of the sample, as far as known."""
        key, row = self.progress
        if key in self.jobs:
            job = self.jobs[key][1]
            uids = job.task.batch.uids
            return job, uids if row < 0 else uids[row : row + 1]
        return None

    def end(self, until: float) -> None:
        """Ends the process, by force where it does not by then, and frees its memory."""
        process = self.process
        with ExitStack() as after:  # all of it, even if Ctrl-C comes in between
            for place in self.places:
                after.callback(place.close)
            for key in self.jobs:
                after.callback(forget, self._answer(key))
            after.callback(self.connection.close)
            after.callback(process.kill)
            process.join(max(0.0, until - monotonic()))
            for force in (process.terminate, process.kill):
                if process.is_alive():
                    force()
                    process.join(1.0)


def end_all(workers: list[WorkerProcess]) -> None:
    """Ends all of them at once, and empties the list."""
    until = monotonic() + 1.0
    with ExitStack() as after:
        after.callback(workers.clear)
        for each in workers:
            after.callback(each.end, until)
        for each in workers:
            with suppress(OSError):  # It has ended already.
                each.connection.send(None)


def context_for(method: str | None) -> Any:
    """The `multiprocessing` context of a start method; None is the safest that there is."""
    known = multiprocessing.get_all_start_methods()
    name = method or ("forkserver" if "forkserver" in known else "spawn")
    context = multiprocessing.get_context(name)
    if name == "forkserver":
        # It imports torch once, and workers start in milliseconds.
        context.set_forkserver_preload(["estimator.sequences.worker"])
    if sys.platform != "win32":
        # One for all processes: each of its own would clear up what others still use.
        resource_tracker.ensure_running()
    return context

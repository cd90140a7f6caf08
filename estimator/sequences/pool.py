"""Worker processes that are replaced when they die, and the tasks that they have."""

from __future__ import annotations

import pickle
import weakref
from collections import deque
from collections.abc import Callable
from multiprocessing import connection
from time import monotonic
from typing import Any

from estimator.handlers.base import ArgumentTypeError, DataError
from estimator.sampler import mixed
from estimator.sequences.batches import Named
from estimator.sequences.crew import Job, WorkerProcess, context_for, end_all
from estimator.sequences.options import Jobs
from estimator.sequences.work import Outcome, Task, failure

AHEAD = 2
"""Tasks that a worker has at a time, so that it never waits for the next."""
CRASHES = 3
"""How often one sample may end its worker."""


class Pool:
    """Processes that do one kind of work.

    Results come back to the `Session` that a task was given by. A worker that dies is replaced
    and its tasks are given to others; a sample that ends worker after worker is an error. So is
    waiting for longer than the time-out. After an error the pool is closed.

    Args:
        work: Makes an `Outcome` of a `Task`.
        workers: How many processes.
        settings: How they start, and how long to wait for them.
        owner: What messages call the sequence.
        ahead: Tasks that a worker has at a time.

    Raises:
        ArgumentTypeError: The work cannot be sent to a process.
    """

    def __init__(
        self, work: Any, workers: int, settings: Jobs, owner: str, *, ahead: int = AHEAD
    ) -> None:
        self.settings, self.owner, self.ahead = settings, owner, ahead
        self.restarts = 0
        """Workers that died and were replaced."""
        self._context = context_for(settings.start_method)
        self._work = _pickled(work, owner)
        self._workers: list[WorkerProcess] = []
        self._deaths = self._started = self._given = 0
        self._waiting: deque[Job] = deque()
        self._looked = monotonic()
        self._close = weakref.finalize(self, end_all, self._workers)
        for _ in range(workers):
            self._workers.append(self._start())

    @property
    def is_open(self) -> bool:
        """Whether there are workers."""
        return self._close.alive

    @property
    def room(self) -> int:
        """How many tasks can be given at present."""
        return sum(each.room for each in self._workers) - len(self._waiting)

    @property
    def is_busy(self) -> bool:
        """Whether a worker has a task."""
        return any(each.jobs for each in self._workers)

    def close(self) -> None:
        """Ends all workers."""
        self._close()

    def submit(self, job: Job) -> None:
        """Gives a job to the worker with the fewest."""
        if not self.is_open:
            raise DataError(f"the workers of this {self.owner} were closed during a pass.")
        self._waiting.append(job)
        self._hand_out()

    def collect(self) -> bool:
        """Takes the results that are there; returns whether there were any."""
        return self.step(0.0)

    def step(self, timeout: float) -> bool:
        """Waits for results of any session, and replaces workers that died.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether anything happened.
        """
        if not self.is_open:
            raise DataError(f"the workers of this {self.owner} were closed during a pass.")
        parts: list[Any] = [each.connection for each in self._workers]
        parts += [each.process.sentinel for each in self._workers]
        happened = bool(connection.wait(parts, timeout))
        self._count_silence()
        if happened:
            for index, each in enumerate(self._workers):
                if not self._drain(each):
                    self._replace(index)
            self._hand_out()
        silent = [each for each in self._workers if each.silence > self.settings.timeout]
        if silent:
            raise self._late(silent)
        return happened

    def _count_silence(self) -> None:
        # Time in which nobody looked, such as that of a long validation, hardly counts: results
        # may have waited, or this process and its workers may have been stopped together.
        passed = min(1.0, self.settings.timeout / 2, monotonic() - self._looked)
        self._looked = monotonic()
        for each in self._workers:
            each.silence = each.silence + passed if each.jobs else 0.0

    def fail(self, message: str) -> DataError:
        """Closes the pool for an error, which the caller raises."""
        self.close()
        return DataError(message)

    def _late(self, silent: list[WorkerProcess]) -> DataError:
        patience = f"{self.settings.timeout:g} s"
        if not any(each.is_ready for each in silent):
            return self.fail(self._no_start(f"nothing was heard of them for {patience}"))
        culprits = [each.culprit() for each in silent]
        uids = [uid for found in culprits if found for uid in found[1]]
        return self.fail(
            f"{self.owner} waited for {patience} without a result of {len(silent)} of its "
            f"{len(self._workers)} workers, at work on the samples {uids!r}. Look for what "
            "blocks there, or pass a longer timeout=."
        )

    def _start(self) -> WorkerProcess:
        self._started += 1
        seed = mixed(self.settings.seed, self._started)
        try:
            return WorkerProcess(self._context, self._work, seed, self.ahead)
        except (EOFError, ConnectionError) as error:  # of the server that forks workers
            raise self.fail(self._no_start("its server ended")) from error

    def _no_start(self, how: str) -> str:
        return (
            f"{self.owner}: workers cannot start ({how}); what they printed tells why. A script "
            'has to begin its work under `if __name__ == "__main__":`, and functions of a '
            'notebook belong into a module, or need start_method="fork".'
        )

    def _hand_out(self) -> None:
        while self._waiting:
            best = max(self._workers, key=lambda each: each.room)
            if not best.room:
                return
            job = self._waiting.popleft()
            if job.session is not None:
                self._given += 1
                try:
                    best.give(self._given, job)
                except (BrokenPipeError, ConnectionError):
                    return  # It is seen to be dead in the next step, and the job given again.

    def _drain(self, each: WorkerProcess) -> bool:
        """Takes what a worker has sent; returns whether it lives."""
        while True:
            try:
                if not each.connection.poll():
                    return bool(each.process.is_alive())
                message = each.connection.recv()
            except (EOFError, OSError):
                return False
            each.silence = 0.0
            if message is None:
                each.is_ready = True
            else:
                self._deliver(each, *message)

    def _deliver(self, each: WorkerProcess, key: int, name: str, count: int) -> None:
        index, job = each.jobs[key]
        try:
            outcome = each.places[index].get(name, count)
        except OSError:
            raise  # A lack of memory or of files is no fault of the samples.
        except Exception as error:  # what arrives cannot be made again
            outcome = Outcome(Named(None, []), [failure(uid, error) for uid in job.task.batch.uids])
        del each.jobs[key]
        self._deaths = 0
        if job.session is not None:
            job.session.accept(job, outcome)

    def _replace(self, index: int) -> None:
        dead = self._workers[index]
        culprit = dead.culprit()
        dead.end(monotonic() + 1.0)
        code = dead.process.exitcode
        self.restarts += 1
        self._deaths += 1
        if not dead.is_ready and self._deaths >= CRASHES:
            raise self.fail(self._no_start(f"exit code {code}"))
        if culprit is not None:
            self._blame(*culprit, code)
        if self._deaths > CRASHES * len(self._workers) + CRASHES:
            raise self.fail(
                f"{self.owner}: {self._deaths} workers in a row died, the last with exit code "
                f"{code}. Negative codes are signals: -9 is often a lack of memory."
            )
        self._waiting.extendleft(job for _, job in reversed(dead.jobs.values()))
        self._workers[index] = self._start()

    def _blame(self, job: Job, uids: list[Any], code: int | None) -> None:
        crashes = job.crashes[tuple(uids)] = job.crashes.get(tuple(uids), 0) + 1
        if crashes >= CRASHES:
            names = ", ".join(map(repr, uids))
            raise self.fail(
                f"{self.owner}: work on the sample {names} ended {CRASHES} workers, the last with "
                f"exit code {code}. Run the function on it in this process (workers=0)."
            )


class Session:
    """The tasks that one pass has given to a pool, and their results in order of arrival."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.results: deque[tuple[Job, Outcome]] = deque()
        self.is_open = True

    def submit(self, number: int, task: Task) -> None:
        """Gives a task to a worker."""
        self.pool.submit(Job(self, number, task))

    def accept(self, job: Job, outcome: Outcome) -> None:
        """Takes a result."""
        self.results.append((job, outcome))

    def taken(self) -> dict[int, Outcome]:
        """The results that have come since, by the numbers of their jobs."""
        found = {job.number: outcome for job, outcome in self.results}
        self.results.clear()
        return found

    def wait(self, enough: Callable[[], bool] | None = None) -> None:
        """Waits until there is a result, or until there is enough of something else.

        Raises:
            DataError: A worker that has jobs was silent for the time-out.
        """
        while not (self.results if enough is None else enough()):
            assert self.pool.is_busy, "nothing would ever come"
            self.pool.step(min(1.0, self.pool.settings.timeout))

    def close(self) -> None:
        """Forgets what is still to come."""
        self.is_open = False
        self.results.clear()


def _pickled(work: Any, owner: str) -> bytes:
    try:
        return pickle.dumps(work)
    except Exception as error:
        raise ArgumentTypeError(
            f"{owner}(fn=...) must be a function that other processes can import, since it runs "
            f"in workers: {error}. Define it in a module, not inside of a function and not as a "
            "lambda; or pass workers=0."
        ) from error

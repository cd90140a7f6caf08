"""What a worker process does: tasks in, outcomes out, until it is told to end."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from estimator.sequences.batches import Named
from estimator.sequences.shared import Place
from estimator.sequences.work import Outcome, Task, failure, seed_streams


def run(connection: Connection, work: bytes, seed: int, progress: Any) -> None:
    """The main function of a worker process.

    Args:
        connection: To the process that gives the tasks.
        work: The pickled function of a task.
        seed: Of this worker's random streams.
        progress: Two shared numbers: the job and the row that are worked on.
    """
    if threading.current_thread() is threading.main_thread():
        # Ctrl-C reaches all processes; the one that gives the tasks decides.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    seed_streams(seed)
    function = pickle.loads(work)
    parent = multiprocessing.parent_process()
    others = [] if parent is None else [parent.sentinel]
    places: dict[int, Place] = {}
    try:
        connection.send(None)
        while connection in wait([connection, *others]):
            message = connection.recv()
            if message is None:
                return
            connection.send(_answer(function, message, places, progress))
    except (EOFError, ConnectionError):
        return  # Nobody is left to work for.
    finally:
        for place in places.values():
            place.close()
        if hasattr(function, "close"):
            function.close()


def _answer(
    function: Callable[[Task, Callable[[int], None]], Any],
    message: tuple[int, int, str | None, str, int],
    places: dict[int, Place],
    progress: Any,
) -> tuple[int, str, int]:
    number, index, mine, name, count = message
    place = places.setdefault(index, Place(owns=False))
    progress[1], progress[0] = -1, number

    def at(row: int) -> None:
        progress[1] = row

    task = place.get(name, count)
    try:
        answer = (number, *place.put(function(task, at), mine))
    except Exception as error:  # what was made cannot be sent, for one
        failures = [failure(uid, error) for uid in task.batch.uids]
        answer = (number, *place.put(Outcome(Named(None, []), failures), mine))
    progress[0] = -1
    return answer

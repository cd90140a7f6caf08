"""Streams of a device that is not there: queues that run as late, or as early, as they may."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from estimator import residence
from estimator.gather import Picked

COPY, COMPUTE = "copy", "compute"
LATE_COPIES, LATE_COMPUTING, ALL_LATE = (COPY,), (COMPUTE,), (COPY, COMPUTE)


class Mark(NamedTuple):
    """A place in a queue."""

    queue: str
    place: int


class FakeStreams:
    """Two queues whose work is put off for as long as no one waits for it.

    Args:
        late: The queues whose work is put off; that of another is done at once, as far as it has
            not to wait. A wait that is missing then shows in the values.
        without: Names of methods that do nothing, to see that a missing wait does show.
    """

    def __init__(self, late: tuple[str, ...], without: str = "") -> None:
        self.late, self.without = late, without
        self.queues: dict[str, list[Callable[[], None] | Mark]] = {COPY: [], COMPUTE: []}
        self.done = {COPY: 0, COMPUTE: 0}
        self.calls: list[str] = []
        self.free: list[Any] = []
        self.memory: dict[int, Any] = {}

    def pinned(self, like: torch.Tensor, rows: int) -> torch.Tensor:
        self.calls.append("pinned")
        return torch.full((rows, *like.shape[1:]), 99).to(like.dtype)

    def placed(self, like: torch.Tensor) -> torch.Tensor:
        """Memory that was let go last, as an allocator gives it, while work on it may wait."""
        fitting = [m for m in self.free if m.nbytes == like.nbytes]
        memory = fitting[-1] if fitting else np.full(like.nbytes, 255, np.uint8)
        self.free[:] = [m for m in self.free if m is not memory]
        tensor = torch.from_numpy(memory).view(like.dtype).view(like.shape)
        self.memory[tensor.data_ptr()] = memory
        weakref.finalize(tensor, self.free.append, memory)
        return tensor

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        self.calls.append("copy")
        to = self._alias(target)
        self._put(COPY, lambda: to.copy_(source))

    def compute(self, tensor: torch.Tensor, take: Callable[[torch.Tensor], Any]) -> None:
        """Computes something of a tensor on the device, which need not be kept until then."""
        alias = self._alias(tensor)
        self._put(COMPUTE, lambda: take(alias.clone()))

    def _alias(self, tensor: torch.Tensor) -> torch.Tensor:
        memory = torch.from_numpy(self.memory[tensor.data_ptr()])
        return memory.view(tensor.dtype).view(tensor.shape)

    def _put(self, queue: str, work: Callable[[], Any] | Mark) -> None:
        self.queues[queue].append(work)
        if queue not in self.late:
            self.run(queue)

    def run(self, queue: str, until: int | None = None) -> None:
        """Does the work of a queue up to a place."""
        waiting = self.queues[queue]
        while self.done[queue] < (len(waiting) if until is None else until):
            work = waiting[self.done[queue]]
            self.done[queue] += 1
            if isinstance(work, Mark):
                self.run(*work)
            else:
                work()

    def mark_copies(self) -> Mark:
        return Mark(COPY, len(self.queues[COPY]))

    def mark_computing(self) -> Mark:
        return Mark(COMPUTE, len(self.queues[COMPUTE]))

    def host_waits(self, event: Mark) -> None:
        self.calls.append("host waits")
        if self.without != "host_waits":
            self.run(*event)

    def copies_wait(self, event: Mark) -> None:
        if self.without != "copies_wait":
            self._put(COPY, event)

    def computing_waits(self, event: Mark) -> None:
        if self.without != "computing_waits":
            self._put(COMPUTE, event)


def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the host for a device, with 1 MB."""
    monkeypatch.setattr(residence, "is_accelerator", lambda device: True)
    monkeypatch.setattr(residence, "free_memory", lambda device: 10**6)
    monkeypatch.setattr(residence, "streams_for", lambda device: FakeStreams(late=()))


def opened(batch: Any) -> Any:
    """A batch as a step takes it."""
    return batch.take(batch.rows) if isinstance(batch, Picked) else batch


def same(a: Any, b: Any) -> bool:
    """Whether nested batches have the same values."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)

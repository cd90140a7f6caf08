"""Batches on their way to a device, while the one before is computed."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch

from estimator.taking import Reading, read_rows


class Streams(Protocol):
    """The two queues of a device that matter here: one copies, the other computes."""

    def pinned(self, like: torch.Tensor, rows: int) -> torch.Tensor:
        """Memory of the host that the device can read by itself, for rows of a tensor."""

    def placed(self, like: torch.Tensor) -> torch.Tensor:
        """Memory of the device for a tensor, of those that computing allocates from."""

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Puts a copy to the device into the queue of copies."""

    def mark_copies(self) -> Any:
        """An event that is over when all copies so far are."""

    def mark_computing(self) -> Any:
        """An event that is over when everything is that was given to compute so far."""

    def host_waits(self, event: Any) -> None:
        """Lets the host wait."""

    def copies_wait(self, event: Any) -> None:
        """Lets later copies wait, and the host go on."""

    def computing_waits(self, event: Any) -> None:
        """Lets what is computed later wait, and the host go on."""


class CudaStreams:
    """Streams and events of CUDA.

    Args:
        device: Which one.

    Raises:
        RuntimeError: There is none, or no memory can be pinned.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._copying = torch.cuda.Stream(device)
        torch.empty(1, pin_memory=True)

    def pinned(self, like: torch.Tensor, rows: int) -> torch.Tensor:
        """Memory of the host that is locked in its place."""
        return torch.empty((rows, *like.shape[1:]), dtype=like.dtype, pin_memory=True)

    def placed(self, like: torch.Tensor) -> torch.Tensor:
        """Memory of the device."""
        return torch.empty(like.shape, dtype=like.dtype, device=self.device)

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Copies on a stream of its own."""
        with torch.cuda.stream(self._copying):
            target.copy_(source, non_blocking=True)

    def mark_copies(self) -> torch.cuda.Event:
        """Records an event behind the copies."""
        event = torch.cuda.Event()
        event.record(self._copying)
        return event

    def mark_computing(self) -> torch.cuda.Event:
        """Records an event behind what is computed."""
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self.device))
        return event

    def host_waits(self, event: torch.cuda.Event) -> None:
        """Waits for a copy of some batches ago, which is nearly always over."""
        event.synchronize()

    def copies_wait(self, event: torch.cuda.Event) -> None:
        """Orders copies behind an event."""
        self._copying.wait_event(event)

    def computing_waits(self, event: torch.cuda.Event) -> None:
        """Orders what is computed behind an event."""
        torch.cuda.current_stream(self.device).wait_event(event)


def streams_for(device: torch.device) -> Streams | None:
    """The streams of a device; None where it has none that are known.

    Args:
        device: Of the run.
    """
    if device.type != "cuda":
        return None
    try:
        return CudaStreams(device)
    except (RuntimeError, AssertionError):  # a build or a driver without them
        return None


class _Room:
    """Memory of the device for one batch, which copies are written to when it is free."""

    def __init__(self, streams: Streams, like: list[torch.Tensor]) -> None:
        self.tensors = [streams.placed(tensor) for tensor in like]
        # It may have been someone's who has not computed to the end.
        self.free = streams.mark_computing()


class _Slot:
    """Pinned memory for one batch."""

    def __init__(self) -> None:
        self.pinned: list[torch.Tensor] = []
        self.copied: Any = None


class _Way:
    """From the host to the device, for one batch after another.

    Args:
        streams: Of the device.
        make: Makes a batch of rows.
        slots: How many batches have pinned memory.
    """

    def __init__(
        self, streams: Streams, make: Callable[[torch.Tensor, Reading], Any], slots: int
    ) -> None:
        self.streams, self.make = streams, make
        self._slots = itertools.cycle([_Slot() for _ in range(slots)])
        self._room = _Room(streams, [])

    def send(self, rows: torch.Tensor) -> tuple[Any, Any]:
        """Gathers a batch and has it copied.

        Args:
            rows: Its samples.

        Returns:
            The batch on the device, and the event after which it is there.
        """
        slot, room = next(self._slots), self._room
        sent: list[torch.Tensor] = []
        if slot.copied is not None:
            self.streams.host_waits(slot.copied)
        self.streams.copies_wait(room.free)

        def read(tensor: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            pinned = self._gather(tensor, rows, slot.pinned, len(sent))
            there = room.tensors[len(sent)] if len(sent) < len(room.tensors) else None
            if there is None or there.shape != pinned.shape:
                fresh = _Room(self.streams, [pinned])
                self.streams.copies_wait(fresh.free)
                there = fresh.tensors[0]
            self.streams.copy(there, pinned)
            sent.append(there)
            return there

        batch = self.make(rows, Reading(read, read_rows))
        slot.copied = self.streams.mark_copies()
        # Room that is taken a batch early is free before that batch is to be copied.
        self._room = _Room(self.streams, sent)
        return batch, slot.copied

    def _gather(
        self, tensor: torch.Tensor, rows: torch.Tensor, pinned: list[torch.Tensor], number: int
    ) -> torch.Tensor:
        if number == len(pinned) or len(pinned[number]) < len(rows):
            pinned[number : number + 1] = [self.streams.pinned(tensor, len(rows))]
        memory = pinned[number][: len(rows)]
        return torch.index_select(tensor, 0, rows, out=memory)


def staged(
    rows: Iterator[torch.Tensor], make: Callable[[torch.Tensor, Reading], Any], streams: Streams,
    *, ahead: int,
) -> Iterator[Any]:  # fmt: skip
    """Batches on the device, on their way while the ones before are computed.

    Rows are gathered straight into pinned memory, which is used in turn. On the device each batch
    has memory of its own, so that whoever gets it may keep it.

    Args:
        rows: The samples of each batch.
        make: Makes a batch of them.
        streams: Of the device.
        ahead: Batches on their way, besides the one that is computed. With 0 nothing is taken
            from `rows` before it is asked for.
    """
    way = _Way(streams, make, ahead + 2)
    waiting: deque[tuple[Any, Any]] = deque()
    try:
        for batch_rows in rows:
            waiting.append(way.send(batch_rows))
            if len(waiting) > ahead:
                yield _arrived(*waiting.popleft(), streams)
        while waiting:
            yield _arrived(*waiting.popleft(), streams)
    finally:
        # Memory that copies are still written to must not become someone else's.
        streams.computing_waits(streams.mark_copies())


def _arrived(batch: Any, copied: Any, streams: Streams) -> Any:
    streams.computing_waits(copied)
    return batch

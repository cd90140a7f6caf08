"""Recording what a device is told to do, so that all of it can be asked for again at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch


class Recorded(Protocol):
    """Work that was recorded: the same operations on the same memory, as often as wanted."""

    def replay(self) -> None:
        """Does the work, on what its inputs hold by now."""

    def reset(self) -> None:
        """Lets the memory go that belongs to the work alone."""


class Recorder(Protocol):
    """Records work of a device. Recording computes nothing: no tensor and no stream changes."""

    def aside(self) -> contextlib.AbstractContextManager[None]:
        """Where steps are computed that make ready for a recording."""

    def record(self, work: Callable[[], None], inputs: Sequence[torch.Tensor]) -> Recorded:
        """Records what a function asks of the device.

        Args:
            work: What is to be recorded; it may not wait for the device.
            inputs: Tensors that are given other values before each replay.

        Raises:
            Exception: Whatever `work` raised, or the device about it; both can be used on.
        """

    def mark(self) -> Any:
        """A moment in what the device does."""

    def seconds(self, pairs: Sequence[tuple[Any, Any]]) -> list[float]:
        """How long the device took from each first to each second moment; waits for it."""

    def close(self) -> None:
        """Lets go of the memory that recordings share."""


class CudaRecorder:
    """Records CUDA graphs: all on one stream, with one pool of memory for all of them.

    Replays follow one another on the stream of the caller, so that no graph needs what another
    has left in the pool. Steps that make ready run on the recording stream: what autograd has
    seen on another one could not be recorded.

    Args:
        device: A CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream: torch.cuda.Stream | None = None
        self._pool: Any = None
        self._keeper: torch.cuda.CUDAGraph | None = None

    @property
    def stream(self) -> torch.cuda.Stream:
        """The recording stream, made when it is first needed."""
        if self._stream is None:
            self._stream = torch.cuda.Stream(self.device)
        return self._stream

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """The recording stream, in order with the caller's."""
        stream, callers = self.stream, torch.cuda.current_stream(self.device)
        stream.wait_stream(callers)
        try:
            with torch.cuda.stream(stream):
                yield
        finally:
            callers.wait_stream(stream)

    def record(self, work: Callable[[], None], inputs: Sequence[torch.Tensor]) -> Recorded:
        """Records a graph; see `Recorder.record`."""
        if self._keeper is None:
            self._pool = torch.cuda.graph_pool_handle()
            # A pool ends with the last graph in it, which may be the one to be made anew.
            self._keeper = self._capture(lambda: torch.zeros(1, device=self.device).add_(1))
        return self._capture(work)

    def _capture(self, work: Callable[[], Any]) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        first: list[BaseException] = []
        try:
            # `graph` leaves its stream set if it fails at its end; `aside` puts it back.
            with (
                torch.cuda.device(self.device),
                self.aside(),
                torch.cuda.graph(
                    graph, pool=self._pool, stream=self.stream, capture_error_mode="thread_local"
                ),
            ):
                _kept(work, first)
        except BaseException as error:
            self._recover(graph)
            # The end of a capture that went wrong has an error of its own, which says less.
            raise (first or [error])[0] from None
        return graph

    def _recover(self, graph: torch.cuda.CUDAGraph) -> None:
        """Makes the device usable after a capture that went wrong."""
        with contextlib.suppress(RuntimeError):
            graph.reset()
        if self._is_stuck():
            index = self.device.index
            generators = torch.cuda.default_generators
            generator = generators[torch.cuda.current_device() if index is None else index]
            # The stream of random numbers believes to be in a capture; a copy of it does not.
            with contextlib.suppress(RuntimeError, AttributeError):
                generator.graphsafe_set_state(generator.clone_state())

    def _is_stuck(self) -> bool:
        try:
            before = torch.cuda.get_rng_state(self.device)
            torch.empty(1, device=self.device).uniform_()
            torch.cuda.set_rng_state(before, self.device)
        except RuntimeError:
            return True
        return False

    def mark(self) -> torch.cuda.Event:
        """An event on the caller's stream."""
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def seconds(self, pairs: Sequence[tuple[Any, Any]]) -> list[float]:
        """Times between events; waits for the device once."""
        torch.cuda.synchronize(self.device)
        return [begin.elapsed_time(end) / 1000 for begin, end in pairs]

    def close(self) -> None:
        """Lets the pool go."""
        keeper, self._keeper, self._pool = self._keeper, None, None
        if keeper is not None:
            keeper.reset()


def _kept(work: Callable[[], Any], errors: list[BaseException]) -> None:
    try:
        work()
    except BaseException as error:
        errors.append(error)
        raise


def recorder_for(device: torch.device) -> Recorder | None:
    """What records the work of a device; None where nothing does."""
    return CudaRecorder(device) if device.type == "cuda" else None

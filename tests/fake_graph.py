"""A recorder for the CPU that has the rules of a CUDA graph, and shows where they are broken.

Like a graph it computes nothing while it records, repeats operations on the very memory that they
had, with the Python numbers that they had, and allows no read of a value. Unlike a graph it spoils
all memory that a correct step would not read: inputs after each replay, results before the next.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

aten = torch.ops.aten
_READS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_INDEXED = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default)


class CaptureError(RuntimeError):
    """What CUDA would not do in a capture."""


class _Entry:
    """One operation: on which tensors, with which numbers, into which tensors."""

    def __init__(self, func: Any, args: Any, kwargs: Any, results: list[torch.Tensor]) -> None:
        self.func, self.args, self.kwargs, self.results = func, args, kwargs, results
        returns = func._schema.returns
        self.is_idle = "empty" in func._schema.name or (
            bool(returns)
            and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)
        )
        """Whether it computes nothing: it makes room, or another view of a tensor."""
        self.is_written = [r.alias_info is not None for r in returns]

    def run(self) -> None:
        if self.is_idle:
            return
        made, _ = tree_flatten(self.func(*self.args, **self.kwargs))
        if not any(self.is_written):
            for result, value in zip(self.results, made, strict=True):
                if isinstance(value, torch.Tensor):
                    result.copy_(value)


class _Log(TorchDispatchMode):
    """Writes down operations, and keeps what is needed to undo them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as torch has it
        self.entries: list[_Entry] = []
        self.born: dict[int, torch.UntypedStorage] = {}
        self.before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "profiler":
            return func(*args, **kwargs)
        self._check(func, args)
        for tensor in _tensors((args, kwargs)):
            storage = tensor.untyped_storage()
            if storage._cdata not in self.born and storage._cdata not in self.before:
                self.before[storage._cdata] = (storage, storage.clone())
        made = func(*args, **kwargs)
        args, kwargs = tree_map_only(torch.Tensor, torch.Tensor.detach, (args, kwargs))
        results = [tensor.detach() for tensor in _tensors(made)]
        for result in results:
            storage = result.untyped_storage()
            if storage._cdata not in self.before:
                self.born[storage._cdata] = storage
        if not func._schema.returns or results:
            flat, _ = tree_flatten(made)
            kept = [x.detach() if isinstance(x, torch.Tensor) else x for x in flat]
            self.entries.append(_Entry(func, args, kwargs, kept))
        return made

    @staticmethod
    def _check(func: Any, args: Any) -> None:
        if func in _INDEXED:
            if any(t.dtype in (torch.bool, torch.uint8) for t in _tensors(args[1])):
                raise CaptureError(f"{func}: a mask gives a shape that only the device knows")
        elif _READS & set(func.tags):
            raise CaptureError(f"{func}: operation not permitted when stream is capturing")
        if func is aten.lift_fresh.default:
            raise CaptureError("a tensor of Python numbers is a copy from the host")

    def undo(self) -> None:
        for storage, content in self.before.values():
            storage.copy_(content)


class FakeRecorded:
    """Operations that can be run again."""

    def __init__(self, log: _Log, inputs: Sequence[torch.Tensor], spoils: bool) -> None:
        self.entries, self.born = log.entries, list(log.born.values())
        self.inputs, self.spoils = list(inputs), spoils
        self.replays = 0
        self.is_alive = True
        self._spoil(self.born)

    def replay(self) -> None:
        assert self.is_alive, "replay of a graph that was let go"
        self.replays += 1
        self._spoil(self.born)
        with torch.no_grad():
            for entry in self.entries:
                entry.run()
        self._spoil([tensor.untyped_storage() for tensor in self.inputs])

    def _spoil(self, storages: Sequence[torch.UntypedStorage]) -> None:
        for storage in storages if self.spoils else ():
            # All bits set is NaN for floats and -1 for integers.
            torch.empty(0, dtype=torch.uint8).set_(storage).fill_(255)

    def reset(self) -> None:
        self.is_alive = False


class FakeRecorder:
    """A `Recorder` of the CPU.

    Args:
        spoils: Whether memory is spoilt that no correct step reads.
        fails: Raised in place of recordings, one each, None to let one pass.
    """

    def __init__(self, *, spoils: bool = True, fails: Sequence[Exception | None] = ()) -> None:
        self.spoils, self.fails = spoils, list(fails)
        self.made: list[FakeRecorded] = []
        self.is_closed = False

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        yield

    def record(self, work: Callable[[], None], inputs: Sequence[torch.Tensor]) -> FakeRecorded:
        log = _Log()
        stream = torch.get_rng_state()
        try:
            with log:
                work()
            error = self.fails.pop(0) if self.fails else None
            if error is not None:
                raise error
        except CaptureError as error:
            # CUDA refuses inside of its library, so that the user's line is the last one.
            error.__traceback__ = _outside(error.__traceback__)
            raise
        finally:
            torch.set_rng_state(stream)
            log.undo()
        self.made.append(FakeRecorded(log, inputs, self.spoils))
        return self.made[-1]

    def mark(self) -> float:
        return time.perf_counter()

    def seconds(self, pairs: Sequence[tuple[Any, Any]]) -> list[float]:
        return [end - begin for begin, end in pairs]

    def close(self) -> None:
        self.is_closed = True

    @property
    def replays(self) -> int:
        return sum(recorded.replays for recorded in self.made)

    @property
    def alive(self) -> int:
        return sum(recorded.is_alive for recorded in self.made)


def _tensors(value: Any) -> list[torch.Tensor]:
    leaves, _ = tree_flatten(value)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def _outside(trace: TracebackType | None) -> TracebackType | None:
    """The frames of a traceback that are not of this file."""
    if trace is None:
        return None
    rest = _outside(trace.tb_next)
    if trace.tb_frame.f_code.co_filename == __file__:
        return rest
    return TracebackType(rest, trace.tb_frame, trace.tb_lasti, trace.tb_lineno)

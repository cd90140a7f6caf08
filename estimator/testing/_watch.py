"""What a contract suite looks at: tensors that are read, hooks, files, streams, saved states."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import random
import reprlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch.nn.modules import module as torch_module
from torch.utils.data import IterableDataset

from estimator.handlers.base import Band, EventHandler
from estimator.stats import TrainStats

_READS = (
    *("item", "tolist", "cpu", "numpy", "__array__"),
    *("__bool__", "__float__", "__int__", "__index__"),
)
_MOST_FILES = 1024


class PlannedError(Exception):
    """What the suite itself raises in a run."""


class Probe(EventHandler):
    """Calls a function at one event.

    Args:
        event: The event's name.
        action: What to call with the TrainStats.
        band: PREPARE comes before the handler under test, REPORT after it.
    """

    def __init__(
        self, event: str, action: Callable[[TrainStats], Any], *, band: Band = Band.REPORT
    ) -> None:
        super().__init__(band=band)
        setattr(self, event, action)


class NoSamples(IterableDataset[Any]):
    """A stream that ends before it begins, which nobody can tell beforehand."""

    def __iter__(self) -> Iterator[Any]:
        return iter(())


@contextlib.contextmanager
def counted_reads() -> Iterator[list[str]]:
    """Yields a list that grows by one line for each value of a tensor that the host reads."""
    reads: list[str] = []
    with contextlib.ExitStack() as stack:
        for name in _READS:
            noting = _noting(name, getattr(torch.Tensor, name), reads)
            stack.enter_context(mock.patch.object(torch.Tensor, name, noting))
        yield reads


def _noting(name: str, original: Callable[..., Any], reads: list[str]) -> Callable[..., Any]:
    def read(tensor: torch.Tensor, *args: Any, **options: Any) -> Any:
        reads.append(f"{name} at {_place(sys._getframe(1))}")
        return original(tensor, *args, **options)

    return read


def _place(frame: FrameType | None) -> str:
    """File and line of the code that made a call through torch or through this module."""
    inside = (os.path.dirname(torch.__file__), __file__)
    while frame is not None and frame.f_code.co_filename.startswith(inside):
        frame = frame.f_back
    return "?" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


def attached(net: nn.Module) -> Counter[str]:
    """Counts the hooks and attributes of all modules and parameters, and torch's global hooks."""
    found: Counter[str] = Counter()
    for name, module in [*net.named_modules(), ("torch", torch_module)]:
        for attribute, value in vars(module).items():
            hooks = len(value) if attribute.endswith("_hooks") and value else 0
            found[f"{name}.{attribute}"] = 1 + hooks
    for name, parameter in net.named_parameters():
        found.update(f"{name}.{attribute}" for attribute in vars(parameter))
        for attribute in ("_backward_hooks", "_post_accumulate_grad_hooks"):
            found[f"{name}.{attribute}"] = len(getattr(parameter, attribute) or ())
    return found


def open_files() -> dict[int, str]:
    """The open file descriptors of this process, with names where the system tells them."""
    found = {}
    for number in range(_MOST_FILES):
        with contextlib.suppress(OSError):
            os.fstat(number)
            found[number] = f"descriptor {number}"
            found[number] = os.readlink(f"/proc/self/fd/{number}")
    return found


def random_streams() -> dict[str, Any]:
    """Where the global random streams stand."""
    return {
        "Python's random stream": random.getstate(),
        "NumPy's random stream": pickle.dumps(np.random.get_state()),
        "torch's random stream": torch.get_rng_state(),
    }


def difference(got: Any, expected: Any, path: str = "") -> str:
    """Where two nested values first differ, bit for bit and NaN by NaN; empty if nowhere."""
    pairs: list[tuple[str, Any, Any]] = []
    if isinstance(got, Mapping) and isinstance(expected, Mapping):
        equal = list(got) == list(expected)
        pairs = [(f"{path}[{key!r}]", got[key], expected[key]) for key in got if equal]
    elif isinstance(got, (list, tuple)) and type(got) is type(expected):
        equal = len(got) == len(expected)
        pairs = [(f"{path}[{i}]", *pair) for i, pair in enumerate(zip(got, expected, strict=False))]
    elif isinstance(got, torch.Tensor) and isinstance(expected, torch.Tensor):
        alike = (got.dtype, got.shape) == (expected.dtype, expected.shape)
        equal = alike and torch.equal(_bits(got), _bits(expected))
    else:
        equal = type(got) is type(expected) and repr(got) == repr(expected)
    if not equal:
        return f"{path}: {_short(got)}, expected {_short(expected)}"
    return next(filter(None, (difference(one, other, at) for at, one, other in pairs)), "")


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)


def _short(value: Any) -> str:
    return reprlib.repr(" ".join(repr(value).split()))[1:-1]


def pickled(handler: EventHandler, when: str) -> Any:
    """A copy of a handler that went through pickle."""
    try:
        return pickle.loads(pickle.dumps(handler))
    except Exception as error:
        raise AssertionError(f"{handler!r} must pickle {when}: {error!r}") from error


def through_a_file(handler: EventHandler) -> dict[str, Any]:
    """The state of a handler as a checkpoint would give it back."""
    file = io.BytesIO()
    state = handler.state_dict()
    try:
        torch.save(state, file)
        file.seek(0)
        loaded: dict[str, Any] = torch.load(file, weights_only=True)
    except Exception as error:
        rule = "state_dict must hold what torch.load(weights_only=True) takes"
        raise AssertionError(f"{handler!r}: {rule}; it holds {state}: {error!r}") from error
    return loaded

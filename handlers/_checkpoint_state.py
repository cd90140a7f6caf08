"""What a checkpoint may hold, and a copy of it that the training no longer changes."""

from __future__ import annotations

import collections
import copy
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from estimator.handlers.base import DataError

# Exact types: what a safe load refuses is often a subclass of one of them, as numpy.float64 is.
_DICTS = (dict, collections.OrderedDict, collections.Counter)
_LISTS = (list, tuple, set)
_TENSORS = (torch.Tensor, torch.nn.Parameter)
_PLAIN = frozenset(
    (
        *(type(None), bool, int, float, complex, str, bytes, bytearray),
        *(torch.Size, torch.dtype, torch.device, *_TENSORS),
    )
)


def check_plain(state: Mapping[str, Any]) -> None:
    """Refuses a state that a safe load would refuse.

    Raises:
        DataError: It holds something else than tensors and plain values; it says where.
    """
    unsafe = list(itertools.islice(_unsafe(state, ""), 5))
    if unsafe:
        raise DataError(
            "A checkpoint may hold only tensors and Python's numbers, strings, lists, tuples, "
            f"sets and dicts, since nothing else loads safely; received {', '.join(unsafe)}. "
            "Nothing was saved. Convert it in that state_dict, with float(value) for example."
        )


def _unsafe(value: object, path: str) -> Iterator[str]:
    """Places inside a state that a safe load would refuse, as "a.b[0]: module.Type"."""
    kind = type(value)
    if isinstance(value, dict) and kind in _DICTS:
        for key, item in value.items():
            if type(key) not in _PLAIN:
                yield from _unsafe(key, f"{path}.{key} (key)")
            if type(item) not in _PLAIN:
                yield from _unsafe(item, f"{path}.{key}")
    elif isinstance(value, (list, tuple, set)) and kind in _LISTS:
        for i, item in enumerate(value):
            if type(item) not in _PLAIN:
                yield from _unsafe(item, f"{path}[{i}]")
    else:
        yield f"{path.lstrip('.')}: {kind.__module__}.{kind.__qualname__}"


def host_copy(state: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a plain state in the memory of the host, which shares nothing with it.

    Tensors that are one, as tied weights are, stay one.
    """
    copies: dict[Any, torch.Tensor] = {}
    return {key: _copied(value, copies) for key, value in state.items()}


def _copied(value: Any, copies: dict[Any, torch.Tensor]) -> Any:
    kind = type(value)
    if kind in _TENSORS:
        return _copied_tensor(value, copies)
    if kind in _DICTS:
        # A shallow copy first: a net's state_dict carries versions as an attribute.
        result = copy.copy(value)
        for key, item in value.items():
            result[key] = _copied(item, copies)
        return result
    if kind in _LISTS:
        return kind([_copied(item, copies) for item in value])
    return bytearray(value) if kind is bytearray else value


def _copied_tensor(tensor: torch.Tensor, copies: dict[Any, torch.Tensor]) -> torch.Tensor:
    tensor = tensor.detach()
    if tensor.layout is not torch.strided:
        return tensor.to("cpu", copy=True)
    place = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.device)
    kind = (tensor.dtype, tensor.shape, tensor.stride(), tensor.is_conj(), tensor.is_neg())
    if (place, kind) not in copies:
        copies[place, kind] = tensor.to("cpu", copy=True)
    return copies[place, kind]

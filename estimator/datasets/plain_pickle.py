"""Pickles that hold arrays and plain containers, read without running what else they may say."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

_MODULES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")


def loads(content: bytes) -> Any:
    """The object of a pickle of numpy arrays, numbers, texts, lists, tuples and dicts.

    Texts of Python 2 are bytes.

    Raises:
        pickle.UnpicklingError: It asks for anything else, and what; nothing of it was called.
    """
    return _PlainUnpickler(io.BytesIO(content), encoding="bytes").load()


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """What a pickle may call."""
        allowed: dict[str, Any] = {
            "_reconstruct": _empty_array,
            "ndarray": np.ndarray,
            "dtype": _dtype,
        }
        if module in _MODULES and name in allowed:
            return allowed[name]
        if (module, name) == ("_codecs", "encode"):
            return _latin_1
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _empty_array(kind: Callable[..., Any], shape: Any, code: Any) -> npt.NDArray[Any]:
    return np.ndarray(shape, _dtype(code))


def _dtype(code: Any, align: Any = False, copy: Any = False) -> np.dtype[Any]:
    # Old pickles have numbers for the flags.
    found: np.dtype[Any] = np.dtype(code, align=bool(align), copy=bool(copy))
    if found.hasobject:
        raise pickle.UnpicklingError("it holds an array of objects")
    return found


def _latin_1(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin-1")

"""The IDX format, in which MNIST and its like are kept."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import torch
from torch import Tensor

from estimator.datasets.packed import read_bytes
from estimator.handlers.base import DataError

_TYPES = {8: "uint8", 9: "int8", 11: "int16", 12: "int32", 13: "float32", 14: "float64"}


def read_idx(path: Path, dimensions: int | None = None) -> Tensor:
    """Reads an IDX file of bytes, gzipped or plain.

    The format: two zero bytes, a byte for the type, one for the number of dimensions, each
    dimension as four bytes with the highest first, then the values with the last dimension
    fastest.

    Args:
        path: The file.
        dimensions: How many it must have: 3 for images, 1 for labels; None takes any.

    Returns:
        A uint8 tensor of the file's shape.

    Raises:
        DataError: It is cut, is no IDX file, or one of something else.

    Example:
        >>> from pathlib import Path
        >>> _ = Path("labels").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1]))
        >>> read_idx(Path("labels"), 1)
        tensor([7, 2, 1], dtype=torch.uint8)
    """
    content = read_bytes(path)
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _TYPES:
        raise DataError(
            f"{path}: an IDX file begins with two zero bytes, a type and a number of dimensions; "
            f"received {content[:4].hex(' ') or 'nothing'}. Is it another kind of file?"
        )
    kind, count = content[2], content[3]
    if kind != 8:
        raise DataError(f"{path}: values must be of type uint8 (8); received {_TYPES[kind]}.")
    if count == 0 or count != (dimensions or count):
        what = {1: "labels", 3: "images"}.get(dimensions or 0, "values")
        raise DataError(
            f"{path}: {what} must have {dimensions or 'one or more'} dimension(s); received "
            f"{count}. Are files of images and of labels mixed up?"
        )
    start = 4 + 4 * count
    if len(content) < start:
        raise DataError(
            f"{path}: the sizes of {count} dimensions take {start} bytes; received {len(content)} "
            "bytes in all. It is cut; download it again."
        )
    shape = struct.unpack(f">{count}I", content[4:start])
    expected = start + math.prod(shape)
    if len(content) != expected:
        raise DataError(
            f"{path}: a file of shape {shape} must have {expected} bytes; received {len(content)}. "
            "It is cut, or has been added to; download it again."
        )
    # A copy that can be written to.
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)[start:].view(shape).clone()

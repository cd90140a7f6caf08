"""CIFAR-10, in its binary and its Python format."""

from __future__ import annotations

import pickle
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from estimator.datasets.download import fetch
from estimator.datasets.packed import read_bytes
from estimator.datasets.place import CACHE, Folder, existing_file, existing_folder, named_folder
from estimator.datasets.plain_pickle import loads
from estimator.datasets.splits import Splits, check_labels, hold_out
from estimator.handlers.base import DataError

CIFAR_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
ADDRESS = "https://www.cs.toronto.edu/~kriz"
ARCHIVE = "cifar-10-binary.tar.gz"
CHECKSUM = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
SUBSET_ORIGIN = "the 4,000 first records of data_batch_1.bin in https://www.cs.toronto.edu/~kriz"
_IMAGE = 3 * 32 * 32
_RECORD = 1 + _IMAGE
_BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
_FOLDERS = ("", "cifar-10-batches-bin", "cifar-10-batches-py")


def cifar10(folder: Folder = None, *, held_out: int = 5_000, cache: Folder = None) -> Splits:
    """CIFAR-10 (Krizhevsky, 2009): 60,000 colour images of 32x32 pixels in 10 classes.

    Args:
        folder: Where its six batches are, in the binary or the Python format, or the folder of
            their folder as the archive has it. None means the folder "cifar-10" in the folder
            that the environment variable ESTIMATOR_DATA names, and without it the cache.
        held_out: How many of the 50,000 training images validate, the last ones.
        cache: Where the archive is downloaded to; None is "~/.cache/torch-estimator".

    Returns:
        Pairs of images (N, 3, 32, 32) uint8 and labels (N,) int64.

    Raises:
        ArgumentError: `held_out` leaves nothing.
        DataError: A file is missing, cut or another one, and which.
    """
    place = named_folder("cifar-10", folder)
    if place is None:
        place = Path(CACHE if cache is None else cache).expanduser() / "cifar-10"
        _unpack(fetch(f"{ADDRESS}/{ARCHIVE}", place / ARCHIVE, CHECKSUM))
    paths = _batches(place)
    *train, test = [read_cifar(path) for path in paths]
    x, y = (torch.cat(column) for column in zip(*train, strict=True))
    for labels, path in ((y, paths[0]), (test[1], paths[-1])):
        check_labels(labels, len(CIFAR_CLASSES), path)
    first, last = hold_out(len(x), held_out, "cifar10")
    return Splits((x[first], y[first]), (x[last], y[last]), test, CIFAR_CLASSES)


def cifar10_subset(folder: Folder = None, *, held_out: int = 800) -> Splits:
    """The first 4,000 training images of CIFAR-10, where the whole is too much.

    There are no test images among them: results cannot be compared with published ones.

    Args:
        folder: Where "data_batch_1_first4000.bin" is, plain or gzipped. None means the folder
            "cifar-10-subset" in the folder that the environment variable ESTIMATOR_DATA names.
        held_out: How many of the images validate, the last ones.

    Returns:
        Pairs of images (N, 3, 32, 32) uint8 and labels (N,) int64; no test part.

    Raises:
        ArgumentError: `held_out` leaves nothing.
        DataError: The file is missing, cut or another one.
    """
    place = existing_folder("cifar-10-subset", folder, SUBSET_ORIGIN)
    path = existing_file(place, "data_batch_1_first4000.bin")
    x, y = read_cifar(path)
    check_labels(y, len(CIFAR_CLASSES), path)
    first, last = hold_out(len(x), held_out, "cifar10_subset")
    return Splits((x[first], y[first]), (x[last], y[last]), None, CIFAR_CLASSES)


def read_cifar(path: Path) -> tuple[Tensor, Tensor]:
    """Reads one batch of CIFAR-10.

    The binary format: records of a label byte, then 1,024 bytes each of red, green and blue, row
    by row. The Python format: a pickle of a dict with "data", an array (N, 3072) of the same
    bytes, and "labels". It is read by an unpickler that knows numpy arrays and plain containers
    only, so no file can run code.

    Args:
        path: Of a batch, which may be gzipped.

    Returns:
        Images (N, 3, 32, 32) uint8 and labels (N,) int64.

    Raises:
        DataError: It is cut or another kind of file, or has labels out of range.
    """
    content = read_bytes(path)
    # Every pickle of protocol 2 or later begins with this byte, and no label is as large.
    rows, labels = _pickled(content, path) if content[:1] == b"\x80" else _binary(content, path)
    return (
        rows.view(-1, 3, 32, 32),
        check_labels(labels, len(CIFAR_CLASSES), path, complete=False),
    )


def _binary(content: bytes, path: Path) -> tuple[Tensor, Tensor]:
    records, rest = divmod(len(content), _RECORD)
    if rest or not records:
        raise DataError(
            f"{path}: a binary batch of CIFAR-10 has records of {_RECORD} bytes; received "
            f"{len(content)} bytes, which are {records} records and {rest} bytes. It is cut, or "
            "another file."
        )
    table = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(records, _RECORD)
    return table[:, 1:].clone(), table[:, 0].clone()


def _pickled(content: bytes, path: Path) -> tuple[Tensor, Tensor]:
    try:
        batch = loads(content)
    except (
        *(pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, KeyError),
        *(TypeError, ValueError, OverflowError, MemoryError),
    ) as error:
        raise DataError(
            f"{path}: a Python batch of CIFAR-10 is a pickle of arrays and plain containers; this "
            f"one cannot be read: {type(error).__name__}: {error}. It is cut, or another file."
        ) from error
    named = _by_text(batch)
    data, labels = named.get("data"), named.get("labels")
    is_table = isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.ndim == 2
    if not isinstance(data, np.ndarray) or not is_table or data.shape[1] != _IMAGE:
        raise DataError(
            f"{path}: 'data' of a Python batch of CIFAR-10 must be an array (N, {_IMAGE}) of "
            f"uint8; received {_told(data)} in {list(named)}. Is it another data set?"
        )
    whole = isinstance(labels, list) and all(type(label) is int for label in labels)
    if not isinstance(labels, list) or not whole or len(labels) != len(data):
        raise DataError(
            f"{path}: 'labels' of a Python batch of CIFAR-10 must be a list of {len(data)} whole "
            f"numbers; received {_told(labels)} in {list(named)}. Is it another data set?"
        )
    return torch.from_numpy(data.copy()), torch.tensor(labels)


def _by_text(batch: Any) -> dict[str, Any]:
    if not isinstance(batch, Mapping):
        return {}
    return {k.decode("latin-1") if isinstance(k, bytes) else str(k): v for k, v in batch.items()}


def _told(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array {value.shape} of {value.dtype}"
    return f"a list of {len(value)}" if isinstance(value, list) else type(value).__name__


def _batches(folder: Path) -> list[Path]:
    """The files of the five training batches and the test batch."""
    for inner in _FOLDERS:
        for ending in (".bin", ""):
            first = folder / inner / f"{_BATCHES[0]}{ending}"
            if first.is_file() or first.with_name(f"{first.name}.gz").is_file():
                return [existing_file(folder / inner, f"{name}{ending}") for name in _BATCHES]
    return [existing_file(folder, f"{_BATCHES[0]}.bin")]


def _unpack(archive: Path) -> None:
    """Puts the batches beside the archive, each whole or not at all."""
    with tarfile.open(archive) as tar:
        for name in _BATCHES:
            path = archive.parent / f"{name}.bin"
            member = tar.getmember(f"cifar-10-batches-bin/{name}.bin")
            file = tar.extractfile(member)
            assert file is not None, "the checked archive has a file of this name"
            if not path.is_file() or path.stat().st_size != member.size:
                part = path.with_suffix(".part")
                part.write_bytes(file.read())
                part.replace(path)

"""Memory that processes share, and nested samples as bytes in it."""

from __future__ import annotations

import contextlib
import io
import pickle
import shutil
import struct
import sys
from collections.abc import Sequence
from multiprocessing import shared_memory
from typing import Any

import torch

from estimator.handlers.base import DataError


class Block:
    """A piece of memory that other processes find by its name.

    Args:
        size: Bytes; 0 is for one that another process has made.
        name: Of one that another process has made, or is to find; None lets the system choose.

    Raises:
        DataError: There is not that much shared memory.
        FileNotFoundError: Nobody has made one of this name.
    """

    def __init__(self, size: int = 0, *, name: str | None = None) -> None:
        if size:
            _check_room(size)
        self._memory = shared_memory.SharedMemory(name, create=size > 0, size=size)
        self.name = self._memory.name
        self.size = self._memory.size

    @property
    def bytes(self) -> memoryview:
        """The memory itself; whoever keeps a part of it keeps it from being closed."""
        assert self._memory.buf is not None  # until it is closed
        return self._memory.buf

    def close(self, *, unlink: bool = False) -> None:
        """Lets go of the memory here; with `unlink`, nobody finds it from then on."""
        self._memory.close()
        if unlink:
            self._memory.unlink()


def forget(name: str) -> None:
    """Frees the memory of a name, where there is any."""
    # A process that was killed may have made a block and not yet given it a size.
    with contextlib.suppress(FileNotFoundError, ValueError):
        Block(name=name).close(unlink=True)


def _check_room(size: int) -> None:
    # Beyond this the system ends a process at its first write, without a word.
    if sys.platform == "linux":
        free = shutil.disk_usage("/dev/shm").free
        if size > free:
            raise DataError(
                f"workers need {size / 1e6:.1f} MB of shared memory, of which the system has "
                f"{free / 1e6:.1f} MB left. Choose a smaller capacity or batch size, or give a "
                "container more of it (docker run --shm-size=...)."
            )


def dumped(value: Any) -> list[memoryview]:
    """A value as pieces of bytes, in which arrays are not copied."""
    buffers: list[pickle.PickleBuffer] = []
    stream = io.BytesIO()
    _Pickler(stream, protocol=5, buffer_callback=buffers.append).dump(value)
    return [stream.getbuffer(), *(buffer.raw() for buffer in buffers)]


def loaded(pieces: Sequence[Any]) -> Any:
    """The value that pieces of bytes were made of; it uses their memory."""
    return pickle.loads(pieces[0], buffers=pieces[1:])


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        plain = type(value) is torch.Tensor and value.device.type == "cpu"
        if plain and value.layout is torch.strided and not value.requires_grad:
            # Not every type of numbers has an array.
            array = value.contiguous().flatten().view(torch.uint8).numpy()
            return _tensor, (array, value.dtype, tuple(value.shape))
        return NotImplemented


def _tensor(array: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(array).view(dtype).view(shape)


class Place:
    """Where one job's values lie, one after the other; its block grows with them.

    Args:
        owns: Whether this process clears up after all others.
    """

    def __init__(self, *, owns: bool) -> None:
        self.owns = owns
        self.block: Block | None = None

    def put(self, value: Any, name: str | None = None) -> tuple[str, int]:
        """Writes a value.

        Args:
            value: What can be pickled.
            name: Of the block, where one has to be made.

        Returns:
            Where it is, for `get` in another process. This is short whatever the value, so that
            messages about it never fill a pipe.
        """
        pieces = dumped(value)
        sizes = [piece.nbytes for piece in pieces]
        table = memoryview(struct.pack(f"{len(sizes)}q", *sizes))
        total = table.nbytes + sum(sizes)
        if self.block is None or self.block.size < total:
            self._have(Block(total * 5 // 4 + 4096, name=name))
        assert self.block is not None
        at = 0
        for piece in (table, *pieces):
            end = at + piece.nbytes
            self.block.bytes[at:end] = piece
            at = end
        return self.block.name, len(pieces)

    def get(self, name: str, count: int) -> Any:
        """Reads the value that another process has written, into memory of its own."""
        if self.block is None or self.block.name != name:
            self._have(Block(name=name))
        assert self.block is not None
        pieces, at = [], 8 * count
        for size in struct.unpack_from(f"{count}q", self.block.bytes):
            pieces.append(bytearray(self.block.bytes[at : at + size]))
            at += size
        return loaded(pieces)

    def _have(self, block: Block) -> None:
        self.close()
        self.block = block

    def close(self) -> None:
        """Lets go of the memory."""
        if self.block is not None:
            self.block.close(unlink=self.owns)
        self.block = None

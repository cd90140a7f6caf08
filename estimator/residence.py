"""Where in-memory data is kept for a run: on its device, as long as there is room."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch

from estimator.engine.cause import Cause
from estimator.engine.options import Engine
from estimator.staging import Streams, streams_for

SHARE = 0.4
"""How much of the free memory data may take that was not asked for by name."""


def is_accelerator(device: torch.device) -> bool:
    """Whether a device has memory of its own."""
    return device.type not in ("cpu", "meta")


def free_memory(device: torch.device) -> int:
    """Bytes that tensors can still take on a device; 0 where that is not known."""
    module = torch.get_device_module(device)
    if not hasattr(module, "mem_get_info"):
        return 0
    free: int = module.mem_get_info(device)[0]
    # What torch has set aside and does not use is as good as free.
    unused: int = module.memory_reserved(device) - module.memory_allocated(device)
    return free + unused


def in_words(size: int) -> str:
    """A number of bytes in words, such as "47 MB"."""
    if size < 1e6:
        return f"{size / 1e3:.1f} kB"
    return f"{size / 1e6:.0f} MB" if size >= 10e6 else f"{size / 1e6:.1f} MB"


def bytes_of(tensors: Sequence[torch.Tensor]) -> int:
    """Bytes of copies of tensors, of each one once."""
    return sum(t.numel() * t.element_size() for t in {id(t): t for t in tensors}.values())


class _Copy:
    """A tensor on the host and its copy on the device."""

    def __init__(self, tensor: torch.Tensor, device: torch.device) -> None:
        self.tensor = tensor
        self.there = torch.empty_like(tensor, device=device)
        self._seen: object = None
        self.follow()

    def fits(self) -> bool:
        """Whether the copy has the form of the tensor."""
        tensor, there = self.tensor, self.there
        return tensor.shape == there.shape and tensor.dtype == there.dtype

    def follow(self) -> None:
        """Copies the tensor again if it may have changed."""
        tensor = self.tensor
        # NumPy writes to memory that it shares, which is never torch's to resize, without a count.
        counted = not tensor.is_inference() and tensor.untyped_storage().resizable()
        seen = (tensor.data_ptr(), tensor._version) if counted else None
        if seen is None or seen != self._seen:
            self.there.copy_(tensor)
            self._seen = seen


class Residence:
    """The tensors of a run's data on its device, each once, and in step with those of the host.

    At the beginning of an epoch a tensor that was replaced, or changed in place, is copied again.
    What torch does not count is not seen: a change through `tensor.data`. A tensor that shares its
    memory with NumPy is copied at each epoch, since any array may have been written to.

    Args:
        device: Of the run.
        engine: Whether data goes to the device, and what happens where it does not fit.
    """

    def __init__(self, device: torch.device, engine: Engine) -> None:
        self.device = torch.empty(0, device=device).device
        self.engine = engine
        self.is_active = is_accelerator(self.device)
        """Whether there is a device to bring data to."""
        self._copies: dict[int, _Copy] = {}
        self._users: dict[object, Sequence[torch.Tensor]] = {}
        self._streamed: set[object] = set()
        self._refused: set[str] = set()
        self._streams: list[Streams | None] = []

    @property
    def streams(self) -> Streams | None:
        """What streams batches of data that stays on the host; None where nothing does."""
        if not self._streams:
            self._streams.append(streams_for(self.device) if self.is_active else None)
        return self._streams[0]

    def copies(
        self, user: object, tensors: Sequence[torch.Tensor], argument: str
    ) -> list[torch.Tensor] | None:
        """The tensors on the device as the host has them at present.

        Args:
            user: Whose tensors they are; what no user has any more is let go.
            tensors: On the host, or on the device already.
            argument: What messages call the data.

        Returns:
            One for each; None if they stay on the host.

        Raises:
            EngineError: There is no room, and the device was asked for with `on_fallback="error"`.
        """
        outside = [tensor for tensor in tensors if tensor.device.type == "cpu"]
        stays = self.engine.data == "host" or user in self._streamed
        if not self.is_active or (outside and stays):
            return None
        self._users[user] = outside
        self._let_go()
        if not self._copy(outside):
            self._streamed.add(user)
            del self._users[user]
            self._let_go()
            size, free = map(in_words, (bytes_of(outside), free_memory(self.device)))
            self.refuse(argument, f"{size} do not fit into the {free} known to be free")
            return None
        return [self._copies[id(t)].there if id(t) in self._copies else t for t in tensors]

    def _let_go(self) -> None:
        used = {id(tensor) for tensors in self._users.values() for tensor in tensors}
        kept = self._copies.items()
        self._copies = {key: copy for key, copy in kept if key in used and copy.fits()}

    def _copy(self, tensors: Sequence[torch.Tensor]) -> bool:
        missing = [tensor for tensor in tensors if id(tensor) not in self._copies]
        if missing:
            free, size = free_memory(self.device), bytes_of(missing)
            if size > (SHARE * free if self.engine.data == "auto" else free):
                return False
        try:
            for tensor in tensors:
                if id(tensor) in self._copies:
                    self._copies[id(tensor)].follow()
                else:
                    self._copies[id(tensor)] = _Copy(tensor, self.device)
        except torch.OutOfMemoryError:  # in one piece, which counts of free bytes do not tell
            return False
        return True

    def refuse(self, argument: str, reason: str) -> None:
        """Says once why data that was to be on the device is not.

        Args:
            argument: What messages call the data.
            reason: What stands in the way.

        Raises:
            EngineError: It was asked for, with `on_fallback="error"`.
        """
        if self.is_active and self.engine.data == "device" and argument not in self._refused:
            self._refused.add(argument)
            cause = Cause("E115", f"{argument} is not kept on {self.device}: {reason}")
            self.engine.fall_back(cause)

    def release(self) -> None:
        """Lets all copies go."""
        self._users.clear()
        self._copies.clear()
        self._streamed.clear()

    @contextlib.contextmanager
    def kept_unless_error(self) -> Iterator[None]:
        """Lets all copies go where a run cannot begin: a traceback may live for long."""
        try:
            yield
        except BaseException:
            self.release()
            raise

"""Several processes that train together: who they are, and what they tell one another."""

from __future__ import annotations

import atexit
import functools
import gc
import os
import pickle
import platform
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from estimator.handlers.base import ArgumentError, EstimatorError

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for one that does not come, before it gives up with an error."""


class World:
    """The processes of a run, as one of them sees them. This class is the world of one process.

    All processes have to call a method together, and in the same order; a call that only one of
    them makes waits for the others until the time-out.
    """

    rank: int = 0
    """This process, from 0 up. The first writes the files."""
    size: int = 1

    @property
    def tensors(self) -> dist.ProcessGroup | None:
        """What moves tensors on the device of the run."""
        return None

    def gather(self, value: T) -> list[T]:
        """One value of each process, in the order of their ranks.

        Args:
            value: Anything that pickles; its tensors should be on the CPU.
        """
        return [value]

    def first(self, make: Callable[[], T]) -> T:
        """What the first process makes, or the exception that it raises, on all of them.

        Args:
            make: Called on the first process only.
        """
        return make()

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all processes of a tensor on the device of the run."""
        return tensor

    def most(self, numbers: Sequence[float]) -> list[float]:
        """The largest that any process gives, for each of several numbers."""
        return list(numbers)

    def copy_first(self, tensors: Iterable[torch.Tensor]) -> None:
        """Gives tensors on the device of the run the values that they have on the first process."""


ALONE = World()


class Group(World):
    """The processes that torch.distributed has joined.

    Args:
        device: Of the run, which decides how tensors travel.
    """

    def __init__(self, device: torch.device) -> None:
        self.rank, self.size, self.device = dist.get_rank(), dist.get_world_size(), device
        # Made here, where all processes are.
        _control(dist.group.WORLD)

    # Nobody keeps a group: one that is still there when the interpreter ends can abort it.
    @property
    def control(self) -> dist.ProcessGroup:
        """What moves messages between the hosts' memories."""
        return _control(dist.group.WORLD)

    @property
    def tensors(self) -> dist.ProcessGroup | None:
        """What moves tensors on the device of the run."""
        joined: dist.ProcessGroup | None = dist.group.WORLD
        return self.control if self.device.type == "cpu" else joined

    def gather(self, value: T) -> list[T]:
        """One value of each process, in the order of their ranks."""
        gathered: list[Any] = [None] * self.size
        dist.all_gather_object(gathered, value, group=self.control)
        return gathered

    def first(self, make: Callable[[], T]) -> T:
        """What the first process makes, or the exception that it raises, on all of them."""
        outcome: list[Any] = [None, None]
        if self.rank == 0:
            try:
                outcome[0] = make()
            except Exception as error:
                outcome[1] = _portable(error)
                dist.broadcast_object_list(outcome, src=0, group=self.control)
                raise
        dist.broadcast_object_list(outcome, src=0, group=self.control)
        if outcome[1] is not None:
            raise outcome[1]
        made: T = outcome[0]
        return made

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all processes of a tensor on the device of the run."""
        total = tensor.clone()
        dist.all_reduce(total, group=self.tensors)
        return total

    def most(self, numbers: Sequence[float]) -> list[float]:
        """The largest that any process gives, for each of several numbers."""
        largest = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=self.control)
        result: list[float] = largest.tolist()
        return result

    def copy_first(self, tensors: Iterable[torch.Tensor]) -> None:
        """Gives tensors on the device of the run the values that they have on the first process."""
        with torch.no_grad():
            for tensor in tensors:
                # As bytes, since not every type travels.
                flat = tensor.detach().reshape(-1).contiguous()
                dist.broadcast(flat.view(torch.uint8), src=0, group=self.tensors)
                tensor.copy_(flat.view_as(tensor))


def _portable(error: Exception) -> Exception:
    """The exception as others can unpickle it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return EstimatorError(f"the first process failed: {error!r}")
    return error


@functools.lru_cache(maxsize=1)
def _control(joined: dist.ProcessGroup) -> dist.ProcessGroup:
    """A group for messages between the hosts' memories, whatever moves the tensors."""
    group: dist.ProcessGroup = dist.new_group(backend="gloo", timeout=TIMEOUT)
    return group


def processes() -> int:
    """How many processes this one belongs to: those that are joined, else those of torchrun."""
    if not dist.is_available():
        return 1
    if dist.is_initialized():
        return dist.get_world_size()
    launched = all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"))
    return int(os.environ["WORLD_SIZE"]) if launched else 1


def is_first() -> bool:
    """Whether this process is the one that writes files."""
    if processes() == 1:
        return True
    return (dist.get_rank() if dist.is_initialized() else int(os.environ["RANK"])) == 0


def own_index(device: torch.device) -> torch.device:
    """The accelerator of this process, where several each have one of their own."""
    if processes() == 1 or device.type == "cpu" or device.index is not None:
        return device
    return torch.device(device.type, int(os.environ.get("LOCAL_RANK", 0)))


def join(device: torch.device) -> World:
    """Joins the processes that were launched together, once in the life of each.

    Args:
        device: Of this process.
    """
    if processes() == 1:
        return ALONE
    if device.type != "cpu":
        torch.accelerator.set_device_index(device)
    if not dist.is_initialized():
        _initialise(device)
    world = Group(device)
    _check_devices(world, device)
    return world


def _initialise(device: torch.device) -> None:
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    backend = "gloo"
    if device.type != "cpu":
        own = dist.get_default_backend_for_device(device)
        backend = f"cpu:gloo,{device.type}:{own}"
    store, rank, size = next(rendezvous("env://", timeout=TIMEOUT))
    store = PrefixStore(f"attempt {_attempt()}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    atexit.register(_leave)


def _attempt() -> str:
    """Which start of the processes this is.

    torchrun keeps its store when it starts the processes again, and in it the addresses of those
    that are gone. With several machines each counts its own starts, so that the number says
    nothing; there, TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 makes a new store each time.
    """
    alone = os.environ.get("GROUP_WORLD_SIZE") == "1"
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if alone else "0"


def _leave() -> None:
    _control.cache_clear()
    gc.collect()
    if dist.is_initialized():
        dist.destroy_process_group()


def _check_devices(world: World, device: torch.device) -> None:
    places = world.gather((platform.node(), str(device)))
    if device.type != "cpu" and len(set(places)) < len(places):
        raise ArgumentError(
            f"fit(device=...) must give each process an accelerator of its own; received "
            f"{[place for _, place in places]}. Pass device=None."
        )

"""The random streams of a process: seeded, kept as they were, and as plain values."""

from __future__ import annotations

import contextlib
import pickle
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from estimator.distributed import World
from estimator.handlers.base import ArgumentError
from estimator.sampler import mixed, torch_seed


def seed_everything(seed: int) -> None:
    """Seeds the global random streams of Python, NumPy and torch.

    Raises:
        ArgumentError: The seed is not a whole number from 0 up.
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ArgumentError(f"fit(seed=...) must be a whole number from 0 up; received {seed!r}.")
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def part_streams(world: World, seed: int | None) -> None:
    """Gives each of several processes streams of its own, so that no two drop the same units.

    The first one's stay as they are; the others are seeded from them, or from `seed`.
    """
    if world.size > 1:
        base = world.first(lambda: torch_seed() if seed is None else seed)
        if world.rank:
            seed_everything(mixed(base, world.rank))


@contextlib.contextmanager
def random_state_kept() -> Iterator[Callable[[], bool]]:
    """Leaves the global random streams of Python, NumPy and torch as they were.

    Yields:
        A function that says whether anything was drawn from them on the CPU so far.
    """
    python, numpy, before = random.getstate(), np.random.get_state(), _fingerprint()
    accelerators = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=accelerators):
        try:
            yield lambda: _fingerprint() != before
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _fingerprint() -> tuple[object, ...]:
    numpy = pickle.dumps(np.random.get_state(legacy=False)["state"])
    return random.getstate(), numpy, torch.get_rng_state().numpy().tobytes()


def random_states(device: torch.device) -> dict[str, Any]:
    """The states of the global streams as plain values and tensors.

    Args:
        device: Its stream is included where it is not the CPU.
    """
    states = {
        "python": random.getstate(),
        "numpy": _plain(np.random.get_state(legacy=False)),
        "torch": torch.default_generator.get_state(),
    }
    if device.type != "cpu":
        states["device"] = torch.get_device_module(device).get_rng_state(device)
    return states


def set_random_states(states: Mapping[str, Any], device: torch.device) -> None:
    """Puts the global streams where `random_states` found them."""
    random.setstate(states["python"])
    np.random.set_state(_arrays(states["numpy"]))
    torch.default_generator.set_state(states["torch"])
    if device.type != "cpu" and "device" in states:
        torch.get_device_module(device).set_rng_state(states["device"], device)


def _plain(state: Any) -> Any:
    if isinstance(state, dict):
        return {name: _plain(value) for name, value in state.items()}
    if isinstance(state, np.ndarray):
        # Not every unsigned type has a tensor that loads everywhere.
        return torch.from_numpy(state.astype(np.int64))
    return state


def _arrays(state: Any) -> Any:
    if isinstance(state, Mapping):
        return {name: _arrays(value) for name, value in state.items()}
    return state.numpy().astype(np.uint64) if isinstance(state, torch.Tensor) else state

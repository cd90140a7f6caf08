"""Settings that all sequences with workers share."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from estimator.handlers.base import ArgumentError, ArgumentTypeError, nearest
from estimator.sampler import torch_seed


class JobOptions(TypedDict, total=False):
    """Keyword arguments of `map` and `async_reservoir`; see `Jobs` for what they mean."""

    on_error: Literal["raise", "drop"]
    max_drops: int
    seed: int | None
    timeout: float
    start_method: Literal["forkserver", "spawn", "fork"] | None


@dataclass(frozen=True, kw_only=True)
class Jobs:
    """How samples are worked on, and what happens where that fails.

    Attributes:
        on_error: "raise" ends the pass at the first sample whose function raises; "drop" leaves
            it out, with a warning, and names it in `.failures`.
        max_drops: How many samples of a pass may be left out before that is an error; a reservoir
            counts them from its beginning.
        seed: Of the random streams of Python, NumPy and torch, which each sample finds seeded by
            (seed, epoch, its place); None draws one from torch's stream.
        timeout: Seconds that a pass waits for any result of its workers.
        start_method: How workers start. None is "forkserver" where there is one, and "spawn"
            elsewhere: neither copies the threads or the GPU of this process. "fork" takes
            functions of a notebook, and is for a process that has not used a GPU yet.
    """

    on_error: Literal["raise", "drop"] = "raise"
    max_drops: int = 100
    seed: int
    timeout: float = 120.0
    start_method: str | None = None

    @property
    def drops(self) -> bool:
        """Whether a failing sample is left out."""
        return self.on_error == "drop"


def jobs(function: str, workers: object, options: Mapping[str, Any]) -> Jobs:
    """Checks the settings of a sequence with workers.

    Args:
        function: What messages call the call that got them.
        workers: How many processes there are to be.
        options: Keyword arguments.

    Raises:
        ArgumentError: A value out of its range.
        ArgumentTypeError: An option that does not exist.
    """
    known = JobOptions.__annotations__
    for name in options:
        if name not in known:
            raise ArgumentTypeError(f"{function} has no option {name!r}. {nearest(name, known)}")
    check_whole(function, "workers", workers, 0)
    check_whole(function, "max_drops", options.get("max_drops", 0), 0)
    _check(function, "on_error", options.get("on_error", "raise"), ("raise", "drop"))
    methods = (None, *multiprocessing.get_all_start_methods())
    _check(function, "start_method", options.get("start_method"), methods)
    timeout: Any = options.get("timeout", 1.0)
    if not isinstance(timeout, (int, float)) or not 0 < timeout < math.inf:
        raise ArgumentError(
            f"{function}(timeout=...) must be seconds above 0; received {timeout!r}."
        )
    seed = options.get("seed")
    if seed is None:
        seed = torch_seed()
    check_whole(function, "seed", seed, 0)
    return Jobs(**(dict(options) | {"seed": seed}))


def check_whole(function: str, name: str, value: object, least: int) -> None:
    """Checks that an argument is a whole number from `least` up.

    Raises:
        ArgumentError: It is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ArgumentError(
            f"{function}({name}=...) must be a whole number from {least} up; received {value!r}."
        )


def _check(function: str, name: str, value: object, options: tuple[object, ...]) -> None:
    if value not in options:
        allowed = ", ".join(map(repr, options))
        raise ArgumentError(f"{function}({name}=...) must be one of {allowed}; received {value!r}.")

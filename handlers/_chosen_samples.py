"""Samples that are chosen by chance, the same ones in each pass, without a list of all."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from estimator.handlers._top_rows import TopRows
from estimator.handlers.base import ArgumentTypeError

if TYPE_CHECKING:
    from estimator.distributed import World
    from estimator.stats import TrainStats

Uid = int | str
_LONGEST = 1000
_GOLDEN, _FIRST, _SECOND = (
    0x9E3779B97F4A7C15 - (1 << 64),
    0xBF58476D1CE4E5B9 - (1 << 64),
    0x94D049BB133111EB - (1 << 64),
)
_PRIME = np.uint64(0x100000001B3)


class Chosen(NamedTuple):
    """A sample as it passed."""

    uid: Uid
    order: float
    """The highest of all samples are the chosen ones."""
    epoch: int
    rows: dict[str, Tensor]
    """Its values on the host, by name."""


def check_seed(seed: int, owner: str) -> int:
    """Returns the seed that a handler was given.

    Raises:
        ArgumentTypeError: It is no whole number.
    """
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise ArgumentTypeError(
            f"{owner}(seed=...) must be a whole number; received {seed!r}. Another one chooses "
            "other samples."
        )
    return seed


def keys_of(uids: Any) -> tuple[Tensor, Tensor]:
    """What samples are told apart by, and their uids as a row of each.

    Args:
        uids: Whole numbers in a tensor, or texts.

    Returns:
        One number a sample, (N,) int64; and rows (N,) int64 of numbers, (N, L) int32 of the
        letters of texts.
    """
    if isinstance(uids, Tensor):
        numbers = uids.to(torch.int64)
        return numbers, numbers
    names = np.asarray(list(uids))
    if names.dtype.kind in "iu":
        numbers = torch.from_numpy(names.astype(np.int64))
        return numbers, numbers
    names = names.astype(f"U{min(_LONGEST, max(1, names.astype(str).dtype.itemsize // 4))}")
    letters = np.ascontiguousarray(names).view(np.uint32).reshape(len(names), -1)
    with np.errstate(over="ignore"):
        powers = np.full(letters.shape[1], _PRIME).cumprod(dtype=np.uint64)
        # Letters that fill a text up are 0 and add nothing.
        numbers = torch.from_numpy((letters * powers).sum(1, dtype=np.uint64).view(np.int64))
    return numbers, torch.from_numpy(letters.view(np.int32))


def orders(keys: Tensor, seed: int) -> Tensor:
    """A number for each key that looks drawn by chance, (N,) float32 and not above 0.

    The finalizer of SplitMix64 (Steele, Lea and Flood, 2014, "Fast splittable pseudorandom number
    generators") takes neighbouring keys far apart.
    """
    mixed = keys + (seed + 1) * _GOLDEN % (1 << 63)
    mixed = (mixed ^ _shifted(mixed, 30)) * _FIRST
    mixed = (mixed ^ _shifted(mixed, 27)) * _SECOND
    return -_shifted(mixed ^ _shifted(mixed, 31), 11).to(torch.float32)


def _shifted(value: Tensor, places: int) -> Tensor:
    """A shift to the right that brings in zeros, also where the number is negative."""
    return (value >> places) & ((1 << (64 - places)) - 1)


def uid_of(row: Tensor) -> Uid:
    """The uid that a row of `keys_of` on the host stands for."""
    if not row.ndim:
        return int(row)
    return "".join(map(chr, row.tolist())).rstrip("\0")


class ChosenSamples:
    """Collects the chosen samples of one pass after the other.

    Nothing waits for the device before a pass is over, and memory is bounded: see `TopRows`.

    Args:
        samples: How many are chosen.
        seed: Chooses which.
    """

    def __init__(self, samples: int, seed: int) -> None:
        self.samples, self.seed = samples, seed
        self._device = torch.device("cpu")
        self._least = -math.inf
        """The order of the last of the chosen of all passes so far."""
        self.begin()

    def begin(self) -> None:
        """Starts a pass; one that was not taken is forgotten."""
        # Twice as many: a sample that is drawn again and again fills several rows.
        self._top: TopRows[Tensor] = TopRows(2 * self.samples, self._orders)

    def _orders(self, keys: list[Tensor]) -> Tensor:
        return orders(torch.cat(keys).to(self._device, non_blocking=True), self.seed)

    @torch.no_grad()
    def add(
        self, stats: TrainStats, rows_of_batch: Callable[[], Mapping[str, Tensor]], size: int
    ) -> None:
        """Takes a batch.

        Args:
            stats: The run, inside the batch.
            rows_of_batch: Gives what is kept of each sample, tensors (size, ...) by name; it is
                asked where a sample of the batch is taken.
            size: Samples in the batch; nothing is taken of none.
        """
        if not size:
            return
        self._device = stats.device
        keys, uids = keys_of(stats.uids)
        if keys.device.type == "cpu" and self._least > -math.inf:
            # To look at what lies on the host waits for nothing.
            places = (orders(keys, self.seed) >= self._least).nonzero()[:, 0]
            if not len(places):
                return
            keys, uids, size = keys[places], uids[places], len(places)
            rows = {n: r.index_select(0, places.to(r.device)) for n, r in rows_of_batch().items()}
        else:
            rows = dict(rows_of_batch())
        # The uids may be overwritten by the next batch.
        self._top.add(keys.clone(), {"uid": uids, **rows}, size, stats.device)

    def take(self, epoch: int, world: World) -> list[Chosen]:
        """Ends the pass; the samples of all processes, chosen ones first."""
        self._top.compare()
        found = []
        if self._top.scores is not None:
            rows = self._top.rows()
            # A view would keep the rows of all others alive.
            for place, order in enumerate(self._top.scores.tolist()):
                own = {name: values[place].clone() for name, values in rows.items()}
                found.append(Chosen(uid_of(own.pop("uid")), order, epoch, own))
        self.begin()
        everyone = [sample for part in world.gather(found) for sample in part]
        known = sorted({sample.uid: sample.order for sample in everyone}.values(), reverse=True)
        if len(known) >= self.samples:
            self._least = max(self._least, known[self.samples - 1])
        return sorted(everyone, key=lambda sample: -sample.order)

    def state_dict(self) -> dict[str, Any]:
        """The pass so far, on the host."""
        return self._top.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on with the pass that `state_dict` gave."""
        self._top.load_state_dict(state)


def newest(former: Sequence[Chosen], found: Sequence[Chosen], samples: int) -> list[Chosen]:
    """The chosen of all passes so far, each as it passed last."""
    by_uid = {sample.uid: sample for sample in [*former, *found]}
    return sorted(by_uid.values(), key=lambda sample: -sample.order)[:samples]

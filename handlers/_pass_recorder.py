"""One pass over a split: the loss of every sample, and the rows of those that rank worst.

Everything stays on the device until the pass is over, and no call waits for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from estimator.handlers._loss_table import Array, LossTable, Rank
from estimator.handlers._sample_rows import batch_rows

if TYPE_CHECKING:
    from estimator.stats import TrainStats

WAITING_BATCHES = 16
WAITING_BYTES = 32 << 20
_LAST = torch.iinfo(torch.int64).max


class Prior:
    """Tells the score that a sample will have once the present pass counts.

    Args:
        table: The losses of all passes before.
        rank: How the passes add up.
    """

    def __init__(self, table: LossTable, rank: Rank) -> None:
        total, seen = table.totals()
        self._uids, self._rank = table.uids, rank
        # One row more, of zeros, for samples that were never seen.
        self._total = torch.from_numpy(np.append(total, 0.0).astype(np.float32))
        self._seen = torch.from_numpy(np.append(seen, 0).astype(np.float32))
        self._known = torch.tensor([_LAST])
        if self._uids.dtype.kind == "i":
            self._known = torch.from_numpy(np.append(self._uids, _LAST))

    def scores(self, uids: list[Any], losses: Tensor) -> Tensor:
        """The scores (n,) of samples from their losses (n,) in this pass."""
        device = losses.device
        self._total, self._seen = self._total.to(device), self._seen.to(device)
        self._known = self._known.to(device)
        row = self._rows(uids, device)
        total = losses + self._total.index_select(0, row)
        return total if self._rank == "sum" else total / (1 + self._seen.index_select(0, row))

    def _rows(self, uids: list[Any], device: torch.device) -> Tensor:
        unknown = len(self._uids)
        if isinstance(uids[0], Tensor):
            numbers = torch.cat(uids).to(device, non_blocking=True)
            row = torch.searchsorted(self._known, numbers)
            return torch.where(self._known[row] == numbers, row, unknown)
        names = host_uids(uids)
        if not unknown or self._uids.dtype.kind != names.dtype.kind:
            return torch.full((len(names),), unknown, device=device)
        place = np.searchsorted(self._uids, names)
        known = self._uids[np.minimum(place, unknown - 1)] == names
        return torch.from_numpy(np.where(known, place, unknown)).to(device, non_blocking=True)


def host_uids(uids: list[Any]) -> Array:
    """The identities of several batches as one array on the host."""
    if isinstance(uids[0], Tensor):
        return torch.cat(uids).cpu().numpy()
    return np.concatenate([np.asarray(batch) for batch in uids])


class Pass(NamedTuple):
    """What a pass leaves, on the host."""

    uids: Array
    losses: Array
    worst: Array
    """Indices into `uids` of the samples whose rows were kept, worst first."""
    rows: dict[str, Tensor]
    """Their inputs, targets and outputs: tensors (len(worst), ...) by name."""


class PassRecorder:
    """Records one pass. Kept on the device: 12 bytes a sample, and the rows of some samples.

    The rows are those of the `keep` worst samples so far, and of up to 16 batches (but no more
    than 32 MiB of them, and at least one batch) that wait to be compared with these. Rows are
    copied when their batch passes, since its tensors may be overwritten by the next one.

    Args:
        keep: Rows to keep.
        prior: Ranks the samples.
    """

    def __init__(self, keep: int, prior: Prior) -> None:
        self._keep, self._prior = keep, prior
        self._losses: list[Tensor] = []
        self._uids: list[Any] = []
        self._compared = self._first = 0
        self._scores: Tensor | None = None
        self._numbers: Tensor | None = None
        self._rows: dict[str, Tensor] = {}
        self._filled = self._capacity = 0

    @torch.no_grad()
    def add(self, stats: TrainStats) -> None:
        """Takes the present batch."""
        losses, uids = stats.sample_losses, stats.uids
        assert losses is not None, "needs names sample_losses"
        if losses.ndim > 1:
            losses = losses.flatten(1).mean(1)
        if not len(losses):
            return
        self._make_room(len(losses))
        is_tensor = isinstance(uids, Tensor)
        self._losses.append(losses.to(torch.float32, copy=True))
        self._uids.append(uids.to(torch.int64, copy=True) if is_tensor else list(uids))
        self._store(batch_rows(stats, len(losses)), len(losses))

    def _make_room(self, size: int) -> None:
        if self._filled + size > self._capacity and self._filled:
            self._compare()

    def _store(self, rows: dict[str, Tensor], size: int) -> None:
        if not self._losses[1:]:
            self._allocate(rows, size)
        # Values that are not in every batch have no row for every sample.
        for name in self._rows.keys() - rows.keys():
            del self._rows[name]
        start, self._filled = self._filled, self._filled + size
        self._capacity = max(self._capacity, self._filled)
        for name in list(self._rows):
            self._fit(name, rows[name])
        for name, buffer in self._rows.items():
            place, row = buffer[start : self._filled], rows[name]
            if place.shape != row.shape:
                place.zero_()
                place = place[tuple(map(slice, row.shape))]
            place.copy_(row)

    def _allocate(self, rows: dict[str, Tensor], size: int) -> None:
        row_bytes = sum(row.nbytes for row in rows.values()) // size or 1
        waiting = max(size, min(WAITING_BATCHES * size, WAITING_BYTES // row_bytes))
        self._capacity = self._keep + waiting
        device = self._losses[0].device
        # A buffer born in inference mode could not be written to outside of it, in `take`.
        with torch.inference_mode(False):
            for name, row in rows.items():
                shape = (self._capacity, *row.shape[1:])
                self._rows[name] = torch.empty(shape, dtype=row.dtype, device=device)

    def _fit(self, name: str, row: Tensor) -> None:
        """Makes the buffer of a value as large as its largest row, or gives the value up."""
        buffer = self._rows[name]
        if buffer.ndim != row.ndim or buffer.dtype != row.dtype:
            del self._rows[name]
            return
        shape = (self._capacity, *map(max, buffer.shape[1:], row.shape[1:]))
        if shape != buffer.shape:
            with torch.inference_mode(False):
                larger = self._rows[name] = buffer.new_zeros(shape)
            larger[tuple(map(slice, buffer.shape))] = buffer

    def _compare(self) -> None:
        """Keeps the worst of the kept and the waiting rows."""
        losses, uids = self._losses[self._compared :], self._uids[self._compared :]
        joined = torch.cat(losses)
        scores = self._prior.scores(uids, joined).nan_to_num(torch.inf, torch.inf, -torch.inf)
        numbers = torch.arange(self._first, self._first + len(joined), device=joined.device)
        if self._scores is not None and self._numbers is not None:
            scores = torch.cat([self._scores, scores])
            numbers = torch.cat([self._numbers, numbers])
        self._scores, worst = scores.topk(min(self._keep, len(scores)))
        self._numbers = numbers.index_select(0, worst)
        for buffer in self._rows.values():
            buffer[: len(worst)] = buffer.index_select(0, worst)
        self._compared, self._filled = len(self._losses), len(worst)
        self._first += len(joined)

    def take(self) -> Pass | None:
        """Ends the pass and brings it to the host; None when it had no batch."""
        if not self._losses:
            return None
        self._compare()
        assert self._numbers is not None
        return Pass(
            host_uids(self._uids),
            torch.cat(self._losses).cpu().numpy(),
            self._numbers.cpu().numpy(),
            {name: buffer[: self._filled].cpu() for name, buffer in self._rows.items()},
        )

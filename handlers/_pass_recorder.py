"""One pass over a split: the loss of every sample, and the rows of those that rank worst.

Everything stays on the device until the pass is over, and no call waits for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def joined(passes: Sequence[Pass | None]) -> Pass | None:
    """The passes of several processes, one after the other; None where none had a batch."""
    found = [each for each in passes if each is not None]
    if len(found) < 2:
        return found[0] if found else None
    starts = np.cumsum([0, *(len(each.uids) for each in found[:-1])])
    rows = {}
    for name in found[0].rows:
        parts = [each.rows.get(name) for each in found]
        # Padded to the longest row of its process, a value may be of another shape in each.
        if len({None if p is None else (p.shape[1:], p.dtype) for p in parts}) == 1:
            rows[name] = torch.cat([p for p in parts if p is not None])
    return Pass(
        np.concatenate([each.uids for each in found]),
        np.concatenate([each.losses for each in found]),
        np.concatenate([each.worst + start for each, start in zip(found, starts, strict=True)]),
        rows,
    )


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
        # What was compared comes first; where a run resumes, all of it is on the host as yet.
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
        if self._losses and not self._capacity:
            self._settle(losses.device, uids)
        self._make_room(len(losses))
        is_tensor = isinstance(uids, Tensor)
        self._losses.append(losses.to(torch.float32, copy=True))
        self._uids.append(uids.to(torch.int64, copy=True) if is_tensor else list(uids))
        self._store(batch_rows(stats, len(losses)), len(losses))

    def _make_room(self, size: int) -> None:
        if self._filled + size > self._capacity and self._filled:
            self._compare()

    def _store(self, rows: dict[str, Tensor], size: int) -> None:
        if not self._capacity:
            self._allocate(rows if self._scores is None else self._rows, size)
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
        row_bytes = sum(row[:1].nbytes for row in rows.values()) or 1
        waiting = max(size, min(WAITING_BATCHES * size, WAITING_BYTES // row_bytes))
        self._capacity = self._keep + waiting
        device = self._losses[0].device
        # A buffer born in inference mode could not be written to outside of it, in `take`.
        with torch.inference_mode(False):
            for name, row in rows.items():
                shape = (self._capacity, *row.shape[1:])
                buffer = torch.empty(shape, dtype=row.dtype, device=device)
                buffer[: self._filled] = row[: self._filled]
                self._rows[name] = buffer

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
        if self._compared == len(self._losses):
            return
        losses, uids = self._losses[self._compared :], self._uids[self._compared :]
        joined = torch.cat(losses)
        scores = self._prior.scores(uids, joined).nan_to_num(torch.inf, torch.inf, -torch.inf)
        numbers = torch.arange(self._first, self._first + len(joined), device=joined.device)
        if self._scores is not None and self._numbers is not None:
            scores = torch.cat([self._scores, scores])
            numbers = torch.cat([self._numbers, numbers])
        # Among equals the earlier ones stay, however often it is that rows are compared.
        scores, order = scores.sort(stable=True, descending=True)
        self._scores, worst = scores[: self._keep].clone(), order[: self._keep]
        self._numbers = numbers.index_select(0, worst)
        for buffer in self._rows.values():
            buffer[: len(worst)] = buffer.index_select(0, worst)
        self._compared, self._filled = len(self._losses), len(worst)
        self._first += len(joined)

    def take(self) -> Pass | None:
        """Brings the pass to the host; None when it had no batch."""
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

    def state_dict(self) -> dict[str, Any]:
        """The pass so far, on the host; nothing when it had no batch."""
        if not self._losses:
            return {}
        self._compare()
        assert self._scores is not None and self._numbers is not None
        uids = torch.cat(self._uids).cpu() if isinstance(self._uids[0], Tensor) else None
        return {
            "uids": host_uids(self._uids).tolist() if uids is None else uids,
            "losses": torch.cat(self._losses).cpu(),
            "scores": self._scores.cpu(),
            "numbers": self._numbers.cpu(),
            # The buffers are written to as the pass goes on.
            "rows": {n: b[: self._filled].to("cpu", copy=True) for n, b in self._rows.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on with the pass that `state_dict` gave."""
        if state:
            self._losses, self._uids = [state["losses"]], [state["uids"]]
            self._first, self._compared = len(state["losses"]), 1
            self._scores = state["scores"][: self._keep]
            self._numbers = state["numbers"][: self._keep]
            self._rows = dict(state["rows"])
            self._filled = len(self._numbers)

    def _settle(self, device: torch.device, uids: Any) -> None:
        """Brings what a run resumes with to where its batches are."""
        assert self._scores is not None and self._numbers is not None
        self._losses = [losses.to(device) for losses in self._losses]
        self._scores, self._numbers = self._scores.to(device), self._numbers.to(device)
        if isinstance(uids, Tensor):
            self._uids = [known.to(uids.device) for known in self._uids]

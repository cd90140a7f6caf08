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
from estimator.handlers._top_rows import TopRows

if TYPE_CHECKING:
    from estimator.stats import TrainStats

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

    Args:
        keep: Rows to keep.
        prior: Ranks the samples.
    """

    def __init__(self, keep: int, prior: Prior) -> None:
        self._prior = prior
        # Where a run resumes, all of it is on the host as yet.
        self._losses: list[Tensor] = []
        self._uids: list[Any] = []
        self._resumes = False
        self._top: TopRows[tuple[Any, Tensor]] = TopRows(keep, self._scores)

    def _scores(self, batches: list[tuple[Any, Tensor]]) -> Tensor:
        uids, losses = zip(*batches, strict=True)
        return self._prior.scores(list(uids), torch.cat(losses))

    @torch.no_grad()
    def add(self, stats: TrainStats) -> None:
        """Takes the present batch."""
        losses, uids = stats.sample_losses, stats.uids
        assert losses is not None, "needs names sample_losses"
        if losses.ndim > 1:
            losses = losses.flatten(1).mean(1)
        if not len(losses):
            return
        if self._resumes:
            self._settle(losses.device, uids)
        is_tensor = isinstance(uids, Tensor)
        batch = (
            uids.to(torch.int64, copy=True) if is_tensor else list(uids),
            losses.to(torch.float32, copy=True),
        )
        self._uids.append(batch[0])
        self._losses.append(batch[1])
        size = len(losses)
        self._top.add(batch, batch_rows(stats, size), size, losses.device)

    def take(self) -> Pass | None:
        """Brings the pass to the host; None when it had no batch."""
        if not self._losses:
            return None
        self._top.compare()
        assert self._top.numbers is not None
        return Pass(
            host_uids(self._uids),
            torch.cat(self._losses).cpu().numpy(),
            self._top.numbers.cpu().numpy(),
            self._top.rows(),
        )

    def state_dict(self) -> dict[str, Any]:
        """The pass so far, on the host; nothing when it had no batch."""
        if not self._losses:
            return {}
        uids = torch.cat(self._uids).cpu() if isinstance(self._uids[0], Tensor) else None
        return {
            "uids": host_uids(self._uids).tolist() if uids is None else uids,
            "losses": torch.cat(self._losses).cpu(),
            **self._top.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on with the pass that `state_dict` gave."""
        if state:
            self._losses, self._uids, self._resumes = [state["losses"]], [state["uids"]], True
            self._top.load_state_dict(state)

    def _settle(self, device: torch.device, uids: Any) -> None:
        """Brings what a run resumes with to where its batches are."""
        self._resumes = False
        self._losses = [losses.to(device) for losses in self._losses]
        if isinstance(uids, Tensor):
            self._uids = [known.to(uids.device) for known in self._uids]

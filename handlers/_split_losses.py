"""One split of the data: its losses, the pass under way, and copies of the worst samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from estimator.handlers._loss_table import LossTable, Rank, Ranking
from estimator.handlers._pass_recorder import Pass, PassRecorder, Prior, joined
from estimator.handlers._sample_files import Sample
from estimator.handlers._sample_rows import one_line

if TYPE_CHECKING:
    from estimator.distributed import World
    from estimator.stats import TrainStats


class _Copy:
    """What was kept of one sample, and the epoch in which it was taken."""

    def __init__(self, epoch: int, rows: dict[str, Tensor]) -> None:
        self.epoch, self.rows = epoch, rows


class SplitLosses:
    """Follows the samples of one split, one pass an epoch.

    Args:
        table: The losses of all passes before.
        worst: How many samples are shown.
        rank: How the passes add up.
    """

    def __init__(self, table: LossTable, worst: int, rank: Rank) -> None:
        self.table, self.worst, self.rank = table, worst, rank
        self.copies: dict[int | str, _Copy] = {}
        self.undrawn = False
        """Whether the table holds a pass that no map shows."""
        self._prior = Prior(table, rank)
        self.begin()

    def begin(self) -> None:
        """Starts a pass; one that was not folded is forgotten."""
        # Twice as many rows as are shown: a sample that is drawn again and again fills several.
        self._recorder = PassRecorder(2 * self.worst, self._prior)

    def add(self, stats: TrainStats) -> None:
        """Takes the present batch into the pass."""
        self._recorder.add(stats)

    def fold(self, epoch: int, step: int, world: World) -> bool:
        """Enters the pass of all processes into the table.

        Returns:
            Whether there was one.
        """
        found = joined(world.gather(self._recorder.take()))
        if found is not None:
            self.table.record(epoch, step, found.uids, found.losses)
            self._keep_copies(epoch, found)
            self.undrawn = True
            self._prior = Prior(self.table, self.rank)
        self.begin()
        return found is not None

    def _keep_copies(self, epoch: int, found: Pass) -> None:
        worst = set(self.table.ranking(self.rank).uids[: 2 * self.worst].tolist())
        self.copies = {uid: copy for uid, copy in self.copies.items() if uid in worst}
        fresh = set()
        for row, uid in enumerate(found.uids[found.worst].tolist()):
            if uid in worst and uid not in fresh:
                fresh.add(uid)
                # A view would keep the rows of all others alive.
                rows = {name: values[row].clone() for name, values in found.rows.items()}
                self.copies[uid] = _Copy(epoch, rows)

    def samples(self, ranking: Ranking) -> list[Sample]:
        """The worst samples, for export."""
        columns = (ranking.uids.tolist(), ranking.score.tolist(), ranking.seen.tolist())
        rows = list(zip(*columns, strict=True))[: self.worst]
        return [self._sample(i, *row) for i, row in enumerate(rows, start=1)]

    def _sample(self, number: int, uid: int | str, score: float, seen: int) -> Sample:
        copy = self.copies.get(uid)
        name = one_line(uid)
        facts = {"rank": str(number), "uid": name, f"{self.rank}_loss": f"{score:.9g}"}
        facts["seen"] = str(seen)
        facts["epoch"] = "no copy was kept" if copy is None else str(copy.epoch)
        return Sample(number, name, score, facts, {} if copy is None else copy.rows)

    def state_dict(self) -> dict[str, Any]:
        """All but the table, on the host."""
        copies = {uid: (copy.epoch, dict(copy.rows)) for uid, copy in self.copies.items()}
        return {"pass": self._recorder.state_dict(), "copies": copies, "undrawn": self.undrawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where the split was that gave this state, with the same table."""
        if state:
            self._recorder.load_state_dict(state["pass"])
            self.copies = {uid: _Copy(*copy) for uid, copy in state["copies"].items()}
            # The table may be lost, and then there is nothing to draw.
            self.undrawn = state["undrawn"] and bool(self.table.epochs)

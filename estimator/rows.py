"""`Rows`: how the history of a run is written."""

from __future__ import annotations

from collections.abc import Sequence

from estimator.history import Value
from estimator.stats import TrainStats
from estimator.trainer import BoundTrainer


class Rows:
    """Writes the rows of a run: one for each epoch, and one for each validation inside an epoch.

    Args:
        stats: The run.
    """

    def __init__(self, stats: TrainStats) -> None:
        self.stats = stats
        self.cut: list[dict[str, Value]] | None = None
        """Where the last row is of a cut epoch: the row that it replaced, if there was one."""

    def add(self, *, complete: bool) -> None:
        """Adds the present results; a row of the same step is completed.

        Args:
            complete: Whether the row ends a full epoch.
        """
        stats, rows = self.stats, self.stats.history.rows
        if rows and self._is_open(rows[-1]):
            rows.pop()
        row: dict[str, Value] = {"epoch": stats.epoch, "step": stats.step, "time": stats.elapsed}
        row |= rate_columns(list(stats.trainers.values())) | {"complete": complete}
        row |= {f"train_{name}": value for name, value in stats.train.items()}
        if stats.validated_at == stats.step:
            row |= {f"val_{name}": value for name, value in stats.val.items()}
        stats.history.append(row)

    def close(self, *, complete: bool) -> None:
        """Adds the row of an epoch that is over; a resumed run replaces that of a cut one."""
        if not complete:
            self.cut = [row for row in self.stats.history.rows[-1:] if self._is_open(row)]
        self.add(complete=complete)

    def lacks_step(self) -> bool:
        """Whether the present step has no row yet."""
        rows = self.stats.history.rows
        return not (rows and rows[-1]["step"] == self.stats.step)

    def _is_open(self, row: dict[str, Value]) -> bool:
        return row["step"] == self.stats.step and not row["complete"]


def rate_columns(trainers: Sequence[BoundTrainer]) -> dict[str, Value]:
    """The learning-rate columns of a row: `lr`, and one for each trainer and group of several."""
    rates: dict[str, Value] = {"lr": trainers[0].lrs[0]} if trainers else {}
    for trainer in trainers:
        lrs = trainer.lrs
        base = f"lr_{trainer.name}" if len(trainers) > 1 else "lr"
        if len(lrs) > 1:
            rates |= {f"{base}_group{i}": lr for i, lr in enumerate(lrs)}
        elif len(trainers) > 1:
            rates[base] = lrs[0]
    return rates

"""The losses of single samples over the epochs, and the file that keeps them."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from estimator.handlers.base import DataError, FolderError

Rank = Literal["mean", "sum"]
Array = npt.NDArray[Any]
_DAMAGES = (OSError, ValueError, TypeError, KeyError, IndexError, EOFError)


class Ranking(NamedTuple):
    """The samples of a table, worst first; equal ones in the order of their uids."""

    uids: Array
    score: Array
    """Mean or sum of the losses, float64 (N,)."""
    seen: Array
    """In how many epochs the sample was seen, (N,)."""
    loss: Array
    """float32 (N, E); NaN where the sample was not seen."""


class LossTable:
    """Loss of each sample (a row, sorted by uid) in each epoch (a column).

    NaN means that the sample was not seen in that epoch. A loss that is itself not a number is
    kept as infinity, the worst there is. The file is a NumPy archive with these arrays: `uids`
    (N,) int64 or text, `epochs` (E,) counted from 1, `steps` (E,) optimizer steps when the column
    was written, `loss` (N, E) float32.

    Example:
        >>> table = LossTable()
        >>> table.record(1, 10, np.array([7, 3, 3]), np.array([0.5, 1.0, 2.0]))
        >>> table.uids.tolist(), table.loss.tolist()
        ([3, 7], [[1.5], [0.5]])
    """

    def __init__(self) -> None:
        self.uids: Array = np.empty(0, np.int64)
        self.epochs: list[int] = []
        self.steps: list[int] = []
        self.loss: Array = np.empty((0, 0), np.float32)

    def record(self, epoch: int, step: int, uids: Array, losses: Array) -> None:
        """Enters one pass; a sample met several times gets the mean.

        Args:
            epoch: The epoch, counted from 1, which the table has not yet.
            step: Optimizer steps so far.
            uids: (n,) int64 or text.
            losses: (n,).

        Raises:
            DataError: Some uids are numbers and others text.
        """
        if len(self.uids) and self.uids.dtype.kind != uids.dtype.kind:
            raise DataError(
                "the uids of a split must be all integers or all strings; received "
                f"{self.uids[0]!r} and later {uids[0]!r}. Give every sample the same kind of uid."
            )
        losses = np.nan_to_num(losses.astype(np.float64), nan=np.inf, posinf=np.inf, neginf=-np.inf)
        seen, inverse = np.unique(uids, return_inverse=True)
        means = np.bincount(inverse, weights=losses) / np.bincount(inverse)
        self._grow(seen)
        column = np.full((len(self.uids), 1), np.nan, np.float32)
        column[np.searchsorted(self.uids, seen), 0] = means
        self.loss = np.concatenate([self.loss, column], axis=1)
        self.epochs.append(epoch)
        self.steps.append(step)

    def _grow(self, seen: Array) -> None:
        uids = np.union1d(self.uids, seen) if len(self.uids) else seen
        if len(uids) > len(self.uids):
            loss = np.full((len(uids), len(self.epochs)), np.nan, np.float32)
            if len(self.uids):
                loss[np.searchsorted(uids, self.uids)] = self.loss
            self.uids, self.loss = uids, loss

    def totals(self) -> tuple[Array, Array]:
        """Sum of each sample's losses (float64) and the number of epochs that saw it."""
        seen = ~np.isnan(self.loss)
        return np.where(seen, self.loss, 0).sum(1, dtype=np.float64), seen.sum(1)

    def ranking(self, rank: Rank) -> Ranking:
        """All samples, worst first.

        Args:
            rank: "mean" orders by the mean loss over the epochs that saw the sample, "sum" by
                the sum, which favours samples that are drawn more often.
        """
        total, seen = self.totals()
        score = total / seen if rank == "mean" else total
        order = np.argsort(-score, kind="stable")
        return Ranking(self.uids[order], score[order], seen[order], self.loss[order])

    def save(self, path: Path) -> None:
        """Writes the file in one go: a reader finds the former one or this one, never half."""
        unfinished = path.with_suffix(".part")
        try:
            with open(unfinished, "wb") as file:
                np.savez(file, uids=self.uids, epochs=self.epochs, steps=self.steps, loss=self.loss)
            os.replace(unfinished, path)
        finally:
            # On a full disk half a file would only take the room of others.
            unfinished.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path, epoch: int) -> LossTable:
        """Reads a table as it was when an epoch was finished; later ones are left out.

        Raises:
            FolderError: The file is damaged, or no table.
        """
        table = cls()
        try:
            with open(path, "rb") as opened, np.load(opened) as file:
                kept = file["epochs"] <= epoch
                loss = file["loss"][:, kept]
                seen = ~np.isnan(loss).all(1)
                table.uids, table.loss = file["uids"][seen], loss[seen]
                table.epochs = file["epochs"][kept].tolist()
                table.steps = file["steps"][kept].tolist()
        except (*_DAMAGES, zipfile.BadZipFile) as error:
            raise FolderError(
                f"{str(path)!r} must be a table of losses that this handler wrote; it cannot be "
                f"read ({error}). Delete it to go on without the losses of earlier epochs."
            ) from error
        return table

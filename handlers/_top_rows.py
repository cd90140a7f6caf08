"""The rows of the samples that score highest in a pass, found without waiting for the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

WAITING_BATCHES = 16
WAITING_BYTES = 32 << 20

T = TypeVar("T")


class TopRows(Generic[T]):
    """Keeps the rows of the samples with the highest scores.

    On the device there are the rows of the `keep` best so far, and of up to 16 batches (but no
    more than 32 MiB of them, and at least one batch) that wait to be compared with these. Rows are
    copied when their batch passes, since its tensors may be overwritten by the next one.

    Args:
        keep: Rows to keep.
        score: The scores (n,) of what was given with the batches that wait. What is not a number
            scores highest.
    """

    def __init__(self, keep: int, score: Callable[[list[T]], Tensor]) -> None:
        self.keep, self._score = keep, score
        self.scores: Tensor | None = None
        """Of the kept ones, highest first; None before the first comparison."""
        self.numbers: Tensor | None = None
        """Which samples of the pass they are, counted from 0."""
        self._waiting: list[T] = []
        self._rows: dict[str, Tensor] = {}
        self._first = self._filled = self._capacity = 0

    def add(self, given: T, rows: Mapping[str, Tensor], size: int, device: torch.device) -> None:
        """Takes a batch.

        Args:
            given: What its samples are scored by.
            rows: Tensors (size, ...) by name. Of a value whose size changes, rows are filled up
                with zeros; one that is not in every batch is given up.
            size: Samples in the batch, above 0.
            device: Where rows are kept.
        """
        if self.scores is not None and self.numbers is not None and not self._capacity:
            # Where a run resumes, all of it is on the host as yet.
            self.scores, self.numbers = self.scores.to(device), self.numbers.to(device)
        if self._filled + size > self._capacity and self._filled:
            self.compare()
        self._waiting.append(given)
        self._store(rows, size, device)

    def _store(self, rows: Mapping[str, Tensor], size: int, device: torch.device) -> None:
        if not self._capacity:
            self._allocate(rows if self.scores is None else self._rows, size, device)
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

    def _allocate(self, rows: Mapping[str, Tensor], size: int, device: torch.device) -> None:
        row_bytes = sum(row[:1].nbytes for row in rows.values()) or 1
        waiting = max(size, min(WAITING_BATCHES * size, WAITING_BYTES // row_bytes))
        self._capacity = self.keep + waiting
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

    def compare(self) -> None:
        """Keeps the best of the kept and the waiting rows."""
        if not self._waiting:
            return
        scores = self._score(self._waiting).nan_to_num(torch.inf, torch.inf, -torch.inf)
        numbers = torch.arange(self._first, self._first + len(scores), device=scores.device)
        self._first += len(scores)
        if self.scores is not None and self.numbers is not None:
            scores = torch.cat([self.scores, scores])
            numbers = torch.cat([self.numbers, numbers])
        # Among equals the earlier ones stay, however often it is that rows are compared.
        scores, order = scores.sort(stable=True, descending=True)
        self.scores, best = scores[: self.keep].clone(), order[: self.keep]
        self.numbers = numbers.index_select(0, best)
        for buffer in self._rows.values():
            buffer[: len(best)] = buffer.index_select(0, best)
        self._waiting, self._filled = [], len(best)

    def rows(self, *, copy: bool = False) -> dict[str, Tensor]:
        """The kept rows on the host, best first, after `compare`.

        Args:
            copy: Whether they have to outlive the next batch, where the host is the device.
        """
        return {name: b[: self._filled].to("cpu", copy=copy) for name, b in self._rows.items()}

    def state_dict(self) -> dict[str, Any]:
        """What is kept so far, on the host; nothing before the first batch."""
        self.compare()
        if self.scores is None or self.numbers is None:
            return {}
        state = {"scores": self.scores.cpu(), "numbers": self.numbers.cpu()}
        return {**state, "first": self._first, "rows": self.rows(copy=True)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on with what `state_dict` gave."""
        if state:
            self.scores = state["scores"][: self.keep]
            self.numbers = state["numbers"][: self.keep]
            self._first, self._rows = state["first"], dict(state["rows"])
            self._filled = len(self.numbers)

"""The samples that one validation gives, on their way to TensorBoard's projector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from estimator.handlers._sample_rows import class_name, in_words, unit_range


class Points:
    """The samples that one validation has given so far, on their device."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.count = 0
        self.vectors: list[Tensor] = []
        self.uids: list[Any] = []
        self.columns: list[dict[str, Tensor]] = []
        self.thumbnails: list[Tensor] = []

    def images(self) -> Tensor | None:
        """The thumbnails on the host, with values 0..1; None where not all samples have one."""
        images = _joined(self.thumbnails, self.count)
        return None if images is None else unit_range(images)

    def texts(self, classes: Sequence[str] | None) -> dict[str, list[str]]:
        """What stands beside the samples: by name, a text for each."""
        columns: dict[str, list[str]] = {}
        if self.uids:
            columns["uid"] = [str(uid) for batch in self.uids for uid in _listed(batch)]
        for name in self.columns[0]:
            values = _joined([b[name] for b in self.columns if name in b], self.count)
            if values is None:
                continue
            columns[name] = [in_words(value) for value in values]
            named = [class_name(value, classes) for value in values]
            if any(named):
                part, dot, rest = name.partition(".")
                columns[f"{part}_class{dot}{rest}"] = [text or "" for text in named]
        return columns


def _joined(parts: list[Tensor], count: int) -> Tensor | None:
    """The batches as one tensor on the host; None unless all have rows of one shape."""
    if sum(map(len, parts)) != count or len({part.shape[1:] for part in parts}) != 1:
        return None
    return torch.cat(parts).cpu()


def _listed(uids: Any) -> list[Any]:
    return uids.tolist() if isinstance(uids, Tensor) else uids

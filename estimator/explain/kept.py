"""Some samples of a validation, copied while it passes: those of the highest loss, and others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from estimator.explain.question import numbers_in
from estimator.handlers._sample_kinds import SHOWN_VALUES
from estimator.handlers._sample_rows import leaves

if TYPE_CHECKING:
    from estimator.stats import TrainStats

SAMPLE_BYTES = 16 << 20
"""Samples above this size are not kept."""
_WAITING_BATCHES = 16
_WAITING_BYTES = 32 << 20


class Row(NamedTuple):
    """Where in a nested input a tensor with a row a sample stands."""

    name: str


class KeptSample(NamedTuple):
    """One sample, on the host."""

    group: str
    """"worst" or "random"."""
    uid: str
    loss: float
    rows: dict[str, Tensor]
    """Its inputs and its short targets by name."""


class Kept(NamedTuple):
    """What is kept of a validation."""

    form: Any
    """The net's inputs, with a `Row` for each tensor."""
    outputs: list[Any]
    """Places or names of the outputs that are tensors of numbers."""
    samples: list[KeptSample]
    left_out: str
    """Why samples are missing; empty where none are."""


class Collector:
    """Follows one validation. Nothing waits for the device, and memory is bounded.

    Kept on the device: the rows of `2 * worst + samples` samples, and of up to 16 batches (at most
    32 MiB, at least one batch) that are yet to be compared with these.

    Args:
        worst: How many samples of the highest loss are kept.
        samples: How many others are kept, by a draw that is the same in each validation.
        rank: Of this process.
    """

    def __init__(self, worst: int, samples: int, rank: int) -> None:
        # A sample of both groups is shown once, so there is one more of the others for each.
        self._groups = {"worst": worst, "random": samples + worst}
        self._samples, self._rank = samples, rank
        self._generator = torch.Generator().manual_seed(rank)
        self._kept: dict[str, dict[str, Tensor]] = {}
        self._waiting: list[dict[str, Tensor]] = []
        self._waiting_bytes = self._seen = 0
        self._names: list[Any] = []
        self._form: Any = None
        self._outputs: list[Any] = []
        self._left_out = ""

    @torch.no_grad()
    def add(self, stats: TrainStats) -> None:
        """Takes the present batch."""
        losses = stats.sample_losses
        assert losses is not None, "needs names sample_losses"
        size = len(losses)
        rows: dict[str, Tensor] = {}
        form = _parted("input", stats.inputs, size, rows)
        row_bytes = sum(row[:1].nbytes for row in rows.values())
        if row_bytes > SAMPLE_BYTES:
            self._left_out = (
                f"Samples of {row_bytes >> 20} MiB are too large to be kept; those up to "
                f"{SAMPLE_BYTES >> 20} MiB are."
            )
            return
        short = dict(leaves("target", stats.targets))
        rows |= {name: row for name, row in short.items() if _is_short(row, size)}
        rows |= self._identities(stats, losses, size)
        first = self._waiting[0] if self._waiting else self._kept.get("worst", rows)
        if _shapes(rows) != _shapes(first):
            self._left_out = "Samples of another shape than the first ones' are left out."
            return
        if self._form is None:
            self._form, self._outputs = form, list(numbers_in(stats.outputs))
        self._waiting.append({name: row.to(row.dtype, copy=True) for name, row in rows.items()})
        self._waiting_bytes += row_bytes * size
        if len(self._waiting) == _WAITING_BATCHES or self._waiting_bytes > _WAITING_BYTES:
            self._compare()

    def _identities(self, stats: TrainStats, losses: Tensor, size: int) -> dict[str, Tensor]:
        """What orders the samples, and tells them apart."""
        losses = (losses.flatten(1).mean(1) if losses.ndim > 1 else losses).float()
        found = {
            "loss": losses,
            "worst": losses.nan_to_num(torch.inf, torch.inf, -torch.inf),
            "random": torch.rand(size, generator=self._generator).to(losses.device),
            "number": torch.arange(self._seen, self._seen + size, device=losses.device),
        }
        self._seen += size
        if isinstance(stats.uids, Tensor):
            return found | {"uid": stats.uids}
        self._names += [None] * (self._seen - size - len(self._names)) + list(stats.uids or ())
        return found

    def _compare(self) -> None:
        for group, count in self._groups.items():
            parts = [*([self._kept[group]] if group in self._kept else []), *self._waiting]
            joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
            # Among equals the earlier ones stay, however often rows are compared.
            order = joined[group].sort(stable=True, descending=True).indices[:count]
            self._kept[group] = {name: row.index_select(0, order) for name, row in joined.items()}
        self._waiting, self._waiting_bytes = [], 0

    def take(self, stats: TrainStats) -> Kept:
        """Brings what is kept in all processes to the host, the samples worst first."""
        if self._waiting:
            self._compare()
        found = []
        for group, rows in self._kept.items():
            host = {name: row.cpu() for name, row in rows.items()}
            found += [self._sample(group, host, i) for i in range(len(host["loss"]))]
        mine = (self._form, self._outputs, found, self._left_out)
        parts = stats.world.gather(mine)
        samples = [sample for part in parts for sample in part[2]]
        known = [part for part in parts if part[2]] or parts
        left_out = next((part[3] for part in parts if part[3]), "")
        return Kept(known[0][0], known[0][1], self._chosen(samples), left_out)

    def _sample(self, group: str, rows: dict[str, Tensor], i: int) -> Any:
        number = int(rows["number"][i])
        uid: Any = number
        if "uid" in rows:
            uid = rows["uid"][i].tolist()
        elif number < len(self._names):
            uid = self._names[number]
        values = {name: row[i].clone() for name, row in rows.items() if _is_of_batch(name)}
        sample = KeptSample(group, str(uid), float(rows["loss"][i]), values)
        return float(rows[group][i]), (self._rank, number), sample

    def _chosen(self, found: Sequence[Any]) -> list[KeptSample]:
        ordered = sorted(found, key=lambda each: -each[0])
        shapes = {name: row.shape for name, row in found[0][2].rows.items()} if found else {}
        alike = [e for e in ordered if {n: r.shape for n, r in e[2].rows.items()} == shapes]
        worst = [each for each in alike if each[2].group == "worst"][: self._groups["worst"]]
        shown = {identity for _, identity, _ in worst}
        others = [e for e in alike if e[2].group == "random" and e[1] not in shown]
        return [sample for _, _, sample in [*worst, *others[: self._samples]]]


def inputs_of(kept: Kept, samples: Sequence[KeptSample], device: torch.device) -> Any:
    """A batch of samples in the structure in which the net takes them."""
    return _filled(kept.form, samples, device)


def _filled(form: Any, samples: Sequence[KeptSample], device: torch.device) -> Any:
    if isinstance(form, Row):
        return torch.stack([sample.rows[form.name] for sample in samples]).to(device)
    if isinstance(form, Mapping):
        return {key: _filled(item, samples, device) for key, item in form.items()}
    if type(form) in (tuple, list):
        return type(form)(_filled(item, samples, device) for item in form)
    return form


def _parted(name: str, value: Any, size: int, rows: dict[str, Tensor]) -> Any:
    """The form of nested inputs; the tensors with a row a sample are added to `rows`."""
    if isinstance(value, Tensor):
        if value.layout is not torch.strided or not value.ndim or len(value) != size:
            return value.detach().clone()
        rows[name] = value
        return Row(name)
    if isinstance(value, Mapping):
        return {key: _parted(f"{name}.{key}", item, size, rows) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_parted(f"{name}.{i}", v, size, rows) for i, v in enumerate(value))
    return value


def _is_of_batch(name: str) -> bool:
    return name.partition(".")[0] in ("input", "target")


def _is_short(value: Tensor, size: int) -> bool:
    return value.ndim > 0 and len(value) == size and value.numel() <= SHOWN_VALUES * size


def _shapes(rows: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: (row.shape[1:], row.dtype) for name, row in rows.items()}

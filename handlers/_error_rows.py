"""The samples of one pass that were answered worst, output by output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from estimator.handlers._chosen_samples import Uid, keys_of, uid_of
from estimator.handlers._judged_rows import Judged, judged
from estimator.handlers._sample_rows import batch_rows, leaves
from estimator.handlers._top_rows import TopRows

if TYPE_CHECKING:
    from estimator.distributed import World
    from estimator.stats import TrainStats


class Error(NamedTuple):
    """One sample that was answered wrongly."""

    uid: Uid
    score: float
    kind: int
    confidence: float
    target: Tensor | None
    """None where its shape changes from batch to batch."""
    prediction: Tensor | None
    rows: dict[str, Tensor]
    """All that was kept of it, on the host."""


class Errors(NamedTuple):
    """What a pass says of one output."""

    worst: list[Error]
    """The worst first."""
    wrong: int
    samples: int
    """With a target."""


class _Output:
    """The worst samples of one output so far."""

    def __init__(self, most: int, target: str) -> None:
        self.target = target
        self.top: TopRows[Tensor] = TopRows(most, torch.cat)
        self.counts: Tensor | None = None
        """Wrong ones, and ones with a target."""

    def add(self, found: Judged, rows: dict[str, Tensor], size: int) -> None:
        score = found.score
        counts = torch.stack([(score >= 0).sum() + score.isnan().sum(), found.has_target.sum()])
        self.counts = counts if self.counts is None else self.counts + counts
        own = {"own.kind": found.kind, "own.confidence": found.confidence, **rows}
        self.top.add(score, {**own, "own.prediction": found.prediction}, size, score.device)


class ErrorRows:
    """Collects the errors of one pass: on the device, with memory that is bounded.

    Args:
        most: Samples to keep for each output.
        binary: See `judged`.
    """

    def __init__(self, most: int, *, binary: bool) -> None:
        self.most, self.binary = most, binary
        self._outputs: dict[str, _Output] = {}

    @torch.no_grad()
    def add(self, stats: TrainStats, size: int) -> None:
        """Takes a batch."""
        # As they are: of what is kept, large values are only a part.
        outputs, targets = (
            {n: v for n, v in leaves(part, nested) if v.ndim and len(v) == size}
            for part, nested in (("output", stats.outputs), ("target", stats.targets))
        )
        found = list(judged(outputs, targets, binary=self.binary))
        if not found:
            return
        rows = {"own.uid": keys_of(stats.uids)[1], **batch_rows(stats, size)}
        for each in found:
            output = self._outputs.setdefault(each.name, _Output(self.most, each.target))
            output.add(each, rows, size)

    def take(self, world: World) -> dict[str, Errors]:
        """Ends the pass; the errors of all processes, by output."""
        own = {name: _errors(output) for name, output in self._outputs.items()}
        self._outputs = {}
        found: dict[str, Errors] = {}
        for part in world.gather(own):
            for name, errors in part.items():
                before = found.get(name, Errors([], 0, 0))
                worst = sorted([*before.worst, *errors.worst], key=lambda error: -error.score)
                found[name] = Errors(
                    worst[: self.most],
                    before.wrong + errors.wrong,
                    before.samples + errors.samples,
                )
        return found


def _errors(output: _Output) -> Errors:
    output.top.compare()
    assert output.top.scores is not None and output.counts is not None
    rows, worst = output.top.rows(), []
    for place, score in enumerate(output.top.scores.tolist()):
        if score < 0:
            break
        # A view would keep the rows of all others alive.
        own = {name: values[place].clone() for name, values in rows.items()}
        worst.append(_error(score, own, output.target))
    wrong, samples = output.counts.tolist()
    return Errors(worst, wrong, samples)


def _error(score: float, own: dict[str, Any], target: str) -> Error:
    kind, confidence = int(own.pop("own.kind")), float(own.pop("own.confidence"))
    uid, prediction = own.pop("own.uid", None), own.pop("own.prediction", None)
    name = "" if uid is None else uid_of(uid)
    return Error(name, score, kind, confidence, own.get(target), prediction, own)

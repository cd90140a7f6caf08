"""Which target belongs to which of a net's outputs, and what the output is known to be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from torch import Tensor

from estimator.handlers._sample_rows import leaves

if TYPE_CHECKING:
    from estimator.stats import TrainStats

Role = Literal["", "classes", "binary", "regression", "segmentation", "other"]

# From the special to the general: a segmentation is a classification of positions.
_ROLES: dict[str, Role] = {
    "BinaryClassificationOutput": "binary",
    "SegmentationOutput": "segmentation",
    "ClassificationOutput": "classes",
    "RegressionOutput": "regression",
}


class Pair(NamedTuple):
    """One output of a batch and its target."""

    name: str
    output: Tensor
    target: Tensor
    role: Role = ""
    """What an output that describes itself says; "" where shapes and values have to tell."""
    ignored: int = -100
    """The class index that says that a target is missing."""


def pairs(stats: TrainStats) -> Iterator[Pair]:
    """The outputs of the present batch that have a target.

    One output and one target belong together, of several those under the same name or place.
    The single output of a net is called "output", those of a list "0", "1" and so on.
    """
    outputs = dict(leaves("", stats.outputs))
    targets = dict(leaves("", stats.targets))
    if len(outputs) == len(targets) == 1:
        targets = dict(zip(outputs, targets.values(), strict=True))
    kinds = _kinds(stats)
    for path, output in outputs.items():
        target = targets.get(path)
        if target is not None and output.ndim and target.ndim and len(output) == len(target):
            name = path.removeprefix(".")
            known = _known(kinds.get(name))
            yield Pair(name or "output", output.detach(), target.detach(), *known)


def _kinds(stats: TrainStats) -> Any:
    """The outputs that describe themselves, by name, as the metric of the whole loss holds them."""
    metrics = stats.metrics
    return getattr(metrics["loss"], "kinds", {}) if "loss" in metrics.names else {}


def _known(kind: Any) -> tuple[Role, int]:
    if kind is None:
        return "", -100
    parents = [base.__name__ for base in type(kind).__mro__]
    other: Role = "other"
    role = next((role for name, role in _ROLES.items() if name in parents), other)
    return role, kind.ignore_index if "ClassificationOutput" in parents else -100

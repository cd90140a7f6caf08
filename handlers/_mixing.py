"""What handlers that mix the samples of a batch share."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from estimator.handlers.base import ArgumentError, Band, DataError, EventHandler

if TYPE_CHECKING:
    from estimator.stats import TrainStats

Classes = int | Mapping[str, int] | None
Mix = Callable[[torch.Tensor], torch.Tensor]


class MixingHandler(EventHandler):
    """Base of handlers that train on mixtures of two samples; see `MixUpHandler`.

    Args:
        classes: See `MixUpHandler`.
        alpha: See `MixUpHandler`.
        keys: See `MixUpHandler`.
        band: When it runs within an event; PREPARE by default.
    """

    band = Band.PREPARE

    def __init__(
        self, classes: Classes, alpha: float, *, keys: Sequence[str] | None, band: Band | None
    ) -> None:
        super().__init__(band=band)
        name = type(self).__name__
        is_number = isinstance(alpha, (int, float)) and not isinstance(alpha, bool)
        if not is_number or not 0 < alpha < math.inf:
            raise ArgumentError(
                f"{name}(alpha=...) must be a number above 0; received {alpha!r}. Leave the "
                "handler out to mix nothing."
            )
        for count in classes.values() if isinstance(classes, Mapping) else [classes]:
            whole = isinstance(count, int) and not isinstance(count, bool) and count > 1
            if not whole and (count is not None or isinstance(classes, Mapping)):
                raise ArgumentError(
                    f"{name}(classes=...) must be a whole number from 2 up, a dict of them by the "
                    f"names of targets, or None where no target is a class; received {classes!r}."
                )
        if isinstance(keys, str):
            raise ArgumentError(f"{name}(keys=...) must be a list of keys; received {keys!r}.")
        self.classes, self.alpha, self.keys = classes, float(alpha), keys
        self._own: Any = None

    def batch_begin(self, stats: TrainStats) -> None:
        """Mixes inputs and targets."""
        first = _first(stats.targets)
        if first is None:
            raise DataError(
                f"{type(self).__name__} mixes targets that are tensors with a row a sample; "
                f"received {type(stats.targets).__name__}."
            )
        samples, device = len(first), stats.device
        # Drawn on the host, whose stream is the same for all devices, and never read back.
        drawn = torch.distributions.Beta(self.alpha, self.alpha, validate_args=False).sample()
        partner = torch.randperm(samples).to(device)
        mixed, share = self.mixture(stats, samples, partner, drawn.to(device))
        if mixed is None:
            raise DataError(
                f"{type(self).__name__} mixes {self.mixes}; the inputs of this batch have none"
                f"{f' under the keys {list(self.keys)}' if self.keys else ''}. Convert them before "
                "they come to the net, or name the keys of a dict."
            )
        stats.inputs = mixed
        targets = stats.targets
        self._own = _apart(targets, lambda t, _: torch.where(share >= 0.5, t, t[partner]), samples)

        def blend(target: torch.Tensor, name: str | None) -> torch.Tensor:
            soft = self._soft(target, name)
            return torch.lerp(soft[partner], soft, share.to(soft.dtype))

        stats.targets = _apart(targets, blend, samples)

    @abstractmethod
    def mixture(
        self, stats: TrainStats, samples: int, partner: torch.Tensor, share: torch.Tensor
    ) -> tuple[Any, torch.Tensor]:
        """The mixed inputs, None where there are none to mix, and the share of the own sample.

        Args:
            stats: The run.
            samples: Of the batch.
            partner: Which sample each is mixed with.
            share: Drawn from Beta(alpha, alpha), on the device.
        """

    mixes = "floating tensors with a row a sample"

    def is_mixed(self, value: torch.Tensor) -> bool:
        """Whether an input is one of those that are mixed."""
        return value.is_floating_point()

    def batch_end(self, stats: TrainStats) -> None:
        """Gives metrics the unmixed targets of the sample that has the greater part."""
        own, self._own = self._own, None
        if own is not None and stats.error is None and stats.batch_size != 0:
            stats.targets = own

    def train_end(self, stats: TrainStats) -> None:
        """Lets the last batch go."""
        self._own = None

    def _inputs(self, value: Any, mix: Mix, samples: int, name: str | None = None) -> Any:
        """The inputs with those mixed that are; None where there is nothing to mix."""
        if isinstance(value, torch.Tensor):
            fits = value.ndim > 0 and len(value) == samples and self.is_mixed(value)
            wanted = self.keys is None or name in self.keys
            return mix(value) if fits and wanted else None
        if isinstance(value, Mapping):
            mixed = {k: self._inputs(v, mix, samples, k) for k, v in value.items()}
            done = any(v is not None for v in mixed.values())
            return {k: value[k] if v is None else v for k, v in mixed.items()} if done else None
        if isinstance(value, (tuple, list)):
            items = [self._inputs(v, mix, samples, name) for v in value]
            if all(item is None for item in items):
                return None
            return type(value)(
                v if item is None else item for v, item in zip(value, items, strict=True)
            )
        return None

    def _soft(self, target: torch.Tensor, name: str | None) -> torch.Tensor:
        if target.is_floating_point():
            return target
        classes = self.classes
        count = classes.get(str(name)) if isinstance(classes, Mapping) else classes
        if count is None:
            which = "" if name is None else f" for the target {name!r}"
            raise ArgumentError(
                f"{type(self).__name__}(classes=...) must say how many classes there are{which}, "
                f"which is an index of type {target.dtype}; received {classes!r}."
            )
        hot = torch.zeros(*target.shape, count, device=target.device)
        # A target that is missing is no class: it has no row of probabilities that sums to 1.
        inside = (target >= 0).unsqueeze(-1).to(hot.dtype)
        known = target.clamp(min=0).long().unsqueeze(-1)
        return hot.scatter_(-1, known, inside).movedim(-1, 1)


def _first(targets: Any) -> torch.Tensor | None:
    if isinstance(targets, torch.Tensor):
        return targets if targets.ndim else None
    parts: Any = targets.values() if isinstance(targets, Mapping) else targets
    if not isinstance(targets, (Mapping, tuple, list)):
        return None
    return next((found for found in map(_first, parts) if found is not None), None)


def _apart(
    targets: Any, change: Callable[[torch.Tensor, str | None], torch.Tensor], samples: int,
    name: str | None = None,
) -> Any:  # fmt: skip
    """Nested targets with each tensor of a row a sample changed."""
    if isinstance(targets, torch.Tensor):
        return change(targets, name) if targets.ndim and len(targets) == samples else targets
    if isinstance(targets, Mapping):
        return {k: _apart(v, change, samples, k) for k, v in targets.items()}
    if isinstance(targets, (tuple, list)):
        return type(targets)(_apart(v, change, samples, name) for v in targets)
    return targets

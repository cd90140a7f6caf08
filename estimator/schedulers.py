"""What a `Trainer` takes as its scheduler, checked and built."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from estimator.handlers.base import ArgumentError, ArgumentTypeError, Monitor

if TYPE_CHECKING:
    from estimator.stats import TrainStats

SchedulerSpec = LRScheduler | Callable[[Optimizer], LRScheduler]


def build_scheduler(spec: SchedulerSpec | None, optimizer: Optimizer) -> LRScheduler | None:
    """The scheduler that a Trainer describes, for its optimizer.

    Raises:
        ArgumentTypeError: A callable returned something else than a scheduler.
        ArgumentError: A callable cannot be called with an optimizer alone.
    """
    if spec is None or isinstance(spec, LRScheduler):
        return spec
    try:
        scheduler = spec(optimizer)
    except TypeError as error:
        raise ArgumentError(
            "Trainer(scheduler=...) is called with the optimizer as its only argument; received "
            f"{spec!r}, which fails: {error}. Set its other arguments, as in "
            "functools.partial(StepLR, step_size=10)."
        ) from error
    if not isinstance(scheduler, LRScheduler):
        raise ArgumentTypeError(
            "Trainer(scheduler=...) must make a scheduler of torch.optim.lr_scheduler from an "
            f"optimizer; {spec!r} returned {scheduler!r}."
        )
    check_scheduler(scheduler, optimizer)
    return scheduler


def check_scheduler(scheduler: object, optimizer: Optimizer | type[Optimizer]) -> None:
    """Checks that a scheduler is one, and steers this optimizer.

    Raises:
        ArgumentTypeError: It is no scheduler.
        ArgumentError: It steers another optimizer.
    """
    if not isinstance(scheduler, LRScheduler):
        raise ArgumentTypeError(
            "Trainer(scheduler=...) must be a scheduler of torch.optim.lr_scheduler or a callable "
            f"that makes one from an optimizer; received {scheduler!r}."
        )
    if scheduler.optimizer is not optimizer:
        raise ArgumentError(
            f"Trainer(scheduler=...): this {type(scheduler).__name__} steers another optimizer "
            f"than the one given; received optimizer={optimizer!r}. Pass the scheduler's own "
            "optimizer instance, or a callable such as functools.partial(StepLR, step_size=10)."
        )


class PlateauMonitor(Monitor):
    """Says so when ReduceLROnPlateau, whose `mode` has a default, runs against its value."""

    def resolve(self, stats: TrainStats, owner: str) -> None:
        """Checks the name, and that the scheduler's direction is the value's own."""
        super().resolve(stats, owner)
        declared = stats.monitors[self.name]
        if declared is not None and declared != self.higher_is_better:
            ours, other = ("max", "min") if self.higher_is_better else ("min", "max")
            warnings.warn(
                f"ReduceLROnPlateau(mode={ours!r}) follows {self.name!r}, which is better "
                f"{'higher' if declared else 'lower'}: the rate falls while it improves. Pass "
                f"mode={other!r} to the scheduler.",
                stacklevel=2,
            )

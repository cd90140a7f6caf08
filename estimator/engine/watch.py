"""`Watch`: what decides which operations a net makes, and what keeps a net from being replayed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from estimator.engine.cause import Cause
from estimator.loss_kinds import setting_of
from estimator.predicting import Predicting
from estimator.processor import BatchProcessor

HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs"),
)
_PLAIN = (bool, int, float, str, tuple, type(None))


class Watch:
    """Sees whether a net is set as it was: modules, modes, frozen parameters, plain settings."""

    def __init__(self) -> None:
        self._modules: list[nn.Module] = []
        self._hooks: list[Any] = []
        self._flags: list[bool] = []
        self._settings: list[Any] = []
        self._watched: list[tuple[dict[str, Any], str, Any]] = []

    def forget(self) -> None:
        """Lets the next look be at everything."""
        self._modules = []

    def same(
        self, processor: BatchProcessor, parameters: Sequence[torch.Tensor], *, closely: bool
    ) -> bool:
        """Whether the net is set as at the last look.

        Args:
            processor: Of the net and its loss.
            parameters: Those that are trained.
            closely: Whether settings may change from batch to batch.
        """
        same = True
        if not self._modules or (closely and not self._unchanged()):
            same = self._look(processor, parameters)
        flags = [p.requires_grad for p in parameters]
        flags += [part.training for part in self._modules]
        if flags != self._flags:
            self._flags, same = flags, False
        return same

    @property
    def hooked(self) -> bool:
        """Whether hooks are attached to a layer."""
        return any(self._hooks)

    def _look(self, processor: BatchProcessor, parameters: Sequence[torch.Tensor]) -> bool:
        self._modules = [part for owner in owners(processor) for part in owner.modules()]
        self._hooks = [getattr(part, name) for part in self._modules for name in HOOKS]
        self._watched = []
        settings: list[Any] = [(id(p), has_hooks(p)) for p in parameters]
        for part in self._modules:
            own = vars(part)
            watched = [(own, name, v) for name, v in own.items() if isinstance(v, _PLAIN)]
            settings.append((id(part), [(name, v) for _, name, v in watched if name != "training"]))
            self._watched += watched
        same = settings == self._settings
        self._settings = settings
        return same

    def _unchanged(self) -> bool:
        """Whether all settings of the layers are the objects that they were."""
        return all(own.get(name) is value for own, name, value in self._watched)


def owners(processor: BatchProcessor) -> list[nn.Module]:
    """The net, and the losses that are modules."""
    criterion = processor.criterion
    return [processor.net, *(criterion.modules() if criterion is not None else ())]


def blocked(
    processor: BatchProcessor, parameters: Sequence[torch.Tensor], *, has_scaler: bool
) -> Cause | None:
    """What stands in the way of a program, as far as can be seen before tracing.

    Args:
        processor: Of the net and its loss.
        parameters: Whose gradients are wanted; none in evaluation.
        has_scaler: Whether the loss is scaled.
    """
    if has_scaler and parameters:
        return Cause("E105", "the loss is scaled (precision='fp16')")
    for owner in owners(processor) if parameters else ():
        for name, part in owner.named_modules():
            if getattr(part, "sparse", False):
                return Cause("E106", f"{name!r} makes sparse gradients")
    for p in parameters:
        if p.is_complex() or p.layout is not torch.strided:
            return Cause("E106", "there are sparse or complex parameters")
        if has_hooks(p):
            return Cause("E101", "hooks are attached to a parameter")
    return None


def unseen(processor: BatchProcessor) -> Cause | None:
    """What may depend on numbers that no program shows."""
    predicts = isinstance(processor, Predicting)
    own = processor.inner if isinstance(processor, Predicting) else processor
    if type(own) is not BatchProcessor:
        return Cause("E114", f"{type(own).__name__} may do more than can be seen")
    losses = own.criterion.losses if own.criterion is not None and not predicts else []
    for loss in losses:
        if not isinstance(loss, nn.Module) and setting_of(loss).kind is None:
            return Cause("E114", "the loss is a function of yours and may use other numbers")
    return None


def has_hooks(p: torch.Tensor) -> bool:
    """Whether someone is called when a parameter gets its gradient."""
    return bool(p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None))

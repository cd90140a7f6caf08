"""From what the user calls a loss to a number, its named parts, its weight and its samples."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from estimator.handlers.base import ArgumentError, ArgumentTypeError, DataError
from estimator.loss_kinds import (
    OVER_CLASSES,
    Count,
    LossFunction,
    counting_rule,
    per_sample,
    setting_of,
)


class Losses(NamedTuple):
    """A loss and its named parts, which are empty where there is only one."""

    total: torch.Tensor
    parts: dict[str, torch.Tensor]


def as_losses(result: Any, who: str) -> Losses:
    """Reads what a loss returned: a tensor, or a dict of tensors that add up.

    Anything but a scalar is averaged.

    Raises:
        DataError: It is something else.
    """
    if isinstance(result, torch.Tensor):
        return Losses(result.mean() if result.ndim else result, {})
    if isinstance(result, Losses):
        return result
    if isinstance(result, Mapping) and result:
        parts = {str(name): as_losses(part, who).total for name, part in result.items()}
        return Losses(functools.reduce(operator.add, parts.values()), parts)
    raise DataError(
        f"{who} must return a tensor or a dict of tensors; received {type(result).__name__} "
        f"({result!r}). Return the loss of the batch."
    )


def settings_of(
    criterion: Criterion, outputs: Any, targets: Any
) -> list[tuple[Any, int, Any, Any]]:
    """Each loss of torch in a criterion: (class or function, ignored index, outputs, targets)."""
    if criterion.single is not None:
        parts = [(criterion.single, outputs, targets)]
    else:
        parts = [(f, outputs[key], targets[key]) for key, _, f, _ in criterion.parts]
    known = [(setting_of(f), o, t) for f, o, t in parts]
    return [(s.kind, s.ignore_index, o, t) for s, o, t in known if s.kind is not None]


class Criterion:
    """The `loss` argument of an Estimator, ready to be called.

    Args:
        spec: A callable `(outputs, targets)`; a dict `name -> callable` or
            `name -> (callable, weight)`, paired with the same keys of outputs and targets; or a
            list of the same, paired by position.

    Raises:
        ArgumentTypeError: `spec` is none of these.

    Example:
        >>> criterion = Criterion({"size": (nn.L1Loss(), 2.0)})
        >>> one = {"size": torch.ones(3)}
        >>> criterion(one, {"size": torch.zeros(3)}).total
        tensor(2.)
    """

    def __init__(self, spec: Any) -> None:
        self.spec = spec
        self.keys: list[Any] = []
        self.sums = False
        self.by_position = isinstance(spec, (list, tuple))
        self.single: LossFunction | None = None
        self.parts: list[tuple[Any, str, LossFunction, float]] = []
        if not isinstance(spec, (Mapping, list, tuple)):
            self.single = _callable(spec, "loss")
            self._count = counting_rule(self.single)
            self.sums = setting_of(self.single).reduction == "sum"
            return
        entries = spec.items() if isinstance(spec, Mapping) else enumerate(spec)
        for key, entry in entries:
            pair = entry if isinstance(entry, tuple) else (entry, 1.0)
            if len(pair) != 2 or not isinstance(pair[1], (int, float)):
                raise ArgumentTypeError(
                    f"Estimator(loss=...): {key!r} must be a callable or (callable, weight), the "
                    f"weight a number; received {entry!r}."
                )
            function, weight = pair
            function = _callable(function, f"loss[{key!r}]")
            self.parts.append((key, f"{key}_loss", function, float(weight)))
            self.keys.append(key)
        if not self.keys:
            raise ArgumentError(
                f"Estimator(loss=...) must hold at least one loss; received {spec!r}."
            )

    def modules(self) -> list[nn.Module]:
        """The losses that are modules, whose buffers have to be on the device of the net."""
        return [loss for loss in self.losses if isinstance(loss, nn.Module)]

    @property
    def losses(self) -> list[LossFunction]:
        """All losses, in their order."""
        return [self.single] if self.single is not None else [part[2] for part in self.parts]

    @property
    def names(self) -> list[str]:
        """Names of the parts, for the columns of the history."""
        return [] if self.single is not None else [name for _, name, _, _ in self.parts]

    @property
    def exact_in_groups(self) -> bool:
        """Whether a group of batches has exactly the gradient of its mean."""
        settings = [setting_of(function) for _, _, function, _ in self.parts]
        return all(
            s.reduction == "mean" and s.weight is None and s.ignore_index == -100 for s in settings
        )

    def __call__(self, outputs: Any, targets: Any) -> Any:
        """The loss of a batch: what a single callable returns, else `Losses`."""
        if self.single is not None:
            return self.single(outputs, targets)
        parts, total = {}, None
        for key, name, function, weight in self.parts:
            part = as_losses(function(outputs[key], targets[key]), name).total
            parts[name] = part.detach()
            weighted = part * weight if weight != 1.0 else part
            total = weighted if total is None else total + weighted
        assert total is not None
        return Losses(total, parts)

    def count(self, outputs: Any, targets: Any, samples: int) -> Count:
        """The weight of this batch in a mean over batches; parts are weighted by samples."""
        if self.single is None:
            return samples
        return self._count(outputs, targets, samples)

    @property
    def averages_classes(self) -> bool:
        """Whether the loss is one of torch's means over class indices."""
        return self.single is not None and setting_of(self.single).kind in OVER_CLASSES

    def per_sample(self, outputs: Any, targets: Any) -> torch.Tensor:
        """The loss of each sample, shape (N,)."""
        if self.single is not None:
            return per_sample(self.single, outputs, targets)
        weighted = [
            per_sample(function, outputs[key], targets[key]) * weight
            for key, _, function, weight in self.parts
        ]
        return torch.stack(weighted).sum(0)

    def check(self, outputs: Any, targets: Any) -> None:
        """Checks on a batch that losses pair with outputs and targets.

        Raises:
            DataError: Counts or keys do not pair.
        """
        if self.single is not None:
            return
        for what, value in (("outputs of the net", outputs), ("targets", targets)):
            self._check_side(what, value)

    def _check_side(self, what: str, value: Any) -> None:
        if self.by_position:
            if isinstance(value, Sequence) and len(value) == len(self.keys):
                return
            got = f"{len(value)} of them" if isinstance(value, Sequence) else type(value).__name__
            losses = "1 loss pairs" if len(self.keys) == 1 else f"{len(self.keys)} losses pair"
            raise DataError(
                f"Estimator(loss=[...]): {losses} by position with as many {what}; "
                f"received {got}. Give one loss for each output and target."
            )
        keys = list(value) if isinstance(value, Mapping) else None
        missing = self.keys if keys is None else [key for key in self.keys if key not in keys]
        if missing:
            got = type(value).__name__ if keys is None else f"keys {keys}"
            raise DataError(
                f"Estimator(loss={{...}}): each loss pairs with the same key of the {what}; "
                f"received {got}, without {missing}. Rename the losses or return a dict with "
                "these keys."
            )


def _callable(function: Any, argument: str) -> LossFunction:
    if inspect.isclass(function) and issubclass(function, nn.Module):
        raise ArgumentTypeError(
            f"Estimator({argument}=...) must be an object; received the class "
            f"{function.__name__}. Call it: {function.__name__}()."
        )
    if not callable(function):
        raise ArgumentTypeError(
            f"Estimator({argument}=...) must be a callable (outputs, targets), a dict or a list "
            f"of them; received {function!r}. Pass torch.nn.CrossEntropyLoss(), for example."
        )
    checked: LossFunction = function
    return checked

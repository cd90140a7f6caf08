"""From what the user calls a loss to a number, its named parts, its weight and its samples."""

from __future__ import annotations

import copy
import functools
import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from estimator.handlers.base import ArgumentError, ArgumentTypeError, DataError

LossFunction = Callable[..., Any]
Count = int | torch.Tensor

ELEMENTWISE = (
    nn.L1Loss, nn.MSELoss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCELoss, nn.BCEWithLogitsLoss,
    nn.SoftMarginLoss, nn.PoissonNLLLoss, F.l1_loss, F.mse_loss, F.smooth_l1_loss, F.huber_loss,
    F.binary_cross_entropy, F.binary_cross_entropy_with_logits, F.soft_margin_loss,
    F.poisson_nll_loss,
)  # fmt: skip
"""Losses whose mean is over all elements."""
OVER_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss, F.cross_entropy, F.nll_loss)
"""Losses whose mean is over the targets that are not ignored, weighted by class."""


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


class _Setting(NamedTuple):
    """What is known of a loss function: its kind and the arguments that change its mean."""

    kind: Any
    reduction: str
    ignore_index: int
    weight: torch.Tensor | None


def _setting(loss: LossFunction) -> _Setting:
    names = ("reduction", "ignore_index", "weight")
    if isinstance(loss, nn.Module):
        known: dict[str, Any] = {n: getattr(loss, n) for n in names if hasattr(loss, n)}
        kind: Any = type(loss)
    else:
        known = loss.keywords if isinstance(loss, functools.partial) else {}
        kind = loss.func if isinstance(loss, functools.partial) else loss
    if kind not in ELEMENTWISE and kind not in OVER_CLASSES:
        kind = None
    return _Setting(
        kind, known.get("reduction", "mean"), known.get("ignore_index", -100), known.get("weight")
    )


def settings_of(criterion: Criterion, outputs: Any, targets: Any) -> list[tuple[Any, Any, Any]]:
    """Each loss of torch in a criterion, as (class or function, its outputs, its targets)."""
    if criterion.single is not None:
        parts = [(criterion.single, outputs, targets)]
    else:
        parts = [(f, outputs[key], targets[key]) for key, _, f, _ in criterion.parts]
    return [(_setting(f).kind, o, t) for f, o, t in parts if _setting(f).kind is not None]


def counting_rule(loss: LossFunction) -> Callable[[Any, Any, int], Count]:
    """How to count the items that a mean loss has averaged: its weight in a larger mean.

    Elements where a loss averages elements, targets that are not ignored (weighted by class)
    where it averages classes, samples for any other. A loss may say so itself with a method
    `item_count(outputs, targets)`.

    Returns:
        A function of outputs, targets and the number of samples.
    """
    if hasattr(loss, "item_count"):
        return functools.partial(_count_own, loss)
    setting = _setting(loss)
    if setting.kind in ELEMENTWISE:
        return _count_elements
    if setting.kind in OVER_CLASSES:
        return functools.partial(_count_classes, loss)
    return _count_samples


def _count_samples(outputs: Any, targets: Any, samples: int) -> Count:
    return samples


def _count_elements(outputs: Any, targets: Any, samples: int) -> Count:
    return int(outputs.numel())


def _count_own(loss: Any, outputs: Any, targets: Any, samples: int) -> Count:
    counted: Count = loss.item_count(outputs, targets)
    return counted


def _count_classes(loss: LossFunction, outputs: Any, targets: Any, samples: int) -> Count:
    if targets.is_floating_point():
        return samples
    setting = _setting(loss)
    kept: torch.Tensor = targets != setting.ignore_index
    if setting.weight is None:
        return kept.sum()
    weights: torch.Tensor = setting.weight[targets.where(kept, 0)]
    return weights.mul(kept).sum()


def per_sample(loss: LossFunction, outputs: Any, targets: Any) -> torch.Tensor:
    """The loss of each sample, shape (N,).

    A loss with a `reduction` is asked for "none" and averaged over what is not the batch; a loss
    that gives a vector already is taken as it is; any other is mapped over the samples.

    Raises:
        DataError: The loss cannot be computed for one sample alone.
    """
    single = _without_reduction(loss)
    result = loss(outputs, targets) if single is None else single(outputs, targets)
    if isinstance(result, torch.Tensor) and result.ndim:
        return _mean_over_items(result, targets, _setting(loss))
    try:
        mapped = torch.vmap(lambda o, t: loss(_one(o), _one(t)))(outputs, targets)
    except (RuntimeError, ValueError, TypeError) as error:
        raise DataError(
            f"the loss of single samples is needed, but {loss!r} cannot be mapped over samples: "
            f"{error}. Give it an argument reduction= that takes 'none', or override "
            "BatchProcessor.sample_losses."
        ) from error
    return torch.as_tensor(mapped).reshape(-1)


def _one(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _one(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_one(item) for item in value)
    return value[None]


@functools.lru_cache(maxsize=64)
def _takes_reduction(function: Any) -> bool:
    try:
        return "reduction" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # built-in callables have no signature to read
        return False


def _without_reduction(loss: LossFunction) -> LossFunction | None:
    if isinstance(loss, nn.Module):
        if not isinstance(getattr(loss, "reduction", None), str):
            return None
        twin = copy.copy(loss)
        twin.reduction = "none"  # type: ignore[assignment]  # modules declare their attributes as tensors
        return twin
    function = loss.func if isinstance(loss, functools.partial) else loss
    return functools.partial(loss, reduction="none") if _takes_reduction(function) else None


def _mean_over_items(losses: torch.Tensor, targets: Any, setting: _Setting) -> torch.Tensor:
    if losses.ndim == 1:
        return losses
    flat = losses.flatten(1)
    if setting.kind in OVER_CLASSES and losses.shape == targets.shape:
        kept = (targets != setting.ignore_index).flatten(1).sum(1)
        mean: torch.Tensor = flat.sum(1) / kept.clamp(min=1)
        return mean
    return flat.mean(1)


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
            self.sums = _setting(self.single).reduction == "sum"
            return
        entries = spec.items() if isinstance(spec, Mapping) else enumerate(spec)
        for key, entry in entries:
            function, weight = entry if isinstance(entry, tuple) else (entry, 1.0)
            if not isinstance(weight, (int, float)):
                raise ArgumentTypeError(
                    f"Estimator(loss=...): the weight of {key!r} must be a number; received "
                    f"{weight!r}. Write (callable, weight)."
                )
            function = _callable(function, f"loss[{key!r}]")
            self.parts.append((key, f"{key}_loss", function, float(weight)))
            self.keys.append(key)
        if not self.keys:
            raise ArgumentError(
                f"Estimator(loss=...) must hold at least one loss; received {spec!r}."
            )

    def modules(self) -> list[nn.Module]:
        """The losses that are modules, whose buffers have to be on the device of the net."""
        functions = [self.single] if self.single is not None else [p[2] for p in self.parts]
        return [f for f in functions if isinstance(f, nn.Module)]

    @property
    def names(self) -> list[str]:
        """Names of the parts, for the columns of the history."""
        return [] if self.single is not None else [name for _, name, _, _ in self.parts]

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

    def counts_samples(self, targets: Any) -> bool:
        """Whether a batch of targets like these counts its samples, with none to leave out.

        One class index a sample, with the loss's own default for ignored targets, is taken to
        be that: a label of -100 is then a mark of sequences, which have more dimensions.
        """
        if self.single is None:
            return True
        if self._count is _count_samples:
            return True
        kind, _, ignore_index, weight = _setting(self.single)
        plain = kind in OVER_CLASSES and ignore_index == -100 and weight is None
        return plain and isinstance(targets, torch.Tensor) and targets.ndim == 1

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
            raise DataError(
                f"Estimator(loss=[...]): {len(self.keys)} losses pair by position with as many "
                f"{what}; received {got}. Give one loss for each output and target."
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

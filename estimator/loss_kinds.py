"""What is known of torch's losses: what they average, and how to ask them for single samples."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from estimator.handlers.base import DataError

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


_MEAN = 1
"""How autograd names the reduction "mean"."""


class Setting(NamedTuple):
    """What is known of a loss function: its kind and the arguments that change its mean."""

    kind: Any
    reduction: str
    ignore_index: int
    weight: torch.Tensor | None


def setting_of(loss: LossFunction) -> Setting:
    """Reads the kind of a loss and its arguments; `kind` is None for losses of another make."""
    names = ("reduction", "ignore_index", "weight")
    if isinstance(loss, nn.Module):
        known: dict[str, Any] = {n: getattr(loss, n) for n in names if hasattr(loss, n)}
        # What derives from a loss and leaves its formula alone averages as that does.
        own = type(loss)
        bases = (c for c in own.__mro__ if c in ELEMENTWISE or c in OVER_CLASSES)
        kind: Any = next((c for c in bases if own.forward is vars(c).get("forward")), None)
    else:
        known = loss.keywords if isinstance(loss, functools.partial) else {}
        kind = loss.func if isinstance(loss, functools.partial) else loss
    if kind not in ELEMENTWISE and kind not in OVER_CLASSES:
        kind = None
    return Setting(
        kind, known.get("reduction", "mean"), known.get("ignore_index", -100), known.get("weight")
    )


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
    setting = setting_of(loss)
    if setting.kind in ELEMENTWISE or (setting.kind is not None and setting.reduction == "none"):
        return _count_elements
    if setting.kind in OVER_CLASSES:
        return functools.partial(_count_classes, loss)
    return count_samples


def count_samples(outputs: Any, targets: Any, samples: int) -> Count:
    """The rule of losses that average samples."""
    return samples


def _count_elements(outputs: Any, targets: Any, samples: int) -> Count:
    return int(outputs.numel())


def _count_own(loss: Any, outputs: Any, targets: Any, samples: int) -> Count:
    counted: Count = loss.item_count(outputs, targets)
    return counted


def _count_classes(loss: LossFunction, outputs: Any, targets: Any, samples: int) -> Count:
    if targets.is_floating_point():
        return samples
    setting = setting_of(loss)
    kept: torch.Tensor = targets != setting.ignore_index
    if setting.weight is None:
        return kept.sum()
    weights: torch.Tensor = setting.weight[targets.where(kept, 0)]
    return weights.mul(kept).sum()


def items_in_graph(loss: torch.Tensor) -> torch.Tensor | None:
    """How many items, weighted by class, a mean over class indices has averaged.

    Its graph remembers what it divided by, which costs no operation on the targets. Where it does
    not (label smoothing, class probabilities, a narrow type), None says to count.

    Args:
        loss: Before its backward, which frees the graph.
    """
    node = loss.grad_fn
    items: torch.Tensor | None = getattr(node, "_saved_total_weight", None)
    if items is None or getattr(node, "_saved_reduction", None) != _MEAN:
        return None
    return items if items.dtype in (torch.float32, torch.float64) else None


def per_sample(loss: LossFunction, outputs: Any, targets: Any) -> torch.Tensor:
    """The loss of each sample, shape (N,).

    A loss with a `reduction` is asked for "none" and averaged over what is not the batch; a loss
    that gives a vector already is taken as it is; any other is mapped over the samples.

    Raises:
        DataError: The loss cannot be computed for one sample alone.
    """
    single = without_reduction(loss)
    result = loss(outputs, targets) if single is None else single(outputs, targets)
    if isinstance(result, torch.Tensor) and result.ndim:
        return _mean_over_items(result, targets, setting_of(loss))
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


def _takes_reduction(function: Any) -> bool:
    try:
        return "reduction" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # built-in callables have no signature to read
        return False


def without_reduction(loss: LossFunction) -> LossFunction | None:
    """A copy of a loss that gives single values; None where it has no setting `reduction`."""
    if isinstance(loss, nn.Module):
        if not isinstance(getattr(loss, "reduction", None), str):
            return None
        twin = copy.copy(loss)
        twin.reduction = "none"  # type: ignore[assignment]  # modules declare their attributes as tensors
        return twin
    function = loss.func if isinstance(loss, functools.partial) else loss
    return functools.partial(loss, reduction="none") if _takes_reduction(function) else None


def _mean_over_items(losses: torch.Tensor, targets: Any, setting: Setting) -> torch.Tensor:
    if losses.ndim == 1:
        return losses
    flat = losses.flatten(1)
    if setting.kind in OVER_CLASSES and losses.shape == targets.shape:
        kept = (targets != setting.ignore_index).flatten(1).sum(1)
        mean: torch.Tensor = flat.sum(1) / kept.clamp(min=1)
        return mean
    return flat.mean(1)

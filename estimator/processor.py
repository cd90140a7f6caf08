"""`BatchProcessor`: what happens to one batch, in parts that can be overridden one by one."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from estimator.handlers.base import ArgumentError, DataError
from estimator.loss import Criterion
from estimator.loss_kinds import Count

UID = "sample_uid"
"""The key of a sample's identity in dictionary batches."""


class UidSample(NamedTuple):
    """A sample, or after collating a batch, with the identity of each sample."""

    sample: Any
    sample_uid: Any


def describe(value: Any) -> str:
    """A nested batch in words: types, shapes and keys, for messages."""
    if isinstance(value, torch.Tensor):
        return f"tensor{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, np.ndarray):
        return f"array{value.shape} {value.dtype}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k!r}: {describe(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        shown = ", ".join(describe(item) for item in value[:4])
        return f"({shown}{', ...' if len(value) > 4 else ''})"
    return repr(value) if value is None else type(value).__name__


def batch_length(value: Any) -> int | None:
    """The first dimension of the first tensor in a nested batch; None where there is none."""
    if isinstance(value, torch.Tensor):
        return value.shape[0] if value.ndim else None
    if isinstance(value, PackedSequence):
        return int(value.batch_sizes[0])
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return next((n for n in map(batch_length, value) if n is not None), None)
    return None


class BatchProcessor:
    """Splits a batch, runs the net on it and takes the loss.

    Override one part and the rest stays: `split` for batches of another make, `forward` for nets
    that need more than their inputs, `loss` for several losses a step (return a dict), and the
    `evaluate_*` forms where validation differs from training. `net`, `criterion` and
    `target_keys` are there once an Estimator holds the processor.

    Example:
        >>> class Translation(BatchProcessor):
        ...     def split(self, batch):
        ...         source, target = batch
        ...         return (source, target[:, :-1]), target[:, 1:]
    """

    net: nn.Module
    criterion: Criterion | None = None
    target_keys: list[str] | str | None = None
    whole_batch: bool = False
    """Whether the net's forward has one parameter, called `batch`, which gets the whole dict."""
    keywords: frozenset[str] | None = None
    """Names of the parameters of the net's forward; None where it takes any."""

    def split(self, batch: Any) -> tuple[Any, Any]:
        """Parts a batch into the net's inputs and the loss's targets.

        The last of a tuple or list is the target; in a dict (or a namedtuple, where `targets=`
        was given) the keys named by `targets=` are, else those of a dict of losses. Inputs are a
        single value, a tuple of positional arguments, or a dict of keyword arguments.

        Raises:
            DataError: There is no target in the batch.
        """
        if isinstance(batch, Mapping):
            return self._split_mapping(batch)
        if self.target_keys is not None and hasattr(batch, "_asdict"):
            return self._split_mapping(batch._asdict())
        items = batch if isinstance(batch, (tuple, list)) else ()
        if len(items) < 2 or isinstance(batch, PackedSequence):
            raise DataError(
                "a batch must hold inputs and a target, as a tuple (x, y), a list or a dict; "
                f"received {describe(batch)}. Let the loader yield (inputs, targets), give arrays "
                "as a tuple (x, y), or pass a BatchProcessor whose split() finds them."
            )
        inputs = items[0] if len(items) == 2 else tuple(items[:-1])
        return (tuple(inputs) if isinstance(inputs, list) else inputs), items[-1]

    def _split_mapping(self, batch: Mapping[str, Any]) -> tuple[Any, Any]:
        names = self.target_names(batch)
        missing = [name for name in names if name not in batch]
        if missing or not names:
            raise DataError(
                f"Estimator(targets=...) must name the keys of a batch that go to the loss; "
                f"received targets={self.target_keys!r} and a batch with the keys {list(batch)}"
                f"{f', without {missing}' if missing else ''}. Name one or more of these keys."
            )
        return self.inputs_of(batch, names), self._targets({name: batch[name] for name in names})

    def _targets(self, named: dict[str, Any]) -> Any:
        """Targets in the structure of the losses: single, by position or by name."""
        if self.criterion is not None and self.criterion.single is None:
            return list(named.values()) if self.criterion.by_position else named
        return named[self.target_keys] if isinstance(self.target_keys, str) else named

    def target_names(self, batch: Mapping[str, Any]) -> list[str]:
        """The keys of a dict batch that go to the loss: `targets=`, else the keys of the loss."""
        if self.target_keys is not None:
            return [self.target_keys] if isinstance(self.target_keys, str) else self.target_keys
        if self.criterion is not None and not self.criterion.by_position:
            return [key for key in self.criterion.keys if key in batch]
        return []

    def inputs_of(self, batch: Mapping[str, Any], target_names: list[str]) -> Any:
        """What of a dict batch goes to the net: all but targets and identities, by name.

        A single entry goes by position where the net's forward has no parameter of its name.
        """
        if self.whole_batch:
            return batch
        inputs = {k: v for k, v in batch.items() if k not in target_names and k != UID}
        if len(inputs) == 1 and self.keywords is not None and not inputs.keys() <= self.keywords:
            (value,) = inputs.values()
            # Forward would take containers apart.
            return (value,) if isinstance(value, (Mapping, tuple, list)) else value
        return inputs

    def forward(self, inputs: Any) -> Any:
        """Runs the net: tuples are positional, dicts keyword arguments."""
        if isinstance(inputs, torch.Tensor):
            return self.net(inputs)
        if isinstance(inputs, tuple) and not isinstance(inputs, PackedSequence):
            return self.net(*inputs)
        if isinstance(inputs, Mapping) and not self.whole_batch:
            return self.net(**inputs)
        return self.net(inputs)

    def loss(self, outputs: Any, targets: Any) -> Any:
        """The loss of a batch: a tensor, or a dict of named tensors that add up."""
        assert self.criterion is not None
        return self.criterion(outputs, targets)

    def evaluate_split(self, batch: Any) -> tuple[Any, Any]:
        """`split` in validation, `evaluate` and `predict`."""
        return self.split(batch)

    def evaluate_forward(self, inputs: Any) -> Any:
        """`forward` in validation, `evaluate` and `predict`."""
        return self.forward(inputs)

    def evaluate_loss(self, outputs: Any, targets: Any) -> Any:
        """`loss` in validation and `evaluate`."""
        return self.loss(outputs, targets)

    def size(self, inputs: Any, targets: Any) -> int:
        """How many samples a batch has: the first dimension of its first tensor.

        Raises:
            DataError: No tensor in the batch has a first dimension.
        """
        if isinstance(inputs, torch.Tensor) and inputs.ndim:
            return inputs.shape[0]
        samples = batch_length((inputs, targets))
        if samples is None:
            raise DataError(
                f"a batch must hold a tensor whose first dimension counts samples; received "
                f"inputs {describe(inputs)} and targets {describe(targets)}. Override "
                "BatchProcessor.size for batches of another make."
            )
        return samples

    def count(self, outputs: Any, targets: Any, samples: int) -> Count:
        """The weight of this batch's loss in a mean over batches."""
        if self.criterion is None or type(self).loss is not BatchProcessor.loss:
            return samples
        return self.criterion.count(outputs, targets, samples)

    @property
    def averages_classes(self) -> bool:
        """Whether `loss` and `count` are those of one of torch's means over class indices."""
        base = BatchProcessor
        plain = type(self).loss is base.loss and type(self).count is base.count
        return plain and self.criterion is not None and self.criterion.averages_classes

    def sums(self, *, evaluating: bool = False) -> bool:
        """Whether the loss is a sum over the batch, as the one given says of itself."""
        names = ("loss", "evaluate_loss") if evaluating else ("loss",)
        own = any(getattr(type(self), n) is not getattr(BatchProcessor, n) for n in names)
        return not own and self.criterion is not None and self.criterion.sums

    def evaluate_count(self, outputs: Any, targets: Any, samples: int) -> Count:
        """`count` in validation and `evaluate`."""
        overridden = type(self).evaluate_loss is not BatchProcessor.evaluate_loss
        return samples if overridden else self.count(outputs, targets, samples)

    def sample_losses(self, outputs: Any, targets: Any) -> torch.Tensor:
        """The loss of each sample, shape (N,), for handlers that need it.

        Raises:
            DataError: `loss` was overridden and this was not.
        """
        if self.criterion is None or type(self).loss is not BatchProcessor.loss:
            raise DataError(
                f"a handler needs the loss of single samples, and {type(self).__name__} has a "
                "loss of its own. Override BatchProcessor.sample_losses too; it returns a "
                "tensor of shape (N,)."
            )
        return self.criterion.per_sample(outputs, targets)

    def bound(
        self, net: nn.Module, criterion: Criterion | None, target_keys: list[str] | str | None
    ) -> BatchProcessor:
        """A copy that holds the net, the loss and the target keys of an Estimator."""
        mine = copy.copy(self)
        mine.net, mine.criterion, mine.target_keys = net, criterion, target_keys
        parameters = _parameters(net) or []
        names = [p.name for p in parameters]
        takes_any = not names or any(p.kind is p.VAR_KEYWORD for p in parameters)
        mine.whole_batch = names == ["batch"]
        mine.keywords = None if takes_any else frozenset(names)
        return mine

    @property
    def has_loss(self) -> bool:
        """Whether there is a loss: one was given, or `loss` is overridden."""
        return self.criterion is not None or type(self).loss is not BatchProcessor.loss


def _parameters(net: nn.Module) -> list[inspect.Parameter] | None:
    """The parameters of a net's forward; None where nothing says them."""
    # A compiled net takes anything and hands it on to the one inside.
    inner = getattr(net, "_orig_mod", net)
    try:
        return list(inspect.signature(inner.forward).parameters.values())
    except ValueError:  # a traced net has no signature
        return None


def positional_parameters(net: nn.Module) -> int | None:
    """How many positional arguments `forward` must have; None where it takes any number."""
    parameters = _parameters(net)
    if parameters is None or any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return None
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(1 for p in parameters if p.kind in kinds and p.default is p.empty)


def check_target_keys(targets: Any) -> list[str] | str | None:
    """Reads the `targets` argument of an Estimator.

    Raises:
        ArgumentError: It is not a key or a list of keys.
    """
    if targets is None or isinstance(targets, str):
        return targets
    if isinstance(targets, (list, tuple)) and targets and all(isinstance(k, str) for k in targets):
        return list(targets)
    raise ArgumentError(
        f"Estimator(targets=...) must be a key or a list of keys of a dictionary batch; received "
        f"{targets!r}. Write targets='label' or targets=['digit', 'angle']."
    )

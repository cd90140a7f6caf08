"""What is asked of a net: one number of its answer, as a function of one of its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from estimator.described import plain
from estimator.handlers.base import ArgumentError, ArgumentTypeError, DataError, nearest
from estimator.processor import BatchProcessor, describe


class Question(nn.Module):
    """One number a sample of a net's answer, as a function of one feature of its inputs.

    Args:
        net: The original of a compiled net, undisturbed.
        inputs: Of a batch, in any form that a fit gives to a net.
        owner: The function that asks, for messages.
        target: The class that is asked for; None is the predicted one.
        output: The name or place of the output; None where there is one.
        feature: The name or place of the input; None where there is one.

    Raises:
        ArgumentError: Output, feature or target are not there.
        DataError: A sample holds NaN or infinite numbers, or has such an answer.
    """

    values: Tensor
    """The feature, (n, ...) of a floating type."""
    answer: Tensor
    """What the net answers, (n,) or (n, C, ...)."""
    scores: Tensor
    """The number of it that is explained, (n,)."""

    def __init__(
        self, net: nn.Module, inputs: Any, *, owner: str, target: int | Tensor | None,
        output: str | int | None, feature: str | int | None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.net, self.owner, self.output = net, owner, output
        self._processor = BatchProcessor().bound(net, None, None)
        self._check_kind(inputs)
        self._inputs = _copied(_arguments(self._processor, inputs))
        self.feature = self._chosen(feature, inputs)
        value = _features(self._inputs)[self.feature]
        self._shape = value.shape[1:]
        # Captum takes a feature to have at least one dimension beside that of the samples.
        values = value[:, None] if value.ndim == 1 else value
        # A net that turns bytes to numbers itself takes the numbers too, and these have gradients.
        self.values = values.float() if values.dtype == torch.uint8 else values
        self._check_finite(self.values, f"{owner}(inputs=...)", "Leave it out or mend it.")
        self.columns: Tensor | None = None
        with torch.no_grad():
            self.answer = self._answer(self._inputs)
            self.columns = self._columns(self.answer, target)
            self.scores = _picked(self.answer, self.columns)
            self._check_finite(self.scores, "the net's answer", "Does the net train well?")
            if values.dtype == torch.uint8:
                self._check_bytes()

    def forward(self, values: Tensor) -> Tensor:
        """The scores (k * n,) of k times the batch, with other values of the feature."""
        times = len(values) // len(self.values)
        values = values.reshape(-1, *self._shape)
        columns = None if self.columns is None else self.columns.repeat(times)
        return _picked(self._answer(self._with(values, times)), columns)

    @staticmethod
    def features_in(net: nn.Module, inputs: Any) -> list[Any]:
        """The places or names of all inputs that can be explained; None of a single one."""
        processor = BatchProcessor().bound(net, None, None)
        return list(_features(_arguments(processor, inputs)))

    def shares(self, columns: Tensor) -> Tensor:
        """The probability (n,) of a class of each sample; of positions, their mean."""
        if self.columns is None:
            yes = _table(self.answer.sigmoid())[:, 0]
            return torch.where(columns > 0, yes, 1 - yes)
        return _table(self.answer.softmax(1)).gather(1, columns[:, None])[:, 0]

    def shaped(self, values: Tensor) -> Tensor:
        """Attributions in the shape of the feature."""
        return values.detach().reshape(-1, *self._shape)

    def gradient_is_there(self) -> None:
        """Looks whether the answer has a gradient by the feature.

        Raises:
            DataError: It has none.
        """
        values = self.values.clone().requires_grad_()
        scores = self(values)
        found = None
        if scores.requires_grad:
            (found,) = torch.autograd.grad(scores.sum(), values, allow_unused=True)
        if found is None:
            raise DataError(
                f"{self.owner} needs the gradient of the answer by the feature"
                f"{self._named_feature()}, and there is none: the net does not use it, or detaches "
                "what it makes of it. Name another feature, or use occlusion."
            )

    def _named_feature(self) -> str:
        return "" if self.feature is None else f" {self.feature!r}"

    def _check_kind(self, inputs: Any) -> None:
        if not isinstance(inputs, (Tensor, tuple, Mapping)):
            raise ArgumentTypeError(
                f"{self.owner}(inputs=...) must be a tensor, a tuple of what the net takes by "
                f"position, or a dict batch; received {describe(inputs)}."
            )

    def _chosen(self, feature: str | int | None, inputs: Any) -> Any:
        there = _features(self._inputs)
        # A single entry of a dict may have gone to the net by position.
        if None in there and (
            feature is None or (isinstance(inputs, Mapping) and feature in inputs)
        ):
            return None
        floating = [key for key, item in there.items() if item.is_floating_point()] or list(there)
        if feature is None and len(floating) == 1:
            return floating[0]
        if feature is None or feature not in there:
            names = nearest(str(feature), map(str, there))
            raise ArgumentError(
                f"{self.owner}(feature=...) must name the input that is explained, a tensor of "
                f"numbers with a row for each sample; received {feature!r}. {names}"
            )
        return feature

    def _with(self, values: Tensor, times: int) -> Any:
        samples = len(self.values)
        if isinstance(self._inputs, Mapping):
            others = {key: _repeated(v, samples, times) for key, v in self._inputs.items()}
            return {**others, self.feature: values}
        if isinstance(self._inputs, tuple):
            items = [_repeated(item, samples, times) for item in self._inputs]
            return (*items[: self.feature], values, *items[self.feature + 1 :])
        return values

    def _answer(self, inputs: Any) -> Tensor:
        outputs = plain(self._processor.forward(inputs))
        found = numbers_in(outputs)
        name = next(iter(found)) if self.output is None and len(found) == 1 else self.output
        if name not in found:
            raise ArgumentError(
                f"{self.owner}(output=...) must name the output that is explained, a tensor of "
                f"numbers with a row for each sample; received {self.output!r}, and the net "
                f"returned {describe(outputs)}. {nearest(str(self.output), map(str, found))}"
            )
        return found[name]

    def _columns(self, answer: Tensor, target: int | Tensor | None) -> Tensor | None:
        samples = len(self.values)
        if len(answer) != samples:
            raise DataError(
                f"{self.owner} explains an answer with a row for each of the {samples} samples; "
                f"the net returned {describe(answer)}."
            )
        width = max(2, answer.shape[1] if answer.ndim > 1 else 1)
        if target is None:
            table = _table(answer)
            return table.argmax(1) if table.shape[1] > 1 else None
        asked = torch.as_tensor(target, device=answer.device)
        whole = not asked.is_floating_point() and asked.dtype != torch.bool
        if not whole or asked.shape not in ((), (samples,)):
            raise ArgumentTypeError(
                f"{self.owner}(target=...) must be a class number or an integer tensor of one a "
                f"sample, ({samples},); received {target!r}."
            )
        if not ((asked >= 0) & (asked < width)).all():
            raise ArgumentError(
                f"{self.owner}(target=...) must be from 0 to below {width} for an answer "
                f"{describe(answer)}; received {target!r}."
            )
        return asked.long().expand(samples)

    def _check_finite(self, values: Tensor, what: str, remedy: str) -> None:
        bad = (~values.isfinite()).reshape(len(values), -1).any(1).nonzero()[:, 0].tolist()
        if bad:
            shown = ", ".join(map(str, bad[:8])) + (", ..." if len(bad) > 8 else "")
            raise DataError(
                f"{self.owner}: {what} must be finite; received NaN or infinite numbers in sample "
                f"{shown} of the batch, counted from 0. {remedy}"
            )

    def _check_bytes(self) -> None:
        if not torch.allclose(self(self.values), self.scores, rtol=1e-3, atol=1e-3):
            raise DataError(
                f"{self.owner}: the net answers bytes{self._named_feature()} otherwise than the "
                "same numbers in a floating type, which an explanation needs. Pass what the net "
                "makes of the bytes, to a net that takes that."
            )


def _arguments(processor: BatchProcessor, inputs: Any) -> Any:
    """What of a batch goes to the net, by the rules of a fit."""
    if not isinstance(inputs, Mapping):
        return inputs
    named = (processor.keywords or frozenset()) & set(inputs)
    others = [key for key in inputs if key not in named] if named else []
    return processor.inputs_of(inputs, others)


def numbers_in(value: Any) -> dict[Any, Tensor]:
    """The tensors of a floating type by their place or name; a tensor alone has the name None."""
    tensors = _tensors(value)
    return {key: item for key, item in tensors.items() if item.is_floating_point()}


def _features(inputs: Any) -> dict[Any, Tensor]:
    bytes_ = {key: t for key, t in _tensors(inputs).items() if t.dtype == torch.uint8}
    return numbers_in(inputs) | bytes_


def _tensors(value: Any) -> dict[Any, Tensor]:
    parts: dict[Any, Any] = {None: value}
    if isinstance(value, Mapping):
        parts = dict(value)
    elif isinstance(value, (tuple, list)):
        parts = dict(enumerate(value))
    tensors = {key: part for key, part in parts.items() if isinstance(part, Tensor)}
    return {key: part for key, part in tensors.items() if part.ndim and len(part)}


def _table(answer: Tensor) -> Tensor:
    """One row of columns a sample: the means over the positions of each column."""
    return answer.reshape(len(answer), answer.shape[1] if answer.ndim > 1 else 1, -1).mean(2)


def _picked(answer: Tensor, columns: Tensor | None) -> Tensor:
    table = _table(answer)
    if columns is None:
        return table[:, 0]
    if table.shape[1] == 1:
        # One logit speaks for the second of two classes, and against the first.
        return torch.where(columns > 0, table[:, 0], -table[:, 0])
    return table.gather(1, columns[:, None])[:, 0]


def _copied(value: Any) -> Any:
    """The same structure with tensors that no graph and no inference mode holds on to."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_copied(item) for item in value)
    return value


def _repeated(value: Any, samples: int, times: int) -> Any:
    """The same structure with as many times the samples."""
    if times == 1:
        return value
    if isinstance(value, Tensor) and value.ndim and len(value) == samples:
        return value.repeat(times, *[1] * (value.ndim - 1))
    if isinstance(value, Mapping):
        return {key: _repeated(item, samples, times) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_repeated(item, samples, times) for item in value)
    return value

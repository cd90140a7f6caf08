"""Baselines, windows and numbers that the methods are given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from estimator.explain.question import Question
from estimator.handlers.base import ArgumentError, ArgumentTypeError


def whole_number(value: object, argument: str) -> int:
    """A whole number from 1 up.

    Raises:
        ArgumentError: It is none.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ArgumentError(f"{argument} must be a whole number from 1 up; received {value!r}.")
    return value


def baseline_of(baseline: object, question: Question) -> Tensor:
    """The baseline of each sample, in the shape of the values that are explained.

    Raises:
        ArgumentError: Its shape does not fit, or it is not finite.
        ArgumentTypeError: It is neither a number nor a tensor nor "mean".
    """
    values, argument = question.values, f"{question.owner}(baseline=...)"
    if isinstance(baseline, str) and baseline == "mean":
        return _mean(values, argument)
    number = isinstance(baseline, (int, float)) and not isinstance(baseline, bool)
    if not number and not isinstance(baseline, (Tensor, np.ndarray)):
        raise ArgumentTypeError(
            f"{argument} must be a number, a tensor or 'mean'; received {baseline!r}. Pass what "
            "an input without content is to the net, after any normalisation."
        )
    given = torch.as_tensor(baseline, dtype=values.dtype, device=values.device)
    if given.ndim and given.shape == question.shaped(values).shape:
        given = given.reshape(values.shape)
    try:
        whole = given.broadcast_to(values.shape)
    except RuntimeError:
        raise ArgumentError(
            f"{argument} must fit the shape of a sample, {tuple(values.shape[1:])}, or of the "
            f"batch; received the shape {tuple(given.shape)}."
        ) from None
    if not given.isfinite().all():
        raise ArgumentError(f"{argument} must be finite; received {baseline!r}.")
    return whole.clone()


def _mean(values: Tensor, argument: str) -> Tensor:
    if values.ndim == 2 and len(values) == 1:
        raise ArgumentError(
            f"{argument} must differ from the input; received 'mean' for a single sample, which is "
            "its own mean. Pass the mean of the training data as a tensor."
        )
    others = [0, *range(2, values.ndim)]
    return values.mean(others, keepdim=True).expand_as(values).clone()


def windows_of(
    window: int | Sequence[int], stride: int | Sequence[int] | None, shape: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The window and its stride in each dimension of a sample.

    Raises:
        ArgumentError: They do not fit the sample, or leave gaps.
    """
    sizes = _each(window, shape, "occlusion(window=...)")
    steps = tuple(max(1, size // 2) for size in sizes)
    if stride is not None:
        steps = _each(stride, shape, "occlusion(stride=...)")
    # One window covers the dimension, so that there is nowhere to go.
    covered = [size == whole for size, whole in zip(sizes, shape, strict=True)]
    steps = tuple(s if c else n for n, s, c in zip(steps, sizes, covered, strict=True))
    if any(n > size for n, size in zip(steps, sizes, strict=True)):
        raise ArgumentError(
            f"occlusion(stride=...) must be at most the window, {sizes}, or parts of the input "
            f"are never covered; received {stride!r}."
        )
    return sizes, steps


def _each(given: Any, shape: tuple[int, ...], argument: str) -> tuple[int, ...]:
    """A number for each dimension of a sample; that of the channels is all of them by itself."""
    positions = len(shape) - 1 if len(shape) > 1 else 1
    numbers = [given] * positions if isinstance(given, int) else list(given)
    if len(numbers) == len(shape) - 1:
        numbers = [shape[0], *numbers]
    for number in numbers:
        whole_number(number, argument)
    fits = len(numbers) == len(shape)
    if not fits or math.prod(n <= size for n, size in zip(numbers, shape, strict=True)) == 0:
        raise ArgumentError(
            f"{argument} must be a number, or one for each dimension of a sample {shape} (that of "
            f"the channels may be left out), and at most its size; received {given!r}."
        )
    return tuple(numbers)

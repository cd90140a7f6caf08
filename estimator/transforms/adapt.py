"""`Adapt`: transforms of torchvision, and functions, among those of this package."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from estimator.handlers._batch_view import check_samples, lengths
from estimator.handlers.base import ArgumentTypeError, DataError
from estimator.processor import UID, UidSample, describe
from estimator.transforms.base import FieldKeys, Transform, field, field_keys, named_fields, put
from estimator.transforms.pixels import clipped


class Adapt(Transform):
    """Makes a transform of a plain function or of one of torchvision's (v2).

    A function gets a sample in the structure of the batch, without the first dimension of its
    tensors, and returns the same structure; or whole batches with `per_sample=False`. A
    "sample_uid" is not shown to it, and kept.

    A transform of torchvision gets images, masks and boxes as its own kinds of tensors, so it
    moves them jointly. Given whole batches it draws once for all of a batch.

    With a generator the global stream of torch is seeded from it for the call, and put back.

    Args:
        function: What is called.
        per_sample: Whether it is called for each sample, in a Python loop, or for whole batches:
            right where nothing is drawn, and for those that mix samples.
        **fields: Keys of the batch, see `FieldKeys`; a plain function has no need of them.

    Raises:
        ArgumentTypeError: `function` cannot be called.

    Example:
        >>> import torch
        >>> double = Adapt(lambda sample: {**sample, "x": sample["x"] * 2})
        >>> double({"x": torch.ones(2), "sample_uid": torch.tensor([5, 7])})
        {'x': tensor([2., 2.]), 'sample_uid': tensor([5, 7])}
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        *,
        per_sample: bool = True,
        **fields: Unpack[FieldKeys],
    ) -> None:
        self.fields = named_fields(fields, self)
        if not callable(function) or isinstance(function, type):
            raise ArgumentTypeError(
                f"Adapt(function=...) must be a function or an object that can be called; "
                f"received {function!r}."
            )
        self.function, self.per_sample = function, per_sample
        kinds = (type(function), *type(function).__mro__)
        self._is_torchvision = any(k.__module__.split(".")[0] == "torchvision" for k in kinds)

    def __call__(self, batch: Any, generator: torch.Generator | None = None) -> Any:
        """The batch, changed by the function.

        Args:
            batch: A dict, tuple or list of tensors, or a single tensor.
            generator: Seeds the global stream for this call; None lets the function draw from it.

        Raises:
            DataError: The function changed the number of samples, or gave samples of several
                sizes, or nothing.
        """
        if isinstance(batch, UidSample):
            return UidSample(self(batch.sample, generator), batch.sample_uid)
        shown = {k: v for k, v in batch.items() if k != UID} if _has_uid(batch) else batch
        with _seeded(generator):
            changed = self._each(shown) if self.per_sample else self._one(shown)
        check_samples(shown, changed, self)
        return {**changed, UID: batch[UID]} if shown is not batch else changed

    def _each(self, batch: Any) -> Any:
        samples = next(iter(lengths(batch).values()), None)
        if samples is None:
            raise DataError(f"{self!r} needs a batch with tensors; received {describe(batch)}.")
        results = [self._one(_row(batch, i)) for i in range(samples)]
        if None in [None if result is None else 0 for result in results]:
            raise DataError(f"{self!r} must return a sample; it returned None. Add a return.")
        try:
            return default_collate(results)
        except (RuntimeError, TypeError) as error:
            raise DataError(
                f"{self!r} must give all samples of a batch one size; received "
                f"{describe(results)}. "
                "Let it end with a resize or a crop, and keep the number of boxes."
            ) from error

    def _one(self, sample: Any) -> Any:
        if not self._is_torchvision:
            return self.function(sample)
        keys = field_keys(sample, self.fields, self)
        changed = _plain(self.function(put(sample, self._wrapped(sample, keys))))
        for key in keys["boxes"]:
            size = field(changed, keys["images"][0]).shape[-2:]
            boxes = clipped(field(changed, key), size)
            area = (boxes[..., 2:] > boxes[..., :2]).all(-1)
            values = {key: boxes * area[..., None]}
            values |= {k: field(changed, k).bool() & area for k in keys["valid"]}
            changed = put(changed, values)
        return changed

    def _wrapped(
        self, sample: Any, keys: Mapping[str, tuple[str | int, ...]]
    ) -> dict[str | int, Any]:
        """The fields as tensors of torchvision's kinds, by which it knows what to do with them."""
        kinds = importlib.import_module("torchvision.tv_tensors")
        size = tuple(field(sample, keys["images"][0]).shape[-2:])
        values = {key: kinds.Image(field(sample, key)) for key in keys["images"]}
        values |= {key: kinds.Mask(field(sample, key)) for key in keys["masks"]}
        for key in keys["boxes"]:
            boxes = field(sample, key)
            values[key] = kinds.BoundingBoxes(boxes, format="XYXY", canvas_size=size)
        return values


def _has_uid(batch: Any) -> bool:
    return isinstance(batch, Mapping) and UID in batch


@contextlib.contextmanager
def _seeded(generator: torch.Generator | None) -> Iterator[None]:
    if generator is None:
        yield
        return
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(seed))
        yield


def _row(value: Any, index: int) -> Any:
    """A sample of a batch."""
    if isinstance(value, Mapping):
        return {key: _row(item, index) for key, item in value.items()}
    if isinstance(value, (Tensor, np.ndarray)):
        return value[index] if value.ndim else value
    if hasattr(value, "_fields"):
        return type(value)(*(_row(item, index) for item in value))
    if isinstance(value, (tuple, list)) and any(isinstance(v, (Tensor, np.ndarray)) for v in value):
        return type(value)(_row(item, index) for item in value)
    return value[index] if isinstance(value, (tuple, list)) else value


def _plain(value: Any) -> Any:
    """The same structure with plain tensors."""
    if isinstance(value, Tensor):
        return value.as_subclass(Tensor)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        items = [_plain(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value

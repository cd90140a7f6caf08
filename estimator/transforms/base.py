"""`Transform`, and what those have in common that change pictures and what lies on them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor

from estimator.handlers.base import ArgumentTypeError, DataError, nearest
from estimator.processor import UidSample, describe

Keys = str | int | tuple[str | int, ...]
"""A key of a dict batch or a place in a tuple batch, or several of them."""


class FieldKeys(TypedDict, total=False):
    """Where in a batch the parts of a picture are: keys of a dict, or places in a tuple."""

    images: Keys | None
    """Tensors (N, C, H, W). By default the key "images" or "image", or the first of a tuple."""
    masks: Keys | None
    """Tensors (N, H, W) or (N, C, H, W) of the same H and W; by default there are none."""
    boxes: str | int | None
    """A tensor (N, M, 4) of x1, y1, x2, y2 in pixels, padded with zeros; by default none."""
    valid: str | int | None
    """A bool tensor (N, M), False where a place holds no box; by default none."""


@dataclass(frozen=True)
class Scene:
    """What a batch shows: pictures, and what moves along with them."""

    images: tuple[Tensor, ...]
    masks: tuple[Tensor, ...] = ()
    boxes: Tensor | None = None
    valid: Tensor | None = None

    @property
    def samples(self) -> int:
        """How many samples the batch has."""
        return self.images[0].shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.images[0].shape[-2:]
        return height, width

    @property
    def device(self) -> torch.device:
        """Where the pictures are."""
        return self.images[0].device


class Transform(ABC):
    """A change of a batch that leaves the number and the order of its samples as they are.

    The batch that is given, and its tensors, stay as they are; the result has the same structure,
    with a "sample_uid" untouched.
    """

    @abstractmethod
    def __call__(self, batch: Any, generator: torch.Generator | None = None) -> Any:
        """The batch, changed.

        Args:
            batch: A dict, tuple or list of tensors, or a single tensor of images.
            generator: Where chance comes from; None is the global stream of the images' device.
                One on the CPU gives the same draws for images on any device.

        Raises:
            DataError: The batch is not made as this transform needs it.
        """

    def __repr__(self) -> str:
        shown = [f"{k}={v!r}" for k, v in vars(self).items() if not k.startswith("_")]
        return f"{type(self).__name__}({', '.join(shown)})"


class FieldTransform(Transform):
    """A transform of images, and of the masks and boxes on them.

    Derive from it and write `change`. What is not named is not touched: masks and boxes follow
    the images only where `masks=` and `boxes=` say where they are.

    Boxes keep their places, since every sample of a batch has as many. They are clipped to the
    image; one of which nothing is left becomes four zeros, and False in `valid`.

    Args:
        **fields: Keys of the batch, see `FieldKeys`.

    Raises:
        ArgumentTypeError: A keyword that there is not.
    """

    def __init__(self, **fields: Unpack[FieldKeys]) -> None:
        self.fields = named_fields(fields, self)

    @abstractmethod
    def change(self, scene: Scene, generator: torch.Generator | None) -> Scene:
        """The scene, changed; tensors of the one given are not written to.

        Args:
            scene: Images, masks and boxes of a batch.
            generator: Where chance comes from; None is the global stream.
        """

    def __call__(self, batch: Any, generator: torch.Generator | None = None) -> Any:
        """The batch with its named fields changed.

        Args:
            batch: A dict, tuple or list of tensors, or a single tensor of images.
            generator: Where chance comes from; None is the global stream of the images' device.

        Raises:
            DataError: A field is missing, or has another shape than it must have.
        """
        if isinstance(batch, UidSample):
            return UidSample(self(batch.sample, generator), batch.sample_uid)
        keys = field_keys(batch, self.fields, self)
        before = _scene(batch, keys, self)
        after = self.change(before, generator)
        values: dict[str | int, Any] = {}
        for name in ("images", "masks"):
            values |= zip(keys[name], getattr(after, name), strict=True)
        for name in ("boxes", "valid"):
            values |= {key: getattr(after, name) for key in keys[name]}
        return put(batch, values)


def named_fields(fields: FieldKeys, owner: object) -> dict[str, Any]:
    """The keys that were given, without those that are None.

    Raises:
        ArgumentTypeError: A keyword that there is not.
    """
    unknown = [name for name in fields if name not in FieldKeys.__annotations__]
    if unknown:
        raise ArgumentTypeError(
            f"{type(owner).__name__} has no argument {unknown[0]!r}. "
            f"{nearest(unknown[0], FieldKeys.__annotations__)}"
        )
    return {name: key for name, key in fields.items() if key is not None}


def field_keys(
    batch: Any, fields: Mapping[str, Any], owner: object
) -> dict[str, tuple[str | int, ...]]:
    """The keys of images, masks, boxes and validity in a batch, as tuples.

    Raises:
        DataError: A key is not in the batch, or there are no images.
    """
    named = {"images": _images_key(batch), **fields}
    keys = {}
    for name in FieldKeys.__annotations__:
        value = named.get(name)
        keys[name] = () if value is None else value if isinstance(value, tuple) else (value,)
        missing = [key for key in keys[name] if not _has(batch, key)]
        if missing or (name == "images" and not keys[name]):
            raise DataError(
                f"{owner!r} finds no {name} {missing or ''} in the batch {describe(batch)}. Name "
                f"the key of a dict, or the place in a tuple: {name}=..."
            )
    return keys


def _images_key(batch: Any) -> str | int | None:
    if isinstance(batch, Mapping):
        return next((key for key in ("images", "image") if key in batch), None)
    return 0


def _has(batch: Any, key: str | int) -> bool:
    if isinstance(batch, Tensor):
        return key == 0
    if isinstance(batch, Mapping):
        return key in batch
    if isinstance(key, str):
        return key in getattr(batch, "_fields", ())
    return isinstance(batch, (tuple, list)) and -len(batch) <= key < len(batch)


def field(batch: Any, key: str | int) -> Any:
    """The value of a field of a batch."""
    if isinstance(batch, Tensor):
        return batch
    is_name = isinstance(key, str) and not isinstance(batch, Mapping)
    return getattr(batch, str(key)) if is_name else batch[key]


def put(batch: Any, values: Mapping[str | int, Any]) -> Any:
    """A batch of the same structure with other values in some fields."""
    if isinstance(batch, Tensor):
        return values.get(0, batch)
    if isinstance(batch, Mapping):
        return {**batch, **values}
    items = list(batch)
    for key, value in values.items():
        items[batch._fields.index(key) if isinstance(key, str) else key] = value
    return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)


def _scene(batch: Any, keys: Mapping[str, tuple[str | int, ...]], owner: object) -> Scene:
    values = {name: tuple(field(batch, key) for key in keys[name]) for name in keys}
    boxes, valid = (next(iter(values[name]), None) for name in ("boxes", "valid"))
    for image in values["images"]:
        _check(image, (4,), "images", "tensors (N, C, H, W), all of one size", owner)
    size = values["images"][0].shape[-2:]
    for mask in (*values["images"][1:], *values["masks"]):
        _check(mask, (3, 4), "masks", "tensors (N, H, W) or (N, C, H, W)", owner)
        if mask.shape[-2:] != size:
            raise DataError(
                f"{owner!r} needs images and masks of one height and width; received "
                f"{describe(values['images'][0])} and {describe(mask)}. Resize them before."
            )
    if boxes is not None:
        _check(boxes, (3,), "boxes", "a tensor (N, M, 4) of x1, y1, x2, y2", owner)
        if boxes.shape[-1] != 4:
            raise _wrong(boxes, "boxes", "a tensor (N, M, 4) of x1, y1, x2, y2", owner)
        boxes = boxes if boxes.is_floating_point() else boxes.float()
    if valid is not None:
        _check(valid, (2,), "valid", "a bool tensor (N, M)", owner)
    return Scene(values["images"], values["masks"], boxes, valid)


def _check(value: Any, ndims: tuple[int, ...], name: str, rule: str, owner: object) -> None:
    if not isinstance(value, Tensor) or value.ndim not in ndims:
        raise _wrong(value, name, rule, owner)


def _wrong(value: Any, name: str, rule: str, owner: object) -> DataError:
    return DataError(
        f"{owner!r} needs {name} as {rule}; received {describe(value)}. Give images of several "
        "sizes one size where they are read, and a missing dimension with unsqueeze."
    )

"""What kind of thing a sample's tensor is, and how much of a large one is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

ROW_BYTES = 1 << 20
"""What a sample's tensor takes at most where samples are kept; larger ones are thinned."""
SHOWN_VALUES = 16
"""Up to so many values are told one by one."""
SLICES = 25
"""So many planes of a volume, or frames of a film, are shown."""
_CHANNELS = (1, 3, 4)
_SIDE = 8
_IDENTITIES = (torch.int32, torch.int64, torch.bool)
_RANGED = (
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
)


def layout(shape: Sequence[int], dtype: torch.dtype) -> str:
    """What the dimensions of one sample's tensor are, a letter for each.

    "HW", "CHW" and "HWC" are images of 1, 3 or 4 channels; with D they are planes of a volume or
    frames of a film; "T", "TC" and "CT" are series over time. Whole numbers in a row are no
    series, since they mostly stand for words or classes.

    Returns:
        Empty for everything that is told as numbers.

    Example:
        >>> layout((3, 32, 32), torch.uint8), layout((500, 2), torch.float32)
        ('CHW', 'TC')
        >>> layout((4,), torch.float32)
        ''
    """
    if dtype.is_complex or 0 in shape:
        return ""
    if len(shape) == 1:
        return "T" if shape[0] > SHOWN_VALUES and dtype not in _IDENTITIES else ""
    if len(shape) == 2:
        return _of_two(*shape)
    if len(shape) == 3:
        return _of_three(*shape)
    if len(shape) == 4 and min(shape[2:]) >= _SIDE:
        return "CDHW" if shape[0] in _CHANNELS else "DCHW" if shape[1] in _CHANNELS else ""
    return ""


def _of_two(first: int, second: int) -> str:
    if min(first, second) >= _SIDE:
        return "HW"
    if max(first, second) <= SHOWN_VALUES:
        return ""
    return "CT" if first <= second else "TC"


def _of_three(first: int, second: int, third: int) -> str:
    if first in _CHANNELS and min(second, third) > 1:
        return "CHW"
    if third in _CHANNELS and min(first, second) >= _SIDE:
        return "HWC"
    return "DHW" if min(second, third) >= _SIDE else ""


def kept(name: str, batch: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The rows of a batch that are kept of a value, at most `ROW_BYTES` a sample.

    Of larger images every n-th pixel is kept, of series every n-th moment, of volumes some planes;
    what has no picture is left out. Shape (N, dimensions) and range (N, 2) of what was thinned or
    left out stand beside it, as "shape.<name>" and "range.<name>".

    Args:
        name: Of the value.
        batch: (N, ...), N above 0.
    """
    if batch.nbytes <= ROW_BYTES * len(batch):
        yield name, batch
        return
    shape = batch.shape[1:]
    letters = layout(shape, batch.dtype)
    if letters:
        taken = _thinned(shape, letters, batch.element_size())
        yield name, batch[(slice(None), *taken)]
    # Made where the batch is: nothing waits for the host.
    sizes = [torch.full((len(batch),), size, device=batch.device) for size in shape]
    yield f"shape.{name}", torch.stack(sizes, 1)
    if batch.dtype in _RANGED:
        inner = tuple(range(1, batch.ndim))
        ends = [batch.amin(inner).float(), batch.amax(inner).float()]
        yield f"range.{name}", torch.stack(ends, 1)


def _thinned(shape: Sequence[int], letters: str, item_bytes: int) -> list[slice]:
    steps = dict.fromkeys(letters, 1)
    sizes = dict(zip(letters, shape, strict=True))
    if "D" in letters:
        steps["D"] = -(-sizes["D"] // SLICES)
    while _bytes(sizes, steps) * item_bytes > ROW_BYTES:
        # The finest side first, so that a long and thin picture keeps what it has of breadth.
        finest = max((k for k in letters if k in "HWT"), key=lambda k: -(-sizes[k] // steps[k]))
        if -(-sizes[finest] // steps[finest]) == 1:
            break
        steps[finest] += max(1, steps[finest] // 4)
    return [slice(None, None, steps[letter]) for letter in letters]


def _bytes(sizes: dict[str, int], steps: dict[str, int]) -> int:
    count = 1
    for letter, size in sizes.items():
        count *= -(-size // steps[letter])
    return count

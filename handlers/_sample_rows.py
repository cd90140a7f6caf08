"""What a batch holds of each sample: its tensors by name, its prediction, and these in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from estimator.handlers._sample_kinds import SHOWN_VALUES, kept
from estimator.handlers.base import ArgumentError, ArgumentTypeError

if TYPE_CHECKING:
    from estimator.stats import TrainStats


def check_classes(classes: Sequence[str] | None, owner: str) -> Sequence[str] | None:
    """Returns the class names that a handler was given.

    Raises:
        ArgumentTypeError: They are not a sequence of strings.
        ArgumentError: There are none.
    """
    if classes is None:
        return None
    names = isinstance(classes, Sequence) and all(isinstance(name, str) for name in classes)
    if isinstance(classes, str) or not names:
        raise ArgumentTypeError(
            f"{owner}(classes=...) must be a list of names, one a class in the order of the "
            f"class numbers; received {classes!r}. Write classes=['cat', 'dog']."
        )
    if not classes:
        raise ArgumentError(
            f"{owner}(classes=...) must hold at least one name; received {classes!r}. "
            "Leave it out to show class numbers."
        )
    return classes


def check_count(count: int, argument: str) -> int:
    """Returns a number of samples that a handler was given.

    Raises:
        ArgumentError: It is not a whole number above 0.
    """
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ArgumentError(
            f"{argument} must be a whole number from 1 up; received {count!r}. "
            "Pass how many samples to take."
        )
    return count


def leaves(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a nested structure with its dotted name: "input", "input.image"."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(f"{name}.{key}", item)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from leaves(f"{name}.{index}", item)


def is_image(batch: Tensor) -> bool:
    """Whether a batch is of images: (N, 1 or 3, H, W) with more than one row and column."""
    return batch.ndim == 4 and batch.shape[1] in (1, 3) and min(batch.shape[2:]) > 1


def batch_rows(stats: TrainStats, size: int) -> dict[str, Tensor]:
    """The tensors of the present batch that have one row a sample.

    Args:
        stats: The run, inside a batch.
        size: Samples in the batch, above 0.

    Returns:
        Tensors of shape (size, ...) by their names, which begin with "input", "target" or
        "output". Those above `ROW_BYTES` a sample are thinned or left out, and described, as
        `kept` of `_sample_kinds` says.
    """
    parts = {"input": stats.inputs, "target": stats.targets, "output": stats.outputs}
    return rows_of(parts, size)


def rows_of(parts: Mapping[str, Any], size: int) -> dict[str, Tensor]:
    """The tensors of nested values that have one row for each of `size` samples, by name."""
    return {
        kept_name: row
        for part, nested in parts.items()
        for name, value in leaves(part, nested)
        if value.layout is torch.strided and value.ndim and len(value) == size
        for kept_name, row in kept(name, value.detach())
    }


def part_of(name: str) -> str:
    """The part of the batch that a row belongs to, also one that describes another row."""
    parts = name.split(".")
    return parts[1] if parts[0] in ("shape", "range") else parts[0]


def answers(rows: Mapping[str, Tensor], classes: Sequence[str] | None) -> dict[str, Tensor]:
    """What was asked and what was answered: columns "target" and "prediction".

    Several targets or outputs keep their names, as "target.digit" and "prediction.digit".

    Args:
        rows: What `batch_rows` gives, tensors of shape (N, ...).
        classes: Class names, where the user gave them.
    """
    targets, outputs = _of("target", rows), _of("output", rows)
    # Of a part of the classes, none is the likeliest.
    whole = {name for name in outputs if f"shape.output{name}" not in rows}
    if len(targets) == len(outputs) == 1:
        whole = {"" for _ in whole}
        targets, outputs = ({"": value} for part in (targets, outputs) for value in part.values())
    found = {f"target{name}": target for name, target in targets.items()}
    for name in filter(whole.__contains__, outputs):
        found[f"prediction{name}"] = _predicted(outputs[name], targets.get(name), classes)
    return found


def _of(part: str, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = [name for name in rows if name.partition(".")[0] == part]
    return {name.removeprefix(part): rows[name] for name in names}


def _predicted(output: Tensor, target: Tensor | None, classes: Sequence[str] | None) -> Tensor:
    whole_target = target is not None and not target.is_floating_point()
    if not output.is_floating_point() or not (whole_target or classes):
        return output
    if output.ndim > 1 and output.shape[1] > 1:
        one_of_many = target is None or target.ndim == output.ndim - 1
        return output.argmax(1) if one_of_many else output
    # One column is the logit of the second of two classes.
    binary = whole_target or (classes is not None and len(classes) == 2)
    return (output > 0).long() if binary else output


def class_name(value: Tensor, classes: Sequence[str] | None) -> str | None:
    """The name of the class that one sample's value on the host stands for, if it does."""
    if classes is None or value.numel() != 1:
        return None
    number = float(value)
    return classes[int(number)] if number in range(len(classes)) else None


def in_words(value: Tensor) -> str:
    """One sample's value on the host: all of it where it is short, else shape and range."""
    if value.numel() == 1:
        return _number(value.item())
    if value.numel() <= SHOWN_VALUES:
        return f"[{' '.join(_number(number) for number in value.flatten().tolist())}]"
    real = value.to(torch.float64) if not value.is_complex() else value.abs()
    finite = real[real.isfinite()]
    text = f"shape {'x'.join(map(str, value.shape))}"
    if len(finite):
        low, high, mean = finite.min().item(), finite.max().item(), finite.mean().item()
        text += f" min {low:.6g} max {high:.6g} mean {mean:.6g}"
    if len(finite) < real.numel():
        text += f" ({real.numel() - len(finite)} of {real.numel()} values are not finite)"
    return text


def _number(number: Any) -> str:
    return f"{number:.6g}" if isinstance(number, float) else str(number)


def one_line(uid: object) -> str:
    """An identity or a name without line breaks and tabs, for files of lines.

    Signs that cannot be shown, or that turn the direction of what follows, are marked.
    """
    line = " ".join(str(uid).split())
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in line)


def shortened(text: str, length: int) -> str:
    """The text without its middle where it is too long: names often differ in their ends."""
    if len(text) <= length:
        return text
    return f"{text[: length // 2]}…{text[len(text) - (length - 1) // 2 :]}"


def unit_range(image: Tensor) -> Tensor:
    """Brings pixel values on the host to 0..1.

    Bytes are divided by 255 and values within 0..1 stay; all others are stretched between their
    own finite extremes. What is not finite becomes 0, a constant image outside 0..1 mid-grey.
    """
    if image.dtype == torch.uint8:
        return image.to(torch.float32) / 255
    # Differences of the largest numbers of float32 are beyond float32.
    values = image.to(torch.float64)
    finite = values.isfinite()
    known = values[finite]
    if len(known) and (known.min() < 0 or known.max() > 1):
        low, high = known.min(), known.max()
        values = (values - low) / (high - low) if high > low else torch.full_like(values, 0.5)
    return values.where(finite, 0.0).nan_to_num(1.0).to(torch.float32)

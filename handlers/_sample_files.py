"""Single samples as files: a text each, a picture for each value that has one, and a card."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from estimator.handlers._sample_kinds import SHOWN_VALUES, layout
from estimator.handlers._sample_pictures import Pixels, pictures, write_picture
from estimator.handlers._sample_rows import answers, class_name, in_words, one_line
from estimator.handlers.base import ArgumentTypeError, DataError, Picture, SampleCard, write_whole

Facts = Mapping[str, str | int | float | None]
_SHOWN_PARTS = ("input", "target")
_SHORT = 80
_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class Telling(NamedTuple):
    """How the values of samples are put into words."""

    classes: Sequence[str] | None = None
    """Names in the order of the class numbers."""
    decode: Callable[[Tensor], str] | None = None
    """Makes text of whole numbers in a row, such as those of words."""


class Sample(NamedTuple):
    """One exported sample."""

    number: int
    """Its place among the samples, from 1."""
    uid: str
    score: float
    facts: dict[str, str]
    """Lines of its text file that come before what the net was given and gave."""
    rows: dict[str, Tensor]
    """What was kept of it, tensors on the host by name; empty where nothing was."""


def check_decode(
    decode: Callable[[Tensor], str] | None, owner: str
) -> Callable[[Tensor], str] | None:
    """Returns the function that a handler was given.

    Raises:
        ArgumentTypeError: It cannot be called.
    """
    if decode is not None and not callable(decode):
        raise ArgumentTypeError(
            f"{owner}(decode=...) must be a function from a tensor of whole numbers to a text; "
            f"received {decode!r}. Leave it out to show the numbers."
        )
    return decode


def safe_names(names: Iterable[str], length: int = 40) -> dict[str, str]:
    """File names for names that anyone may have chosen, a different one for each."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        safe = short = re.sub(r"[^\w.-]+", "_", name)[:length].strip(".") or "_"
        number = 1
        # Some file systems take two names for one that differ in the case of their letters.
        while safe.casefold() in taken:
            number += 1
            safe = f"{short}_{number}"
        taken.add(safe.casefold())
        found[name] = safe
    return found


def told(rows: Mapping[str, Tensor], telling: Telling) -> dict[str, str]:
    """The values of a sample in words: target and prediction, then all inputs and outputs."""
    lines = {}
    for name, value in answered(rows, telling).items():
        part, dot, rest = name.partition(".")
        lines[name] = words(value, telling)
        named = class_name(value, telling.classes)
        if named is not None:
            lines[f"{part}_class{dot}{rest}"] = named
    for name, value in rows.items():
        part, _, rest = name.partition(".")
        if part == "shape":
            lines[rest] = _large(value, rows.get(f"range.{rest}"), rows.get(rest))
        elif part not in ("range", "target") and name not in lines:
            lines[name] = words(value, telling)
    return {one_line(name): one_line(text) for name, text in lines.items()}


def answered(rows: Mapping[str, Tensor], telling: Telling) -> dict[str, Tensor]:
    """Targets and predictions of a sample by name."""
    found = answers({name: value[None] for name, value in rows.items()}, telling.classes)
    return {name: value[0] for name, value in found.items()}


def words(value: Tensor, telling: Telling) -> str:
    """One value of one sample in words; whole numbers in a row through the decoder."""
    if telling.decode is None or value.ndim != 1 or value.dtype not in _WHOLE:
        return in_words(value)
    text = telling.decode(value)
    if not isinstance(text, str):
        raise DataError(
            f"decode must make a text of a tensor {tuple(value.shape)} of whole numbers; it "
            f"returned {text!r}. Return a str."
        )
    return text


def _large(shape: Tensor, ends: Tensor | None, thinned: Tensor | None) -> str:
    text = f"shape {'x'.join(map(str, shape.tolist()))}"
    if ends is not None:
        low, high = ends.tolist()
        text += f" min {low:.6g} max {high:.6g}"
    if thinned is not None:
        text += f" (shown as {'x'.join(map(str, thinned.shape))})"
    return text


def short_answers(rows: Mapping[str, Tensor], telling: Telling) -> dict[str, str]:
    """The first target and the first prediction of a sample, for captions and tables.

    Classes stand by their names where these are known, shares of classes as the two greatest.
    """
    found = answered(rows, telling)
    first: dict[str, Tensor] = {}
    for name, value in found.items():
        first.setdefault(name.partition(".")[0], value)
    target, prediction = first.get("target"), first.get("prediction")
    lines = {}
    if target is not None:
        is_mixture = _is_mixture(target)
        lines["target"] = _mixture(target, telling) if is_mixture else _briefly(target, telling)
        if is_mixture and prediction is not None and prediction.shape == target.shape:
            prediction = prediction.argmax()
    if prediction is not None:
        lines["prediction"] = _briefly(prediction, telling)
    return lines


def caption(said: Mapping[str, str]) -> list[str]:
    """Lines below a picture from what `short_answers` gives."""
    begins = {"target": "target", "prediction": "predicted"}
    return [f"{begins[name]} {text}" for name, text in said.items()]


def _is_mixture(target: Tensor) -> bool:
    """Whether a target is made of shares of classes."""
    if target.ndim != 1 or len(target) < 2 or not target.is_floating_point():
        return False
    return bool((target >= 0).all()) and abs(float(target.sum()) - 1) < 1e-3


def _mixture(target: Tensor, telling: Telling) -> str:
    shares, classes = target.float().topk(2)
    parts = [
        f"{_briefly(number, telling)} {share:.2f}"
        for share, number in zip(shares.tolist(), classes, strict=True)
        if share >= 0.005
    ]
    return " + ".join(parts)


def _briefly(value: Tensor, telling: Telling) -> str:
    named = class_name(value, telling.classes)
    if named is not None:
        return one_line(named)
    if 1 < value.numel() <= SHOWN_VALUES and value.is_floating_point():
        return f"[{' '.join(f'{number:.3g}' for number in value.flatten().tolist())}]"
    return one_line(words(value, telling))


def write_sample(
    folder: Path, stem: str, facts: Facts, rows: Mapping[str, Tensor], telling: Telling
) -> tuple[SampleCard, list[Path]]:
    """Writes `<stem>.txt`, and `<stem>_<feature>.png` for each input or target with a picture.

    Args:
        folder: A folder that exists.
        stem: How the files' names begin; safe as a name.
        facts: Lines of the text that come first.
        rows: Values of the sample on the host, by name.
        telling: How they are told.

    Returns:
        The card of the sample, and the files.
    """
    text = folder / f"{stem}.txt"
    write_text(text, told(rows, telling), facts)
    shown, files = [], [text]
    for feature, image in features(rows).items():
        path = folder / f"{stem}_{feature}.png"
        write_picture(path, image)
        files.append(path)
        shown.append(Picture(path.name, feature))
    said = {**told_shortly(rows, telling, pictured=bool(shown)), **facts}
    return SampleCard(f"uid {facts.get('uid', '')}", said, shown, text.name), files


def told_shortly(rows: Mapping[str, Tensor], telling: Telling, *, pictured: bool) -> dict[str, str]:
    """What a card says of a sample: its targets and predictions, and all texts; else numbers."""
    answers = {one_line(n): _briefly(v, telling) for n, v in answered(rows, telling).items()}
    lines = told(rows, telling)
    texts = {name: text for name, text in lines.items() if _is_text(rows, name, telling)}
    if pictured or texts:
        return answers | texts
    others = {name: text for name, text in lines.items() if name.partition(".")[0] == "input"}
    return answers | {name: text for name, text in others.items() if len(text) <= _SHORT}


def _is_text(rows: Mapping[str, Tensor], name: str, telling: Telling) -> bool:
    value = rows.get(name)
    return telling.decode is not None and value is not None and value.dtype in _WHOLE


def write_text(path: Path, lines: Mapping[str, str], facts: Facts) -> None:
    """Writes the text twin of a sample, a line for each value; facts come first and count."""
    first = {name: _number(fact) for name, fact in facts.items() if fact is not None}
    text = "".join(f"{name}={value}\n" for name, value in {**first, **lines, **first}.items())
    write_whole(path, text.encode("utf-8"))


def _number(fact: str | int | float) -> str:
    return f"{fact:.9g}" if isinstance(fact, float) else one_line(fact)


def features(rows: Mapping[str, Tensor]) -> dict[str, Pixels]:
    """The pictures of the inputs and of targets that are maps, by safe names."""
    found: dict[str, Pixels] = {}
    for part in _SHOWN_PARTS:
        values = {n: v for n, v in rows.items() if part == "input" or _is_map(v)}
        found |= pictures(values, part)
    safe = safe_names(name.removeprefix("input.") for name in found)
    return {safe[name.removeprefix("input.")]: image for name, image in found.items()}


def _is_map(value: Tensor) -> bool:
    return "H" in layout(value.shape, value.dtype)


def remove_others(folder: Path, pattern: re.Pattern[str], kept: Iterable[Path]) -> None:
    """Removes the files of a folder whose names fit a pattern, but for some."""
    names = {path.name for path in kept}
    for path in folder.iterdir():
        if pattern.fullmatch(path.name) and path.name not in names:
            path.unlink(missing_ok=True)

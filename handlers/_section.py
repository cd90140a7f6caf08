"""What a handler has to show on the page of a run, as a file that the page is made from."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from estimator.stats import TrainStats

SCHEMA = 1
SUFFIX = ".section.json"

Value = str | int | float | bool | None


class Table(NamedTuple):
    """Rows of text and numbers under named columns."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]


class Picture(NamedTuple):
    """A picture file, and what it shows in a line."""

    file: str
    """Its path from the folder of the section."""
    caption: str


class SampleCard(NamedTuple):
    """One sample: what is known of it, and its pictures.

    The page leaves out the facts "uid", "split", "epoch" and "rank", which belong into the title.
    """

    title: str
    facts: Mapping[str, Value]
    pictures: Sequence[Picture] = ()
    file: str = ""
    """Its text file, from the folder of the section."""


class Section(NamedTuple):
    """A part of the page of a run, made of any of these; pictures come before tables.

    Example:
        >>> section = Section("Shares", tables=[Table("By class", ["class", "share"], [["a", 1]])])
        >>> section.tables[0].columns
        ['class', 'share']
    """

    title: str
    order: int = 800
    """Where it stands among the sections: lower ones come first, equal ones by title."""
    text: str = ""
    """A paragraph that says what is to be seen."""
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    samples: Sequence[SampleCard] = ()


def write_section(folder: Path, name: str, section: Section, stats: TrainStats) -> Path:
    """Writes a section as strict JSON, whole or not at all; the page finds it by its ending.

    Numbers that JSON lacks become the texts "NaN", "Infinity" and "-Infinity".

    Args:
        folder: Where the handler's pictures and texts are.
        name: The beginning of the file's name; the rest is ".section.json".
        section: What is shown.
        stats: The run, whose epoch and step the section is of.
    """
    content = {"schema": SCHEMA, **_plain(section), "epoch": stats.epoch, "step": stats.step}
    text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False)
    return write_whole(folder / f"{name}{SUFFIX}", text.encode("utf-8") + b"\n")


def write_whole(path: Path, content: bytes) -> Path:
    """Replaces a file, so that a reader finds the former or the new content and no half of it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if hasattr(value, "_asdict"):
        return {name: _plain(item) for name, item in value._asdict().items()}
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value

"""What handlers that show single samples leave in their folders, read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def section(path: Path) -> dict[str, Any]:
    """A section, of which every file that it names is there."""
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    pictures = [*found["pictures"], *(p for card in found["samples"] for p in card["pictures"])]
    for picture in pictures:
        assert pixels(path.parent / picture["file"]).size
    for card in found["samples"]:
        assert (path.parent / card["file"]).read_text("utf-8")
    return found


def text(path: Path) -> dict[str, str]:
    """The lines of a sample's text twin."""
    lines = [line.partition("=") for line in path.read_text("utf-8").splitlines()]
    return {name: value for name, _, value in lines}


def pixels(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as image:
        return np.asarray(image)


def names(folder: Path, ending: str = "") -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(ending))


def full_disk(*_: Any, **__: Any) -> Any:
    raise OSError(28, "No space left on device")


class TwoProcesses:
    """A world in which another process has gathered what is given here."""

    rank, size = 0, 2

    def __init__(self, other: Any) -> None:
        self.other = other

    def gather(self, value: Any) -> list[Any]:
        return [value, self.other]

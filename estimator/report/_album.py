"""What a page may hold: pictures as data URIs, and all of it within a number of bytes."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from estimator.report._files import Unreadable, in_mib, read_bytes
from estimator.report._words import shown

PAGE_BYTES = 30_000_000
PICTURE_BYTES = 6_000_000
_KINDS = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "jpeg",
    b"GIF87a": "gif",
    b"GIF89a": "gif",
}
_WIDE = 1.7
"""Times its height: a picture that needs a row to itself."""
_SMALL = 160
"""Pictures below this width are shown enlarged, with their pixels visible."""


class Gap(NamedTuple):
    """Something that a reader would expect on the page, and why it is not there."""

    what: str
    why: str


class PictureView(NamedTuple):
    """A picture inside the page."""

    source: str
    caption: str
    size: tuple[int, int] | None
    small: bool
    wide: bool


class Album:
    """Takes pictures and texts into the page as long as there is room.

    Args:
        folder: The run folder; nothing outside it is taken.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.gaps: list[Gap] = []
        self.pictures_left_out = 0
        self._left = PAGE_BYTES

    def has_room(self, size: int) -> bool:
        """Whether `size` more bytes fit; if so they are counted."""
        if size > self._left:
            return False
        self._left -= size
        return True

    def picture(self, file: object, caption: object, place: Path) -> PictureView | None:
        """A picture that a section names; None, and a gap, where it cannot be shown."""
        try:
            path = self.inside(file, place)
            content = read_bytes(path, PICTURE_BYTES)
            kind = next((k for start, k in _KINDS.items() if content.startswith(start)), None)
            if kind is None:
                raise Unreadable("it is no PNG, JPEG or GIF picture")
        except Unreadable as error:
            self.gaps.append(Gap(f"the picture {shown(file)}", str(error)))
            return None
        if not self.has_room(len(content) * 4 // 3 + 500):
            self.pictures_left_out += 1
            return None
        size = _size(content) if kind == "png" else None
        source = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
        small = bool(size and size[0] < _SMALL)
        wide = bool(size and size[0] > _WIDE * size[1])
        return PictureView(source, shown(caption), size, small, wide)

    def inside(self, file: object, place: Path) -> Path:
        """The file that a section names, which has to lie in the run folder.

        Raises:
            Unreadable: It does not, or there is none.
        """
        if not isinstance(file, str) or not file:
            raise Unreadable("its name is no text")
        try:
            path = (place / file).resolve()
            there = path.is_file()
        except (OSError, ValueError, RuntimeError) as error:
            raise Unreadable(f"it cannot be read: {error}") from error
        if not path.is_relative_to(self.folder):
            raise Unreadable("it lies outside the run folder")
        if not there:
            raise Unreadable("it is not there")
        return path

    def link(self, path: Path) -> str:
        """The address of a file from the page that lies in the run folder."""
        return "./" + quote(os.fsencode(path.relative_to(self.folder).as_posix()))

    def all_gaps(self) -> list[Gap]:
        """What is not on the page, with what did not fit."""
        if not self.pictures_left_out:
            return self.gaps
        what = f"{self.pictures_left_out} pictures"
        why = f"the page holds {in_mib(PAGE_BYTES)}; they are in the folder"
        return [*self.gaps, Gap(what, why)]


def _size(content: bytes) -> tuple[int, int] | None:
    width, height = (int.from_bytes(content[i : i + 4], "big") for i in (16, 20))
    return (width, height) if 0 < width < 100_000 and 0 < height < 100_000 else None

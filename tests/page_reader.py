"""What a page says, read as a browser reads it: sections, tables, tags."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple


class Tag(NamedTuple):
    """An element with its attributes."""

    name: str
    attributes: dict[str, str]


@dataclass
class Part:
    """A section of the page."""

    text: str = ""
    tables: list[list[list[str]]] = field(default_factory=list)
    """Each of them rows of cells, the heads first."""
    tags: list[Tag] = field(default_factory=list)

    def named(self, name: str) -> list[Tag]:
        """All elements of a kind."""
        return [tag for tag in self.tags if tag.name == name]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.parts: dict[str, Part] = {"": Part()}
        self.now = self.parts[""]
        self.cell: list[str] | None = None
        self.title: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "section":
            self.now = Part()
        found = Tag(tag, {name: value or "" for name, value in attrs})
        self.now.tags.append(found)
        if tag == "table":
            self.now.tables.append([])
        elif tag == "tr":
            self.now.tables[-1].append([])
        elif tag in ("td", "th"):
            self.cell = []
        elif tag == "h2":
            self.title = []

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self.cell is not None:
            self.now.tables[-1][-1].append("".join(self.cell))
            self.cell = None
        elif tag == "h2" and self.title is not None:
            self.parts["".join(self.title)] = self.now
            self.title = None
        elif tag == "section":
            self.now = self.parts[""]

    def handle_data(self, data: str) -> None:
        self.now.text += data
        for kept in (self.cell, self.title):
            if kept is not None:
                kept.append(data)


def read_page(path: Path) -> dict[str, Part]:
    """Sections by title, in their order; what is in none of them has the title ""."""
    reader = _Reader()
    reader.feed(path.read_text("utf-8"))
    reader.close()
    return reader.parts

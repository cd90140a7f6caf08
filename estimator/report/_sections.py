"""Sections of the page, from the files that handlers left: whatever is wrong with them is said."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from estimator.report._album import Album, Gap, PictureView
from estimator.report._charts import Chart
from estimator.report._files import Unreadable, read_json
from estimator.report._words import TableView, as_number, cell, shown, str_of, table

SUFFIX = ".section.json"
SCHEMA = 1
SECTION_BYTES = 32 * 2**20
MOST_SECTIONS = 200
MOST_SAMPLES = 200
_MOST_FACTS = 60
IN_TITLES = ("uid", "split", "epoch", "rank")
"""Facts of a sample that the titles of its card and its section tell."""
_MOST_PARTS = 200
_UNFOLDED = 15
"""Rows of a table that is seen at once."""
_MOST_PARAGRAPH = 20_000


class CardView(NamedTuple):
    """A sample."""

    title: str
    facts: Sequence[tuple[str, str, str]]
    """Name, text, and the whole value where the text is shorter."""
    pictures: Sequence[PictureView]
    link: str


class Tile(NamedTuple):
    """A number that matters, in large type."""

    name: str
    value: str
    note: str
    full: str = ""


@dataclass
class SectionView:
    """A section as the page shows it."""

    title: str
    order: float
    text: str = ""
    note: str = ""
    tiles: list[Tile] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    tables: list[TableView] = field(default_factory=list)
    pictures: list[PictureView] = field(default_factory=list)
    samples: list[CardView] = field(default_factory=list)
    log: str = ""
    name: str = ""
    """Its address within the page."""


class _Found(NamedTuple):
    """A section file that has been read and not yet laid out."""

    title: str
    order: float
    file: Path
    content: Mapping[str, Any]


def read_sections(album: Album) -> list[SectionView]:
    """All sections of the run folder, in the order in which they are shown."""
    found = []
    for file in _section_files(album):
        where = file.relative_to(album.folder).as_posix()
        try:
            found.append(_read(file))
        except Unreadable as error:
            album.gaps.append(Gap(f"the section {where}", str(error)))
    found.sort(key=lambda section: (section.order, section.title, str(section.file)))
    if len(found) > MOST_SECTIONS:
        album.gaps.append(
            Gap(f"{len(found) - MOST_SECTIONS} sections", f"the page shows {MOST_SECTIONS}")
        )
    return [_laid_out(section, album) for section in found[:MOST_SECTIONS]]


def _section_files(album: Album) -> Iterator[Path]:
    def say(error: OSError) -> None:
        album.gaps.append(Gap(f"the folder {error.filename}", error.strerror or str(error)))

    for folder, folders, files in os.walk(album.folder, onerror=say):
        folders.sort()
        yield from (Path(folder, name) for name in sorted(files) if name.endswith(SUFFIX))


def _read(file: Path) -> _Found:
    content = read_json(file, SECTION_BYTES)
    if content.get("schema") != SCHEMA:
        raise Unreadable(f"it has schema {shown(content.get('schema'))}, not {SCHEMA}")
    order = as_number(content.get("order"))
    # NaN has no place among the others.
    order = order if order is not None and order == order else 800.0
    title = content.get("title")
    return _Found(shown(title) if title else "Without a title", order, file, content)


def _laid_out(found: _Found, album: Album) -> SectionView:
    content, place = found.content, found.file.parent
    text = content.get("text")
    view = SectionView(
        found.title, found.order, text[:_MOST_PARAGRAPH] if isinstance(text, str) else ""
    )
    where = found.file.relative_to(album.folder).as_posix()
    for part in _objects(content, "tables", where, album):
        laid = _table(part, where)
        if album.has_room(sum(2 * len(c.text) + 60 for row in laid.rows for c in row)):
            view.tables.append(laid)
        else:
            album.gaps.append(Gap(f"the table {laid.title} of {where}", "the page is full"))
    view.pictures = _pictures(content, place, where, album)
    cards = _objects(content, "samples", where, album)
    for part in cards[:MOST_SAMPLES]:
        view.samples.append(_card(part, place, where, album))
    if len(cards) > MOST_SAMPLES:
        view.note = f"{MOST_SAMPLES} of {len(cards)} samples are shown; {where} has all."
    return view


def _objects(content: Mapping[str, Any], name: str, where: str, album: Album) -> list[Any]:
    """The objects of a list; what is none is left out, and said."""
    found = content.get(name, [])
    parts = [part for part in found if isinstance(part, dict)] if isinstance(found, list) else []
    if not isinstance(found, list) or len(parts) < len(found):
        album.gaps.append(Gap(f"{name} of {where}", "some of it is not as a section should be"))
    return parts


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _table(part: Mapping[str, Any], where: str) -> TableView:
    title, rows = part.get("title"), _list(part.get("rows"))
    name, columns = shown(title) if title else "", _list(part.get("columns"))
    return table(name, columns, rows, folded=bool(name) and len(rows) > _UNFOLDED, where=where)


def _pictures(
    content: Mapping[str, Any], place: Path, where: str, album: Album
) -> list[PictureView]:
    parts = _objects(content, "pictures", where, album)[:_MOST_PARTS]
    found = [album.picture(p.get("file"), p.get("caption", ""), place) for p in parts]
    return [picture for picture in found if picture is not None]


def _card(part: Mapping[str, Any], place: Path, where: str, album: Album) -> CardView:
    facts = part.get("facts")
    told = []
    items = [i for i in facts.items() if i[0] not in IN_TITLES] if isinstance(facts, dict) else []
    for name, value in items[:_MOST_FACTS]:
        known = cell(value)
        if album.has_room(len(known.text) + len(name) + 60):
            told.append((shown(name), known.text, known.full))
    link = ""
    if part.get("file"):
        try:
            link = album.link(album.inside(part["file"], place))
        except Unreadable as error:
            album.gaps.append(Gap(f"the text {shown(part['file'])}", str(error)))
    title = part.get("title")
    pictures = _pictures(part, place, where, album)
    return CardView(shown(str_of(title)) if title else "", told, pictures, link)

"""`build`: the page of a run, from its folder alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from estimator.handlers.base import FolderError, write_whole
from estimator.report import _contents as contents
from estimator.report._album import Album
from estimator.report._render import rendered
from estimator.report._run import Run, read_run
from estimator.report._sections import SectionView, read_sections


def build(folder: str | os.PathLike[str]) -> Path:
    """Writes `report.html` of a run folder: one file that opens offline.

    It shows what the folder holds: outcome, curves, every `*.section.json` in it and below it with
    its pictures, learning rate, arguments, environment, and the end of the log. Whatever is absent,
    damaged or too large stands under "Missing reports". At most 30 MB are taken in.

    Args:
        folder: The run folder.

    Returns:
        The page.

    Raises:
        FolderError: There is no such folder.
        MissingExtraError: Jinja2 is not installed.
        OSError: The page cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = build(folder).read_text("utf-8")
        >>> "run.json: it is not there" in page
        True
    """
    return write_page(folder, {})


def write_page(folder: str | os.PathLike[str], missing: Mapping[str, str]) -> Path:
    """`build`, while a run goes on.

    Args:
        folder: The run folder.
        missing: Reports that could not be written, and why, beside those that `run.json` names.
    """
    place = Path(folder)
    if not place.is_dir():
        raise FolderError(
            f"build(folder=...) must be the folder of a run; received {str(folder)!r}, which is no "
            "folder. Pass what fit(run=...) made, such as 'runs/mnist_r0'."
        )
    run = read_run(place)
    sections = _sections(run, run.missing | dict(missing))
    # A handler may write to a folder that no run has to itself: nothing is damaged there.
    outcome = run.outcome if (place / "run.json").exists() else "not recorded"
    page = rendered("page.html", name=run.name, outcome=outcome, sections=sections, written=_now())
    return write_whole(place / "report.html", page)


def _sections(run: Run, missing: Mapping[str, str]) -> list[SectionView]:
    """All parts of the page, in their order, each with an address."""
    album = Album(run.folder)
    reports = read_sections(album)
    own = [contents.outcome(run), contents.curves(run)]
    own += [contents.arguments(run), contents.environment(run)]
    _add_learning_rate(contents.learning_rate(run), reports)
    written = contents.log(run)
    if written is not None:
        own.append(written)
    gaps = [*contents.damage(run), *album.all_gaps()]
    own.append(contents.missing(missing, gaps))
    own[0].note = contents.warning(len(missing) + len(gaps))
    found = sorted([*own, *reports], key=lambda section: (section.order, section.title))
    for number, section in enumerate(found, start=1):
        section.name = f"section-{number}"
    return found


def _add_learning_rate(rates: SectionView | None, reports: list[SectionView]) -> None:
    """The curve joins what a handler wrote of the learning rate, or stands alone."""
    if rates is None:
        return
    for section in reports:
        if section.title == rates.title and section.order == rates.order:
            section.charts = rates.charts
            return
    reports.append(rates)


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"

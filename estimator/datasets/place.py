"""Where the files of a data set are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from estimator.datasets.download import fetch
from estimator.handlers.base import DataError

CACHE = Path("~/.cache/torch-estimator")
Folder = str | os.PathLike[str] | None


def named_folder(name: str, folder: Folder) -> Path | None:
    """The folder that was given, or the one of this name in ESTIMATOR_DATA; None without both."""
    if folder is not None:
        return Path(folder).expanduser()
    root = os.environ.get("ESTIMATOR_DATA")
    return Path(root, name).expanduser() if root else None


def existing_folder(name: str, folder: Folder, origin: str) -> Path:
    """The folder of a data set that is not downloaded.

    Args:
        name: Of the data set, and of its folder in ESTIMATOR_DATA.
        folder: As the user gave it.
        origin: Where the files can be had.

    Raises:
        DataError: It is not said, or not there.
    """
    found = named_folder(name, folder)
    if found is None or not found.is_dir():
        raise DataError(
            f"the files of {name} must be in a folder that folder=... names, or in {name!r} in "
            f"the folder of the environment variable ESTIMATOR_DATA; received "
            f"{'neither' if found is None else f'{str(found)!r}, which is no folder'}. They can "
            f"be had from {origin}."
        )
    return found


def existing_file(folder: Path, name: str) -> Path:
    """A file of a folder, as it is or gzipped.

    Raises:
        DataError: It is not there.
    """
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    there = sorted(path.name for path in folder.iterdir())[:10] if folder.is_dir() else None
    raise DataError(
        f"{folder} must hold the file {name!r}, or {name + '.gz'!r}; it "
        f"{'is no folder' if there is None else f'holds {there}'}. Name the folder of the files: "
        "folder=..., or the environment variable ESTIMATOR_DATA."
    )


def files(
    name: str, folder: Folder, cache: Folder, *, address: str, checksums: Mapping[str, str]
) -> list[Path]:
    """The files of a data set that can be downloaded, in the order of their checksums.

    Args:
        name: Of the data set, and of its folder in ESTIMATOR_DATA and in the cache.
        folder: Where the user has them; nothing is downloaded there.
        cache: Where they are downloaded to otherwise; None is the folder CACHE.
        address: Of the folder to download from.
        checksums: File names, with the SHA-256 sums that downloaded ones must have.

    Raises:
        DataError: They are not there and cannot be had.
    """
    place = named_folder(name, folder)
    if place is not None:
        return [existing_file(place, file.removesuffix(".gz")) for file in checksums]
    place = Path(CACHE if cache is None else cache).expanduser() / name
    return [fetch(f"{address}/{file}", place / file, s) for file, s in checksums.items()]

"""Folders that handlers write to."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from estimator.handlers._errors import ArgumentTypeError, FolderError


def writable_folder(folder: str | os.PathLike[str], owner: str) -> Path:
    """Makes a folder and proves, by writing, that files can be made in it.

    Args:
        folder: The folder; parents are made too.
        owner: Who needs it, for the message, such as "CheckpointHandler(folder=...)".

    Raises:
        ArgumentTypeError: It is not a path.
        FolderError: It cannot be made or written.
    """
    if not isinstance(folder, (str, os.PathLike)):
        raise ArgumentTypeError(
            f"{owner} must be the path of a folder; received {folder!r}. "
            "Pass a string or a pathlib.Path."
        )
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        # os.access answers yes to root on a read-only mount, so only a real file tells.
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise FolderError(
            f"{owner} must be a folder that can be written; received {str(path)!r} "
            f"({error.strerror or error}). Choose another folder or change its permissions."
        ) from error
    return path

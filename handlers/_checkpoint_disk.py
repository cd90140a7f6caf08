"""Files written so that no kill, no power cut and no full disk leaves a part of one."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from estimator.handlers.base import FolderError

_TEMPORARY = ".tmp-"


def sweep(folder: Path) -> None:
    """Deletes what writers that were killed have left."""
    for left in folder.glob(f"{_TEMPORARY}*"):
        # Another user's files may have to stay, and folders are not ours.
        with contextlib.suppress(OSError):
            left.unlink()


def free_name(folder: Path, step: int, listed: Iterable[str]) -> str:
    """A name for the checkpoint of a step that no file has and no manifest lists."""
    taken = set(listed)
    names = (f"step_{step:08d}{f'_{i}' if i else ''}.pt" for i in itertools.count())
    return next(n for n in names if n not in taken and not (folder / n).exists())


def write_state(path: Path, state: Mapping[str, Any]) -> str:
    """Writes a checkpoint and returns its sha256.

    Raises:
        FolderError: It cannot be written.
    """
    return _write(path, lambda file: torch.save(state, file))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replaces a JSON file.

    Raises:
        FolderError: It cannot be written.
    """
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    _write(path, lambda file: file.write(text.encode()))


def _write(path: Path, fill: Callable[[BinaryIO], object]) -> str:
    """Writes a file whose name never stands for a part of it; returns its sha256."""
    temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{path.name}")
    try:
        try:
            with open(temporary, "wb+") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
                file.seek(0)
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.replace(temporary, path)
            _sync_folder(path.parent)
        finally:
            # A folder that fails may fail here again, which must not hide how it failed first.
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        # What a write raises (a full disk, Ctrl-C), torch.save hides behind a RuntimeError.
        reason = error if isinstance(error, OSError) else error.__context__ or error
        if not isinstance(reason, OSError):
            raise reason from None
        raise FolderError(
            f"CheckpointHandler(folder=...): {path.name!r} cannot be written to "
            f"{str(path.parent)!r} ({reason}). The checkpoints before it are untouched. Make room "
            "or choose another folder, and resume."
        ) from error
    return digest


def _sync_folder(folder: Path) -> None:
    """Makes a rename outlast a power cut, except on Windows, which cannot open a folder."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

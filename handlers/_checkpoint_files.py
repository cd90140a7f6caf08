"""The files of a checkpoint folder: written so that they survive, read so that nothing runs."""

from __future__ import annotations

import collections
import hashlib
import itertools
import json
import logging
import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypedDict

import torch

from estimator.handlers.base import DataError, FolderError

MANIFEST = "manifest.json"
SCHEMA = 1
_TEMPORARY = ".tmp-"
_LOG = logging.getLogger("estimator")
# Exact types: what a safe load refuses is often a subclass of one of them, as numpy.float64 is.
_DICTS = (dict, collections.OrderedDict, collections.Counter)
_LISTS = (list, tuple, set)
_PLAIN = (
    *(type(None), bool, int, float, complex, str, bytes, bytearray),
    *(torch.Tensor, torch.nn.Parameter, torch.Size, torch.dtype, torch.device),
)


class Entry(TypedDict):
    """One checkpoint in the manifest; `run` tells apart the runs that share the folder."""

    file: str
    sha256: str
    run: str
    epoch: int
    step: int
    monitor: str | None
    value: float | None
    best: bool


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a checkpoint into the memory of the host. No code can run from the file.

    Args:
        path: A checkpoint, or the folder of a `CheckpointHandler`: its newest checkpoint. Where
            that is damaged, the one before it in the same run is taken, with a warning in the log.

    Raises:
        DataError: There is no checkpoint, or none whose content is what was written.

    Example:
        >>> import tempfile, torch
        >>> folder = tempfile.TemporaryDirectory()
        >>> torch.save({"net": {"bias": torch.zeros(1)}}, f"{folder.name}/mine.pt")
        >>> load_checkpoint(f"{folder.name}/mine.pt")
        {'net': {'bias': tensor([0.])}}
        >>> folder.cleanup()
    """
    path = Path(path)
    if not path.is_dir():
        digests = {entry["file"]: entry["sha256"] for entry in read_manifest(path.parent)}
        return read_state(path, digests.get(path.name))
    entries = read_manifest(path)
    damaged: list[str] = []
    for entry in reversed([e for e in entries if e["run"] == entries[-1]["run"]]):
        try:
            state = read_state(path / entry["file"], entry["sha256"])
        except DataError as error:
            _LOG.warning("%s", error)
            damaged.append(entry["file"])
            continue
        if damaged:
            _LOG.warning("load_checkpoint fell back to %s of %s.", entry["file"], path)
        return state
    raise DataError(
        f"load_checkpoint(path={str(path)!r}): this folder has no good checkpoint of its newest "
        f"run; damaged: {damaged or 'none'}, listed in {MANIFEST}: "
        f"{[e['file'] for e in entries] or 'none'}. Pass the path of another checkpoint file."
    )


def best_checkpoint(folder: str | os.PathLike[str]) -> Path:
    """Finds the checkpoint with the best monitored value of the newest run that has one.

    Args:
        folder: The folder of a `CheckpointHandler` that was given `monitor`.

    Raises:
        DataError: No checkpoint of the folder has a monitored value.

    Example:
        >>> try:
        ...     best_checkpoint("runs/never_trained")
        ... except DataError:
        ...     print("nothing yet")
        nothing yet
    """
    for entry in reversed(read_manifest(Path(folder))):
        if entry["best"]:
            return Path(folder, entry["file"])
    raise DataError(
        f"best_checkpoint(folder={str(folder)!r}): no checkpoint there has a monitored value. "
        "Train with CheckpointHandler(folder, monitor='val_loss'), for example."
    )


def sweep(folder: Path) -> None:
    """Deletes what writers that were killed have left."""
    for left in folder.glob(f"{_TEMPORARY}*"):
        if left.is_file():
            left.unlink()


def free_name(folder: Path, step: int, entries: list[Entry]) -> str:
    """A name for the checkpoint of a step that no file has and no entry lists."""
    listed = {entry["file"] for entry in entries}
    names = (f"step_{step:08d}{f'_{i}' if i else ''}.pt" for i in itertools.count())
    return next(n for n in names if n not in listed and not (folder / n).exists())


def write_state(path: Path, state: Mapping[str, Any]) -> str:
    """Writes a checkpoint and returns its sha256.

    Raises:
        DataError: It holds something that a safe load refuses.
        FolderError: It cannot be written.
    """
    unsafe = list(itertools.islice(_unsafe(state, ""), 5))
    if unsafe:
        raise DataError(
            "A checkpoint may hold only tensors and Python's numbers, strings, lists, tuples, "
            f"sets and dicts, since nothing else loads safely; received {', '.join(unsafe)}. "
            "Nothing was saved. Convert it in that state_dict, with float(value) for example."
        )
    return _write(path, lambda file: torch.save(state, file))


def _unsafe(value: object, path: str) -> Iterator[str]:
    """Places inside a state that a safe load would refuse, as "a.b[0]: module.Type"."""
    kind = type(value)
    if isinstance(value, dict) and kind in _DICTS:
        for key, item in value.items():
            yield from _unsafe(key, f"{path}.{key} (key)")
            yield from _unsafe(item, f"{path}.{key}")
    elif isinstance(value, (list, tuple, set)) and kind in _LISTS:
        for i, item in enumerate(value):
            yield from _unsafe(item, f"{path}[{i}]")
    elif kind not in _PLAIN:
        yield f"{path.lstrip('.')}: {kind.__module__}.{kind.__qualname__}"


def write_manifest(folder: Path, entries: list[Entry]) -> None:
    """Replaces the manifest.

    Raises:
        FolderError: It cannot be written.
    """
    content = {"schema": SCHEMA, "checkpoints": entries}
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    _write(folder / MANIFEST, lambda file: file.write(text.encode()))


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
            temporary.unlink(missing_ok=True)
    # torch.save reports a full disk as a RuntimeError.
    except (OSError, RuntimeError) as error:
        raise FolderError(
            f"CheckpointHandler(folder=...): {path.name!r} cannot be written to "
            f"{str(path.parent)!r} ({error.__context__ or error}). The checkpoints before it are "
            "untouched. Make room or choose another folder, and resume."
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


def read_manifest(folder: Path) -> list[Entry]:
    """The checkpoints of a folder, oldest first; none where there is no manifest.

    Raises:
        DataError: The manifest is damaged or of another version.
    """
    path = folder / MANIFEST
    if not path.exists():
        return []
    try:
        content = json.loads(path.read_bytes())
        entries: list[Entry] = content["checkpoints"]
        # A name with folders in it would let a manifest from elsewhere load or delete any file.
        sound = content["schema"] == SCHEMA and all(
            Entry.__required_keys__ <= set(e) and Path(e["file"]).name == e["file"] != ".."
            for e in entries
        )
    except (ValueError, LookupError, TypeError):
        sound = False
    if not sound:
        raise DataError(
            f"{str(path)!r} must be a manifest of checkpoints, schema {SCHEMA}; received another "
            "content. Nothing was changed. Move it away: checkpoint files load without it too."
        )
    return entries


def read_state(path: Path, sha256: str | None) -> dict[str, Any]:
    """Loads one checkpoint into host memory.

    Args:
        path: The file.
        sha256: What its content has to hash to, where that is known.

    Raises:
        DataError: It is not there, not what was written, or not safe.
    """
    try:
        with open(path, "rb") as file:
            if sha256 not in (None, hashlib.file_digest(file, "sha256").hexdigest()):
                raise ValueError("its sha256 is not the one in the manifest")
            file.seek(0)
            state: object = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise ValueError(f"it holds a {type(state).__name__}")
    # A damaged archive can raise nearly anything.
    except Exception as error:
        # What torch says here tells the reader to load the file unsafely.
        unsafe = "it holds objects that could run code, which are never loaded"
        raise DataError(
            f"{str(path)!r} must be a whole checkpoint of plain values; it cannot be loaded "
            f"({unsafe if isinstance(error, pickle.UnpicklingError) else error}). "
            "Take another checkpoint of its folder."
        ) from error
    return state

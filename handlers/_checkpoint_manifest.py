"""What a checkpoint folder holds: read so that no damage stays unseen and no code runs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import pickle
import uuid
import zipfile
from pathlib import Path
from typing import Any, TypedDict

import torch

from estimator.handlers.base import DataError

MANIFEST = "manifest.json"
SCHEMA = 1
FILES = "step_*.pt"
_COUNTS = ("epoch", "step", "samples")
_LOG = logging.getLogger("estimator")


class Entry(TypedDict):
    """One checkpoint in the manifest; `run` tells apart the runs that share the folder."""

    file: str
    sha256: str
    run: str
    epoch: int
    step: int
    samples: int
    monitor: str | None
    value: float | None
    best: bool


def new_run() -> str:
    """The identity of a run among those that share a folder."""
    return uuid.uuid4().hex[:8]


def read_manifest(folder: Path) -> list[Entry]:
    """The checkpoints that a folder lists, oldest first; none where there is no manifest.

    Raises:
        DataError: The manifest is damaged or of another schema.
    """
    path = folder / MANIFEST
    if not path.exists():
        return []
    content = path.read_bytes()
    # A power cut leaves some file systems with a file that is empty, or long and all zeros.
    if not content.strip(b"\0"):
        _LOG.warning("%s is empty, as after a power cut; it counts as missing.", path)
        return []
    schema: object = SCHEMA
    # What is damaged can be any JSON, or none.
    with contextlib.suppress(ValueError, LookupError, TypeError):
        manifest = json.loads(content)
        schema = manifest["schema"]
        if schema == SCHEMA and all(_is_entry(entry) for entry in manifest["checkpoints"]):
            return list(manifest["checkpoints"])
    if schema == SCHEMA:
        what = "another content. Move it away: the checkpoints are then found by what they hold"
    else:
        what = f"schema {schema!r}. Install the torch-estimator that wrote it"
    raise DataError(
        f"{str(path)!r} must be a manifest of checkpoints, schema {SCHEMA}, which this "
        f"torch-estimator reads; received {what}, or choose another folder. Nothing was changed."
    )


def _is_entry(entry: Any) -> bool:
    # A name with folders in it would let a manifest from elsewhere load or delete any file.
    name: str = entry["file"]
    counts = all(type(entry[count]) is int for count in _COUNTS)
    return Entry.__required_keys__ <= set(entry) and Path(name).name == name != ".." and counts


def scan(folder: Path) -> list[Entry]:
    """The checkpoints of a folder whose manifest was lost, in the order of their steps.

    Each file is read: what it holds says which step it is of, and not its name. Monitored values
    are in the manifest only, so none of these is known to be the best.
    """
    found: list[Entry] = []
    unknown = new_run()
    for path in sorted(folder.glob(FILES), key=lambda path: path.stat().st_mtime_ns):
        try:
            found.append(_entry_of(path, unknown))
        except (DataError, OSError) as error:
            _LOG.warning("%s", error)
    found.sort(key=lambda entry: (entry["step"], entry["samples"]))
    if found:
        _LOG.warning(
            "%s has no list of its checkpoints. The content of %s was read instead; the newest "
            "is of step %d. Which was the best is not known.",
            folder, ", ".join(e["file"] for e in found), found[-1]["step"],
        )  # fmt: skip
    return found


def unlisted(folder: Path, entries: list[Entry], run: str) -> list[Path]:
    """Whole checkpoints of a run that its manifest lacks: it was killed before it listed them."""
    listed, found = {entry["file"] for entry in entries}, []
    for path in folder.glob(FILES):
        if path.name in listed:
            continue
        try:
            if _entry_of(path, "")["run"] == run:
                found.append(path)
        except (DataError, OSError):
            continue  # Not one of this run's, then, and not to be touched.
    return found


def _entry_of(path: Path, unknown: str) -> Entry:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    state = read_state(path, None)
    try:
        epoch, step, samples = (int(state["stats"][count]) for count in _COUNTS)
        handlers = dict(state.get("handlers") or {}).values()
        runs = [handler["run_id"] for handler in handlers if "run_id" in handler]
    except (LookupError, TypeError, ValueError) as error:
        raise DataError(
            f"{str(path)!r} must hold a run with its counts; received a dict with "
            f"{', '.join(map(str, state)) or 'nothing'}. It is not taken for a checkpoint."
        ) from error
    return Entry(
        file=path.name,
        sha256=digest,
        run=str(runs[0]) if runs else unknown,
        epoch=epoch,
        step=step,
        samples=samples,
        monitor=None,
        value=None,
        best=False,
    )


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
            if sha256 is None and zipfile.is_zipfile(file):
                # The loader reads past damage; the archive's own sums are what is left to check.
                damaged = zipfile.ZipFile(file).testzip()
                if damaged is not None:
                    raise ValueError(f"its part {damaged!r} is damaged")
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

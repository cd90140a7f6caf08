"""Which checkpoint to load: the newest good one, the best one."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from estimator.handlers._checkpoint_manifest import FILES, MANIFEST, read_manifest, read_state, scan
from estimator.handlers.base import DataError

_LOG = logging.getLogger("estimator")


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
        return _load_file(path)
    found = find_state(path)
    if found is None:
        raise DataError(
            f"load_checkpoint(path={str(path)!r}) must be a checkpoint, or a folder that holds "
            "one; there is none. Pass the folder that a CheckpointHandler was given."
        )
    return found[0]


def _load_file(path: Path) -> dict[str, Any]:
    digests = {entry["file"]: entry["sha256"] for entry in read_manifest(path.parent)}
    return read_state(path, digests.get(path.name))


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


def find_state(
    path: Path,
    *,
    usable: Callable[[dict[str, Any]], bool] | None = None,
    version: int | None = None,
) -> tuple[dict[str, Any], Path] | None:
    """Loads the newest good checkpoint of the newest run in a folder, and says which it is.

    Args:
        path: The folder, or one checkpoint. It need not exist.
        usable: Whether a state will do; None takes any. What it raises reaches the caller.
        version: The version that a state must have; None takes any.

    Returns:
        The state and its file, or None where there is no checkpoint at all.

    Raises:
        DataError: There are checkpoints, and none is both whole and usable; or the newest whole
            one is of another version.

    Example:
        >>> print(find_state(Path("runs/never_trained")))
        None
    """

    def fits(state: dict[str, Any], file: Path) -> bool:
        _check_version(state, file, version)
        return usable is None or usable(state)

    if not path.is_file():
        return _newest(path, fits)
    state = _load_file(path)
    if not fits(state, path):
        raise DataError(
            f"{str(path)!r} must be a checkpoint that this run can go on from; it is whole and "
            "does not fit. Name another one, or the folder with all of them."
        )
    return state, path


def _newest(
    folder: Path, fits: Callable[[dict[str, Any], Path], bool]
) -> tuple[dict[str, Any], Path] | None:
    entries = read_manifest(folder) or scan(folder)
    if not entries and not any(folder.glob(FILES)):
        return None
    passed: list[str] = []
    for entry in reversed([e for e in entries if e["run"] == entries[-1]["run"]]):
        file = folder / entry["file"]
        try:
            state = read_state(file, entry["sha256"])
        except DataError as error:
            _LOG.warning("%s", error)
            passed.append(f"{file.name} is damaged")
            continue
        if fits(state, file):
            if passed:
                _LOG.warning("Fell back to %s of %s: %s.", file.name, folder, ", ".join(passed))
            return state, file
        passed.append(f"{file.name} does not fit")
    raise DataError(
        f"{str(folder)!r} must hold a good checkpoint of its newest run; received "
        f"{', '.join(passed) or 'no file that is one'}. Listed in {MANIFEST}: "
        f"{', '.join(e['file'] for e in entries) or 'none'}. Name another checkpoint file, or "
        "choose another folder to begin from nothing."
    )


def _check_version(state: dict[str, Any], file: Path, version: int | None) -> None:
    if version is None or state.get("version") == version:
        return
    raise DataError(
        f"{str(file)!r} must be a checkpoint of version {version}, which this torch-estimator "
        f"reads; received version {state.get('version')!r}. Install the torch-estimator that "
        "wrote it, or choose another folder to begin from nothing."
    )

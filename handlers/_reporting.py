"""Reports beside a training: where their files go, and what happens if one cannot be written."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from estimator.handlers._errors import ArgumentError
from estimator.handlers._folder import writable_folder

if TYPE_CHECKING:
    from estimator.stats import TrainStats

_LOG = logging.getLogger("estimator")


def own_folder(
    folder: str | os.PathLike[str] | None, stats: TrainStats, place: str, owner: str
) -> Path:
    """The folder of a handler, made and proven writable.

    Args:
        folder: What the handler was given; None is its own place in the run folder.
        stats: The run.
        place: The name of that place; "" is the run folder itself.
        owner: The handler's name, for messages.

    Raises:
        ArgumentError: There is neither a folder nor a run folder.
        FolderError: It cannot be written.
    """
    if folder is None:
        if stats.run_dir is None:
            raise ArgumentError(
                f"{owner}(folder=None) writes to the run folder, and this fit has none. Pass "
                f'{owner}(folder="..."), or fit(..., run="name").'
            )
        folder = stats.run_dir / place
    return writable_folder(folder, f"{owner}(folder=...)")


@contextlib.contextmanager
def reporting(stats: TrainStats, what: str) -> Iterator[None]:
    """Lets the training go on where a report cannot be written, such as on a full disk.

    The error is logged, and stands in `stats.missing` until the same report has been written.

    Args:
        stats: The run.
        what: The report, such as "the confusion matrix of validation".

    Example:
        >>> import torch
        >>> from estimator.stats import TrainStats
        >>> stats = TrainStats(torch.nn.Identity(), torch.device("cpu"))
        >>> with reporting(stats, "a table"):
        ...     raise OSError(28, "No space left on device")
        >>> stats.missing
        {'a table': 'No space left on device'}
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        stats.missing[what] = reason
        _LOG.error(
            "Could not write %s: %s. Training goes on; %s is missing from the report.",
            *(what, reason, what),
        )
    else:
        stats.missing.pop(what, None)

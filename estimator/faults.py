"""What to do about faults of the machine: notes on exceptions that keep their type and message."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from estimator.run import Run
    from estimator.stats import TrainStats

_DIED = ("DataLoader worker (pid", "Pin memory thread exited unexpectedly")
_HANDING = "torch.multiprocessing.reductions"
_RESUME = "A run that saved checkpoints goes on from the last one with fit(resume=...)."


def advise(error: BaseException, stats: TrainStats) -> None:
    """Adds a note to an exception that a user can do something about.

    Args:
        error: Too little memory, a loader's worker that died, or a loader that timed out; to any
            other nothing is added.
        stats: The run that it ends.

    Example:
        >>> from estimator import TrainStats
        >>> error = RuntimeError("DataLoader timed out after 60.0 seconds")
        >>> advise(error, TrainStats(torch.nn.Linear(1, 1), torch.device("cpu")))
        >>> error.__notes__[0].partition(":")[0]
        'No worker gave a batch in time'
    """
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in text:
        error.add_note(_of_memory(stats))
    elif _workers_died(error):
        error.add_note(
            "A process that loads data was ended from outside, most often by the system for want "
            "of memory, or by a signal to the whole group of processes. Pass num_workers=0 to see "
            "whether the dataset is at fault, fewer workers or a smaller prefetch_factor if memory "
            f"is; send signals to the main process alone. {_RESUME}"
        )
    elif isinstance(error, RuntimeError) and text.startswith("DataLoader timed out"):
        error.add_note(
            "No worker gave a batch in time: storage that does not answer, a dataset that waits "
            "for a lock that was held when its worker was forked, or a timeout= that is too short "
            f"for a batch. Pass num_workers=0 to see where the dataset hangs. {_RESUME}"
        )


def _workers_died(error: BaseException) -> bool:
    if isinstance(error, (ConnectionError, EOFError)):
        # A worker that is gone cannot hand over the memory of a batch that it has announced.
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        return any(frame.f_globals.get("__name__") == _HANDING for frame in frames)
    return isinstance(error, RuntimeError) and str(error).startswith(_DIED)


def in_order(batches: Iterator[Any], run: Run) -> Iterator[Any]:
    """Batches that end, without an error, where their workers were ended as the run is to be.

    Ctrl-C in a terminal, and what some schedulers send, reaches the workers too. The run waits
    for a batch then, which is a place from which it can go on.
    """
    try:
        yield from batches
    except (RuntimeError, ConnectionError, EOFError) as error:
        if run.heard.signal is None or not _workers_died(error):
            raise
        run.iterator = None


def _of_memory(stats: TrainStats) -> str:
    size = "its batch" if stats.batch_size is None else f"a batch of {stats.batch_size} samples"
    if stats.phase != "train":
        return (
            f"There was not enough memory for {size} of the {stats.phase} data. Give that data in "
            "smaller batches: its results do not depend on their size."
        )
    half = "" if stats.runtime is None or stats.runtime.precision != "fp32" else (
        ', or precision="bf16"'
    )  # fmt: skip
    return (
        f"There was not enough memory to train on {size}. Pass a smaller batch_size with "
        f"accumulate=, which keeps the samples of an optimizer step{half}. {_RESUME}"
    )

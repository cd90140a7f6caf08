"""Which checkpoint a run goes on from, and whether it fits the run."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estimator.handlers._checkpoint_files import find_state
from estimator.handlers.base import ArgumentError, ArgumentTypeError, DataError
from estimator.handlers.checkpoint import CheckpointHandler
from estimator.notices import notice
from estimator.run_folder import is_run_folder
from estimator.snapshot import VERSION

if TYPE_CHECKING:
    from estimator.run import Run

Resume = str | os.PathLike[str] | bool | None


def state_to_resume(run: Run, resume: Resume, *, show: bool) -> dict[str, Any] | None:
    """Finds the newest good checkpoint that the run can go on from.

    Args:
        run: Built, but not begun.
        resume: A checkpoint, a folder of checkpoints, a run folder, or True for the folder of the
            run's own `CheckpointHandler`; None and False start afresh.
        show: Whether notices may go to stderr.

    Returns:
        Its state; None where the run starts afresh.

    Raises:
        ArgumentError: `resume=True` without exactly one CheckpointHandler.
        DataError: There is no checkpoint at that path, none is good, or none fits.
    """
    if resume is None or resume is False:
        return None
    return run.runtime.world.first(lambda: _found(run, resume, show=show))


def _found(run: Run, resume: str | os.PathLike[str] | bool, *, show: bool) -> dict[str, Any] | None:
    source = run.train_source
    assert source is not None
    path = _folder_of(run) if resume is True else _path(resume)
    found = find_state(path, usable=lambda s: source.finds(s["place"]), version=VERSION)
    if found is None:
        if resume is not True and not is_run_folder(path.parent):
            raise DataError(
                f"fit(resume={str(resume)!r}) must be a checkpoint, or a folder that holds one; "
                "there is none. Correct the path, or pass resume=True with a CheckpointHandler, "
                "which starts afresh in an empty folder."
            )
        notice(f"Nothing to resume in {str(path)!r}: starting afresh.", show=show)
        return None
    state, file = found
    check_fit(run, state)
    done = state["stats"]
    notice(
        f"Resuming from {str(file)!r}: epoch {done['epoch']}, iteration {done['step']}.", show=show
    )
    return state


def _path(resume: Any) -> Path:
    if not isinstance(resume, (str, os.PathLike)):
        raise ArgumentTypeError(
            "fit(resume=...) must be True, or the path of a checkpoint, of a folder with "
            f"checkpoints or of a run folder; received {resume!r}."
        )
    path = Path(resume)
    return path / CheckpointHandler.place if is_run_folder(path) else path


def _folder_of(run: Run) -> Path:
    savers = [each for each in run.hooks.handlers if isinstance(each, CheckpointHandler)]
    if len(savers) != 1:
        raise ArgumentError(
            "fit(resume=True) takes the folder of the run's CheckpointHandler; received "
            f"{len(savers)} of them. Give one in handlers=, or pass the folder to resume=."
        )
    folder, run_dir = savers[0].folder, run.stats.run_dir
    if folder is not None:
        return Path(folder)
    if run_dir is None:
        raise ArgumentError(
            "fit(resume=True) takes the folder of the run's CheckpointHandler; received one with "
            'folder=None, and no run. Pass CheckpointHandler("..."), or fit(..., run="name").'
        )
    return run_dir / CheckpointHandler.place


def check_fit(run: Run, state: Mapping[str, Any]) -> None:
    """Checks that a run has the handlers and trainers whose states a checkpoint holds.

    Raises:
        DataError: Others, which are listed.
    """
    handlers = run.hooks.named()
    trainers = {trainer.name for trainer in run.step.trainers}
    with_state = {name for name, handler in handlers.items() if handler.state_dict()}
    # Handlers without a state, such as a progress bar, may come and go.
    checks = (("handlers", set(handlers), with_state), ("trainers", trainers, trainers))
    for what, here, needed in checks:
        unknown, missing = sorted(set(state[what]) - here), sorted(needed - set(state[what]))
        if unknown or missing:
            raise DataError(
                f"fit({what}=...) must be those of the run that resume goes on with; its "
                f"checkpoint also has {unknown or 'none'}, and lacks {missing or 'none'}. Pass "
                "the same ones, or use load_weights to start a new run from its weights."
            )
    if (run.validation is None) != (state["validation"] is None):
        raise DataError(
            "fit(val=...) must be given on resume exactly if the run had it; received "
            f"{'none' if run.validation is None else 'some'}. Pass what that run had."
        )
    changed = [
        f"{name}: {state['config'].get(name)} became {value}"
        for name, value in run.config.items()
        if state["config"].get(name) != value
    ]
    if changed:
        warnings.warn(
            "fit(resume=...) goes on with other settings than the run had, and so not as if it "
            f"had never stopped. {'; '.join(changed)}.",
            stacklevel=5,
        )


def say_if_ends_only(run: Run, *, show: bool) -> None:
    """Says of data without a place that a checkpoint inside an epoch is of no use to it."""
    source = run.train_source
    assert source is not None
    saves = any(isinstance(handler, CheckpointHandler) for handler in run.hooks.handlers)
    if saves and source.kind == "ends":
        notice(
            f"{source.argument} can be resumed at the ends of epochs only: a "
            f"{type(source.data).__name__} does not say its place. For any batch, use a "
            "ResumableSampler (estimator.sequences), arrays, or a loader with state_dict.",
            show=show,
        )

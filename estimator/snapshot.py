"""A run as plain values and tensors: what a checkpoint holds."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from estimator.handlers.base import DataError, writable_folder

if TYPE_CHECKING:
    from estimator.run import Run

VERSION = 1


def capture(run: Run) -> dict[str, Any]:
    """The state of a run, readable with `torch.load(weights_only=True)`.

    Args:
        run: A run that is going on.
    """
    stats, scaler = run.stats, run.runtime.scaler
    return {
        "version": VERSION,
        "net": run.net.state_dict(),
        "validated": {n: w for h in run.hooks.handlers for n, w in h.validated_weights().items()},
        "trainers": {trainer.name: trainer.state_dict() for trainer in run.step.trainers},
        "scaler": None if scaler is None else scaler.state_dict(),
        "metrics": run.train_metrics.state_dict(),
        "stats": {
            "epoch": stats.epoch,
            "step": stats.step,
            "samples": stats.samples,
            "elapsed": stats.elapsed,
            "best": {name: list(best) for name, best in stats.best.items()},
            "history": stats.history.state_dict(),
        },
        "handlers": {name: h.state_dict() for name, h in run.hooks.named().items()},
    }


def write_weights(net: nn.Module, path: str | os.PathLike[str]) -> None:
    """Writes a net's weights: a temporary file beside the target, then one rename."""
    target = Path(path)
    writable_folder(target.parent, "Estimator.save(path=...)")
    temporary = target.with_name(f".tmp-{target.name}")
    try:
        with open(temporary, "wb") as file:
            torch.save(net.state_dict(), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def read_weights(net: nn.Module, path: str | os.PathLike[str]) -> None:
    """Loads weights that `write_weights` or a checkpoint holds, onto the net's own device.

    Of a checkpoint these are the weights that were validated: averaged ones, where a handler
    averages, since the values by which a checkpoint is chosen are theirs.

    Raises:
        DataError: The file holds no weights, or those of another net.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a safe unpickler stumbles over other files in any way
        raise DataError(
            f"load_weights(path=...) must be a file that save() or a CheckpointHandler wrote; "
            f"{str(path)!r} cannot be read as one: {error!r}"
        ) from error
    if isinstance(state, dict) and {"version", "net"} <= set(state):
        state = {**state["net"], **state.get("validated", {})}
    before = copy.deepcopy(net.state_dict())
    try:
        net.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        # What fits is loaded before torch complains of what does not.
        net.load_state_dict(before)
        raise DataError(
            f"load_weights(path=...) must hold the weights of a {type(net).__name__}; "
            f"{str(path)!r} does not: {error}"
        ) from error

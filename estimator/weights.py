"""A net's weights as a file."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from estimator.distributed import Group, is_first
from estimator.handlers.base import DataError, writable_folder
from estimator.sharded import is_sharded, parts_like, whole


def write_weights(net: nn.Module, path: str | os.PathLike[str]) -> None:
    """Writes a net's weights: a temporary file beside the target, then one rename.

    Of several processes the first one writes, and the others do not wait. Weights that are split
    over them come together first, so that all have to call it, and go on when it is done.
    """
    state = net.state_dict()
    if is_sharded(net):
        state, device = whole(state), next(net.parameters()).device
        Group(device).first(lambda: _write(state, Path(path)))
    elif is_first():
        _write(state, Path(path))


def _write(state: dict[str, Any], target: Path) -> None:
    writable_folder(target.parent, "Estimator.save(path=...)")
    temporary = target.with_name(f".tmp-{target.name}")
    try:
        with open(temporary, "wb") as file:
            torch.save(state, file)
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
        net.load_state_dict(parts_like(state, net))
    except (RuntimeError, TypeError, AttributeError) as error:
        # What fits is loaded before torch complains of what does not.
        net.load_state_dict(before)
        raise DataError(
            f"load_weights(path=...) must hold the weights of a {type(net).__name__}; "
            f"{str(path)!r} does not: {error}"
        ) from error

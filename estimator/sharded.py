"""Nets whose weights are split over several processes, and their states as one process has them.

What splits is torch's `fully_shard`; importing it takes longer than all of this library.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

UNIT = 1_000_000
"""Elements from which on a block of a `Sequential` or `ModuleList` is gathered by itself."""


def split(net: nn.Module, device: torch.device, processes: int) -> None:
    """Leaves each process a part of every weight, in place.

    A net is gathered block by block, so that no process ever holds all of it: each block of a
    `Sequential` or a `ModuleList` that has a million elements or more is one, and what is left
    of the net is another.

    Args:
        net: With the same weights on all processes.
        device: Where it is.
        processes: How many share it.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (processes,))
    for module in reversed(list(net.modules())):
        blocks = module if isinstance(module, (nn.Sequential, nn.ModuleList)) else ()
        for block in blocks:
            if _elements(block) >= UNIT and type(block).forward is not nn.Module.forward:
                fully_shard(block, mesh=mesh)
    # The root too gives its weights back after a forward: a validation follows without backward.
    fully_shard(net, mesh=mesh, reshard_after_forward=True)


def _elements(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def is_part(value: object) -> bool:
    """Whether a tensor is the part that this process has of one that is split."""
    # Nobody makes such tensors without having loaded the module.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def is_sharded(net: nn.Module) -> bool:
    """Whether any weight of a net is split over processes."""
    return any(map(is_part, net.parameters()))


def class_of(net: nn.Module) -> type[nn.Module]:
    """The class that a net had before it was split, which derives one of its own."""
    kind = type(net)
    return kind.__bases__[-1] if is_sharded(net) else kind


def whole(value: Any) -> Any:
    """A nested state in which no tensor is split; all processes have to call it together."""
    if is_part(value):
        return value.full_tensor()
    if isinstance(value, dict):
        return _changed(value, {key: whole(item) for key, item in value.items()})
    if isinstance(value, (list, tuple)):
        return type(value)(map(whole, value))
    return value


def part_like(value: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """A whole tensor split as another of its shape is; itself where that one is not split."""
    if not is_part(reference) or is_part(value) or value.shape != reference.shape:
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(reference, DTensor)
    local = value.to(reference.device, reference.dtype)
    return distribute_tensor(local, reference.device_mesh, reference.placements, src_data_rank=None)


def parts_like(state: Any, net: nn.Module) -> Any:
    """A nested state, in which entries by the names of a net's weights are split as these are."""
    return _split_named(state, dict(net.named_parameters())) if is_sharded(net) else state


def optimizer_parts(
    state: Mapping[str, Any], parameters: Sequence[torch.Tensor]
) -> Mapping[str, Any]:
    """A trainer's state, in which what belongs to a parameter is split as that is."""
    if not any(map(is_part, parameters)):
        return state
    optimizer = state["optimizer"]
    split_state = {
        i: {key: _part(value, parameters[i]) for key, value in values.items()}
        for i, values in optimizer["state"].items()
    }
    return {**state, "optimizer": {**optimizer, "state": split_state}}


def _part(value: Any, reference: torch.Tensor) -> Any:
    return part_like(value, reference) if isinstance(value, torch.Tensor) else value


def _split_named(state: Any, named: Mapping[str, Any]) -> Any:
    if not isinstance(state, dict):
        return state
    return _changed(
        state,
        {
            key: _part(item, named[key]) if key in named else _split_named(item, named)
            for key, item in state.items()
        },
    )


def _changed(state: dict[Any, Any], items: dict[Any, Any]) -> dict[Any, Any]:
    # A shallow copy: a net's state_dict carries versions as an attribute.
    result = copy.copy(state)
    result.update(items)
    return result

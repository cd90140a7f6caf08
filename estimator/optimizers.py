"""What a `Trainer` names, found: an optimizer class and parameters of a net."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from estimator.handlers.base import ArgumentError, ArgumentTypeError, nearest


def optimizer_classes() -> dict[str, type[Optimizer]]:
    """The optimizers of `torch.optim` by lower-case name."""
    return {
        name.lower(): kind
        for name, kind in vars(torch.optim).items()
        if inspect.isclass(kind) and issubclass(kind, Optimizer) and kind is not Optimizer
    }


def find_optimizer(spec: object) -> type[Optimizer]:
    """The class that a name stands for, or the class itself.

    Raises:
        ArgumentError: No optimizer has that name.
        ArgumentTypeError: It is neither a name nor an optimizer class.
    """
    if isinstance(spec, str):
        kinds = optimizer_classes()
        if spec.lower() not in kinds:
            raise ArgumentError(
                f"Trainer(optimizer=...) must be the name of an optimizer in torch.optim, its "
                f"class or an instance; received {spec!r}. {nearest(spec, kinds)}"
            )
        return kinds[spec.lower()]
    if inspect.isclass(spec) and issubclass(spec, Optimizer) and spec is not Optimizer:
        return spec
    raise ArgumentTypeError(
        "Trainer(optimizer=...) must be a name such as 'adam', a torch.optim class or an "
        f"instance; received {spec!r}."
    )


def keep_parameters(params: Any) -> Any:
    """The `params` of a Trainer in a form that can be read by any number of nets.

    A generator such as `net.parameters()` could be gone through once, and a list that the caller
    changes later would change the Trainer.
    """
    if isinstance(params, torch.Tensor):
        return [params]
    if isinstance(params, Mapping) and "params" in params:
        return [_keep_group(params)]
    if isinstance(params, (list, tuple, Iterator)):
        return [_keep_group(p) if isinstance(p, Mapping) else p for p in params]
    return params


def _keep_group(group: Mapping[str, Any]) -> dict[str, Any]:
    members = group.get("params")
    return {**group, **({"params": list(members)} if isinstance(members, Iterator) else {})}


def select_parameters(params: Any, net: nn.Module) -> list[Any]:
    """The parameters or groups that a Trainer's `params` means in a net.

    Raises:
        ArgumentError: It selects nothing, or names a submodule that is not there.
    """
    if params is None:
        chosen: list[Any] = [p for p in net.parameters() if p.requires_grad]
    elif isinstance(params, str):
        chosen = list(_submodule(params, net).parameters())
    elif isinstance(params, nn.Module):
        chosen = list(params.parameters())
    elif callable(params):
        chosen = keep_parameters(params(net)) or []
    elif params and all(isinstance(name, str) for name in params):
        # Submodules may lie inside each other, and an optimizer steps twice what it is given twice.
        found = {id(p): p for name in params for p in _submodule(name, net).parameters()}
        chosen = list(found.values())
    else:
        chosen = list(params)
    if not chosen:
        raise ArgumentError(
            f"Trainer(params=...) must select at least one parameter; {params!r} selects none of "
            f"{type(net).__name__}'s that require a gradient. Check requires_grad, or name another "
            "submodule."
        )
    # An optimizer completes the groups that it is given, which are the Trainer's.
    return [dict(p) if isinstance(p, Mapping) else p for p in chosen]


def _submodule(name: str, net: nn.Module) -> nn.Module:
    modules = dict(net.named_modules())
    if name not in modules or not name:
        raise ArgumentError(
            f"Trainer(params=...) must name a submodule of {type(net).__name__}; received "
            f"{name!r}. {nearest(name, [m for m in modules if m])}"
        )
    module: nn.Module = modules[name]
    return module

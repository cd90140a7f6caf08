"""An optimizer step without the work around it: the fused kernel on lists that are kept."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from operator import is_, itemgetter
from typing import Any

import torch
from torch.optim import SGD, Adam, AdamW, Optimizer

from estimator.engine.private import fused_kernel

_ADAM = ("exp_avg", "exp_avg_sq")


class PreparedStep:
    """Steps an optimizer by its own fused kernel, on its own state.

    `Optimizer.step` collects parameters, gradients and states anew at each call. Here the lists
    are made once; they hold the optimizer's own tensors, so that its `state_dict` stays right.
    The numbers of each group (rates, betas and so on) are read at every step, since schedulers
    write to them. Whatever is unusual is left to `Optimizer.step`.

    Args:
        optimizer: One that `prepare` accepts, which has made a step.
        groups: For each group: its parameters, its states and the kernel.
    """

    def __init__(self, optimizer: Optimizer, groups: list[_Group]) -> None:
        self.optimizer, self.groups = optimizer, groups
        self.state, self.entries = optimizer.state, list(optimizer.state.values())
        self.settings = list(optimizer.param_groups)
        self.hooks = hooks_of(optimizer)

    def holds(self) -> bool:
        """Whether the optimizer still has the state, the groups and the step that it had."""
        optimizer, settings = self.optimizer, self.settings
        if optimizer.state is not self.state or len(optimizer.param_groups) != len(settings):
            return False
        if not all(map(is_, optimizer.param_groups, settings)):
            return False
        # By their values: to look a tensor up costs more than all that is saved here.
        if len(self.state) != len(self.entries):
            return False
        if not all(map(is_, self.state.values(), self.entries)):
            return False
        return not any(self.hooks) and all(group.holds() for group in self.groups)

    def __call__(self) -> None:
        """One step from the present gradients."""
        for group in self.groups:
            grads = [p.grad for p in group.params]
            if any(g is None for g in grads):
                self.optimizer.step()
                return
            group.grads = grads
        for group in self.groups:
            group.step(group)


class _Group:
    """One parameter group with the lists that its kernel takes."""

    __slots__ = (
        *("entries", "getters", "grads", "kernel", "one", "params", "settings", "states", "step"),
    )

    def __init__(
        self, settings: dict[str, Any], state: Any, names: tuple[str, ...],
        kernel: Callable[..., Any], step: Callable[[_Group], None],
    ) -> None:  # fmt: skip
        self.settings, self.kernel, self.step = settings, kernel, step
        self.params: list[torch.Tensor] = list(settings["params"])
        self.entries = [state[p] for p in self.params] if names else []
        self.getters = [itemgetter(name) for name in names]
        self.states: list[list[Any]] = [list(map(get, self.entries)) for get in self.getters]
        self.grads: list[Any] = []
        self.one = torch.ones(())

    def holds(self) -> bool:
        """Whether the lists are still those of the optimizer."""
        for get, column in zip(self.getters, self.states, strict=True):
            if not all(map(is_, map(get, self.entries), column)):
                return False
        return len(self.settings["params"]) == len(self.params)


def prepare(optimizer: Optimizer) -> PreparedStep | None:
    """A prepared step, or None where only `Optimizer.step` is known to do the same.

    Args:
        optimizer: After its first step, which makes its state.
    """
    step = {SGD: _step_sgd, Adam: _step_adam, AdamW: _step_adam}.get(type(optimizer))
    if step is None or any(hooks_of(optimizer)) or is_patched(optimizer):
        return None
    groups = [_prepare_group(optimizer, settings, step) for settings in optimizer.param_groups]
    ready = [group for group in groups if group is not None]
    return PreparedStep(optimizer, ready) if len(ready) == len(groups) else None


def hooks_of(optimizer: Optimizer) -> list[Any]:
    """The tables of its hooks, and of those that all optimizers have."""
    module = importlib.import_module("torch.optim.optimizer")
    own, everyone = "_optimizer_step_{}_hooks", "_global_optimizer_{}_hooks"
    found = [getattr(optimizer, own.format(kind), {}) for kind in ("pre", "post")]
    return found + [getattr(module, everyone.format(kind), {}) for kind in ("pre", "post")]


def is_patched(optimizer: Optimizer) -> bool:
    """Whether an optimizer's step is not that of its class."""
    # Schedulers wrap `step` in a counter, which is kept; other instance attributes are not known.
    own = vars(optimizer).get("step")
    return own is not None and not hasattr(own, "_wrapped_by_lr_sched")


def _prepare_group(
    optimizer: Optimizer, settings: dict[str, Any], step: Callable[[_Group], None]
) -> _Group | None:
    params = settings["params"]
    kinds = {(p.device.type, p.dtype) for p in params}
    on_cpu = len(kinds) == 1 and next(iter(kinds))[0] == "cpu"
    plain = all(not torch.is_complex(p) and p.layout is torch.strided for p in params)
    if not settings.get("fused") or not on_cpu or not plain:
        return None
    if settings["differentiable"]:
        return None
    # A rate that is a tensor takes another overload of the kernel.
    if any(isinstance(settings.get(name), torch.Tensor) for name in ("lr", "weight_decay")):
        return None
    if step is _step_sgd:
        names: tuple[str, ...] = ("momentum_buffer",) if settings["momentum"] else ()
        kernel = fused_kernel("sgd")
    else:
        names = (*_ADAM, "step", *(("max_exp_avg_sq",) if settings["amsgrad"] else ()))
        decoupled = type(optimizer) is AdamW or settings.get("decoupled_weight_decay")
        kernel = fused_kernel("adamw" if decoupled else "adam")
    states = [optimizer.state.get(p, {}) for p in params]
    if kernel is None or any(
        not isinstance(state.get(name), torch.Tensor) for state in states for name in names
    ):
        return None
    return _Group(settings, optimizer.state, names, kernel, step)


def _step_sgd(group: _Group) -> None:
    settings = group.settings
    group.kernel(
        group.params,
        group.grads,
        group.states[0] if group.states else [],
        weight_decay=settings["weight_decay"],
        momentum=settings["momentum"],
        lr=settings["lr"],
        dampening=settings["dampening"],
        nesterov=settings["nesterov"],
        maximize=settings["maximize"],
        is_first_step=False,
    )


def _step_adam(group: _Group) -> None:
    settings = group.settings
    averages, squares, steps, *largest = group.states
    # A number would be made a tensor for each of them.
    torch._foreach_add_(steps, group.one, alpha=1.0)
    beta1, beta2 = settings["betas"]
    group.kernel(
        group.params,
        group.grads,
        averages,
        squares,
        largest[0] if largest else [],
        steps,
        lr=settings["lr"],
        beta1=beta1,
        beta2=beta2,
        weight_decay=settings["weight_decay"],
        eps=settings["eps"],
        amsgrad=settings["amsgrad"],
        maximize=settings["maximize"],
    )

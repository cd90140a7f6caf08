"""Layers that an explanation looks into: the one of Grad-CAM, and each ReLU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from estimator.explain.question import Question
from estimator.handlers.base import ArgumentError, ArgumentTypeError, nearest

_RELUS = {"relu", "relu_"}


def layer_of(question: Question, layer: str | nn.Module | None) -> nn.Module:
    """The layer that is asked for, or the last convolution that the answer depends on.

    Raises:
        ArgumentError: There is none, or its output has no positions or no part in the answer.
        ArgumentTypeError: It is neither a name nor a module.
    """
    watched = _watched(question.net, layer)
    seen: list[tuple[nn.Module, Tensor]] = []

    def see(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim > 2 and output.requires_grad:
            seen.append((module, output))

    with _hooked(module.register_forward_hook(see) for module in watched):
        scores = question(question.values.clone().requires_grad_())
    outputs = [output for _, output in seen]
    parts: Sequence[Tensor | None] = []
    if outputs and scores.requires_grad:
        parts = torch.autograd.grad(scores.sum(), outputs, allow_unused=True)
    used = [module for (module, _), part in zip(seen, parts, strict=False) if part is not None]
    if used:
        return used[-1]
    if layer is None:
        raise ArgumentError(
            "grad_cam(layer=None) takes the last convolution that the answer depends on, and "
            f"{type(question.net).__name__} has none. Name a layer with an output (N, C, ...), or "
            "use another method."
        )
    raise ArgumentError(
        f"grad_cam(layer=...) must be a layer that runs, that the answer depends on, and whose "
        f"output is a tensor (N, C, ...); received {layer!r}."
    )


def _watched(net: nn.Module, layer: str | nn.Module | None) -> list[nn.Module]:
    if layer is None:
        return [module for module in net.modules() if isinstance(module, _ConvNd)]
    named = dict(net.named_modules())
    if isinstance(layer, nn.Module):
        if all(module is not layer for module in named.values()):
            raise ArgumentError(
                f"grad_cam(layer=...) must be a module of the net; received {layer!r}, which is "
                "none of its modules. Take it from this net, or pass its name."
            )
        return [layer]
    if not isinstance(layer, str):
        raise ArgumentTypeError(
            f"grad_cam(layer=...) must be the name of a layer or a module; received {layer!r}."
        )
    if layer not in named:
        raise ArgumentError(
            f"grad_cam(layer=...) must name a module of the net; received {layer!r}. "
            f"{nearest(layer, filter(None, named))}"
        )
    return [named[layer]]


@contextlib.contextmanager
def clamped_relus(question: Question) -> Iterator[None]:
    """Lets each ReLU of a forward pass on only what is above 0 of a gradient.

    Captum's guided backpropagation does that to the gradient of what the ReLU gets, so that it
    cuts other ways from there to the answer too, and gives each ReLU a copy, so that one that
    works in place no longer does. A hook on the result has neither fault.

    Raises:
        ArgumentError: A ReLU is called as a function, or no module is one.
    """
    calls = _ReluCalls()

    def enter(module: nn.Module, inputs: Any) -> None:
        calls.inside.append(module)

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        calls.inside.pop()
        if isinstance(module, nn.ReLU):
            calls.modules += 1
            if output.requires_grad:
                output.register_hook(lambda gradient: gradient.clamp(min=0))

    modules = list(question.net.modules())
    handles = [module.register_forward_pre_hook(enter) for module in modules]
    handles += [module.register_forward_hook(leave) for module in modules]
    with _hooked(handles), calls:
        yield
    if calls.functional:
        names = {module: name for name, module in question.net.named_modules()}
        places = [f"{names[m] or 'the net'} ({type(m).__name__})" for m in calls.functional]
        raise ArgumentError(
            "guided_backpropagation(net=...) must have its ReLUs as modules; received one that "
            f"calls relu as a function in {', '.join(places)}, where the plain gradient would "
            "pass. Give it self.relu = nn.ReLU() and call that, or use integrated_gradients."
        )
    if not calls.modules:
        raise ArgumentError(
            "guided_backpropagation(net=...) must have an nn.ReLU that runs; received "
            f"{type(question.net).__name__} without, whose plain gradient it would be. Use "
            "integrated_gradients."
        )


class _ReluCalls(TorchFunctionMode):
    """Counts the ReLUs that run, as modules and as functions."""

    def __init__(self) -> None:
        super().__init__()
        self.inside: list[nn.Module] = []
        self.modules = 0
        self.functional: dict[nn.Module, None] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in _RELUS and not isinstance(self.inside[-1], nn.ReLU):
            self.functional[self.inside[-1]] = None
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _hooked(handles: Any) -> Iterator[None]:
    handles = list(handles)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

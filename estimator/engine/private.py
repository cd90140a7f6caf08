"""The functions of torch that are not part of its public interface, each behind a probe.

Everything here has a public way of doing the same more slowly, which is taken where a probe fails.
Tried on torch 2.13.0 (CPU).
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch

TRIED_ON = ("2.13.0",)
_SCHEMAS = {
    "_fused_sgd_": (
        *("self", "grads", "momentum_buffer_list", "weight_decay", "momentum", "lr"),
        *("dampening", "nesterov", "maximize", "is_first_step", "grad_scale", "found_inf"),
    ),
    "_fused_adam_": (
        *("self", "grads", "exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs", "state_steps", "lr"),
        *("beta1", "beta2", "weight_decay", "eps", "amsgrad", "maximize", "grad_scale"),
        "found_inf",
    ),
}
_SCHEMAS["_fused_adamw_"] = _SCHEMAS["_fused_adam_"]


def fused_kernel(name: str) -> Callable[..., Any] | None:
    """A fused optimizer kernel, `torch._fused_<name>_`, if its arguments are those known here.

    Args:
        name: "sgd", "adam" or "adamw".
    """
    if not hasattr(torch, "_foreach_add_"):  # which counts the steps of Adam
        return None
    return _operator(f"_fused_{name}_", _SCHEMAS[f"_fused_{name}_"])


@functools.cache
def _operator(name: str, arguments: tuple[str, ...]) -> Callable[..., Any] | None:
    packet = getattr(torch.ops.aten, name, None)
    schema = getattr(getattr(packet, "default", None), "_schema", None)
    known = schema is not None and tuple(a.name for a in schema.arguments) == arguments
    function: Callable[..., Any] | None = getattr(torch, name, None) if known else None
    return function


@functools.cache
def tracer() -> Callable[..., Any] | None:
    """`make_fx`, which writes down the operations that a function of tensors makes."""
    try:
        module = importlib.import_module("torch.fx.experimental.proxy_tensor")
        trace: Callable[..., Any] = module.make_fx
        graph = trace(lambda a: [a.add(1)])(torch.zeros(1)).graph
    except Exception:  # whatever a changed torch raises, there is no tracing then
        return None
    return trace if any(node.op == "call_function" for node in graph.nodes) else None


class AsWritten:
    """Keeps torch's interpreter from rewriting a program, which would round differently.

    `torch.jit.optimized_execution` does the same at four times the cost, which counts here.
    """

    __slots__ = ("before",)

    def __enter__(self) -> None:
        self.before = torch._C._get_graph_executor_optimize()
        torch._C._set_graph_executor_optimize(False)

    def __exit__(self, *error: object) -> None:
        torch._C._set_graph_executor_optimize(self.before)


@functools.cache
def compiler() -> Callable[[str], Callable[..., Any]] | None:
    """Makes a function in torch's interpreter from the source of one called `program`.

    It is to be called within `AsWritten`.
    """
    try:
        unit = torch.jit.CompilationUnit
        source = "def program(a: Tensor):\n  return [torch.ops.aten.add(a, 1)]\n"
        with AsWritten():
            ok = unit(source).program(torch.zeros(1))[0].item() == 1
    except Exception:  # as above
        return None
    return (lambda text: unit(text).program) if ok else None

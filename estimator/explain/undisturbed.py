"""Evaluates a net without leaving a trace."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from estimator.modes import modes_kept
from estimator.randomness import random_state_kept


def original(net: nn.Module) -> nn.Module:
    """The module inside of a compiled or a data parallel one."""
    while True:
        inner = getattr(net, "_orig_mod", net)
        inner = inner.module if isinstance(inner, DistributedDataParallel) else inner
        if inner is net:
            return net
        net = inner


@contextlib.contextmanager
def undisturbed(net: nn.Module) -> Iterator[None]:
    """Evaluates a net with gradients, in its own precision; leaves modes and streams as they were.

    Args:
        net: The original of a compiled net.
    """
    modules = list(net.modules())
    devices = {value.device.type for value in net.parameters()} or {"cpu"}
    with contextlib.ExitStack() as stack:
        contexts: list[Any] = [modes_kept(net), random_state_kept()]
        contexts += [torch.inference_mode(False), torch.enable_grad()]
        contexts += [torch.autocast(device, enabled=False) for device in devices]
        if any(isinstance(module, nn.RNNBase) for module in modules):
            # cuDNN has no gradient of a recurrent layer in evaluation mode.
            contexts.append(torch.backends.cudnn.flags(enabled=False))
        if any(module._compiled_call_impl or hasattr(module, "_orig_mod") for module in modules):
            # Hooks and changed gradients are for the modules as they were written.
            contexts.append(torch.compiler.set_stance("force_eager"))
        for context in contexts:
            stack.enter_context(context)
        net.eval()
        yield

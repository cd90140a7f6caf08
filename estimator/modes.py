"""Training and evaluation modes, kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def modes_kept(net: nn.Module) -> Iterator[None]:
    """Gives every module the mode back that it had, whatever happens."""
    modes = [(module, module.training) for module in net.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode

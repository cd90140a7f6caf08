"""The loop as text, with the handlers that run at each moment."""

from __future__ import annotations

from typing import Any

from estimator.dispatch import Dispatch

_LEVELS = (
    (0, "train_begin"),
    (1, "epoch_begin"),
    (2, "batch_begin"),
    (3, "forward, loss"),
    (3, "forward_end"),
    (3, "backward"),
    (3, "backward_end"),
    (3, "clip, optimizer step, step schedulers, counters"),
    (2, "batch_end"),
    (2, "validation_begin"),
    (3, "forward, loss"),
    (3, "validation_batch_end"),
    (2, "validation_end"),
    (2, "epoch schedulers, row of the history"),
    (1, "epoch_end"),
    (0, "error"),
    (0, "train_end"),
)


def write_plan(hooks: Dispatch) -> str:
    """One line a moment: indented event, then its handlers in their order; `·` is the loop itself.

    Args:
        hooks: Bound handlers.
    """
    lines = []
    for depth, moment in _LEVELS:
        calls = getattr(hooks, moment, None)
        if calls is None:
            lines.append(f"{'  ' * depth}· {moment}")
        else:
            names = ", ".join(map(_name, calls))
            lines.append(f"{'  ' * depth + moment:<28}{names}".rstrip())
    return "\n".join(lines)


def _name(hook: Any) -> str:
    owner = getattr(hook, "__self__", None)
    return type(owner).__name__ if owner is not None else str(getattr(hook, "__qualname__", hook))

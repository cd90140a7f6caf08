"""An optimizer as a graph takes it: what its step reads on the host is frozen or on the device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.optim import SGD, Adam, AdamW, Optimizer

from estimator.engine.cause import Cause
from estimator.engine.prepared import hooks_of, is_patched
from estimator.trainer import BoundTrainer

RECORDABLE = (SGD, Adam, AdamW)
"""Optimizers whose step asks the device for the same each time."""


class Lent:
    """A trainer's optimizer, lent to a recording for as long as that takes.

    Outside of a recording the optimizer has the numbers, flags and states that it was given, so
    that schedulers, checkpoints and whoever looks at it find what an eager run would show. A
    graph reads rates from tensors of its own if it may (`close`), which are filled when a rate
    has changed; all other numbers are frozen in it and come in `numbers`, which say when it must
    be recorded anew.

    Args:
        trainer: Whose optimizer it is; it has made a step, so that its state is there.
        close: Whether results may differ in their last bits: rates are then float32 on the
            device, and the kernel is the fused one.
    """

    def __init__(self, trainer: BoundTrainer, *, close: bool) -> None:
        self.trainer, self.optimizer = trainer, trainer.optimizer
        self.groups = self.optimizer.param_groups
        self.takes_rates = close and _may_be_fused(self.optimizer)
        self.rates: list[torch.Tensor] = []
        self.filled: list[float] = []
        self.counters: list[tuple[dict[str, Any], torch.Tensor]] = []
        self.ahead = 0
        """Steps that the graph has made and the counters of the optimizer do not show yet."""
        self._is_behind = True
        self._handle: Any = None
        if self.takes_rates:
            self._take()

    def _take(self) -> None:
        for group in self.groups:
            device = group["params"][0].device
            self.rates.append(torch.full((), group["lr"], dtype=torch.float32, device=device))
            self.filled.append(group["lr"])
            for p in group["params"] if not _counts_on_device(group) else ():
                state = self.optimizer.state.get(p, {})
                if "step" in state:
                    own = torch.zeros((), dtype=torch.float32, device=p.device)
                    self.counters.append((state, own))
        if self.counters:
            # A checkpoint may be taken at any event.
            self._handle = self.optimizer.register_state_dict_pre_hook(lambda _: self.settle())

    def refusal(self) -> Cause | None:
        """Why its step cannot be recorded, as far as can be seen before."""
        optimizer, kind = self.optimizer, type(self.optimizer).__name__
        if type(optimizer) not in RECORDABLE:
            return Cause("E116", f"{kind} is not known to be recordable")
        if any(hooks_of(optimizer)) or is_patched(optimizer):
            return Cause("E116", f"the step of {kind} has hooks or was replaced")
        counts = all(map(_counts_on_device, self.groups))
        if type(optimizer) is not SGD and not counts and not self.takes_rates:
            return Cause("E116", f"this {kind} counts its steps on the host")
        reads = [isinstance(g["lr"], torch.Tensor) and not g["fused"] for g in self.groups]
        if type(optimizer) is SGD and any(reads):
            return Cause("E116", "this SGD reads a rate that is a tensor")
        return None

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """The optimizer with what a recording needs, and as it was afterwards."""
        before = [dict(group) for group in self.groups]
        steps = [(state, state["step"]) for state, _ in self.counters]
        try:
            for i, group in enumerate(self.groups):
                if "capturable" in group:
                    group["capturable"] = True
                if self.takes_rates:
                    group.update(lr=self.rates[i], fused=True, foreach=False)
            for state, own in self.counters:
                state["step"] = own
            yield
        finally:
            for group, settings in zip(self.groups, before, strict=True):
                group.update(settings)
            for state, step in steps:
                state["step"] = step

    def numbers(self) -> list[Any]:
        """What the graph has frozen, to be compared with what is so now."""
        trainer = self.trainer
        found: list[Any] = [trainer.clip_norm, trainer.clip_value]
        for group in self.groups:
            for name, value in group.items():
                if isinstance(value, torch.Tensor):
                    found.append(id(value))
                elif name != "params" and not (name == "lr" and self.takes_rates):
                    found.append(value)
        return found

    def fill(self) -> None:
        """Brings the present rates and counts to the device, where they have changed."""
        for i, rate in enumerate(self.rates):
            now = self.groups[i]["lr"]
            if now != self.filled[i]:
                rate.fill_(now)
                self.filled[i] = now
        if self._is_behind:
            for state, own in self.counters:
                own.fill_(float(state["step"]))
            self._is_behind = False

    def count(self) -> None:
        """Notes a step that the graph has made."""
        self.ahead += 1

    def settle(self) -> None:
        """Lets the optimizer's own counters show what the graph has made."""
        for state, _ in self.counters if self.ahead else ():
            state["step"] += self.ahead
        self.ahead = 0

    def step_aside(self) -> None:
        """Makes ready for a step that the optimizer makes itself."""
        self.settle()
        self._is_behind = True

    def give_back(self) -> None:
        """Ends the loan."""
        self.settle()
        if self._handle is not None:
            self._handle.remove()


def _counts_on_device(group: dict[str, Any]) -> bool:
    return bool(group.get("fused") or group.get("capturable"))


def _may_be_fused(optimizer: Optimizer) -> bool:
    """Whether the fused kernel, which reads its rate on the device, is the user's to have."""
    if type(optimizer) not in RECORDABLE:
        return False
    for group in optimizer.param_groups:
        chosen = group["fused"] is None and group["foreach"] is None
        plain = all(p.is_floating_point() and p.layout is torch.strided for p in group["params"])
        if isinstance(group["lr"], torch.Tensor) or not plain or not group["params"]:
            return False
        if not (chosen or group["fused"]):
            return False
    return True

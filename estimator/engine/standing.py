"""What a recording takes for granted, and what it would leave behind on the host."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from estimator.engine.cause import Cause
from estimator.engine.lent import RECORDABLE
from estimator.engine.prepared import hooks_of, is_patched
from estimator.engine.watch import HOOKS, has_hooks, owners
from estimator.processor import BatchProcessor
from estimator.trainer import BoundTrainer

if TYPE_CHECKING:
    from estimator.engine.graph import GraphStep

_PLAIN = (bool, int, float, str, type(None))
_MOST_CHANGES, _WORTH = 8, 20
"""So many changes are too many, if there are fewer batches to each."""
_FILLED = (list, dict, set, OrderedDict)


def modules_of(processor: BatchProcessor) -> list[nn.Module]:
    """The modules of the net and of the losses."""
    return [part for owner in owners(processor) for part in owner.modules()]


def standing(
    parts: Sequence[object], parameters: Sequence[torch.Tensor], trainers: Sequence[BoundTrainer]
) -> list[Any]:
    """Addresses, flags and settings that a recording has frozen, to be compared with later ones.

    Args:
        parts: Modules, and what else decides by its attributes.
        parameters: Of the net and the trainers.
        trainers: With their optimizers, whose state a recording writes to.
    """
    found: list[Any] = places(parts, parameters, trainers)
    found += map(has_hooks, parameters)
    for owner in parts:
        found.append(id(owner))
        found += [(name, v) for name, v in vars(owner).items() if _is_plain(v)]
    for trainer in trainers:
        optimizer = trainer.optimizer
        found += (id(trainer), any(hooks_of(optimizer)), is_patched(optimizer))
        found += [[id(p) for p in group["params"]] for group in optimizer.param_groups]
    return found


def places(
    parts: Sequence[object], parameters: Sequence[torch.Tensor], trainers: Sequence[BoundTrainer]
) -> list[Any]:
    """Where tensors are that a recording reads and writes, which is quick to see."""
    found: list[Any] = [id(trainer.optimizer) for trainer in trainers]
    found += [p.requires_grad for p in parameters]
    tensors: list[Any] = list(parameters)
    for part in parts:
        tensors += getattr(part, "_buffers", {}).values()
    for trainer in trainers:
        # Others step by themselves, and may replace their states each time.
        if type(trainer.optimizer) in RECORDABLE:
            for state in trainer.optimizer.state.values():
                tensors += state.values()
    tensors = [t for t in tensors if isinstance(t, torch.Tensor)]
    found += map(id, tensors)
    found += map(torch.Tensor.data_ptr, tensors)
    return found


def what_changed(before: Sequence[Any], now: Sequence[Any]) -> Cause:
    """Why what stood is no longer so, from what `standing` gave."""
    odd = next((new for old, new in zip(before, now, strict=False) if old != new), None)
    if isinstance(odd, tuple) and odd and isinstance(odd[0], str):
        return Cause("E104", f"the attribute {odd[0]} of a layer has another value again and again")
    return Cause("E121", "weights, layers or an optimizer are replaced again and again")


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):  # of tensors, for one, which cannot be compared without waiting
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)


class Untouched:
    """The attributes of objects and the random streams of the host, as they were.

    A recording runs Python once more than a step does, and what Python changes would not be
    repeated by a replay: both must not be.

    Args:
        owners: Objects whose attributes are looked at.
    """

    def __init__(self, owners: Iterable[object]) -> None:
        self.owners = list(owners)
        self.before = [dict(vars(owner)) for owner in self.owners]
        values = [value for own in self.before for value in own.values()]
        self.contents = {id(v): (v, v.copy()) for v in values if type(v) in _FILLED}
        self.streams = (random.getstate(), np.random.get_state(), torch.get_rng_state())

    def changed(self) -> str | None:
        """What was changed since, in words; None for nothing."""
        if random.getstate() != self.streams[0]:
            return "random numbers of Python are drawn"
        if not all(map(np.array_equal, np.random.get_state(), self.streams[1])):
            return "random numbers of NumPy are drawn"
        for owner, before in zip(self.owners, self.before, strict=True):
            for name, value in vars(owner).items():
                if name not in before or before[name] is not value:
                    return f"{type(owner).__name__} changes its attribute {name}"
                content = self.contents.get(id(value))
                if content is not None and not _same(*content):
                    return f"{type(owner).__name__} changes what is in its {name.strip('_')}"
        return None

    def put_back(self) -> None:
        """Makes all of it as it was."""
        for owner, before in zip(self.owners, self.before, strict=True):
            if not _same(vars(owner), before):
                vars(owner).clear()
                vars(owner).update(before)
        for value, content in self.contents.values():
            if not _same(value, content):
                value.clear()
                (value.extend if isinstance(value, list) else value.update)(content)
        random.setstate(self.streams[0])
        np.random.set_state(self.streams[1])
        torch.set_rng_state(self.streams[2])


def _same(value: Any, content: Any) -> bool:
    if len(value) != len(content):
        return False
    if isinstance(value, dict):
        return all(name in value and value[name] is content[name] for name in content)
    return all(a is b for a, b in zip(value, content, strict=True))


class Sight:
    """Looks at what recordings take for granted.

    Args:
        step: Whose recordings they are.
    """

    def __init__(self, step: GraphStep) -> None:
        self.step = step
        self.is_new = True
        """Whether modules may be others than at the last look."""
        self._modules: list[nn.Module] = []
        self._hooks: list[Any] = []
        self._stood: list[Any] = []
        self._places: list[Any] = []
        self._settings: list[tuple[dict[str, Any], str, Any]] = []
        self._changes = 0
        self._cause: Cause | None = None

    def note(self) -> None:
        """Takes for granted what is so now."""
        step, parts = self.step, self._parts()
        self._stood = [step.cuts, *standing(parts, step.parameters, step.trainers)]
        self._places = places(parts, step.parameters, step.trainers)
        self._settings = [
            (vars(part), name, value) for part in parts for name, value in vars(part).items()
            if _is_plain(value)
        ]  # fmt: skip

    def _parts(self) -> list[object]:
        return [self.step.processor, *self._modules]

    def _is_quiet(self) -> bool:
        """Whether all is the very same object in the very same place, which is quick to see."""
        step = self.step
        if not all(own.get(name) is value for own, name, value in self._settings):
            return False
        return places(self._parts(), step.parameters, step.trainers) == self._places

    def is_changed(self) -> bool:
        """Looks, and says whether anything is otherwise than at the last look."""
        if self.is_new:
            self._modules = modules_of(self.step.processor)
            self._hooks = [getattr(part, name) for part in self._modules for name in HOOKS]
            self.is_new = False
        elif self._is_quiet():
            return False
        stood = self._stood
        self.note()
        if stood == self._stood:
            return False
        self._cause = what_changed(stood, self._stood)
        self._changes += 1
        return True

    def cause(self) -> Cause | None:
        """Why the present batch cannot be recorded."""
        if self._changes > _MOST_CHANGES and self.step.seen < self._changes * _WORTH:
            return self._cause
        return Cause("E101", "hooks are attached to a layer") if any(self._hooks) else None

"""The replay tier: forward, loss and backward as straight-line code, proven equal before use."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from estimator.engine.cause import Cause
from estimator.engine.ladder import Ladder
from estimator.engine.options import Engine
from estimator.engine.proof import Proof
from estimator.engine.trace import CannotTraceError, Traced, flatten, rebuild, trace
from estimator.loss_kinds import setting_of
from estimator.processor import BatchProcessor
from estimator.step import Step

_MOST_SHAPES = 8
_FIRST_COST = 2.0
"""Seconds to allow for the first trace of a process, before one was timed."""


class ReplayStep(Step):
    """A step that replays what it has written down, where that is equal and faster."""

    def __init__(self, *args: Any, engine: Engine, **settings: Any) -> None:
        self.engine = engine
        self.ladders: dict[Any, Ladder] = {}
        self.causes: list[Cause] = []
        self.cost = _FIRST_COST
        self.seen = 0
        self.is_off = False
        """Whether all batches are computed eagerly from now on."""
        self._modules: list[nn.Module] = []
        self._hooks: list[Any] = []
        self._flags: list[bool] = []
        self._settings: list[Any] = []
        self._watched: list[tuple[dict[str, Any], str, Any]] = []
        self._ladder: Ladder | None = None
        self._proof: Proof | None = None
        self._gradients: list[Any] | None = None
        self._items: Any = None
        self._began = 0.0
        super().__init__(*args, **settings)

    def serve(self, needs: set[str]) -> None:
        """Takes over what the present handlers want computed; the net may be set otherwise."""
        super().serve(needs)
        self.needs_graph, self.watches = "graph" in needs, "watch" in needs
        self._modules = []
        for ladder in self.ladders.values():
            ladder.doubt()

    def steps_left(self) -> float:
        """Batches that this run has still to train, as far as is known."""
        stats = self.stats
        if stats.iterations is not None:
            return (stats.iterations - stats.step) * self.accumulation.size
        if stats.batches is None or stats.epochs is None:
            return float("inf") if stats.epoch else 0
        return stats.batches * (stats.epochs - stats.epoch) - stats.batches_done

    def refused(self, cause: Cause) -> None:
        """Says once why batches are computed eagerly, and keeps it for the report.

        Raises:
            EngineError: The tier was asked for, and nothing else is wanted.
        """
        if cause not in self.causes:
            self.causes.append(cause)
            self.engine.fall_back(cause)

    def _look(self) -> None:
        """Finds the modules of this epoch, and forgets programs of a net that is set otherwise."""
        criterion = self.processor.criterion
        owners = [self.processor.net, *(criterion.modules() if criterion else ())]
        self._modules = [part for owner in owners for part in owner.modules()]
        self._hooks = [getattr(part, name) for part in self._modules for name in _HOOKS]
        self._watched = []
        settings: list[Any] = [(id(p), _has_hooks(p)) for p in self.parameters]
        for part in self._modules:
            plain = (bool, int, float, str, tuple, type(None))
            own = vars(part)
            watched = [(own, name, v) for name, v in own.items() if isinstance(v, plain)]
            settings.append((id(part), [(name, v) for _, name, v in watched]))
            self._watched += watched
        if settings != self._settings:
            self._settings = settings
            self.ladders.clear()

    def _stands_in_the_way(self) -> Cause | None:
        """What keeps this batch from being replayed."""
        if not self._modules or (self.watches and not self._unchanged()):
            self._look()
        if self.needs_graph:
            return Cause("E113", "a handler acts between forward and backward")
        if any(self._hooks):
            return Cause("E101", "hooks are attached to a layer")
        flags = [p.requires_grad for p in self.parameters]
        flags += [part.training for part in self._modules]
        if flags != self._flags:
            self._flags = flags
            self.ladders.clear()
        return None

    def _unchanged(self) -> bool:
        """Whether all settings of the layers are the objects that they were."""
        return all(own.get(name) is value for own, name, value in self._watched)

    def trace(self) -> Traced:
        """Writes down the step on the present batch."""
        cause = blocked(self.processor, self.parameters, self.runtime.scaler is not None)
        if cause is None and self.accumulation.size > 1:
            cause = Cause("E112", "gradients of several batches are accumulated")
        if cause is None and not self.engine.by_name:
            cause = unseen(self.processor)
        if cause is not None:
            raise CannotTraceError(cause)
        return trace(
            self.processor, self.parameters, (self.stats.inputs, self.stats.targets),
            per_sample=self.per_sample, autocast=self.runtime.autocast,
        )  # fmt: skip

    def forward(self) -> torch.Tensor:
        """Runs the net and the loss, or the program of them."""
        self._gradients = self._ladder = self._proof = None
        if self.is_off:
            return super().forward()
        self.seen += 1
        cause = self._stands_in_the_way()
        leaves: list[torch.Tensor] = []
        try:
            form = flatten((self.stats.inputs, self.stats.targets), leaves)
        except CannotTraceError as error:
            cause = error.cause
        if cause is not None:
            self.refused(cause)
            return super().forward()
        ladder = self._ladder = self._ladder_of(form, leaves)
        if ladder is None:
            return super().forward()
        replays = ladder.choose()
        self._began = time.perf_counter()
        if replays:
            assert ladder.traced is not None
            return self._replay(ladder.traced, ladder.traced.program(leaves))
        if ladder.traced is not None and not ladder.proven and not ladder.fresh:
            self._proof = Proof(self, ladder.traced, leaves)
        return super().forward()

    def _ladder_of(self, form: Any, leaves: Sequence[torch.Tensor]) -> Ladder | None:
        shapes = tuple([(leaf.shape, leaf.dtype) for leaf in leaves])
        key = (shapes, repr(form), self.per_sample)
        ladder = self.ladders.get(key)
        if ladder is None and len(self.ladders) < _MOST_SHAPES:
            ladder = self.ladders[key] = Ladder(self, self.engine.by_name)
        elif ladder is None:
            self.refused(Cause("E103", f"more than {_MOST_SHAPES} shapes of batches came"))
        return ladder

    def _replay(self, traced: Traced, flat: list[Any]) -> torch.Tensor:
        stats, results = self.stats, traced.results
        loss: torch.Tensor = flat[results.loss]
        stats.loss = loss
        stats.losses = {name: flat[i] for name, i in results.parts.items()}
        stats.outputs = rebuild(results.outputs, flat)
        if results.single is not None:
            stats.sample_losses = flat[results.single]
        self._gradients = [None if i is None else flat[i] for i in results.gradients]
        self._items = None if results.items is None else flat[results.items]
        return loss

    def backward(self, loss: torch.Tensor) -> None:
        """Adds this batch's gradients to those of its group."""
        ladder = self._ladder
        if self._gradients is None:
            super().backward(loss)
            if ladder is not None and not ladder.settled:
                ladder.times[False].append(time.perf_counter() - self._began)
            if self._proof is not None:
                self._prove(ladder, self._proof)
            return
        assert ladder is not None
        stats = self.stats
        for parameter, gradient in zip(self.parameters, self._gradients, strict=True):
            parameter.grad = gradient
        samples = stats.batch_size
        assert samples is not None
        items = self._items if self.averages_classes else None
        if items is None:
            items = self.processor.count(stats.outputs, stats.targets, samples)
        self.weight = samples if self.is_sum else items
        self.accumulation.filled += 1
        stats.stepped = False
        if not ladder.settled:
            ladder.times[True].append(time.perf_counter() - self._began)

    def _prove(self, ladder: Ladder | None, proof: Proof) -> None:
        assert ladder is not None
        odd = proof.difference()
        if odd is None:
            ladder.proven = True
            return
        if ladder.settled:
            warnings.warn(
                f"The replayed step gives another {odd} than the eager one by now: a number that "
                "it cannot see has changed since the last proof, at the earliest with the epoch "
                "before. Training goes on eagerly. Pass engine='eager' for such a run.",
                stacklevel=2,
            )
        ladder.refuse(Cause("E108", f"the replayed step gave another {odd}"))


def unseen(processor: BatchProcessor) -> Cause | None:
    """What may depend on numbers that no program shows."""
    if type(processor) is not BatchProcessor:
        return Cause("E114", f"{type(processor).__name__} may do more than can be seen")
    losses = processor.criterion.losses if processor.criterion is not None else []
    for loss in losses:
        if not isinstance(loss, nn.Module) and setting_of(loss).kind is None:
            return Cause("E114", "the loss is a function of yours and may use other numbers")
    return None


def blocked(
    processor: BatchProcessor, parameters: Sequence[torch.Tensor], has_scaler: bool
) -> Cause | None:
    """What stands in the way of a replay, as far as can be seen before tracing."""
    if has_scaler:
        return Cause("E105", "the loss is scaled (precision='fp16')")
    criterion = processor.criterion
    modules: list[nn.Module] = [processor.net, *(criterion.modules() if criterion else ())]
    for module in modules:
        for name, part in module.named_modules():
            if getattr(part, "sparse", False):
                return Cause("E106", f"{name!r} makes sparse gradients")
    for p in parameters:
        if p.is_complex() or p.layout is not torch.strided:
            return Cause("E106", "there are sparse or complex parameters")
        if _has_hooks(p):
            return Cause("E101", "hooks are attached to a parameter")
    return None


def _has_hooks(p: torch.Tensor) -> bool:
    return bool(p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None))


_HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs"),
)

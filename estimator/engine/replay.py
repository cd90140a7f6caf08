"""The replay tier: a step as straight-line code, proven equal before it is used."""

from __future__ import annotations

from typing import Any

import torch

from estimator.engine.cause import Cause
from estimator.engine.climb import Climb
from estimator.engine.leaves import rebuild
from estimator.engine.options import Engine
from estimator.engine.trace import Traced
from estimator.step import Step

_FIRST_COSTS = {"replay": 2.0, "compile": 30.0}
"""Seconds to allow for the first program of a run, before one was timed."""


class ReplayStep(Step):
    """A step that replays what it has written down, where that is equal and faster."""

    def __init__(self, *args: Any, engine: Engine, **settings: Any) -> None:
        self.engine = engine
        self.causes: list[Cause] = []
        self.costs = dict(_FIRST_COSTS)
        self.training = Climb(self, evaluating=False)
        self.evaluating = Climb(self, evaluating=True)
        self._gradients: list[Any] | None = None
        self._items: Any = None
        super().__init__(*args, **settings)

    def serve(self, needs: set[str]) -> None:
        """Takes over what the present handlers want computed; the net may be set otherwise."""
        super().serve(needs)
        self.needs_graph, self.watches = "graph" in needs, "watch" in needs
        self.training.doubt()

    def refused(self, cause: Cause) -> None:
        """Says once why batches are computed eagerly, and keeps it for the report.

        Raises:
            EngineError: The tier was asked for, and nothing else is wanted.
        """
        if cause not in self.causes:
            self.causes.append(cause)
            self.engine.fall_back(cause)

    def forward(self) -> torch.Tensor:
        """Runs the net and the loss, or the program of them."""
        flat = self.training.begin()
        if flat is None:
            self._gradients = None
            return super().forward()
        results = self._show(self.training.traced, flat)
        self._gradients = [None if i is None else flat[i] for i in results.gradients]
        self._items = None if results.items is None else flat[results.items]
        assert self.stats.loss is not None
        return self.stats.loss

    def backward(self, loss: torch.Tensor) -> None:
        """Adds this batch's gradients to those of its group."""
        if self._gradients is None:
            super().backward(loss)
        else:
            self._add(loss, self._gradients)
        self.training.end()

    def _add(self, loss: torch.Tensor, gradients: list[Any]) -> None:
        stats, group = self.stats, self.accumulation
        if group.filled == 0:
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                parameter.grad = gradient
        else:
            _accumulate(self.parameters, gradients)
        samples = stats.batch_size
        assert samples is not None
        items = self._items if self.averages_classes else None
        if items is None:
            items = self.processor.count(stats.outputs, stats.targets, samples)
        self.weight = samples if self.is_sum else items
        if group.weighs:
            group.weigh(loss, items, samples)
        group.filled += 1
        stats.stepped = False

    def evaluate(self) -> None:
        """Runs the net and the loss without gradients, or the program of them."""
        flat = self.evaluating.begin()
        if flat is None:
            super().evaluate()
        elif self._show(self.evaluating.traced, flat).loss is not None:
            self._weigh_evaluated()
        self.evaluating.end()

    def _show(self, traced: Traced | None, flat: list[Any]) -> Any:
        assert traced is not None
        stats, results = self.stats, traced.results
        stats.outputs = rebuild(results.outputs, flat)
        if results.loss is not None:
            stats.loss = flat[results.loss]
            stats.losses = {name: flat[i] for name, i in results.parts.items()}
        if results.single is not None:
            stats.sample_losses = flat[results.single]
        return results


def _accumulate(parameters: list[torch.Tensor], gradients: list[Any]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            continue
        if parameter.grad is None:
            parameter.grad = gradient
        else:
            parameter.grad.add_(gradient)

"""From a step in Python to the list of its operations on tensors."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import fx, nn

from estimator.engine.cause import CannotTraceError, Cause, place_of
from estimator.engine.leaves import Leaf, flatten, rebuild
from estimator.engine.private import tracer
from estimator.engine.program import Compiled, Program
from estimator.engine.watch import owners
from estimator.loss import as_losses
from estimator.loss_kinds import items_in_graph
from estimator.processor import BatchProcessor
from estimator.randomness import random_state_kept
from estimator.runtime import detach
from estimator.step import Step


class Results(NamedTuple):
    """What a step gives, as numbers of the program's results; None where it gives nothing."""

    loss: int | None
    parts: dict[str, int]
    outputs: Any
    items: int | None
    single: int | None
    gradients: list[int | None]


class Traced(NamedTuple):
    """A step as a program, and what its results are."""

    program: Program | Compiled
    results: Results


def trace(step: Step, *, evaluating: bool) -> Traced:
    """Writes down what a step does with its present batch, on a copy of everything.

    In training that is forward, loss and backward; in evaluation the outputs, and the loss unless
    this is a prediction.

    Args:
        step: With a batch, which it has not computed yet.
        evaluating: Whether this is no training step.

    Raises:
        CannotTraceError: It has no fixed list of operations.
    """
    make = tracer()
    if make is None:
        raise CannotTraceError(Cause("E110", "this torch cannot write down a step"))
    work = _Work(step, evaluating=evaluating)
    with random_state_kept():
        first = work.run(make)
        # What Python's or NumPy's random numbers decide comes out differently here.
        random.seed(random.random())
        np.random.seed(random.getrandbits(32))
        second = work.run(make)
    if first.source != second.source or not first.same_constants(second):
        raise CannotTraceError(
            Cause("E104", "two passes over the same batch are not the same operations")
        )
    return Traced(Program(first.graph, work.originals(first)), work.results)


class _Pass(NamedTuple):
    """One traced pass."""

    graph: fx.Graph
    constants: dict[str, torch.Tensor]
    source: str

    def same_constants(self, other: _Pass) -> bool:
        pairs = zip(self.constants.values(), other.constants.values(), strict=True)
        return all(a is b or torch.equal(a, b) for a, b in pairs)


class _Work:
    """A copy of a step, to be traced."""

    def __init__(self, step: Step, *, evaluating: bool) -> None:
        stats, processor = step.stats, step.processor
        self.step, self.evaluating = step, evaluating
        self.leaves: list[torch.Tensor] = []
        self.form = flatten((stats.inputs, stats.targets), self.leaves)
        memo: dict[int, Any] = {}
        try:
            self.processor = copy.deepcopy(processor, memo)
        except Exception as error:  # anything may be in a user's objects
            raise CannotTraceError(
                Cause("E107", f"the net cannot be copied: {error!r}", place_of(error))
            ) from error
        parameters = [] if evaluating else step.parameters
        # What is frozen gets no gradient.
        self.wanted = [i for i, p in enumerate(parameters) if id(p) in memo and p.requires_grad]
        self.parameters = [memo[id(parameters[i])] for i in self.wanted]
        self.count = len(parameters)
        known = itertools.chain(*map(_tensors_of, owners(processor)))
        self.known = {id(memo[id(t)]): t for t in known if id(t) in memo}
        self.results = Results(None, {}, None, None, None, [])

    def run(self, make: Any) -> _Pass:
        before = _attributes(self.processor)
        function: Callable[..., list[Any]] = self._evaluate if self.evaluating else self._train
        try:
            module = make(function)(*(leaf.detach() for leaf in self.leaves))
        except CannotTraceError:
            raise
        except Exception as error:  # the tracer raises whatever a read of a value leads to
            what = str(error).partition("\n")[0]
            raise CannotTraceError(
                Cause("E102", f"the step cannot be written down: {what}", place_of(error))
            ) from error
        changed = sorted(
            name for name, value in _attributes(self.processor).items()
            if name not in before or before[name] is not value
        )  # fmt: skip
        if changed:
            raise CannotTraceError(Cause("E104", f"the net changes its attribute {changed[0]}"))
        names = [str(node.target) for node in module.graph.nodes if node.op == "get_attr"]
        constants = {name: getattr(module, name) for name in dict.fromkeys(names)}
        return _Pass(module.graph, constants, module.code)

    def originals(self, traced: _Pass) -> dict[str, torch.Tensor]:
        """The tensors that the copies stand for; those that the step makes itself, as they are."""
        return {
            name: self.known.get(id(tensor), tensor) for name, tensor in traced.constants.items()
        }

    def _train(self, *leaves: torch.Tensor) -> list[Any]:
        inputs, targets = rebuild(self.form, leaves)
        with self.step.runtime.autocast:
            outputs = self.processor.forward(inputs)
            loss, parts = as_losses(self.processor.loss(outputs, targets), "the loss")
        flat: list[Any] = []
        items = items_in_graph(loss)
        goal = self._weighed(loss, items, outputs, targets)
        gradients = torch.autograd.grad(goal, self.parameters, allow_unused=True)
        self._keep(flat, outputs, targets, loss, parts)
        counted = None if items is None else _put(flat, items)
        places: list[int | None] = [None] * self.count
        for i, p, gradient in zip(self.wanted, self.parameters, gradients, strict=True):
            if gradient is not None:
                laid = gradient if gradient.stride() == p.stride() else gradient.contiguous()
                places[i] = _put(flat, laid.detach())
        self.results = self.results._replace(items=counted, gradients=places)
        return flat

    def _weighed(self, loss: torch.Tensor, items: Any, outputs: Any, targets: Any) -> torch.Tensor:
        step = self.step
        if not step.accumulation.weighs:
            return loss
        samples = step.stats.batch_size
        assert samples is not None
        if items is None or not step.averages_classes:
            items = self.processor.count(detach(outputs), targets, samples)
        return copy.copy(step.accumulation).weigh(loss, items, samples)

    def _evaluate(self, *leaves: torch.Tensor) -> list[Any]:
        inputs, targets = rebuild(self.form, leaves)
        flat: list[Any] = []
        with self.step.runtime.autocast:
            outputs = self.processor.evaluate_forward(inputs)
            loss: torch.Tensor | None = None
            parts: dict[str, torch.Tensor] = {}
            if self.step.evaluates_loss:
                result = self.processor.evaluate_loss(outputs, targets)
                loss, parts = as_losses(result, "the loss")
        self._keep(flat, outputs, targets, loss, parts)
        return flat

    def _keep(
        self, flat: list[Any], outputs: Any, targets: Any, loss: Any, parts: dict[str, Any]
    ) -> None:
        seen: list[torch.Tensor] = []
        form = flatten(detach(outputs), seen)
        base = len(flat)
        flat += seen
        single = None
        if self.step.per_sample and loss is not None:
            with torch.no_grad():
                losses = self.processor.sample_losses(rebuild(form, seen), targets)
            single = _put(flat, losses.detach().float())
        outputs_at = rebuild(form, [Leaf(base + i) for i in range(len(seen))])
        kept = {name: _put(flat, part.detach()) for name, part in parts.items()}
        total = None if loss is None else _put(flat, loss.detach())
        self.results = Results(total, kept, outputs_at, None, single, [])


def _put(flat: list[Any], value: Any) -> int:
    flat.append(value)
    return len(flat) - 1


def _tensors_of(module: nn.Module) -> list[torch.Tensor]:
    """Parameters, buffers, and tensors that are kept as plain attributes."""
    plain = [v for m in module.modules() for v in vars(m).values() if isinstance(v, torch.Tensor)]
    return [*module.parameters(), *module.buffers(), *plain]


def _attributes(processor: BatchProcessor) -> dict[str, Any]:
    """The values of all plain attributes, whose change a program would not repeat."""
    found: dict[str, Any] = {}
    for module in owners(processor):
        for path, part in module.named_modules():
            for name, value in vars(part).items():
                if not name.startswith("_"):
                    found[f"{path or type(module).__name__}.{name}"] = value
    return found

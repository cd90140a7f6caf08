"""From a step in Python to the list of its operations on tensors."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import fx, nn

from estimator.engine.cause import Cause, place_of
from estimator.engine.private import tracer
from estimator.engine.program import Program
from estimator.loss import as_losses
from estimator.loss_kinds import items_in_graph
from estimator.processor import BatchProcessor
from estimator.randomness import random_state_kept
from estimator.runtime import detach


class CannotTraceError(Exception):
    """A step that has no list of operations; holds the `Cause`."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Results(NamedTuple):
    """What a step gives, as numbers of the program's results; None where it gives nothing."""

    loss: int
    parts: dict[str, int]
    outputs: Any
    items: int | None
    single: int | None
    gradients: list[int | None]


class Traced(NamedTuple):
    """A step as a program, and what its results are."""

    program: Program
    results: Results


def flatten(value: Any, leaves: list[torch.Tensor]) -> Any:
    """Takes the tensors out of nested tuples, lists and dicts, and leaves their numbers there.

    Raises:
        CannotTraceError: There is something in it whose tensors cannot be seen.
    """
    if isinstance(value, torch.Tensor):
        leaves.append(value)
        return _Leaf(len(leaves) - 1)
    if isinstance(value, Mapping) and type(value) is dict:
        return {key: flatten(item, leaves) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return _like(value, [flatten(item, leaves) for item in value])
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise CannotTraceError(
        Cause("E102", f"a batch or output holds a {type(value).__name__}, which is not looked into")
    )


class _Leaf(int):
    """The number of a tensor in a flat list."""


def rebuild(form: Any, leaves: Sequence[Any]) -> Any:
    """The nested value that `flatten` took apart."""
    if isinstance(form, _Leaf):
        return leaves[form]
    if isinstance(form, dict):
        return {key: rebuild(item, leaves) for key, item in form.items()}
    if isinstance(form, (tuple, list)):
        return _like(form, [rebuild(item, leaves) for item in form])
    return form


def _like(value: Any, items: list[Any]) -> Any:
    # A namedtuple's own constructor may want more of its items than a form can give.
    return value._make(items) if hasattr(value, "_make") else type(value)(items)


def trace(
    processor: BatchProcessor, parameters: Sequence[torch.Tensor], batch: tuple[Any, Any],
    *, per_sample: bool, autocast: Any,
) -> Traced:  # fmt: skip
    """Writes down forward, loss and backward of a batch, on a copy of everything.

    Args:
        processor: Bound to the net and the loss.
        parameters: Whose gradients are wanted.
        batch: Inputs and targets.
        per_sample: Whether the losses of single samples are wanted.
        autocast: The context of the forward pass.

    Raises:
        CannotTraceError: It has no fixed list of operations.
    """
    make = tracer()
    if make is None:
        raise CannotTraceError(Cause("E110", "this torch cannot write down a step"))
    work = _Work(processor, parameters, batch, per_sample, autocast)
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

    def __init__(
        self, processor: BatchProcessor, parameters: Sequence[torch.Tensor],
        batch: tuple[Any, Any], per_sample: bool, autocast: Any,
    ) -> None:  # fmt: skip
        self.leaves: list[torch.Tensor] = []
        self.form = flatten(batch, self.leaves)
        self.per_sample, self.autocast = per_sample, autocast
        memo: dict[int, Any] = {}
        try:
            self.processor = copy.deepcopy(processor, memo)
        except Exception as error:  # anything may be in a user's objects
            raise CannotTraceError(
                Cause("E107", f"the net cannot be copied: {error!r}", place_of(error))
            ) from error
        # What is frozen gets no gradient.
        self.wanted = [i for i, p in enumerate(parameters) if id(p) in memo and p.requires_grad]
        self.parameters = [memo[id(parameters[i])] for i in self.wanted]
        self.count = len(parameters)
        known = itertools.chain(*map(_tensors_of, _modules_of(processor)))
        self.known = {id(memo[id(t)]): t for t in known if id(t) in memo}
        self.results = Results(0, {}, None, None, None, [])

    def run(self, make: Any) -> _Pass:
        before = _attributes(self.processor)
        try:
            module = make(self._step)(*(leaf.detach() for leaf in self.leaves))
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

    def _step(self, *leaves: torch.Tensor) -> list[Any]:
        inputs, targets = rebuild(self.form, leaves)
        with self.autocast:
            outputs = self.processor.forward(inputs)
            loss, parts = as_losses(self.processor.loss(outputs, targets), "the loss")
        flat: list[Any] = [loss.detach()]
        items = items_in_graph(loss)
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        kept = {name: _put(flat, part.detach()) for name, part in parts.items()}
        seen: list[torch.Tensor] = []
        form = flatten(detach(outputs), seen)
        base = len(flat)
        flat += seen
        single = None
        if self.per_sample:
            with torch.no_grad():
                losses = self.processor.sample_losses(rebuild(form, seen), targets)
            single = _put(flat, losses.detach().float())
        counted = None if items is None else _put(flat, items)
        places: list[int | None] = [None] * self.count
        for i, p, gradient in zip(self.wanted, self.parameters, gradients, strict=True):
            if gradient is not None:
                laid = gradient if gradient.stride() == p.stride() else gradient.contiguous()
                places[i] = _put(flat, laid.detach())
        outputs_at = rebuild(form, [_Leaf(base + i) for i in range(len(seen))])
        self.results = Results(0, kept, outputs_at, counted, single, places)
        return flat


def _put(flat: list[Any], value: Any) -> int:
    flat.append(value)
    return len(flat) - 1


def _modules_of(processor: BatchProcessor) -> list[nn.Module]:
    criterion = processor.criterion
    return [processor.net, *(criterion.modules() if criterion is not None else ())]


def _tensors_of(module: nn.Module) -> list[torch.Tensor]:
    """Parameters, buffers, and tensors that are kept as plain attributes."""
    plain = [v for m in module.modules() for v in vars(m).values() if isinstance(v, torch.Tensor)]
    return [*module.parameters(), *module.buffers(), *plain]


def _attributes(processor: BatchProcessor) -> dict[str, Any]:
    """The values of all plain attributes, whose change a program would not repeat."""
    found: dict[str, Any] = {}
    for module in _modules_of(processor):
        for path, part in module.named_modules():
            for name, value in vars(part).items():
                if not name.startswith("_"):
                    found[f"{path or type(module).__name__}.{name}"] = value
    return found

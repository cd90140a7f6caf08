"""A net as a function of named tensors, which is the form that a file of a net has."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from estimator.export_layers import make_exportable
from estimator.handlers.base import ArgumentError, ArgumentTypeError, EstimatorError, nearest
from estimator.processor import BatchProcessor, describe
from estimator.sharded import is_sharded

BATCH = "batch"
"""The name of the axis that counts samples."""

Dynamic = Mapping[str, Mapping[int, str | None]]
"""For each input the names of its axes that may have any size; None fixes one."""


class ExportError(EstimatorError, RuntimeError):
    """A net cannot be written as an ONNX file that does what the net does."""


def cpu_twin(processor: BatchProcessor) -> BatchProcessor:
    """A processor with a copy of its net, on the CPU and in evaluation mode.

    Compiled modules are copied as what they were compiled from. The original is only read.

    Raises:
        ExportError: The net cannot be copied, or is split over processes.
    """
    net = processor.net
    if is_sharded(net):
        raise ExportError(
            "export needs a net whose weights are in one process; those of this one are split "
            "over several. Save the weights, load them in a single process, and export there."
        )
    memo: dict[int, Any] = {}
    if processor.criterion is not None:
        memo[id(processor.criterion)] = processor.criterion  # it is not run here
    try:
        for module in net.modules():
            parts = (vars(module), module._parameters, module._buffers)
            for tensor in (v for part in parts for v in part.values() if isinstance(v, Tensor)):
                if id(tensor) not in memo:
                    memo[id(tensor)] = _on_cpu(tensor)
        for module in reversed(list(net.modules())):
            inner = getattr(module, "_orig_mod", None)
            if inner is not None:
                memo[id(module)] = copy.deepcopy(inner, memo)
        twin = copy.deepcopy(processor, memo)
    except Exception as error:  # what a module holds may refuse to be copied in any way
        raise ExportError(
            f"export works on a copy of the net, and {type(net).__name__} cannot be copied: "
            f"{first_line(error)}. Build the net anew, load its weights, and export that one."
        ) from error
    twin.net.eval()
    make_exportable(twin.net)
    return twin


def _on_cpu(tensor: Tensor) -> Tensor:
    copied = tensor.detach().to("cpu", copy=True)
    return (
        nn.Parameter(copied, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copied
    )


def first_line(error: BaseException) -> str:
    """What an error says, in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


def named_tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a nested structure: keys are joined by dots, places by underscores."""
    if isinstance(value, PackedSequence):
        raise ExportError(
            f"an ONNX file has tensors as inputs and outputs, and {name!r} is a packed sequence. "
            "Let the net take padded sequences and return such."
        )
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from named_tensors(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (tuple, list)):
        for place, item in enumerate(value):
            yield from named_tensors(item, f"{name}_{place}")


def with_tensors(value: Any, tensors: Iterator[Tensor]) -> Any:
    """The same structure with other tensors, taken in the order of `named_tensors`."""
    if isinstance(value, Tensor):
        return next(tensors)
    if isinstance(value, Mapping):
        return {key: with_tensors(item, tensors) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        items = [with_tensors(item, tensors) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def _distinct(names: Sequence[str], taken: Sequence[str] = ()) -> list[str]:
    found = list(taken)
    for name in names:
        free = name
        while free in found:
            free += "_"
        found.append(free)
    return found[len(taken) :]


class Form(nn.Module):
    """A net that takes and returns tensors, in a fixed order and under names.

    Args:
        processor: Runs the net; what `cpu_twin` gave.
        example: Inputs of the net as the processor splits them off a batch.
        outputs: The names of those that count; None takes all.

    Raises:
        ArgumentError: There is no such output.
        ExportError: The net takes or returns no tensor, or does not run.
    """

    def __init__(
        self, processor: BatchProcessor, example: Any, outputs: Sequence[str] | None
    ) -> None:
        super().__init__()
        self.net, self.processor, self.example = processor.net, processor, example
        found = list(self._named_inputs(example))
        if not found:
            raise ExportError(
                "export(example=...) must hold a tensor that goes to the net; received "
                f"{describe(example)}. Pass a batch as the loader yields it."
            )
        self.inputs = _distinct([name for name, _ in found])
        self.tensors = tuple(tensor for _, tensor in found)
        self._chosen: list[int] = []
        self.outputs: list[str] = []
        self._name_outputs(outputs)

    def _named_inputs(self, example: Any) -> Iterator[tuple[str, Tensor]]:
        if isinstance(example, Mapping):
            yield from named_tensors(example, "")
            return
        positional = isinstance(example, tuple) and not isinstance(example, PackedSequence)
        items = example if positional else (example,)
        names = [
            p.name for p in inspect.signature(self.net.forward).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]  # fmt: skip
        for place, item in enumerate(items):
            yield from named_tensors(item, names[place] if place < len(names) else f"input_{place}")

    def _name_outputs(self, wanted: Sequence[str] | None) -> None:
        if isinstance(wanted, str) or not (
            wanted is None or all(isinstance(n, str) for n in wanted)
        ):
            raise ArgumentTypeError(
                f"export(outputs=...) must be names of outputs in a list; received {wanted!r}."
            )
        try:
            result = self.run(self.tensors)
        except Exception as error:
            raise ExportError(
                "export(example=...) must be a batch that the net can be run on; with "
                f"{describe(self.example)} it fails: {first_line(error)}"
            ) from error
        named = list(named_tensors(result, "" if isinstance(result, Mapping) else "output"))
        names = [name for name, _ in named]
        for name in wanted or ():
            if name not in names:
                raise ArgumentError(
                    "export(outputs=...) must name outputs of the net; received "
                    f"{name!r}. {nearest(name, names)}"
                )
        self._chosen = [i for i, name in enumerate(names) if wanted is None or name in wanted]
        if not self._chosen:
            raise ExportError(
                f"{type(self.net).__name__} must return a tensor, or a structure of tensors; "
                f"received {describe(result)}."
            )
        # An output that is called as an input is, as that of an autoencoder, would hide it.
        self.outputs = _distinct([names[i] for i in self._chosen], self.inputs)

    def run(self, tensors: Sequence[Tensor]) -> Any:
        """What the processor makes of inputs, in its own structure."""
        # A net may change its inputs in place.
        copies = (tensor.clone() for tensor in tensors)
        with torch.no_grad():
            return self.processor.evaluate_forward(with_tensors(self.example, copies))

    def answers(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The chosen outputs for inputs of any batch size."""
        return self._choose(self.run(tensors))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The chosen outputs, as they are traced."""
        inputs = with_tensors(self.example, iter(tensors))
        return tuple(self._choose(self.processor.evaluate_forward(inputs)))

    def _choose(self, result: Any) -> list[Tensor]:
        found = [tensor for _, tensor in named_tensors(result, "output")]
        return [found[i] for i in self._chosen]


class Axes(NamedTuple):
    """Which axes of the inputs may have any size.

    Attributes:
        names: For each input, the name of each such axis.
        sizes: What the example has, by name.
    """

    names: list[dict[int, str]]
    sizes: dict[str, int]

    def resized(self, tensors: Sequence[Tensor], sizes: Mapping[str, int]) -> tuple[Tensor, ...]:
        """The inputs with other sizes; rows are repeated where there are too few."""
        found = []
        for tensor, names in zip(tensors, self.names, strict=True):
            for axis, name in names.items():
                rows = torch.arange(sizes[name]) % tensor.shape[axis]
                tensor = tensor.index_select(axis, rows)
            found.append(tensor.contiguous())
        return tuple(found)


def find_axes(form: Form, dynamic: Dynamic | None) -> Axes:
    """The batch axis of each input that has one, and the further axes that the user names.

    Args:
        form: Of the net.
        dynamic: As the user gave it.

    Raises:
        ArgumentError: An input or axis that is not there, a name that is none, or one name for
            axes of several sizes.
    """
    samples = form.processor.size(form.example, None)
    names: list[dict[int, str]] = []
    sizes = {BATCH: samples}
    given = {} if dynamic is None else dict(dynamic)
    for name in given:
        if name not in form.inputs:
            raise ArgumentError(
                f"export(dynamic=...) must name inputs of the net; received {name!r}. "
                f"{nearest(str(name), form.inputs)}"
            )
    for name, tensor in zip(form.inputs, form.tensors, strict=True):
        axes: dict[int, str | None] = {0: BATCH} if tensor.shape[:1] == (samples,) else {}
        axes |= _checked(name, tensor, given.get(name, {}))
        names.append({axis: called for axis, called in axes.items() if called is not None})
        for axis, called in names[-1].items():
            if sizes.setdefault(called, tensor.shape[axis]) != tensor.shape[axis]:
                raise ArgumentError(
                    f"export(dynamic=...) must give one name to axes of one size only; received "
                    f"{called!r} for axis {axis} of {name!r}, which has {tensor.shape[axis]}, and "
                    f"for one of {sizes[called]}. Use two names."
                )
    return Axes(names, sizes)


def _checked(name: str, tensor: Tensor, axes: Any) -> dict[int, str | None]:
    good = isinstance(axes, Mapping) and all(
        isinstance(axis, int)
        and 0 <= axis < tensor.ndim
        and (called is None or (isinstance(called, str) and called.isidentifier()))
        for axis, called in axes.items()
    )
    if not good:
        raise ArgumentError(
            f"export(dynamic=...) must map axes of {name!r}, from 0 to {tensor.ndim - 1}, to names "
            f"such as 'time', or to None for an axis that is fixed; received {axes!r}. "
            f"Write dynamic={{{name!r}: {{1: 'time'}}}}, for example."
        )
    return dict(axes)

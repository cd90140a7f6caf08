"""A net as an ONNX file that was run beside it before it is called done."""

from __future__ import annotations

import importlib.metadata
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from estimator.distributed import is_first
from estimator.export_check import check_model, compare, name_free_axes
from estimator.export_file import (
    drop_unused,
    needed,
    put_in_place,
    sizes_of,
    translate,
    write,
)
from estimator.export_form import Dynamic, ExportError, Form, cpu_twin, find_axes
from estimator.handlers.base import ArgumentError, writable_folder
from estimator.notices import notice
from estimator.predicting import Predicting
from estimator.processor import BatchProcessor
from estimator.randomness import random_state_kept
from estimator.runtime import move

__all__ = ["Dynamic", "ExportError", "ExportResult", "export_inputs", "export_onnx"]

TOLERANCE = 1e-4
_CPU = torch.device("cpu")


class ExportResult(NamedTuple):
    """A file that was written, and how it compares with its net."""

    path: Path
    inputs: dict[str, list[int | str]]
    """The shape of each input; axes that may have any size have names."""
    outputs: dict[str, list[int | str]]
    """The shape of each output."""
    differences: dict[int, float]
    """For each batch size that was tried the largest difference of any output from the net's,
    relative where the largest value of that output is above 1."""
    opset: int
    """The version of ONNX's operators."""

    @property
    def largest_difference(self) -> float:
        """Over all batch sizes."""
        return max(self.differences.values())

    @property
    def batch_sizes(self) -> list[int]:
        """At which file and net were compared."""
        return list(self.differences)

    def __str__(self) -> str:
        inputs, outputs = (
            ", ".join(f"{name} ({', '.join(map(str, shape))})" for name, shape in named.items())
            for named in (self.inputs, self.outputs)
        )
        return (
            f"{self.path}: {inputs} -> {outputs}; as the net within {self.largest_difference:.2g} "
            f"at batch sizes {', '.join(map(str, self.batch_sizes))}"
        )


def export_onnx(
    net: nn.Module, processor: BatchProcessor, path: str | os.PathLike[str], example: Any, *,
    dynamic: Dynamic | None = None, outputs: Sequence[str] | None = None,
    opset: int | None = None, tolerance: float = TOLERANCE,
) -> ExportResult:  # fmt: skip
    """Writes what a processor makes of a batch with its net, in evaluation, as an ONNX file.

    Inputs are named by the keys of a dict batch, else by the parameters of the net's forward;
    outputs by their keys, "output", or "output_0" and so on. The first axis of each input that
    has a row a sample is called "batch" and may have any size. What the outputs do not depend on,
    such as labels, is no input. Text and other things that are no tensors are fixed as they are in
    the example.

    The file is checked by onnx and run by onnxruntime beside the net for one sample, for as many
    as the example has and for more, before it takes the place of a former one; a report lies
    beside it as `<path>.json`. Weights of 1.9 GB and more are in a file `<path>.<...>.data`.

    All of this happens on a copy of the net on the CPU: modes, buffers, weights and random streams
    stay as they are.

    Args:
        net: The net.
        processor: Splits batches and runs the net.
        path: The file.
        example: A batch as the loader yields it, with or without targets.
        dynamic: Further axes that may have any size, as `{"tokens": {1: "time"}}`; the name None
            fixes one.
        outputs: Names of the outputs that are wanted; None takes all.
        opset: The version of ONNX's operators; None is the exporter's own choice.
        tolerance: The largest difference that is accepted.

    Raises:
        ArgumentError: An argument breaks its rule.
        ExportError: The net cannot be exported, or the file does not do what the net does; a
            former file is left alone.
        MissingExtraError: onnxscript or onnxruntime is not installed.
    """
    needed()
    inputs, _ = Predicting(processor).evaluate_split(move(example, _CPU))
    return export_inputs(
        net, processor, path, inputs,
        dynamic=dynamic, outputs=outputs, opset=opset, tolerance=tolerance,
    )  # fmt: skip


def export_inputs(
    net: nn.Module, processor: BatchProcessor, path: str | os.PathLike[str], inputs: Any, *,
    dynamic: Dynamic | None = None, outputs: Sequence[str] | None = None,
    opset: int | None = None, tolerance: float = TOLERANCE,
) -> ExportResult:  # fmt: skip
    """`export_onnx` for inputs that were split off their batch already.

    Args:
        net: The net.
        processor: Runs the net.
        path: The file.
        inputs: What goes to the net.
        dynamic: As there.
        outputs: As there.
        opset: As there.
        tolerance: As there.
    """
    needed()
    target = _checked_path(path)
    with random_state_kept():
        # In training the processor may hold what several processes wrap around the net.
        bound = processor.bound(net, processor.criterion, processor.target_keys)
        form = Form(Predicting(cpu_twin(bound)), move(inputs, _CPU), outputs)
        axes = find_axes(form, dynamic)
        program = translate(form, axes, opset)
        name_free_axes(program.model.graph, form, axes)
        kept = drop_unused(program.model.graph)
        with tempfile.TemporaryDirectory(prefix=".tmp-export-", dir=target.parent) as folder:
            files = write(program, Path(folder), target.name)
            check_model(files[-1], form)
            differences = compare(files[-1], form, axes, kept)
            result = _result(target, program.model, differences)
            _check_difference(result, form, tolerance)
            put_in_place(files, target, _report(result, tolerance))
    notice(f"Exported {result}.", show=is_first())
    return result


def _checked_path(path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    if target.is_dir():
        raise ArgumentError(
            f"export(path=...) must be the path of a file; {str(path)!r} is a folder. "
            f"Write {str(target / 'model.onnx')!r}, for example."
        )
    writable_folder(target.parent, "export(path=...)")
    return target


def _result(target: Path, model: Any, differences: dict[int, float]) -> ExportResult:
    inputs, outputs = (
        {str(value.name): sizes_of(value) for value in values}
        for values in (model.graph.inputs, model.graph.outputs)
    )
    return ExportResult(target, inputs, outputs, differences, model.opset_imports[""])


def _check_difference(result: ExportResult, form: Form, tolerance: float) -> None:
    if not result.inputs:
        raise ExportError(
            f"{type(form.net).__name__} gives outputs that depend on no input: the file would "
            "hold the answer to the example. Compute with tensors from input to output."
        )
    if not result.largest_difference <= tolerance:
        worst = max(result.differences, key=result.differences.__getitem__)
        raise ExportError(
            f"the ONNX file of {type(form.net).__name__} gives other outputs than the net: they "
            f"differ by {result.differences[worst]:.2g} at batch size {worst}, and "
            f"{tolerance:.2g} is accepted (at batch sizes {result.batch_sizes}: "
            f"{', '.join(f'{d:.2g}' for d in result.differences.values())}). Does the net draw "
            "random numbers, or read a tensor's value into a Python number?"
        )


def _report(result: ExportResult, tolerance: float) -> dict[str, Any]:
    return {
        "schema": 1,
        "file": result.path.name,
        "inputs": result.inputs,
        "outputs": result.outputs,
        "largest_difference": result.largest_difference,
        "differences": {str(size): value for size, value in result.differences.items()},
        "tolerance": tolerance,
        "opset": result.opset,
        "versions": {n: importlib.metadata.version(n) for n in ("torch", "onnx", "onnxruntime")},
    }

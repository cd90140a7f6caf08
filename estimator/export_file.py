"""An ONNX file: made by torch's exporter, freed of what it does not need, and put in its place."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from estimator.export_form import Axes, ExportError, Form, first_line
from estimator.handlers.base import require, write_whole

if TYPE_CHECKING:
    import onnx_ir

MOST_INSIDE = 1_900_000_000
"""Bytes of weights from which on they lie in a file of their own: one file holds below 2 GB."""


def needed() -> None:
    """Makes sure that all is there that an export needs.

    Raises:
        MissingExtraError: onnxscript or onnxruntime is not installed.
    """
    require("onnxscript", "onnx", "Exporting to ONNX")
    require("onnxruntime", "onnx", "Checking an ONNX file against its net")


def translate(form: Form, axes: Axes, opset: int | None) -> Any:
    """The net as torch's exporter translates it.

    Args:
        form: Of the net.
        axes: Those that may have any size.
        opset: The version of ONNX's operators; None is the exporter's own.

    Returns:
        A `torch.onnx.ONNXProgram`.

    Raises:
        ExportError: The net cannot be traced or translated.
    """
    # Tracing takes an axis of size 1 for one that always has it.
    example = axes.resized(form.tensors, {name: max(2, n) for name, n in axes.sizes.items()})
    dims = {name: torch.export.Dim(name) for name in axes.sizes}
    shapes = tuple({axis: dims[name] for axis, name in named.items()} for named in axes.names)
    try:
        with _quiet(), _fresh_kernels():
            program = torch.onnx.export(
                form, example, dynamo=True, verbose=False, opset_version=opset,
                input_names=form.inputs, output_names=form.outputs,
                dynamic_shapes={"tensors": shapes},
            )  # fmt: skip
    except Exception as error:  # the exporter passes on whatever a net raises
        raise ExportError(
            f"{type(form.net).__name__} cannot be exported to ONNX: {_reason(error)}"
        ) from error
    assert program is not None
    _check_axes(form, axes, program.model.graph)
    return program


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Holds back what torch's exporter says: what counts of it is in the error."""
    named = logging.root.manager.loggerDict.items()
    loggers = [log for name, log in named if name.partition(".")[0] == "torch"]
    handlers: list[logging.Handler | logging.Logger] = [
        h for log in loggers if isinstance(log, logging.Logger) for h in log.handlers
    ]
    # These have no handlers of their own, and speak through those of the program.
    handlers += map(logging.getLogger, ("onnx_ir", "onnxscript"))
    levels = [handler.level for handler in handlers]
    silence = io.StringIO()
    try:
        for handler in handlers:
            handler.setLevel(logging.CRITICAL + 1)
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(silence),
            contextlib.redirect_stderr(silence),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)


@contextlib.contextmanager
def _fresh_kernels() -> Iterator[None]:
    """Lets recurrent layers be traced for any length more than once in a process.

    For an export torch puts other code behind them, and their caches (as of torch 2.13) still hold
    what was behind them before: the second net would be unrolled to the length of its example.
    """
    recurrent = torch.ops.aten.gru.input, torch.ops.aten.lstm.input
    try:
        for operator in recurrent:
            operator._dispatch_cache.clear()
        yield
    finally:
        for operator in recurrent:
            operator._dispatch_cache.clear()


def _reason(error: BaseException) -> str:
    """The first cause in a line, and the line of the net where it is."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = first_line(error)
    if "data-dependent" in text:
        text = f"what it does depends on values of its input, as in an if or a loop ({text})"
    here = os.path.dirname(__file__), os.path.dirname(torch.__file__)
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(here)
    ]
    users = [f for f in frames if os.path.exists(f.filename) and "site-packages" not in f.filename]
    place = f", at {os.path.basename(users[-1].filename)}:{users[-1].lineno}" if users else ""
    return f"{text}{place}. The exporter's own words are in the error before this one."


def _check_axes(form: Form, axes: Axes, graph: onnx_ir.Graph) -> None:
    for value, names, tensor in zip(graph.inputs, axes.names, form.tensors, strict=True):
        shape = sizes_of(value)
        for axis, name in names.items():
            if isinstance(shape[axis], int):
                raise ExportError(
                    f"{type(form.net).__name__} cannot be exported with any size of the axis "
                    f"{name!r}: its code fixes that of {value.name!r} to {shape[axis]}, as by an "
                    "if over shapes, by len(x) in place of x.shape[0], or by a number in a reshape "
                    f"(the example has {list(tensor.shape)}). Write the code for all sizes, or fix "
                    f"the axis with dynamic={{{value.name!r}: {{{axis}: None}}}}."
                )


def sizes_of(value: onnx_ir.Value) -> list[int | str]:
    """The shape of an input or output: numbers, and names of what may have any size."""
    return [] if value.shape is None else [d if isinstance(d, int) else str(d) for d in value.shape]


def drop_unused(graph: onnx_ir.Graph) -> list[int]:
    """Takes out the inputs that the outputs do not depend on, such as labels.

    Of an input whose shape alone is asked for, to know how many samples there are, another one
    that is used can say so as well.

    Returns:
        The places of the inputs that are left.
    """
    import onnx_ir

    def only_shape(value: onnx_ir.Value) -> bool:
        return not value.is_graph_output() and all(
            node.op_type == "Shape" and "start" in node.attributes for node, _ in value.uses()
        )

    inputs = list(graph.inputs)
    kept = [value for value in inputs if not only_shape(value)]
    for value in inputs:
        if value in kept:
            continue
        for node, place in list(value.uses()):
            axis = node.attributes["start"].as_int()
            found = _same_axis(kept, sizes_of(value)[axis])
            if found is None:
                continue
            node.replace_input_with(place, found[0])
            for name, number in (("start", found[1]), ("end", found[1] + 1)):
                node.attributes[name] = onnx_ir.AttrInt64(name, number)
        if value.uses():
            kept.append(value)
        else:
            graph.inputs.remove(value)
    return [place for place, value in enumerate(inputs) if value in kept]


def _same_axis(
    values: Sequence[onnx_ir.Value], size: int | str
) -> tuple[onnx_ir.Value, int] | None:
    for value in values:
        sizes = sizes_of(value)
        if size in sizes:
            return value, sizes.index(size)
    return None


def write(program: Any, folder: Path, name: str) -> list[Path]:
    """Writes a program as one file, or with its weights in a second one where they are too large.

    Args:
        program: What `translate` gave.
        folder: Where nothing of the name is.
        name: Of the file.

    Returns:
        The files in the order in which they are to be put in place: the one that needs the other
        comes last.
    """
    import onnx_ir

    path, weights = folder / name, program.model.graph.initializers.values()
    large = sum(0 if w.const_value is None else w.const_value.nbytes for w in weights)
    if large < MOST_INSIDE:
        onnx_ir.save(program.model, path)
        return [path]
    # A name of its own: the former file keeps its weights until the very end.
    with tempfile.NamedTemporaryFile(prefix=f"{name}.", suffix=".data", dir=folder) as free:
        beside = Path(free.name).name
    onnx_ir.save(program.model, path, external_data=beside)
    return [folder / beside, path]


def put_in_place(files: Sequence[Path], target: Path, report: Mapping[str, Any]) -> None:
    """Replaces the former file, its weights and its report by the files of a checked export."""
    kept = {target.parent / file.name for file in files}
    for file in files:
        os.replace(file, target.parent / file.name)
    for former in target.parent.glob("*.data"):
        if former.name.startswith(f"{target.name}.") and former not in kept:
            former.unlink()
    text = json.dumps(report, indent=1, allow_nan=False, ensure_ascii=False)
    write_whole(target.with_name(f"{target.name}.json"), text.encode("utf-8") + b"\n")

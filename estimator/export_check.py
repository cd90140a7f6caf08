"""An ONNX file beside its net: whether it gives what the net gives, at several sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from estimator.export_file import sizes_of
from estimator.export_form import BATCH, Axes, ExportError, Form, first_line

if TYPE_CHECKING:
    import onnx_ir

_MORE = 3
"""How much longer than in the example axes are in the last comparison."""


def check_model(path: Path, form: Form) -> None:
    """Holds a file against the rules of ONNX.

    Raises:
        ExportError: It breaks one.
    """
    import onnx

    try:
        onnx.checker.check_model(path, full_check=True)
    except Exception as error:  # shape inference has exceptions of its own
        raise ExportError(
            f"the ONNX file of {type(form.net).__name__} breaks a rule of ONNX: {first_line(error)}"
        ) from error


def compare(path: Path, form: Form, axes: Axes, kept: Sequence[int]) -> dict[int, float]:
    """Runs a file beside its net.

    Args:
        path: The file.
        form: Of the net.
        axes: Those that may have any size.
        kept: The places of the inputs that the file has.

    Returns:
        For each of three batch sizes the largest difference of any output, relative where the
        output's largest value is above 1.

    Raises:
        ExportError: The file does not run.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    found: dict[int, float] = {}
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        for tensors in _sizes(form, axes):
            feed = {form.inputs[place]: tensors[place].numpy() for place in kept}
            outputs = session.run(form.outputs, feed)
            pairs = zip(form.answers(tensors), outputs, strict=True)
            found[_samples(axes, tensors)] = max(difference(*pair) for pair in pairs)
    except ExportError:
        raise
    except Exception as error:  # the exceptions of onnxruntime have no common root of their own
        raise ExportError(
            f"the ONNX file of {type(form.net).__name__} cannot be run by onnxruntime, after batch "
            f"sizes {sorted(found)}: {first_line(error)}"
        ) from error
    return found


def name_free_axes(graph: onnx_ir.Graph, form: Form, axes: Axes) -> None:
    """Names the axes of outputs that the exporter took for fixed, as behind recurrent layers."""
    import onnx_ir

    *_, longer = _sizes(form, axes)
    for value, answer in zip(graph.outputs, form.answers(longer), strict=True):
        shape = sizes_of(value)
        if len(shape) == answer.ndim:
            value.shape = onnx_ir.Shape(
                size if isinstance(size, str) or size == grown else _name(axes, size, grown, value)
                for size, grown in zip(shape, answer.shape, strict=True)
            )


def _name(axes: Axes, size: int, grown: int, value: onnx_ir.Value) -> str:
    """The axis of an input that has the same sizes; else a name of its own."""
    same = (name for name, s in axes.sizes.items() if (s, s + _MORE) == (size, grown))
    return next(same, f"{value.name}_size")


def _samples(axes: Axes, tensors: Sequence[Tensor]) -> int:
    sizes = {
        n: t.shape[a]
        for t, named in zip(tensors, axes.names, strict=True)
        for a, n in named.items()
    }
    return sizes.get(BATCH, axes.sizes[BATCH])


def _sizes(form: Form, axes: Axes) -> Iterator[tuple[Tensor, ...]]:
    """The example with one sample, as it is, and with more samples and longer further axes."""
    samples = axes.sizes[BATCH]
    yield axes.resized(form.tensors, axes.sizes | {BATCH: 1})
    if samples > 1:
        yield axes.resized(form.tensors, axes.sizes)
    else:
        yield axes.resized(form.tensors, axes.sizes | {BATCH: 2})
    longer = {name: size + _MORE for name, size in axes.sizes.items()}
    shorter = {name: max(1, size - 1) for name, size in axes.sizes.items()}
    for sizes in (longer, shorter | {BATCH: longer[BATCH]}):
        tensors = axes.resized(form.tensors, sizes)
        try:
            form.run(tensors)
        except Exception as error:
            reason = first_line(error)
            continue
        yield tensors
        return
    raise ExportError(
        f"{type(form.net).__name__} itself cannot be run with other sizes of the axes "
        f"{list(axes.sizes)} than those of the example: {reason}. Name only axes that may change."
    )


def difference(expected: Tensor, found: Any) -> float:
    """The largest difference, relative where the largest expected value is above 1.

    NaN equals NaN; it is infinitely far from numbers, as is another shape or type.
    """
    wanted = expected.detach()
    given = torch.as_tensor(found)
    if given.shape != wanted.shape or given.dtype != wanted.dtype:
        return math.inf
    wanted, given = wanted.to(torch.float64), given.to(torch.float64)
    same = (wanted == given) | (wanted.isnan() & given.isnan())
    far = torch.where(same, 0.0, (wanted - given).abs())
    far = torch.where(far.isnan(), math.inf, far)
    finite = wanted[wanted.isfinite()].abs()
    scale = max(1.0, float(finite.max())) if finite.numel() else 1.0
    return float(far.max()) / scale if far.numel() else 0.0

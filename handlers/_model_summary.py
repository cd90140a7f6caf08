"""What a net is made of: layers, shapes, parameters, multiply-adds and memory."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.rnn import PackedSequence
from torch.utils.flop_counter import FlopCounterMode

_PLAIN = SDPBackend.MATH
"""Attention as matrix products, which can be counted; fused kernels cannot."""
COLUMNS = ("layer", "kind", "output", "parameters", "trainable", "multiply-adds", "calls")


class Layer(NamedTuple):
    """One module; what it shares with one before is counted there."""

    name: str
    kind: str
    output: str
    """Shapes of what its first call returned; "not called" where there was none."""
    parameters: int
    """Elements of its own parameters, without those of the modules inside."""
    trainable: int
    multiply_adds: int
    """Of one sample, without those of the modules inside."""
    calls: int


class Summary(NamedTuple):
    """A net in numbers, for one batch of `samples`; `str()` of it is a table.

    Attributes:
        layers: Every module that holds no others, or has parameters or computes by itself.
        samples: In the example.
        parameters: Elements; shared ones count once.
        trainable: Those that are trained.
        buffers: Elements of the buffers.
        multiply_adds: Of one sample in a forward pass: matrix products, convolutions, attention
            and recurrent layers.
        weight_bytes: Of parameters and buffers.
        gradient_bytes: Of the gradients of all that is trained.
        activation_bytes: Of what all layers put out for one sample, most of which a backward pass
            needs.
    """

    layers: list[Layer]
    samples: int
    parameters: int
    trainable: int
    buffers: int
    multiply_adds: int
    weight_bytes: int
    gradient_bytes: int
    activation_bytes: int

    @property
    def totals(self) -> list[tuple[str, str]]:
        """What is true of the whole net, in words."""
        return [
            ("parameters", f"{self.parameters:,}"),
            ("trainable", f"{self.trainable:,}"),
            ("frozen", f"{self.parameters - self.trainable:,}"),
            ("elements of buffers", f"{self.buffers:,}"),
            ("multiply-adds a sample", f"{self.multiply_adds:,}"),
            ("weights", in_bytes(self.weight_bytes)),
            ("gradients", in_bytes(self.gradient_bytes)),
            ("outputs of layers a sample", in_bytes(self.activation_bytes)),
        ]

    def __str__(self) -> str:
        rows = [
            [str(cell) if i < 3 else f"{cell:,}" for i, cell in enumerate(r)] for r in self.layers
        ]
        table = [list(COLUMNS), *rows]
        widths = [max(len(row[i]) for row in table) for i in range(len(COLUMNS))]
        lines = [
            "  ".join(
                cell.ljust(width) if i < 3 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in table
        ]
        wide = max(len(name) for name, _ in self.totals)
        return "\n".join([*lines, "", *(f"{n.ljust(wide)}  {v}" for n, v in self.totals)])


def in_bytes(count: int) -> str:
    """A number of bytes in a readable unit.

    Example:
        >>> in_bytes(2_500_000)
        '2.50 MB'
    """
    for power, unit in ((3, "GB"), (2, "MB"), (1, "kB")):
        if count >= 1000**power:
            return f"{count / 1000**power:.2f} {unit}"
    return f"{count} bytes"


def summarize(net: nn.Module, example: Any) -> Summary:
    """Runs a net on an example, in evaluation and without gradients, and counts.

    Modes, buffers and random streams are as before afterwards.

    Args:
        net: Any module.
        example: What goes to it: a tensor, a tuple of arguments, or a dict of keyword arguments
            (which a net whose forward has one parameter `batch` gets whole).

    Example:
        >>> summary = summarize(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), torch.zeros(2, 4))
        >>> summary.parameters, summary.multiply_adds
        (15, 12)
    """
    calls: dict[nn.Module, list[Any]] = {}

    def note(module: nn.Module, _inputs: Any, output: Any) -> None:
        calls.setdefault(module, []).append([tuple(t.shape) for t in _tensors(output)])
        if not any(True for _ in module.children()):
            sizes.append(sum(t.numel() * t.element_size() for t in _tensors(output)))
        if isinstance(module, nn.RNNBase):
            recurrent[module] = recurrent.get(module, 0) + _of_recurrent(module, output)

    sizes: list[int] = []
    recurrent: dict[nn.Module, int] = {}
    counter = FlopCounterMode(display=False)
    with undisturbed(net), _hooked(net, note), counter, torch.no_grad(), sdpa_kernel(_PLAIN):
        net.eval()
        _call(net, example)
    samples = next((t.shape[0] for t in _tensors(example) if t.ndim), 1) or 1
    own = _own_multiply_adds(net, counter, recurrent)
    return _summary(net, calls, own, samples, sum(sizes))


def _call(net: nn.Module, example: Any) -> None:
    if isinstance(example, Mapping):
        whole = list(inspect.signature(net.forward).parameters) == ["batch"]
        net(example) if whole else net(**example)
    elif isinstance(example, tuple) and not isinstance(example, PackedSequence):
        net(*example)
    else:
        net(example)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif hasattr(value, "value"):  # an output that describes itself
        yield from _tensors(value.value)


@contextlib.contextmanager
def _hooked(net: nn.Module, hook: Any) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module in net.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def undisturbed(net: nn.Module) -> Iterator[None]:
    """Gives a net its modes and buffers back, and the global random streams their states."""
    modes = [(module, module.training) for module in net.modules()]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in net.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    python, numpy = random.getstate(), np.random.get_state()
    accelerators = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    fast = torch.backends.mha.get_fastpath_enabled()
    with torch.random.fork_rng(devices=accelerators):
        try:
            # What the fused path of attention computes is nowhere to be counted.
            torch.backends.mha.set_fastpath_enabled(False)
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            random.setstate(python)
            np.random.set_state(numpy)
            with torch.no_grad():
                for module, name, buffer, value in buffers:
                    setattr(module, name, buffer.copy_(value))
            for module, mode in modes:
                module.training = mode


def _of_recurrent(module: nn.RNNBase, output: Any) -> int:
    """Every weight of a recurrent layer is used once at each position of each sequence."""
    steps = output[0]
    if isinstance(steps, PackedSequence):
        positions = int(steps.data.shape[0])
    else:
        positions = math.prod(steps.shape[:-1])
    return positions * sum(p.numel() for name, p in module.named_parameters() if "weight" in name)


def _own_multiply_adds(
    net: nn.Module, counter: FlopCounterMode, recurrent: Mapping[nn.Module, int]
) -> dict[str, int]:
    """What each module computes by itself; the counter adds up what is inside."""
    counted = counter.get_flop_counts()
    root = type(net).__name__
    whole = {
        name: sum(counted.get(f"{root}.{name}" if name else root, {}).values()) // 2
        for name, _ in net.named_modules()
    }
    whole[""] = max(whole[""], sum(counted.get("Global", {}).values()) // 2)
    own = dict(whole)
    for name, count in whole.items():
        above = name
        # A list of layers is never called, so that what its layers compute is its owner's.
        while above and count:
            above = above.rpartition(".")[0]
            if whole[above] or not above:
                own[above] -= count
                break
    return own | {n: recurrent[m] for n, m in net.named_modules() if m in recurrent}


def _summary(
    net: nn.Module,
    calls: Mapping[nn.Module, list[Any]],
    own: Mapping[str, int],
    samples: int,
    put_out: int,
) -> Summary:
    layers, seen = [], set[int]()
    for name, module in net.named_modules():
        parameters = [p for p in module.parameters(recurse=False) if id(p) not in seen]
        seen |= {id(p) for p in parameters}
        leaf = next(module.children(), None) is None
        if not (leaf or parameters or own[name]):
            continue
        came = calls.get(module, [])
        layers.append(
            Layer(
                name or "(net)",
                type(module).__name__,
                _in_words(came),
                _elements(parameters),
                _elements(p for p in parameters if p.requires_grad),
                own[name] // samples,
                len(came),
            )  # fmt: skip
        )
    every, buffers = list(net.parameters()), list(net.buffers())
    trained = [p for p in every if p.requires_grad]
    return Summary(
        layers, samples, _elements(every), _elements(trained), _elements(buffers),
        sum(own.values()) // samples, _bytes([*every, *buffers]), _bytes(trained),
        put_out // samples,
    )  # fmt: skip


def _in_words(calls: list[Any]) -> str:
    if not calls:
        return "not called"
    return ", ".join("x".join(map(str, shape)) or "scalar" for shape in calls[0]) or "no tensor"


def _elements(tensors: Any) -> int:
    return functools.reduce(lambda total, tensor: total + tensor.numel(), tensors, 0)


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)

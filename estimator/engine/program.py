"""A traced step as straight-line code."""

from __future__ import annotations

import contextlib
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from estimator.engine.private import AsWritten, compiler

_aten = torch.ops.aten
_NAME = re.compile(r"\bv\d+\b")
# Under no_grad an alias of a tensor is as good as the tensor.
_ALIASES = (_aten.detach.default, _aten.alias.default, _aten.lift_fresh_copy.default)
_IDLE = (_aten.empty.memory_format, _aten.t.default, _aten.detach.default, _aten.view.default)


class Program:
    """A list of operations on tensors that can be run again and again.

    Args:
        graph: Traced; its inputs come first to last.
        constants: The tensors that its attributes stand for, by name.
    """

    def __init__(self, graph: fx.Graph, constants: dict[str, torch.Tensor]) -> None:
        self.constants = list(constants.values())
        writer = _Writer(graph, list(constants))
        self.source = writer.source
        make = compiler()
        self.backend = "interpreter" if make is not None else "python"
        run = _in_python(self.source) if make is None else make(self.source)
        self._run: Callable[..., list[Any]] = run
        self._context = contextlib.nullcontext if make is None else AsWritten

    def __call__(self, leaves: Sequence[torch.Tensor]) -> list[Any]:
        """Runs the program.

        Args:
            leaves: Its inputs.

        Returns:
            What the traced function returned, flat; None where that was None.
        """
        return self.on(self.constants, leaves)

    def on(self, constants: Sequence[torch.Tensor], leaves: Sequence[torch.Tensor]) -> list[Any]:
        """Runs the program on other tensors in the place of its constants, to try it."""
        with torch.no_grad(), self._context():
            return self._run(*constants, *leaves)


class Compiled:
    """A program as machine code, whose operations are fused and round in another order.

    Args:
        program: What is compiled; its first run takes tens of seconds.
    """

    def __init__(self, program: Program) -> None:
        self.constants = program.constants
        # Dropout draws what the eager step draws.
        options: dict[str, Any] = {"fallback_random": True}
        body = _in_python(program.source)
        self._run = torch.compile(body, fullgraph=True, dynamic=False, options=options)

    def __call__(self, leaves: Sequence[torch.Tensor]) -> list[Any]:
        """Runs the program as `Program` does."""
        return self.on(self.constants, leaves)

    def on(self, constants: Sequence[torch.Tensor], leaves: Sequence[torch.Tensor]) -> list[Any]:
        """Runs the program on other tensors in the place of its constants, to try it."""
        with torch.no_grad():
            return self._run(*constants, *leaves)


class _Writer:
    """Writes a graph as the source of one function."""

    def __init__(self, graph: fx.Graph, constants: Sequence[str]) -> None:
        self.names: dict[fx.Node, str] = {}
        self.lines: list[str] = []
        self.inputs: list[str] = []
        self.attributes = {name: f"c{i}" for i, name in enumerate(constants)}
        self.transposed: dict[str, str] = {}
        self.result = "[]"
        _drop_idle(graph)
        for node in graph.nodes:
            getattr(self, f"_{node.op}")(node)
        arguments = [*self.attributes.values(), *self.inputs]
        head = ", ".join(f"{name}: Tensor" for name in arguments)
        body = "".join(f"  {line}\n" for line in self._needed())
        self.source = f"def program({head}):\n{body}  return {self.result}\n"

    def _needed(self) -> list[str]:
        """The lines without transposes that have turned out to be of no use."""
        kept: list[str] = []
        used = set(_NAME.findall(self.result))
        for line in reversed(self.lines):
            name, _, call = line.partition(" = ")
            if name in used or not call.startswith("torch.ops.aten.t("):
                kept.append(line)
                used.update(_NAME.findall(call))
        return kept[::-1]

    def _placeholder(self, node: fx.Node) -> None:
        self.names[node] = f"x{len(self.inputs)}"
        self.inputs.append(self.names[node])

    def _get_attr(self, node: fx.Node) -> None:
        self.names[node] = self.attributes[str(node.target)]

    def _call_function(self, node: fx.Node) -> None:
        target: Any = node.target
        if target in _ALIASES:
            self.names[node] = self._text(node.args[0])
        elif target is operator.getitem:
            self.names[node] = f"{self._text(node.args[0])}[{node.args[1]}]"
        elif target is _aten.t.default and self._text(node.args[0]) in self.transposed:
            # The transpose of a transpose, which backward makes of every weight's gradient.
            self.names[node] = self.transposed[self._text(node.args[0])]
        else:
            self._call(node, target)

    def _call(self, node: fx.Node, target: Any) -> None:
        name = self.names[node] = f"v{len(self.names)}"
        if target is _aten.t.default:
            self.transposed[name] = self._text(node.args[0])
        arguments = [self._text(value) for value in node.args]
        arguments += [f"{k}={self._text(v)}" for k, v in node.kwargs.items() if v is not None]
        function = target._schema.name.replace("::", ".")
        self.lines.append(f"{name} = torch.ops.{function}({', '.join(arguments)})")

    def _output(self, node: fx.Node) -> None:
        results: Any = node.args[0]
        self.result = f"[{', '.join(self._text(value) for value in results)}]"

    def _text(self, value: Any) -> str:
        if isinstance(value, fx.Node):
            return self.names[value]
        if isinstance(value, (list, tuple)):
            return f"[{', '.join(map(self._text, value))}]"
        if isinstance(value, torch.device):
            return f'torch.device("{value}")'
        if isinstance(value, float) and (value != value or value in (float("inf"), -float("inf"))):
            return f'float("{value}")'
        return repr(value)


def _drop_idle(graph: fx.Graph) -> None:
    """Takes out what nobody uses and what draws nothing from a random stream."""
    for node in reversed(list(graph.nodes)):
        if node.op == "call_function" and node.target in _IDLE and not node.users:
            graph.erase_node(node)


def _in_python(source: str) -> Callable[..., list[Any]]:
    """The same program as Python, where torch's interpreter is not to be had."""
    names: dict[str, Any] = {"torch": torch, "Tensor": torch.Tensor}
    exec(compile(source, "<program>", "exec"), names)  # written by us, of operations alone
    return names["program"]  # type: ignore[no-any-return]  # by exec

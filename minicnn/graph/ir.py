"""The Graph as plain data: values, the nodes that compute them, and where both came from.

Nothing here runs anything; `trace.py` makes a Graph, the other files of this folder are passes over it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

import numpy as np

from minicnn.function import Function
from minicnn.tensor import Tensor

Kind = Literal["input", "parameter", "buffer", "constant", "result"]


@dataclass(eq=False)
class Value:
    """One array that flows through the model.

    name: parameter path ('features.0.weight'), 'input', or '%7' for results.
    tensor: the tensor itself for parameters, buffers and constants; None for inputs and results.
    view_of: the value whose memory a result looked into when it was recorded; None if it has its own.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    dtype: np.dtype
    tensor: Tensor | None = None
    view_of: Value | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of a dense copy."""
        return self.size * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}{list(self.shape)}"


@dataclass(eq=False)
class Node:
    """One op: `outputs = op(*inputs, **options)`.

    op: the Function class. inputs: Values, and None or numbers where the op was given those.
    outputs: the differentiable result first, then what else it gave. layer: dotted path of the module.
    differentiated: whether gradients pass, which no_grad() and detach() prevent.
    """

    op: type[Function]
    inputs: tuple[Value | Any, ...]
    options: dict[str, Any]
    outputs: tuple[Value, ...]
    layer: str = ""
    differentiated: bool = True

    @property
    def name(self) -> str:
        """The op's name."""
        return self.op.__name__

    @property
    def output(self) -> Value:
        """The differentiable result."""
        return self.outputs[0]

    @property
    def values(self) -> tuple[Value, ...]:
        """The inputs that are Values."""
        return tuple(x for x in self.inputs if isinstance(x, Value))


@dataclass
class Graph:
    """One forward pass: nodes in the order in which they ran."""

    inputs: list[Value]
    outputs: list[Value]
    nodes: list[Node] = field(default_factory=list)

    def parameters(self) -> Iterator[Value]:
        """Parameters in order of first use, each once."""
        seen: set[Value] = set()
        for node in self.nodes:
            for value in node.values:
                if value.kind == "parameter" and value not in seen:
                    seen.add(value)
                    yield value

    def producers(self) -> dict[Value, Node]:
        """The node that computes each result."""
        return {value: node for node in self.nodes for value in node.outputs}

    def consumers(self) -> dict[Value, list[Node]]:
        """The nodes that read each value, in order; a node that reads it twice stands once."""
        readers: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for value in dict.fromkeys(node.values):
                readers.setdefault(value, []).append(node)
        return readers

    def __str__(self) -> str:
        lines = [f"graph({', '.join(str(value) for value in self.inputs)})"]
        for node in self.nodes:
            arguments = [value.name if isinstance(value, Value) else repr(value) for value in node.inputs]
            arguments += [f"{key}={value!r}" for key, value in node.options.items()]
            place = f"  # {node.layer}" if node.layer else ""
            lines.append(f"  {node.output} = {node.name}({', '.join(arguments)}){place}")
        lines.append(f"  return {', '.join(value.name for value in self.outputs)}")
        return "\n".join(lines)

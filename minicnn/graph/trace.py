"""trace: run a model once and write down every op, as a Graph.

What is recorded is what ran: shapes, options and Python branches are those of this sample. A forward
whose Python looks at values (`if x.sum() > 0`) would be recorded wrongly for other samples, so it is refused.
"""

from __future__ import annotations

import linecache
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np

import minicnn_kernels as kernels
from minicnn import scope
from minicnn.function import Function
from minicnn.grad_mode import is_grad_enabled
from minicnn.graph.ir import Graph, Node, Value
from minicnn.tensor import Tensor, as_tensor

_ENGINE = (
    str(Path(kernels.__file__).parent),
    *(str(Path(scope.__file__).parent / part) for part in ("tensor.py", "function", "graph", "nn/module.py")),
    str(Path(np.__file__).parent),
)


class TraceError(RuntimeError):
    """The model cannot be recorded as a Graph; the message names the line."""


class Detach(Function):
    """The same memory, cut off from the tape."""

    is_view = True

    def forward(self, x: Any) -> Any:
        return x


class _Tracer:
    """Listens to every op of one forward pass."""

    def __init__(self, names: dict[int, tuple[str, str]]) -> None:
        self.names = names  # id of an array: (kind, dotted name)
        self.values: dict[int, Value] = {}
        self.alive: list[Any] = []  # an id stands for its array only while the array lives
        self.nodes: list[Node] = []
        self.results = 0

    def value(self, tensor: Tensor) -> Value:
        """The Value of `tensor`, made now if no op has produced it."""
        array = tensor.data
        known = self.values.get(id(array))
        if known is None:
            kind, name = self.names.get(id(array), ("constant", f"constant{len(self.values)}"))
            known = self.define(tensor, name, kind, tensor)
        return known

    def define(self, tensor: Tensor, name: str, kind: Any, held: Tensor | None = None) -> Value:
        """A new Value for the array of `tensor`."""
        array = tensor.data
        self.alive.append(array)
        value = self.values[id(array)] = Value(name, kind, array.shape, array.dtype, held)
        return value

    def op(self, function: type[Function], inputs: tuple, options: dict, results: tuple) -> None:
        sources = tuple(self.value(x) if isinstance(x, Tensor) else x for x in inputs)
        outputs = []
        for result in results:
            outputs.append(self.define(result, f"%{self.results}", "result"))
            self.results += 1
        if function.is_view and kernels.share_memory(results[0].data, inputs[0].data):
            outputs[0].view_of = sources[0]
        node = Node(function, sources, dict(options), tuple(outputs), scope.path(), is_grad_enabled())
        self.nodes.append(node)

    def detach(self, tensor: Tensor, result: Tensor) -> None:
        self.op(Detach, (tensor,), {}, (result,))
        self.nodes[-1].differentiated = False

    def draw(self, size: int) -> None:
        raise TraceError(
            f"trace: {line_of_caller()}: random numbers drawn by the forward pass would be the same in "
            f"every run; use dropout, pass them as an input, or run it without tracing"
        )

    def read(self, tensor: Tensor, how: str) -> None:
        value = self.values.get(id(tensor.data))
        if value is None or value.kind not in ("input", "result"):
            return  # a constant or a parameter does not depend on the sample
        raise TraceError(
            f"trace: {line_of_caller()}: Python reads a computed value through Tensor.{how}, so the forward "
            f"pass depends on the data; compute with tensors (minicnn.where), or run it without tracing"
        )


def line_of_caller() -> str:
    """File, line and text of the innermost frame outside of the engine and NumPy: the model's own code."""
    for frame, line in traceback.walk_stack(sys._getframe(1)):
        filename = frame.f_code.co_filename
        if not filename.startswith(_ENGINE):
            text = linecache.getline(filename, line).strip()
            return f"{Path(filename).name}, line {line}" + (f" ({text})" if text else "")
    return "unknown line"


def trace(model: Any, *inputs: Any) -> Graph:
    """The Graph of `model(*inputs)` in the model's present mode (train or eval).

    inputs: tensors or arrays, one for each argument of the model's forward. Raises TraceError if Python
    code in the forward pass depends on computed values, or draws random numbers outside of dropout.
    """
    return record(model, *inputs)[0]


def record(model: Any, *inputs: Any) -> tuple[Graph, Any]:
    """`trace`, together with what the recorded run itself returned."""
    names: dict[int, tuple[str, str]] = {}
    if hasattr(model, "named_parameters"):
        for name, parameter in model.named_parameters():
            names[id(parameter.data)] = ("parameter", name)
        for name, buffer in model.named_buffers():
            names[id(buffer.data)] = ("buffer", name)
    tracer = _Tracer(names)
    tensors = [as_tensor(x) for x in inputs]
    sources = [
        tracer.define(tensor, "input" if len(tensors) == 1 else f"input{i}", "input")
        for i, tensor in enumerate(tensors)
    ]
    with scope.recording(tracer):
        outcome = model(*tensors)
    results = outcome if isinstance(outcome, (tuple, list)) else (outcome,)
    for result in results:
        if not isinstance(result, Tensor):
            raise TraceError(
                f"trace: expected the model to return a tensor or several, got {type(result).__name__}"
            )
    graph = Graph(sources, [tracer.value(result) for result in results], tracer.nodes)
    return graph, outcome

"""with_programs: runs of ops on integers become programs of the back end, one node each.

A back end takes a program as a whole (see `minicnn_kernels/integer_calls.py`), so that what lies between its
ops stays in the processor's cache. Runs are as long as can be: floats are computed first where they are
ready, then all integers that nothing else has to be computed for, then floats again.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

import minicnn_kernels as kernels
from minicnn.function import Function
from minicnn.functions.integer import FLOAT32, IntegerOp
from minicnn.functions.joining import Cat
from minicnn.functions.shape import Reshape
from minicnn.graph.constants import host_array
from minicnn.graph.ir import Graph, Node, Value
from minicnn_kernels.integer_calls import IntegerCall, Slot


class Program:
    """Integer ops in a row, ready to be called: made anew for each back end that is asked for it."""

    def __init__(self, nodes: Sequence[Node], inputs: Sequence[Value], outputs: Sequence[Value]) -> None:
        self.nodes = tuple(nodes)
        values = [*inputs, *(value for node in nodes for value in node.outputs)]
        slots = {value: Slot(i) for i, value in enumerate(values)}
        self._row = (
            [_call(node, slots) for node in nodes],
            [slots[value].number for value in inputs],
            [slots[value].number for value in outputs],
        )
        self._made: dict[Any, Any] = {}  # by back end

    def __call__(self, *arrays: Any) -> tuple[Any, ...]:
        """The outputs for the inputs."""
        backend = kernels.of(*arrays, FLOAT32)
        made = self._made.get(backend)
        if made is None:
            made = self._made[backend] = backend.IntegerProgram(*self._row)
        return made(*arrays)


class RunProgram(Function):
    """A program as one op: what it gives, in its order."""

    def forward(self, *arrays: Any, program: Program) -> Any:
        results = program(*arrays)
        return results if len(results) > 1 else results[0]


def with_programs(graph: Graph) -> Graph:
    """`graph`, made by `to_integers`, with each run of integer ops as one RunProgram node."""
    stages: dict[Value, tuple[int, bool]] = dict.fromkeys(graph.inputs, (0, False))
    runs: dict[tuple[int, bool], list[Node]] = {}
    for node in graph.nodes:
        inside = serves(node)
        before = [stages[value] for value in _moving(node)]
        # What a program reads from outside of programs must be there before it begins.
        stage = max((stage + (inside and not made_inside) for stage, made_inside in before), default=0)
        stages.update(dict.fromkeys(node.outputs, (stage, inside)))
        runs.setdefault((stage, not inside), []).append(node)
    readers = graph.consumers()
    nodes: list[Node] = []
    for (_, outside), run in sorted(runs.items(), key=lambda item: item[0]):
        worth = not outside and any(issubclass(node.op, IntegerOp) for node in run)
        nodes += [_program_node(run, graph, readers)] if worth else run
    return Graph(graph.inputs, graph.outputs, nodes)


def serves(node: Node) -> bool:
    """Whether a program can hold the node."""
    x = node.inputs[0]
    if issubclass(node.op, IntegerOp):
        return True
    if not isinstance(x, Value) or x.dtype != np.uint8 or len(x.shape) != 4:
        return False
    if node.op is Cat:
        return node.options["dim"] == 1 and len(_moving(node)) == len(node.inputs)
    return node.op is Reshape and node.output.shape == (x.shape[0], prod(x.shape[1:]))


def _program_node(run: Sequence[Node], graph: Graph, readers: dict[Value, list[Node]]) -> Node:
    made = {value for node in run for value in node.outputs}
    inputs = dict.fromkeys(value for node in run for value in _moving(node) if value not in made)
    inside = set(map(id, run))
    outputs = [
        value
        for node in run
        for value in node.outputs
        if value in graph.outputs or any(id(reader) not in inside for reader in readers.get(value, ()))
    ]
    program = Program(run, list(inputs), outputs)
    return Node(RunProgram, tuple(inputs), {"program": program}, tuple(outputs), run[-1].layer, False)


def _moving(node: Node) -> list[Value]:
    """The inputs that depend on the images."""
    return [value for value in node.values if value.kind in ("input", "result")]


def _call(node: Node, slots: dict[Value, Slot]) -> IntegerCall:
    def argument(x: Any) -> Any:
        if not isinstance(x, Value):
            return x
        return slots[x] if x in slots else host_array(x)

    arguments = tuple(map(argument, node.inputs))
    result = slots[node.output].number
    if issubclass(node.op, IntegerOp):
        return IntegerCall(node.op.kernel, (*arguments, *node.options.values()), result)
    if node.op is Cat:
        return IntegerCall("concatenate", (list(arguments), 1), result)
    return IntegerCall("flatten", arguments, result)

"""fold_constants: what does not depend on the inputs is computed once.

Masks, fake quantization of weights, products of low-rank factors: after this pass they are plain constants,
and so are parameters and buffers. The Graph no longer follows the model that it was traced from.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

import minicnn_kernels as kernels
from minicnn.grad_mode import no_grad
from minicnn.graph.ir import Graph, Node, Value
from minicnn.tensor import Tensor


def constant(name: str, tensor: Tensor) -> Value:
    """A Value that holds `tensor`."""
    return Value(name, "constant", tensor.shape, tensor.dtype, tensor)


def host_array(value: Value) -> np.ndarray:
    """What a constant holds."""
    assert value.tensor is not None, f"{value} is no constant"
    return kernels.to_host(value.tensor.data)


def fold_constants(graph: Graph) -> Graph:
    """The same Graph with nodes left only for what depends on the inputs.

    Values of parameters and buffers are copied, so that later training does not reach them. Raises
    ValueError for a graph with ops that change their inputs, as batch norm does in training mode.
    """
    known: dict[Value, Value] = {}

    def settled(x: Any) -> Any:
        if not isinstance(x, Value) or x.kind in ("input", "result"):
            return known.get(x, x) if isinstance(x, Value) else x
        if x not in known:
            assert x.tensor is not None
            known[x] = constant(x.name, x.tensor.detach().clone())
        return known[x]

    nodes = []
    with no_grad():
        for node in graph.nodes:
            if node.op.changes:
                raise ValueError(
                    f"fold_constants: {node.name} of layer '{node.layer}' changes its inputs; trace the "
                    f"model in eval mode"
                )
            node = replace(node, inputs=tuple(settled(x) for x in node.inputs))
            if all(value.kind == "constant" for value in node.values):
                for value, tensor in zip(node.outputs, run(node), strict=True):
                    known[value] = constant(value.name, tensor)
            else:
                nodes.append(node)
    return Graph(graph.inputs, [settled(value) for value in graph.outputs], nodes)


def run(node: Node, *inputs: Tensor) -> tuple[Tensor, ...]:
    """The results of `node`; `inputs` stand for its Values that are no constants, in their order."""
    given = iter(inputs)
    arguments = [
        (x.tensor if x.kind == "constant" else next(given)) if isinstance(x, Value) else x
        for x in node.inputs
    ]
    outcome = node.op.apply(*arguments, **node.options)
    return outcome if isinstance(outcome, tuple) else (outcome,)

"""What a Graph costs on paper: multiply-accumulates and bytes, node by node.

A MAC is one multiplication with its addition; only products of inputs with weights count (convolutions,
dense layers, matrix products), as papers count them. What a model costs on a machine is measured elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from minicnn.graph.ir import Graph, Node


@dataclass
class Cost:
    """Of one node: macs for the whole sample batch, bytes read (inputs, weights) and written."""

    node: Node
    macs: int
    bytes_read: int
    bytes_written: int


def macs(node: Node) -> int:
    """Multiply-accumulates of one node; 0 for ops that have no weights."""
    if node.name.removeprefix("Quantized") in ("Conv2d", "Linear"):
        weight = node.values[1]
        return node.output.size * prod(weight.shape[1:])
    if node.name == "ConvTranspose2d":
        x, weight = node.values[:2]
        return x.size * prod(weight.shape[1:])
    if node.name == "MatMul":
        return node.output.size * node.values[0].shape[-1]
    return 0


def cost(graph: Graph) -> list[Cost]:
    """The cost of every node, in order; macs are of the whole batch that was traced."""
    return [
        Cost(
            node, macs(node), sum(value.nbytes for value in node.values), sum(v.nbytes for v in node.outputs)
        )
        for node in graph.nodes
    ]

"""Which kernels could compute a layer of a deployed Graph, besides the one that it has.

Each candidate is a node that can stand in the layer's place. Those for binary and ternary layers give the
same bits, sparse ones the same sums in another order. Whether one is worth it is measured in `stopwatch.py`.
There is none for codebooks: a weight of few values is looked up once, when the file is read, and is dense
from then on; to look it up for every product would add loads and save no arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import minicnn_kernels as kernels
from minicnn.deploy.lattice import counts
from minicnn.function import Function
from minicnn.functions.binary import (
    Binarize,
    BinaryConv2d,
    BinaryLinear,
    TernaryConv2d,
    TernaryLinear,
)
from minicnn.functions.conv import Conv2d
from minicnn.functions.linear import Linear
from minicnn.functions.quantization import QuantizedConv2d, QuantizedLinear
from minicnn.functions.sparse import SparseConv2d, SparseLinear
from minicnn.graph.constants import constant, host_array
from minicnn.graph.ir import Graph, Node, Value
from minicnn.tensor import Tensor

PLAIN = "dense"  # the name of the node as it is
WEIGHTED = (Linear, Conv2d, QuantizedLinear, QuantizedConv2d)
FEWEST_ZEROS = 0.5  # below, sparse rows take more bytes than what they leave out


@dataclass(frozen=True)
class Candidate:
    """A node for the place of another. exact: it gives the same bits."""

    name: str
    node: Node
    exact: bool


def candidates(graph: Graph) -> Iterator[tuple[Node, list[Candidate]]]:
    """Every node of `graph` (of constants, see `lower`) that has candidates, with them."""
    producers = graph.producers()
    for node in graph.nodes:
        found = _of(node, producers)
        if found:
            yield node, found


def with_choices(graph: Graph, choices: Mapping[str, str]) -> Graph:
    """`graph` with the candidate that `choices` names for a layer in the place of each of its nodes.

    choices: {layer: name of a candidate}; what the graph has no such candidate for stays as it is.
    """
    producers = graph.producers()
    nodes = []
    for node in graph.nodes:
        found = _of(node, producers) if choices.get(node.layer, PLAIN) != PLAIN else []
        chosen = [candidate.node for candidate in found if candidate.name == choices[node.layer]]
        nodes.append(chosen[0] if chosen else node)
    read = {value for node in nodes for value in node.values} | set(graph.outputs)
    # The signs that nobody reads any more: layers that count bits take them themselves.
    nodes = [node for node in nodes if node.op is not Binarize or node.output in read]
    return Graph(graph.inputs, graph.outputs, nodes)


def _of(node: Node, producers: Mapping[Value, Node]) -> list[Candidate]:
    return [found for found in (_by_bits(node, producers), _by_rows(node)) if found is not None]


def zeros(node: Node) -> float:
    """The share of a layer's weights that are 0."""
    weight = host_array(node.inputs[1])
    return 1 - np.count_nonzero(weight) / max(weight.size, 1)


def _by_rows(node: Node) -> Candidate | None:
    """Compressed sparse rows for a float layer with many zeros."""
    if node.op not in (Linear, Conv2d) or not _is_constant(node.inputs[1]):
        return None
    if node.op is Conv2d and tuple(node.options["stride"]) != (1, 1):
        return None
    weight = host_array(node.inputs[1])
    if weight.dtype != np.float32 or zeros(node) < FEWEST_ZEROS:
        return None
    rows = kernels.backend("reference").to_sparse_rows(weight)
    parts = [
        _constant(node, name, part) for name, part in zip(("values", "columns", "starts"), rows, strict=True)
    ]
    inputs, options = (node.inputs[0], *parts, node.inputs[2]), dict(node.options)
    if node.op is Conv2d:
        options |= {"kernel_size": weight.shape[2:]}
    op = SparseConv2d if node.op is Conv2d else SparseLinear
    return Candidate("sparse rows", replace(node, op=op, inputs=inputs, options=options), exact=False)


def _by_bits(node: Node, producers: Mapping[Value, Node]) -> Candidate | None:
    """Counted bits for a layer of signs with binary or ternary weights and a result in floats."""
    if node.op not in (QuantizedLinear, QuantizedConv2d) or node.inputs[5] is not None:
        return None
    x, weight, bias, x_scale, w_scale = node.inputs[:5]
    parts = [weight, x_scale, w_scale] + ([] if bias is None else [bias])
    if x.dtype != np.float32 or not all(map(_is_constant, parts)):
        return None
    signs = producers.get(x)
    if signs is None or signs.op is not Binarize or node.options.get("groups", 1) != 1:
        return None
    k = kernels.backend("reference")
    unit = host_array(signs.inputs[1])
    if signs.options["axis"] is not None or not np.array_equal(unit, host_array(x_scale)):
        return None
    scale = host_array(w_scale)
    steps = k.quantize(
        host_array(weight), scale, np.zeros(scale.shape, np.int32), -2, 2, _axis(scale), np.int8
    )
    if np.abs(steps).max(initial=0) > 1:
        return None
    outputs = len(steps)
    bias_steps, factor = counts(bias, x_scale, scale, None, outputs)
    start = np.count_nonzero(steps.reshape(outputs, -1), axis=1).astype(np.int32)
    start = start if bias_steps is None else start + bias_steps
    ternary = not steps.all()
    bits = (k.pack_ternary_weight if ternary else k.pack_binary_weight)(steps)
    named = zip(("bits", "start", "factor"), (bits, start, factor), strict=True)
    inputs = (signs.inputs[0], *(_constant(node, name, array) for name, array in named))
    op: type[Function] = TernaryLinear if ternary else BinaryLinear
    options: dict[str, Any] = {}
    if node.op is QuantizedConv2d:
        op = TernaryConv2d if ternary else BinaryConv2d
        options = {name: node.options[name] for name in ("stride", "padding", "dilation")}
        options |= {"kernel_size": steps.shape[2:]}
    return Candidate("counted bits", replace(node, op=op, inputs=inputs, options=options), exact=True)


def _axis(scale: np.ndarray) -> int | None:
    return None if scale.ndim == 0 else 0


def _is_constant(x: Any) -> bool:
    return isinstance(x, Value) and x.kind == "constant"


def _constant(node: Node, name: str, array: np.ndarray) -> Value:
    return constant(f"{node.layer or node.name}.{name}", Tensor(array))

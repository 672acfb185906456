"""lower: from a model to the Graph that is deployed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from minicnn.functions.shape import Reshape
from minicnn.graph import Graph, remove_channels, trace
from minicnn.graph.ir import Value
from minicnn.tensor import Tensor, as_tensor
from minicnn.training.evaluate import inference


def lower(model: Any, sample: Any) -> Graph:
    """The model in eval mode as a Graph of constants, without channels that say nothing.

    sample: at least one input (N, ...). Masks, codebooks, low-rank products and quantized weights are
    computed once; the Graph serves batches of any size. Raises TraceError as `trace` does.
    """
    sample = as_tensor(sample)
    with inference(model):
        graph = remove_channels(trace(model, sample))
    return of_any_batch(graph, sample)


def of_any_batch(graph: Graph, sample: Tensor) -> Graph:
    """Reshapes that spell out the size of the batch leave it open."""
    batch = sample.shape[0]
    nodes = []
    for node in graph.nodes:
        shape = node.options.get("shape") if node.op is Reshape else None
        x = node.inputs[0]
        if shape and isinstance(x, Value) and shape[0] == x.shape[0] == batch:
            node = replace(node, options={"shape": (-1, *shape[1:])})
        nodes.append(node)
    return Graph(graph.inputs, graph.outputs, nodes)

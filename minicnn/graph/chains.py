"""Chains: nodes in a row that an evaluation plan makes ready once and runs as one.

What is derived from parameters (weights packed or transformed, batch norm folded into them) is kept from
call to call, as long as nothing that it came from has changed: at every call each parameter and buffer must
be the same array, at the same version, as when the chain was prepared. Whoever writes into an array behind
its tensor's back says so by `Tensor.mark_changed`. What does not fit runs node by node, as in training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import minicnn_kernels as kernels
from minicnn.function import Function
from minicnn.functions.fused import LinearReLU
from minicnn.functions.linear import Linear
from minicnn.functions.shape import Reshape
from minicnn.graph.ir import Graph, Node, Value
from minicnn.tensor import Tensor


class _Prepared(NamedTuple):
    """run: an array to an array. sources: (array, version) of the tensors that it was derived from."""

    run: Callable[[Any], Any]
    sources: list[tuple[Any, int]]
    backend: Any
    algorithm: str

    def serves(self, tensors: Sequence[Tensor], backend: Any, algorithm: str) -> bool:
        """Whether it would be prepared from these tensors as it is."""
        return (
            self.backend is backend
            and self.algorithm == algorithm
            and all(
                tensor._data is array and tensor._version.count == count
                for tensor, (array, count) in zip(tensors, self.sources, strict=True)
            )
        )


class Chain:
    """Nodes of which each reads the result of the one before, and beside it parameters and buffers alone."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = tuple(nodes)
        self.values = [value for node in nodes for value in node.values[1:]]
        self._prepared: _Prepared | None = None

    def run(self, x: Any, tensors: Sequence[Tensor]) -> Any:
        """The last node's array for the first node's x; None if the nodes are to run one by one.

        tensors: the present ones for `values`, the parameters and buffers of all nodes.
        """
        if any(tensor is None for tensor in tensors):  # a bias that was taken away
            return None
        backend, algorithm = kernels.of(x), kernels.algorithm("conv2d")
        prepared = self._prepared
        if prepared is None or not prepared.serves(tensors, backend, algorithm):
            prepared = self._prepared = self._prepare(tensors, backend, algorithm)
        return None if prepared is None else prepared.run(x)

    def _prepare(self, tensors: Sequence[Tensor], backend: Any, algorithm: str) -> _Prepared | None:
        # Versions first: what changes while weights are read is then prepared again.
        sources = [(tensor.data, tensor._version.count) for tensor in tensors]
        shapes = [array.shape for array, _ in sources]
        if not hasattr(backend, "Chain") or shapes != [value.shape for value in self.values]:
            return None
        arrays = {value: array for value, (array, _) in zip(self.values, sources, strict=True)}
        layers = []
        shape = self.nodes[0].values[0].shape
        for node in self.nodes:
            if node.op is not Reshape:  # a dense layer is told what images it flattens
                weights = [arrays[x] if isinstance(x, Value) else x for x in node.inputs[1:]]
                layer = node.op.prepare(backend, shape, *weights, **node.options)
                if layer is None:
                    return None
                layers.append(layer)
                shape = node.output.shape
        return _Prepared(backend.Chain(layers), sources, backend, algorithm)


def find_chains(graph: Graph) -> list[list[Node]]:
    """The longest runs of nodes that can be chains."""
    readers = graph.consumers()
    kept = set(graph.outputs)
    found, taken = [], set()
    for node in graph.nodes:
        if node in taken or not _fits(node):
            continue
        chain = [node]
        while chain[-1].output not in kept:
            following = readers.get(chain[-1].output, [])
            if len(following) != 1 or following[0].inputs[0] is not chain[-1].output:
                break
            if not _fits(following[0]):
                flattening = _flattens(following[0]) and following[0].output not in kept
                dense = readers.get(following[0].output, []) if flattening else []
                if len(dense) != 1 or dense[0].op not in (Linear, LinearReLU) or not _fits(dense[0]):
                    break
                following = [following[0], dense[0]]
            chain += following
        taken.update(chain)
        found.append(chain)
    return found


def _fits(node: Node) -> bool:
    """Whether the op can be made ready, and depends on nothing but x and what the model holds."""
    return (
        node.op.prepare.__func__ is not Function.prepare.__func__  # type: ignore[attr-defined]
        and isinstance(node.inputs[0], Value)
        and all(value.kind in ("parameter", "buffer", "constant") for value in node.values[1:])
    )


def _flattens(node: Node) -> bool:
    """Whether the op makes each image of a batch one row."""
    if node.op is not Reshape:
        return False
    shape = node.values[0].shape
    return len(shape) == 4 and node.output.shape == (shape[0], prod(shape[1:]))

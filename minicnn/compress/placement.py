"""Where the quantizers of a model stand, read off its Graph.

A quantizer stands where a value is made: at the output of a convolution, dense layer or average pooling that
computes in integers, or of the layer (a ReLU behind an addition, a pooling) that made what these read. Else,
behind an addition or a concatenation in somebody's forward, at the input of each layer that reads it, as for
the model's input. The rule, and what it means for integer inference, is in `quantize.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from minicnn import nn
from minicnn.functions.activation import ReLU
from minicnn.functions.arithmetic import Add
from minicnn.functions.conv import Conv2d
from minicnn.functions.indexing import GetItem
from minicnn.functions.joining import Cat
from minicnn.functions.linear import Linear
from minicnn.functions.moving import Clone, Flip, Pad, Roll
from minicnn.functions.pooling import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d
from minicnn.functions.reduction import Mean
from minicnn.functions.shape import Permute, Reshape
from minicnn.graph.ir import Graph, Node, Value
from minicnn.nn.pooling import AveragePool

QUANTIZABLE = (nn.Conv1d, nn.Conv2d, nn.Linear)
_COMMUTE = (ReLU, MaxPool2d, Reshape, Permute, GetItem, Clone, Flip, Roll)
_JOIN = (Add, Cat)
_AVERAGES = (AvgPool2d, AdaptiveAvgPool2d, Mean)


@dataclass(frozen=True)
class Point:
    """A quantizer: name of its layer, 'input' or 'output' there, and whether values below 0 become 0."""

    layer: str
    place: str
    unsigned: bool


@dataclass
class Placement:
    """All quantizers of activations, and for each integer layer the one that its input comes from."""

    points: list[Point] = field(default_factory=list)
    sources: dict[str, Point] = field(default_factory=dict)

    def add(self, layer: str, point: Point) -> None:
        """`layer` reads what `point` puts on a lattice."""
        self.points.append(point)
        self.sources[layer] = point


def place(model: Any, graph: Graph, layers: Collection[str]) -> Placement:
    """The quantizers that let `layers` (names of convolutions and dense layers) compute in integers.

    graph: of the model in eval mode. Average pooling between them computes in integers, too.
    """
    return _Walk(model, graph, layers).placement()


class _Walk:
    def __init__(self, model: Any, graph: Graph, layers: Collection[str]) -> None:
        self.model, self.graph = model, graph
        self.producers, self.readers = graph.producers(), graph.consumers()
        self.ops_of = Counter(node.layer for node in graph.nodes)
        self.runs = Counter(n.layer for n in graph.nodes if n.op in (Conv2d, Linear, *_AVERAGES))
        self.exact = {
            id(node)
            for node in graph.nodes
            if (node.op in (Conv2d, Linear) and node.layer in layers) or self._counts(node)
        }

    def placement(self) -> Placement:
        result = Placement()
        for node in self.graph.nodes:
            if id(node) in self.exact:
                result.add(node.layer, self._source(node))
                if self.runs[node.layer] == 1 and self._stays(node.output):
                    result.points.append(self._result(node))
        result.points = list(dict.fromkeys(result.points))
        return result

    def _counts(self, node: Node) -> bool:
        """Whether `node` is a layer of average pooling, behind others, that can count in whole numbers."""
        layer = self.model.get_submodule(node.layer)
        if node.op not in _AVERAGES or not isinstance(layer, AveragePool) or self.runs[node.layer] > 1:
            return False
        size = node.inputs[0].shape[2:]
        window = layer.window(size[-layer.dims :] if hasattr(layer, "dims") else size)
        return window is not None and self._origin(node)[0].kind == "result"

    def _origin(self, node: Node) -> tuple[Value, bool]:
        """The value that came to be the input of `node`, and whether a ReLU lies in between."""
        value, relu = node.inputs[0], False
        while (producer := self.producers.get(value)) is not None and _commutes(producer):
            relu |= producer.op is ReLU
            value = producer.inputs[0]
        return value, relu

    def _source(self, node: Node) -> Point:
        """The quantizer for the input of `node`."""
        origin, relu = self._origin(node)
        once = self.runs[node.layer] == 1
        own = Point(node.layer, "input", relu and once)
        producer = self.producers.get(origin)
        if producer is None or not once or not self._stays(origin):
            return own
        if id(producer) in self.exact:
            return own if self.runs[producer.layer] > 1 else self._result(producer)
        first = self.readers[origin]
        if len(first) == 1 and first[0].op is ReLU and self._is_layer(first[0]):
            return Point(first[0].layer, "output", True)
        return Point(producer.layer, "output", self._clipped(origin)) if self._is_layer(producer) else own

    def _result(self, node: Node) -> Point:
        """The quantizer for the output of an integer layer."""
        positive = node.op in _AVERAGES and self._source(node).unsigned
        return Point(node.layer, "output", positive or self._clipped(node.output))

    def _is_layer(self, node: Node) -> bool:
        """Whether `node` is all that a layer does, so that its result is that of the layer."""
        return self.ops_of[node.layer] == 1 and not list(self.model.get_submodule(node.layer).children())

    def _stays(self, value: Value) -> bool:
        """Whether nothing but integer layers reads `value`, be it through what commutes, additions, joins."""
        waiting, seen = [value], {value}
        while waiting:
            value = waiting.pop()
            if value in self.graph.outputs:
                return False
            for node in self.readers.get(value, ()):
                if _commutes(node) or node.op in _JOIN:
                    waiting += {node.output} - seen
                    seen.add(node.output)
                elif id(node) not in self.exact:
                    return False
        return True

    def _clipped(self, value: Value) -> bool:
        """Whether everyone reads `value` through a ReLU."""
        return all(
            node.op is ReLU or (_commutes(node) and self._clipped(node.output))
            for node in self.readers[value]
        )


def _commutes(node: Node) -> bool:
    """Whether the op only picks, moves or compares values, so that a lattice stays one."""
    return node.op in _COMMUTE or (node.op is Pad and not node.options["value"])

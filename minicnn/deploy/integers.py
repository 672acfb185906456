"""to_integers: from a Graph whose values lie on lattices, as floats, to one that computes with uint8.

Every value on one lattice of at most 8 bits is stored as uint8. Layers that count in whole numbers, ReLU,
max-pooling and what moves elements about then run on what is stored; so do additions, concatenations and
elementwise functions, if a quantizer is all that reads them. Whatever else reads such a value gets it as
floats again, and what does not fit stays as it was. So results are those of the Graph, bit for bit (0 and -0
counting as one); the rule of who rounds when is in `minicnn/compress/quantize.py`. Neighbours are fused in
`integer_fuse.py`, what runs is made in `engine.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import minicnn_kernels as kernels
from minicnn.deploy.integer_fuse import fuse_integers, without_unread
from minicnn.deploy.lattice import Lattice, counts, lattice_of, sums_fit, whole_weights
from minicnn.function import Function
from minicnn.functions import activation, arithmetic, elementwise
from minicnn.functions.activation import ReLU
from minicnn.functions.arithmetic import Add
from minicnn.functions.indexing import GetItem
from minicnn.functions.integer import (
    Dequantize,
    IntegerAdd,
    IntegerAvgPool2d,
    IntegerConv2d,
    IntegerLinear,
    IntegerLookup,
    IntegerMaxPool2d,
    Quantize,
)
from minicnn.functions.joining import Cat
from minicnn.functions.moving import Clone, Flip, Pad, Roll
from minicnn.functions.pooling import MaxPool2d
from minicnn.functions.quantization import (
    FakeQuantize,
    QuantizedAvgPool2d,
    QuantizedConv2d,
    QuantizedLinear,
)
from minicnn.functions.shape import Permute, Reshape
from minicnn.grad_mode import no_grad
from minicnn.graph.constants import constant, host_array, run
from minicnn.graph.ir import Graph, Node, Value
from minicnn.tensor import Tensor
from minicnn_kernels.reference.quantization import share
from minicnn_kernels.windows import pool_output_size

_MOVING = (Reshape, Permute, GetItem, Clone, Flip, Roll)
_ELEMENTWISE = (
    activation.ReLU, activation.LeakyReLU, activation.Hardtanh, activation.Sigmoid, activation.Tanh,
    activation.SiLU, activation.GELU, activation.ELU, activation.Softplus,
    arithmetic.Add, arithmetic.Sub, arithmetic.Mul, arithmetic.Div, arithmetic.Maximum, arithmetic.Minimum,
    arithmetic.Clamp, elementwise.Neg, elementwise.Abs, elementwise.Square, elementwise.Exp,
)  # fmt: skip
_DEEPEST = 64  # how far a quantizer is moved up: through joins, and through elementwise ops


@dataclass
class Integers:
    """graph: the Graph on integers. stored: where in it each value of the original one is held, and how."""

    graph: Graph
    stored: dict[Value, tuple[Value, Lattice]]


def to_integers(graph: Graph, *, fuse: bool = True) -> Integers:
    """`graph` (of constants, see `lower`) on integers wherever its values lie on lattices.

    Values that stay floats are the same objects in both Graphs. fuse: whether ReLU and max-pooling become
    part of the layers before them; without, every value is still there.
    """
    with no_grad():
        integers = _Lowering(graph).integers()
    integers.graph = without_unread(integers.graph)
    if fuse:
        integers.graph = fuse_integers(integers.graph)
    return integers


class _Lowering:
    def __init__(self, graph: Graph) -> None:
        self.graph, self.producers = graph, graph.producers()
        self.nodes: list[Node] = []
        self.stored: dict[Value, tuple[Value, Lattice]] = {}
        self.floats: set[Value] = set(graph.inputs)
        self._rounded: dict[tuple[Value, Lattice], Value] = {}
        self._handlers: dict[type[Function], Callable[[Node], bool]] = {
            FakeQuantize: self._quantizer,
            QuantizedConv2d: self._weighted,
            QuantizedLinear: self._weighted,
            QuantizedAvgPool2d: self._average,
            ReLU: self._relu,
            MaxPool2d: self._max_pool,
            Pad: self._pad,
            Cat: self._join,
            **dict.fromkeys(_MOVING, self._move),
        }

    def integers(self) -> Integers:
        for node in self.graph.nodes:
            handler = self._handlers.get(node.op)
            if handler is None or not handler(node):
                for value in node.values:
                    self._float(value)
                self.nodes.append(node)
                self.floats.update(node.outputs)
        for value in self.graph.outputs:
            self._float(value)
        return Integers(Graph(self.graph.inputs, self.graph.outputs, self.nodes), self.stored)

    # -- one handler per op: True if its result is stored, or computed from what is stored ---------

    def _quantizer(self, node: Node) -> bool:
        x, scale, zero_point = node.inputs
        options = node.options
        lattice = lattice_of(scale, zero_point, options["qmin"], options["qmax"])
        if lattice is None or options["axis"] is not None or x.dtype != np.float32 or x.kind == "constant":
            return False
        self.stored[node.output] = (self._on(x, lattice, node), lattice)
        return True

    def _weighted(self, node: Node) -> bool:
        """A convolution or dense layer on lattices."""
        x, weight, bias, x_scale, w_scale, y_scale, y_zero_point = node.inputs
        q, lattice = self.stored.get(x, (None, None))
        is_conv = node.op is QuantizedConv2d
        if q is None or lattice is None or len(x.shape) != (4 if is_conv else 2):
            return False
        result = None if y_scale is None else lattice_of(y_scale, y_zero_point, **_bounds(node))
        steps = whole_weights(weight, w_scale)
        if not lattice.has_scale(x_scale) or steps is None or (y_scale is not None and result is None):
            return False
        if bias is not None and not np.isfinite(host_array(bias)).all():
            return False
        with np.errstate(all="ignore"):
            bias_steps, factor = counts(bias, x_scale, host_array(w_scale), y_scale, len(steps))
        if not (factor > 0).all() or not sums_fit(lattice, steps, bias_steps):
            return False  # scales so small that their product is 0, or sums that leave int32
        name = node.layer or node.name
        inputs = (
            q,
            constant(f"{name}.steps", Tensor(steps)),
            None if bias_steps is None else constant(f"{name}.bias", Tensor(bias_steps)),
            constant(f"{name}.factor", Tensor(factor)),
        )
        options = {"x_zero": lattice.zero_point} | _result_options(result)
        if is_conv:
            options |= {key: node.options[key] for key in ("stride", "padding", "dilation", "groups")}
            options["pool"] = None
        return self._finish(node, IntegerConv2d if is_conv else IntegerLinear, inputs, options, result)

    def _average(self, node: Node) -> bool:
        x, x_scale, y_scale, y_zero_point = node.inputs
        q, lattice = self.stored.get(x, (None, None))
        if q is None or lattice is None or not lattice.has_scale(x_scale):
            return False
        result = None if y_scale is None else lattice_of(y_scale, y_zero_point, **_bounds(node))
        if y_scale is not None and result is None:
            return False
        height, width = node.options["kernel_size"]
        if height * width >= 2**22:
            return False  # its sums could leave int32
        _, factor = counts(None, x_scale, share(host_array(x_scale), node.options["divisor"]), y_scale, None)
        options = {"x_zero": lattice.zero_point} | _result_options(result)
        options |= {key: node.options[key] for key in ("kernel_size", "stride", "padding")}
        inputs = (q, constant(f"{node.layer or node.name}.factor", Tensor(factor)))
        return self._finish(node, IntegerAvgPool2d, inputs, options, result)

    def _finish(
        self, node: Node, op: type[Function], inputs: tuple, options: dict[str, Any], result: Lattice | None
    ) -> bool:
        """The node on integers; without a lattice for its result that is the float value itself."""
        if result is None:
            self.nodes.append(replace(node, op=op, inputs=inputs, options=options))
            self.floats.update(node.outputs)
        else:
            self.stored[node.output] = (self._new(node, op, inputs, options), result)
        return True

    def _relu(self, node: Node) -> bool:
        x = node.inputs[0]
        if x not in self.stored:
            return False
        q, lattice = self.stored[x]
        if lattice.low < lattice.zero_point:
            table = np.maximum(np.arange(256), lattice.zero_point).astype(np.uint8)
            q = self._new(node, IntegerLookup, (q, _table(node, table)), {})
        self.stored[node.output] = (q, lattice.clipped(lattice.zero_point, lattice.high))
        return True

    def _max_pool(self, node: Node) -> bool:
        x = node.inputs[0]
        options = {key: value for key, value in node.options.items() if key != "return_indices"}
        if x not in self.stored or node.options["return_indices"] or not _meets_pixels(x.shape[2:], options):
            return False
        q, lattice = self.stored[x]
        self.stored[node.output] = (self._new(node, IntegerMaxPool2d, (q,), options), lattice)
        return True

    def _move(self, node: Node) -> bool:
        x = node.inputs[0]
        if x not in self.stored:
            return False
        q, lattice = self.stored[x]
        self.stored[node.output] = (self._new(node, node.op, (q,), node.options), lattice)
        return True

    def _pad(self, node: Node) -> bool:
        x, options = node.inputs[0], dict(node.options)
        if x not in self.stored or (options["mode"] == "constant" and options["value"] != 0):
            return False
        q, lattice = self.stored[x]
        options["value"] = lattice.zero_point
        lattice = lattice.clipped(min(lattice.low, lattice.zero_point), max(lattice.high, lattice.zero_point))
        self.stored[node.output] = (self._new(node, Pad, (q,), options), lattice)
        return True

    def _join(self, node: Node) -> bool:
        """Parts on one lattice are joined as they are stored."""
        parts = [self.stored.get(x) for x in node.inputs]
        first = parts[0]
        if first is None or not all(part is not None and part[1].same_points(first[1]) for part in parts):
            return False
        kept = [part for part in parts if part is not None]
        joined = self._new(node, Cat, tuple(q for q, _ in kept), node.options)
        low, high = min(lattice.low for _, lattice in kept), max(lattice.high for _, lattice in kept)
        self.stored[node.output] = (joined, first[1].clipped(low, high))
        return True

    # -- quantizers -------------------------------------------------------------------------------

    def _on(self, value: Value, lattice: Lattice, node: Node, depth: int = 0) -> Value:
        """`value` rounded to `lattice`, as it is stored; computed from what is stored, if that can be."""
        key = (value, lattice)
        if key not in self._rounded:
            self._rounded[key] = self._round(value, lattice, node, depth)
        return self._rounded[key]

    def _round(self, value: Value, lattice: Lattice, node: Node, depth: int) -> Value:
        if value in self.stored:
            q, own = self.stored[value]
            if own.same_points(lattice) and lattice.low <= own.low and own.high <= lattice.high:
                return q
        table = self._table_for(value, lattice)
        if table is not None:
            source, entries = table
            return self._new(node, IntegerLookup, (source, _table(node, entries)), {}, value.shape)
        producer = self.producers.get(value)
        positive = producer is not None and producer.op is ReLU
        below = producer.inputs[0] if producer is not None and positive else value
        producer = self.producers.get(below)
        if producer is not None and producer.op is Add and self._adds_stored(producer):
            (a, a_lattice), (b, b_lattice) = (self.stored[x] for x in producer.inputs)
            bounded = lattice.clipped(max(lattice.low, lattice.zero_point), lattice.high)
            options = {
                "a_scale": a_lattice.scale, "a_zero": a_lattice.zero_point,
                "b_scale": b_lattice.scale, "b_zero": b_lattice.zero_point,
                "y_scale": lattice.scale,
            } | _result_options(bounded if positive else lattice)  # fmt: skip
            return self._new(producer, IntegerAdd, (a, b), options)
        if producer is not None and producer.op is Cat and depth < _DEEPEST and self._joins_stored(producer):
            bounded = lattice.clipped(max(lattice.low, lattice.zero_point), lattice.high)
            parts = tuple(
                self._on(x, bounded if positive else lattice, node, depth + 1) for x in producer.inputs
            )
            return self._new(producer, Cat, parts, producer.options)
        self._float(value)
        options = {"scale": lattice.scale, "zero_point": np.int32(lattice.zero_point), "qmin": lattice.low,
                   "qmax": lattice.high, "axis": None, "dtype": np.uint8}  # fmt: skip
        return self._new(node, Quantize, (value,), options, value.shape)

    def _adds_stored(self, node: Node) -> bool:
        a, b = node.inputs
        return a in self.stored and b in self.stored and a.shape == b.shape

    def _joins_stored(self, node: Node) -> bool:
        """Whether parts of a join are stored, so that rounding them one by one saves something."""
        return all(
            isinstance(x, Value) and x.kind == "result" and x.dtype == np.float32 for x in node.inputs
        ) and any(x in self.stored for x in node.inputs)

    def _table_for(self, value: Value, lattice: Lattice) -> tuple[Value, np.ndarray] | None:
        """(the stored value, a table) by which `value`, rounded, is an elementwise function of one value."""
        order: list[Node] = []
        sources: set[Value] = set()
        waiting, seen = [value], {value}
        while waiting:
            current = waiting.pop()
            if current in self.stored:
                sources.add(current)
                continue
            producer = self.producers.get(current)
            if producer is None or producer.op not in _ELEMENTWISE or len(order) == _DEEPEST:
                return None
            order.append(producer)
            for x in producer.values:
                if x.kind == "constant" and x.size == 1 and len(x.shape) <= 1:
                    continue
                if x.shape != value.shape:
                    return None
                waiting += {x} - seen
                seen.add(x)
        if len({self.stored[source][0] for source in sources}) != 1:
            return None
        known = {}
        for source in sources:  # one array, which a ReLU may have left as it was
            q, own = self.stored[source]
            known[source] = Tensor(own.points())
        places = {id(node): i for i, node in enumerate(self.graph.nodes)}
        for node in sorted(order, key=lambda node: places[id(node)]):
            (known[node.output],) = run(node, *(known[x] for x in node.values if x.kind != "constant"))
        return q, lattice.rounded(kernels.to_host(known[value].data))

    # -- values -----------------------------------------------------------------------------------

    def _float(self, value: Value) -> None:
        """See to it that `value` is computed as floats."""
        if value in self.floats or value not in self.stored:
            return
        q, lattice = self.stored[value]
        options = {"scale": lattice.scale, "zero_point": np.int32(lattice.zero_point), "axis": None}
        self.nodes.append(Node(Dequantize, (q,), options, (value,), "", False))
        self.floats.add(value)

    def _new(
        self, node: Node, op: type[Function], inputs: tuple, options: dict[str, Any], shape: Any = None
    ) -> Value:
        """The stored result of a new node in the place of `node`."""
        shape = node.output.shape if shape is None else shape
        result = Value(f"{node.output.name} stored", "result", shape, np.dtype(np.uint8))
        self.nodes.append(Node(op, inputs, dict(options), (result,), node.layer, False))
        return result


def _bounds(node: Node) -> dict[str, int]:
    return {"qmin": node.options["qmin"], "qmax": node.options["qmax"]}


def _result_options(result: Lattice | None) -> dict[str, Any]:
    """y_zero, qmin, qmax of a kernel; a result without a lattice is float32."""
    if result is None:
        return {"y_zero": None, "qmin": 0, "qmax": 0}
    return {"y_zero": result.zero_point, "qmin": result.low, "qmax": result.high}


def _table(node: Node, entries: np.ndarray) -> Value:
    return constant(f"{node.layer or node.name}.table", Tensor(entries))


def _meets_pixels(size: tuple[int, ...], options: dict[str, Any]) -> bool:
    """Whether every pooling window meets a pixel: dilation can leap over a small image."""
    out = pool_output_size(size, *options.values())
    for extent, count, kernel, stride, padding, dilation in zip(
        size, out, *(options[key] for key in ("kernel_size", "stride", "padding", "dilation")), strict=True
    ):
        taps = np.arange(count)[:, None] * stride - padding + np.arange(kernel) * dilation
        if not ((taps >= 0) & (taps < extent)).any(axis=1).all():
            return False
    return True

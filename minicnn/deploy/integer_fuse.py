"""Neighbours on integers become one: a ReLU is a bound of the layer before it, max-pooling its last part.

And the shortcut of a residual net without weights, every other pixel and channels of zeros, is a convolution
with one 1 for each channel, which a program can hold. All only if nobody else reads what lies between. Nodes
whose results nobody reads are left out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from minicnn.functions.indexing import GetItem
from minicnn.functions.integer import (
    IntegerAdd,
    IntegerAvgPool2d,
    IntegerConv2d,
    IntegerLinear,
    IntegerLookup,
    IntegerMaxPool2d,
    Quantize,
)
from minicnn.functions.moving import Pad
from minicnn.graph.constants import constant, host_array
from minicnn.graph.fuse import shortcut_options
from minicnn.graph.ir import Graph, Node, Value
from minicnn.tensor import Tensor

_BOUNDED = (IntegerConv2d, IntegerLinear, IntegerAvgPool2d, IntegerAdd, Quantize)


def without_unread(graph: Graph) -> Graph:
    """`graph` without the nodes that no output depends on."""
    read = set(graph.outputs)
    nodes = []
    for node in reversed(graph.nodes):
        if not read.isdisjoint(node.outputs):
            nodes.append(node)
            read.update(node.values)
    return Graph(graph.inputs, graph.outputs, nodes[::-1])


def fuse_integers(graph: Graph) -> Graph:
    """`graph`, made by `to_integers`, with lookups that only clip and plain max-poolings fused."""
    readers = graph.consumers()
    kept = set(graph.outputs)
    made_by: dict[Value, int] = {}  # a result: the place of its node in `nodes`
    nodes: list[Node] = []
    for node in graph.nodes:
        x = node.inputs[0]
        if x in made_by and x not in kept and len(readers[x]) == 1:
            before = nodes[made_by[x]]
            fused = _fused(before, node)
            if fused is not None:
                nodes[made_by[x]] = replace(fused, outputs=node.outputs)
                made_by[node.output] = made_by[x]
                continue
        if node.op in (*_BOUNDED, GetItem):
            made_by[node.output] = len(nodes)
        nodes.append(node)
    return Graph(graph.inputs, graph.outputs, nodes)


def _fused(before: Node, node: Node) -> Node | None:
    """One node that does what both do; None if there is none."""
    if before.op is GetItem:
        return _shortcut(before, node) if node.op is Pad else None
    options = _clipping(before, node) or _pooling(before, node)
    return None if options is None else replace(before, options=options)


def _clipping(before: Node, node: Node) -> dict[str, Any] | None:
    """Options of `before` that do what `node`, a lookup in a table of bounds, does behind it."""
    low, high = before.options["qmin"], before.options["qmax"]
    if node.op is not IntegerLookup or before.options.get("y_zero", 0) is None:
        return None
    table = host_array(node.inputs[1])
    bounds = int(table[low]), int(table[high])
    reached = np.arange(low, high + 1)
    if table.dtype != np.uint8 or bounds[0] > bounds[1] or (table[reached] != reached.clip(*bounds)).any():
        return None
    return before.options | {"qmin": bounds[0], "qmax": bounds[1]}


def _pooling(before: Node, node: Node) -> dict[str, Any] | None:
    """Options of the convolution `before` with the max-pooling `node` behind it."""
    if (
        before.op is not IntegerConv2d
        or node.op is not IntegerMaxPool2d
        or before.options["pool"] is not None
    ):
        return None
    options = node.options
    if options["padding"] != (0, 0) or options["dilation"] != (1, 1) or options["ceil_mode"]:
        return None
    return before.options | {"pool": (options["kernel_size"], options["stride"])}


def _shortcut(pick: Node, pad: Node) -> Node | None:
    """Pixels picked and channels added as a convolution that adds nothing and rounds nothing."""
    x, zero = pick.values[0], pad.options["value"]
    options = shortcut_options(pick, replace(pad, options=pad.options | {"value": 0}))
    if options is None or pad.options["mode"] != "constant" or x.dtype != np.uint8:
        return None
    channels, before = options["channels"], options["before"]
    weight = np.zeros((channels, x.shape[1], 1, 1), np.int8)
    weight[before + np.arange(x.shape[1]), np.arange(x.shape[1])] = 1
    return replace(
        pick,
        op=IntegerConv2d,
        inputs=(
            x,
            constant("shortcut.steps", Tensor(weight)),
            None,
            constant("shortcut.factor", Tensor(np.ones(channels, np.float32))),
        ),
        options={
            "x_zero": zero, "y_zero": zero, "qmin": 0, "qmax": 255, "stride": options["step"],
            "padding": (0, 0), "dilation": (1, 1), "groups": 1, "pool": None,
        },
    )  # fmt: skip

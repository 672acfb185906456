"""fuse: chains of ops that have one fused kernel become one node.

A chain is fused only if nobody else reads what lies between its ops: no other op, not the caller, and if
all of them pass gradients, or none does. What is fused: convolution, batch norm in training, a dense layer
or an addition, each with ReLU and, after the first two, max-pooling behind it; batch norm in training with
the counting of its batches, and with the addition behind it; every other pixel with zeros for new channels,
as residual nets take them; batch norm with given statistics into the convolution before it, where no gradient
is recorded; and a quantizer behind a layer that requantizes to the same lattice, which it leaves as it is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from minicnn.function import Function
from minicnn.functions.activation import ReLU
from minicnn.functions.arithmetic import Add
from minicnn.functions.conv import Conv2d
from minicnn.functions.fused import (
    AddReLU,
    BatchNormBlock,
    ConvBlock,
    FoldedConvBlock,
    LinearReLU,
    Shortcut,
)
from minicnn.functions.in_place import Overwrite
from minicnn.functions.indexing import GetItem
from minicnn.functions.linear import Linear
from minicnn.functions.moving import Pad
from minicnn.functions.normalization import BatchNorm, BatchNormInference
from minicnn.functions.pooling import MaxPool2d
from minicnn.functions.quantization import (
    FakeQuantize,
    QuantizedAvgPool2d,
    QuantizedConv2d,
    QuantizedLinear,
)
from minicnn.graph.ir import Graph, Node, Value

_REQUANTIZING = (QuantizedConv2d, QuantizedLinear, QuantizedAvgPool2d)
_POSITIONS = 255  # of a pooling window: one byte says which one won, and 255 that ReLU killed it


def fuse(graph: Graph) -> Graph:
    """A Graph with the same inputs, outputs and results in which fusible chains are single nodes."""
    readers = graph.consumers()
    kept = set(graph.outputs)

    def only_reader(node: Node) -> Node | None:
        """The one op that reads the result of `node`, if nothing else does."""
        if node.output in kept or len(node.outputs) > 1:
            return None
        following = readers.get(node.output, [])
        if len(following) != 1 or following[0].differentiated != node.differentiated:
            return None
        return following[0] if following[0].values.count(node.output) == 1 else None

    counters = {
        id(norm): (add, write)
        for add, write, norm in zip(graph.nodes, graph.nodes[1:], graph.nodes[2:], strict=False)
        if norm.op is BatchNorm and _counts(add, write) and not readers.get(write.output)
    }
    absorbed: set[int] = set()
    replacement: dict[int, Node] = {}
    for node in graph.nodes:
        if id(node) in absorbed:
            continue
        chain = [node]
        while (following := only_reader(chain[-1])) is not None and id(following) not in absorbed:
            chain.append(following)
        fused, length = _fused(chain)
        if fused.op is BatchNormBlock and id(node) in counters:
            counting = counters[id(node)]
            inputs = (*fused.inputs[:5], counting[0].inputs[0], *fused.inputs[6:])
            fused = replace(fused, inputs=inputs)
            absorbed.update(id(part) for part in counting)
        if length > 1:
            absorbed.update(id(part) for part in chain[:length])
            replacement[id(chain[length - 1])] = fused  # there everything that it reads is computed
    nodes = [
        replacement.get(id(node), node)
        for node in graph.nodes
        if id(node) in replacement or id(node) not in absorbed
    ]
    return Graph(graph.inputs, graph.outputs, nodes)


def _fused(chain: list[Node]) -> tuple[Node, int]:
    """The node for the longest fusible beginning of `chain`, and how many ops it stands for."""
    head = chain[0]
    if head.op is Conv2d:
        return _conv_block(chain)
    if head.op is BatchNorm:
        return _norm_block(chain)
    if head.op is GetItem and len(chain) > 1 and chain[1].op is Pad:
        options = shortcut_options(head, chain[1])
        return (_node(chain[:2], Shortcut, head.inputs, options), 2) if options else (head, 1)
    if head.op in _REQUANTIZING and len(chain) > 1 and _rounds_again(head, chain[1]):
        return _node(chain[:2], head.op, head.inputs, head.options), 2
    if len(chain) > 1 and chain[1].op is ReLU:
        if head.op is Linear:
            return _node(chain[:2], LinearReLU, head.inputs, {}), 2
        if head.op is Add and _same_shape(head):
            return _node(chain[:2], AddReLU, head.inputs, {}), 2
    return head, 1


def _rounds_again(node: Node, following: Node) -> bool:
    """Whether the op that follows puts on a lattice what `node` has put there already."""
    return (
        following.op is FakeQuantize
        and following.inputs[1] is node.inputs[-2]
        and following.inputs[2] is node.inputs[-1]
    )


def _conv_block(chain: list[Node]) -> tuple[Node, int]:
    head, norm = chain[0], chain[1] if len(chain) > 1 else None
    folds = norm is not None and norm.op is BatchNormInference and not head.differentiated
    relu, pool, length = _relu_and_pool(chain, 2 if folds else 1)
    options = head.options | _tail(relu, pool)
    if folds and norm is not None and norm.inputs[0] is head.output:
        inputs = (*head.inputs, *norm.inputs[1:])
        return _node(chain[:length], FoldedConvBlock, inputs, norm.options | options), length
    return (_node(chain[:length], ConvBlock, head.inputs, options), length) if length > 1 else (head, 1)


def _norm_block(chain: list[Node]) -> tuple[Node, int]:
    head, start, residual = chain[0], 1, None
    if len(chain) > 1 and chain[1].op is Add and _same_shape(chain[1]):
        a, b = chain[1].inputs
        residual, start = b if a is head.output else a, 2
    relu, pool, length = _relu_and_pool(chain, start)
    inputs = (*head.inputs, None, residual)
    options = head.options | _tail(relu, pool)
    return (_node(chain[:length], BatchNormBlock, inputs, options), length) if length > 1 else (head, 1)


def shortcut_options(pick: Node, pad: Node) -> dict[str, Any] | None:
    """Options of `Shortcut` if pixels of images are picked, and channels of zeros added; else None."""
    index, around = pick.options["index"], pad.options["pad"]
    if not isinstance(index, tuple):
        return None
    parts = [part for part in index if isinstance(part, slice) and (part.start, part.stop) == (None, None)]
    steps = [1 if part.step is None else part.step for part in parts]
    if len(pick.values[0].shape) != 4 or len(index) != 4 or len(parts) != 4 or steps[:2] != [1, 1]:
        return None
    zeros = pad.options["mode"] == "constant" and pad.options["value"] == 0
    if not zeros or min(steps) < 1 or any(around[i] != (0, 0) for i in (0, 2, 3)) or min(around[1]) < 0:
        return None
    return {"step": tuple(steps[2:]), "before": around[1][0], "channels": pad.output.shape[1]}


def _counts(add: Node, write: Node) -> bool:
    """Whether the two add 1 to a buffer in place."""
    return (
        add.op is Add
        and write.op is Overwrite
        and add.inputs == (write.inputs[0], 1)
        and write.inputs[1] is add.output
    )


def _relu_and_pool(chain: list[Node], start: int) -> tuple[bool, Any, int]:
    """Whether ReLU, and which pooling, follow in `chain` from `start` on; and where they end."""
    relu, pool = False, None
    if len(chain) > start and chain[start].op is ReLU:
        relu, start = True, start + 1
    if len(chain) > start and chain[start].op is MaxPool2d:
        pool = _plain_pool(chain[start].options)
        start += pool is not None
    return relu, pool, start


def _plain_pool(options: dict[str, Any]) -> Any:
    """(kernel_size, stride) of a pooling without padding, dilation, ceil mode or indices; else None."""
    kh, kw = options["kernel_size"]
    plain = (
        options["padding"] == (0, 0)
        and options["dilation"] == (1, 1)
        and not options["ceil_mode"]
        and not options["return_indices"]
        and kh * kw <= _POSITIONS
    )
    return (options["kernel_size"], options["stride"]) if plain else None


def _tail(relu: bool, pool: Any) -> dict[str, Any]:
    return {"relu": relu, "pool": pool}


def _same_shape(node: Node) -> bool:
    a, b = node.inputs
    return isinstance(a, Value) and isinstance(b, Value) and (a.shape, a.dtype) == (b.shape, b.dtype)


def _node(chain: list[Node], op: type[Function], inputs: tuple, options: dict[str, Any]) -> Node:
    return replace(chain[0], op=op, inputs=inputs, options=options, outputs=chain[-1].outputs)

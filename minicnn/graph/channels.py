"""remove_channels: a Graph without the channels that say nothing.

A channel says nothing if it is constant, whatever the input (its filter was pruned), or if nobody listens
(all weights that read it are 0). A constant is not simply dropped: what it contributed to later layers
becomes part of their bias, or, where zero padding makes that differ between border and centre, an image of
constants that is added. So results stay the same but for rounding, those of quantized layers to the bit.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

import minicnn_kernels as kernels
from minicnn.functions.arithmetic import Add
from minicnn.functions.conv import Conv2d
from minicnn.functions.linear import Linear
from minicnn.functions.moving import Pad
from minicnn.functions.shape import Reshape
from minicnn.grad_mode import no_grad
from minicnn.graph.channel_flow import CONVOLUTIONS, ChannelFlow, has_channels, is_depthwise, mixes, sources
from minicnn.graph.constants import constant, fold_constants, host_array
from minicnn.graph.ir import Graph, Node, Value
from minicnn.tensor import Tensor


def remove_channels(graph: Graph) -> Graph:
    """`graph`, traced in eval mode, without constant and unread channels. Inputs and outputs keep theirs.

    Residual additions, concatenations, flattening, batch norm, pooling and depthwise convolutions are seen
    through; around ops that are not known here, and in grouped convolutions, all channels stay.
    """
    graph = fold_constants(graph)
    flow = ChannelFlow(graph)
    new: dict[Value, Value] = {value: value for value in graph.inputs}
    nodes: list[Node] = []
    with no_grad():
        for node in graph.nodes:
            for value in node.outputs:
                new[value] = _smaller(value, flow)
            shrunk = replace(
                node,
                inputs=tuple(new.get(x, x) if isinstance(x, Value) else x for x in node.inputs),
                outputs=tuple(new[value] for value in node.outputs),
            )
            if mixes(node):
                nodes += _shrink_weights(node, shrunk, flow)
            else:
                nodes.append(_shrink_options(node, shrunk, flow) if sources(node) else shrunk)
    return Graph(graph.inputs, [new.get(value, value) for value in graph.outputs], nodes)


def _smaller(value: Value, flow: ChannelFlow) -> Value:
    if not has_channels(value) or flow.kept(value).all():
        return value
    shape = (value.shape[0], int(flow.kept(value).sum()), *value.shape[2:])
    return Value(value.name, value.kind, shape, value.dtype)


def _shrink_weights(node: Node, shrunk: Node, flow: ChannelFlow) -> list[Node]:
    """A convolution or dense layer of what is left, and an addition behind it if its bias is an image."""
    x, weight, bias, *rest = node.inputs
    inputs, outputs = flow.kept(x), flow.kept(node.output)
    if inputs.all() and outputs.all():
        return [shrunk]
    taken_over = np.where(inputs, 0, np.nan_to_num(flow.constants(x)))
    addition = None if bias is None else host_array(bias)
    image = None
    if taken_over.any():
        shape = [-1 if i == 1 else 1 for i in range(len(x.shape))]
        probe = np.broadcast_to(taken_over.reshape(shape), (1, *x.shape[1:])).copy()
        options = {key: node.options[key] for key in ("stride", "padding", "dilation", "groups")
                   if key in node.options}  # fmt: skip
        op = Conv2d if node.op in CONVOLUTIONS else Linear
        arguments = (None if v is None else v.tensor for v in (weight, bias))
        sums = kernels.to_host(op.apply(Tensor(probe), *arguments, **options).data)
        addition = sums.reshape(*sums.shape[:2], -1)[0, :, 0]
        if (sums != addition.reshape([-1 if i == 1 else 1 for i in range(sums.ndim)])).any():
            image, addition = sums[:, outputs], None

    name = node.layer or node.name
    small = host_array(weight)[outputs][:, inputs]
    per_output = (
        _sliced(v, outputs) if isinstance(v, Value) and v.shape == (len(outputs),) else v for v in rest
    )
    left = (
        new_constant(f"{name}.weight", small, like=weight),
        None if addition is None else new_constant(f"{name}.bias", addition[outputs]),
        *per_output,
    )
    result = shrunk.output
    if image is None:
        return [replace(shrunk, inputs=(shrunk.inputs[0], *left))]
    sums_only = Value(f"{result.name} without constants", "result", result.shape, result.dtype)
    return [
        replace(shrunk, inputs=(shrunk.inputs[0], *left), outputs=(sums_only,)),
        replace(
            shrunk, op=Add, inputs=(sums_only, new_constant(f"{name}.constants", image)), options={}
        ),
    ]  # fmt: skip


def _shrink_options(node: Node, shrunk: Node, flow: ChannelFlow) -> Node:
    """What an op that keeps channels apart holds per channel."""
    kept = flow.kept(node.output)
    if kept.all() and all(flow.kept(x).all() for x in node.values if has_channels(x)):
        return shrunk
    inputs = tuple(
        _sliced(x, kept) if isinstance(x, Value) and x.kind == "constant" else x for x in shrunk.inputs
    )
    options = dict(node.options)
    if node.op is Reshape:
        options["shape"] = shrunk.output.shape
    elif node.op is Pad:
        before = options["pad"][1][0]
        after = len(kept) - before - node.inputs[0].shape[1]
        channels = int(kept[:before].sum()), int(kept[len(kept) - after :].sum())
        options["pad"] = (options["pad"][0], channels, *options["pad"][2:])
    elif is_depthwise(node):
        options["groups"] = int(kept.sum())
    return replace(shrunk, inputs=inputs, options=options)


def _sliced(value: Value, kept: np.ndarray) -> Value:
    """A constant with one entry per channel, for the channels that are kept; any other as it is."""
    array = host_array(value)
    axis = 0 if array.ndim == 1 or (array.ndim == 4 and array.shape[0] == len(kept)) else 1
    if array.ndim <= axis or array.shape[axis] != len(kept):
        return value
    return new_constant(value.name, np.compress(kept, array, axis=axis), like=value)


def new_constant(name: str, array: np.ndarray, like: Any = None) -> Value:
    """A constant Value; in the memory order of the constant `like`, whose kernels want it so."""
    if like is not None and like.tensor.ndim == array.ndim:
        order = np.argsort([-stride for stride in like.tensor.data.strides], kind="stable")
        array = np.ascontiguousarray(array.transpose(order)).transpose(np.argsort(order))
    return constant(name, Tensor(np.asarray(array, np.float32) if array.dtype.kind == "f" else array))

"""Which channels of a Graph say nothing: constant ones, and those that nobody reads.

Channels of all values are numbered through. Going forward, every op runs once on a probe in which unknown
channels are NaN, which shows the constant ones. Going backward, channels that are read are marked. Ops that
keep channels apart (ReLU, pooling, add, concatenation, flatten) tie those of their inputs to those of their
result: a tied class goes as a whole or stays. What an unknown op touches stays.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import minicnn_kernels as kernels
from minicnn.functions.activation import (
    ELU,
    GELU,
    Hardtanh,
    LeakyReLU,
    ReLU,
    Sigmoid,
    SiLU,
    Softplus,
    Tanh,
)
from minicnn.functions.arithmetic import Add, Clamp, Mul, Sub
from minicnn.functions.conv import Conv2d
from minicnn.functions.indexing import GetItem
from minicnn.functions.joining import Cat
from minicnn.functions.linear import Linear
from minicnn.functions.moving import Pad
from minicnn.functions.normalization import BatchNormInference
from minicnn.functions.pooling import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d
from minicnn.functions.quantization import (
    FakeQuantize,
    QuantizedAvgPool2d,
    QuantizedConv2d,
    QuantizedLinear,
)
from minicnn.functions.reduction import Mean
from minicnn.functions.shape import Reshape
from minicnn.grad_mode import no_grad
from minicnn.graph.constants import host_array, run
from minicnn.graph.ir import Graph, Node, Value
from minicnn.tensor import Tensor

CONVOLUTIONS = (Conv2d, QuantizedConv2d)
MIXING = (*CONVOLUTIONS, Linear, QuantizedLinear)
PER_CHANNEL = (BatchNormInference, FakeQuantize)
_POINTWISE = (ReLU, LeakyReLU, Hardtanh, Sigmoid, Tanh, SiLU, GELU, ELU, Softplus, Clamp)
_POOLS = (MaxPool2d, AvgPool2d, AdaptiveAvgPool2d, QuantizedAvgPool2d)
_ARITHMETIC = (Add, Sub, Mul)


def has_channels(x: Any) -> bool:
    """Whether x is a Value (N, C, ...) of floats that depends on the inputs."""
    return (
        isinstance(x, Value) and x.kind in ("input", "result") and len(x.shape) >= 2 and x.dtype.kind == "f"
    )


def is_depthwise(node: Node) -> bool:
    """Whether each channel is convolved for itself, one kernel each."""
    groups = node.options.get("groups", 1)
    return groups > 1 and groups == node.inputs[0].shape[1] == node.output.shape[1]


def mixes(node: Node) -> bool:
    """Whether every result channel is a weighted sum over all channels, with constant weights."""
    return (
        node.op in MIXING
        and node.options.get("groups", 1) == 1
        and has_channels(node.inputs[0])
        and has_channels(node.output)
        and (node.op in CONVOLUTIONS or len(node.inputs[0].shape) == 2)
        and all(x is None or x.kind == "constant" for x in node.inputs[1:])
    )


def sources(node: Node) -> list[tuple[Value, np.ndarray]] | None:
    """For an op that keeps channels apart: each input, and which of its channels each of the result's is.

    -1 stands for none of them. None for any other op.
    """
    y = node.output
    if not has_channels(y) or len(node.outputs) > 1:
        return None
    moving = [x for x in node.values if x.kind != "constant"]
    if not moving or not all(map(has_channels, moving)):
        return None
    x, same = moving[0], np.arange(y.shape[1])
    if node.op in CONVOLUTIONS:
        fits = is_depthwise(node) and len(moving) == 1
    elif node.op in (*_POINTWISE, *_POOLS):
        fits = True
    elif node.op in PER_CHANNEL:
        fits = len(moving) == 1 and node.options.get("axis") in (None, 1)
    elif node.op in _ARITHMETIC:
        fits = all(len(v.shape) in (0, len(y.shape)) for v in node.values)
    elif node.op is Mean:
        fits = y.shape[:2] == x.shape[:2]
    elif node.op is GetItem:
        index = node.options["index"]
        first = index[:2] if isinstance(index, tuple) else (index,)
        everything = all(isinstance(part, slice) and part == slice(None) for part in first)
        fits = y.shape[:2] == x.shape[:2] and everything
    elif node.op is Reshape and len(y.shape) == 2 and y.shape[0] == x.shape[0]:
        return [(x, np.repeat(np.arange(x.shape[1]), y.shape[1] // x.shape[1]))]
    elif node.op is Cat and node.options["dim"] == 1:
        ends = np.cumsum([v.shape[1] for v in moving])
        return [
            (v, np.where((same >= end - v.shape[1]) & (same < end), same - end + v.shape[1], -1))
            for v, end in zip(moving, ends, strict=True)
        ] if len(moving) == len(node.inputs) else None  # fmt: skip
    elif node.op is Pad and node.options["mode"] == "constant" and node.options["pad"][0] == (0, 0):
        shifted = same - node.options["pad"][1][0]
        return [(x, np.where((shifted >= 0) & (shifted < x.shape[1]), shifted, -1))]
    else:
        fits = False
    if not fits or any(v.shape[1] != y.shape[1] for v in moving):
        return None
    return [(v, same) for v in moving]


class ChannelFlow:
    """What is known of the channels of `graph`, whose weights are constants (see `fold_constants`)."""

    def __init__(self, graph: Graph) -> None:
        self._start: dict[Value, int] = {}
        count = 0
        for value in (*graph.inputs, *(v for node in graph.nodes for v in node.outputs)):
            if has_channels(value):
                self._start[value] = count
                count += value.shape[1]
        self._constant = np.full(count, np.nan, np.float32)
        self._needed, self._fixed = np.zeros(count, bool), np.zeros(count, bool)
        self._class = np.arange(count)
        with no_grad():
            for node in graph.nodes:
                self._find_constants(node)
        for value in (*graph.inputs, *graph.outputs):
            self._pin(value)
        for node in reversed(graph.nodes):
            self._find_needed(node)
        self._removed = self._decide()

    def constants(self, value: Value) -> np.ndarray:
        """(C,) float32: what each channel always is, NaN if it is not constant."""
        return self._constant[self._channels(value)]

    def kept(self, value: Value) -> np.ndarray:
        """(C,) bool: which channels stay."""
        return ~self._removed[self._channels(value)]

    def _channels(self, value: Value) -> np.ndarray:
        start = self._start[value]
        return np.arange(start, start + value.shape[1])

    def _pin(self, value: Any) -> None:
        """All channels of `value` stay as they are."""
        if value in self._start:
            self._needed[self._channels(value)] = self._fixed[self._channels(value)] = True

    # -- forward: what is constant ----------------------------------------------------------------

    def _find_constants(self, node: Node) -> None:
        if not mixes(node) and sources(node) is None:
            return
        x = node.inputs[0]
        silent: Any = np.zeros(node.output.shape[1], bool)  # results that no unknown channel reaches
        if node.op in MIXING:
            unknown, weight = np.isnan(self.constants(x)), heard(node)
            reached = unknown & weight if is_depthwise(node) else weight[:, unknown].any(axis=1)
            silent = np.logical_not(reached)
        probes = []
        for value in node.values:
            if value.kind != "constant":
                known = self.constants(value)
                known = np.nan_to_num(known) if node.op in MIXING else known
                shape = [-1 if i == 1 else 1 for i in range(len(value.shape))]
                probes.append(Tensor(np.broadcast_to(known.reshape(shape), value.shape).copy()))
        results = kernels.to_host(run(node, *probes)[0].data)
        rows = np.moveaxis(results, 1, 0).reshape(results.shape[1], -1)
        uniform = (rows == rows[:, :1]).all(axis=1)  # NaN is unequal to itself
        if node.op in MIXING:
            uniform &= silent
        self._constant[self._channels(node.output)] = np.where(uniform, rows[:, 0], np.nan)

    # -- backward: what is read -------------------------------------------------------------------

    def _find_needed(self, node: Node) -> None:
        tied = sources(node)
        if mixes(node):
            x, own = node.inputs[0], self._channels(node.output)
            wanted = self._needed[own] & np.isnan(self._constant[own])
            inputs = self._channels(x)
            self._needed[inputs] |= heard(node)[wanted].any(axis=0)
            if node.op is QuantizedConv2d and node.options["padding"] != (0, 0):
                # Its result is rounded at once: no image of constants can be added behind it.
                self._fixed[inputs] |= np.nan_to_num(self._constant[inputs]) != 0
        elif tied is not None:
            own = self._channels(node.output)
            wanted = self._needed[own] & np.isnan(self._constant[own])
            for value, channel in tied:
                there = channel >= 0
                partner = self._start[value] + channel[there]
                self._needed[partner[wanted[there]]] = True
                self._tie(own[there], partner)
        else:
            for value in (*node.values, *node.outputs):
                self._pin(value)

    def _tie(self, first: np.ndarray, second: np.ndarray) -> None:
        for a, b in zip(first, second, strict=True):
            a, b = self._root(a), self._root(b)
            self._class[max(a, b)] = min(a, b)

    def _root(self, channel: int) -> int:
        while self._class[channel] != channel:
            self._class[channel] = self._class[self._class[channel]]
            channel = self._class[channel]
        return channel

    def _decide(self) -> np.ndarray:
        roots = np.array([self._root(channel) for channel in range(len(self._class))], int)
        stays: Any = self._fixed | (self._needed & np.isnan(self._constant))
        staying: np.ndarray = np.zeros(len(roots), bool)
        staying[roots[stays]] = True
        while True:  # every value keeps a channel, and what is tied to it
            empty = [v for v in self._start if not staying[roots[self._channels(v)]].any()]
            if not empty:
                return np.logical_not(staying[roots])
            staying[roots[self._start[empty[0]]]] = True


def heard(node: Node) -> np.ndarray:
    """Where the weights of a layer are not zero: (O, C), or (O,) if it is depthwise."""
    weight = host_array(node.inputs[1])
    per_channel = (weight.reshape(*weight.shape[:2], -1) != 0).any(axis=2)
    return np.asarray(per_channel[:, 0] if is_depthwise(node) else per_channel)

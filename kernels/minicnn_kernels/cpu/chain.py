"""Layers in a row, made ready for evaluation: weights packed and transformed, one allocation per run.

For one image the arithmetic of a small net takes 50 us, which is what Python needs to prepare it and NumPy to
allocate its arrays. So a compiled model prepares once, and again when a weight has changed (its owner knows
that, see `minicnn.graph.plan`), and a run is little more than the kernels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minicnn_kernels import memory
from minicnn_kernels.algorithms import algorithm
from minicnn_kernels.cpu import conv, dense
from minicnn_kernels.cpu.block import FUSED_POOL
from minicnn_kernels.cpu.calls import Call, aligned
from minicnn_kernels.cpu.layout import address, channels_last, contiguous
from minicnn_kernels.windows import conv_output_size

__all__ = ["Chain", "conv2d_layer", "linear_layer"]

_LINE = memory.ALIGNMENT // 4  # floats
_RESULT = -1  # in the place of an offset: the array that is returned


class Layer(NamedTuple):
    """A call, the shape of its result, and whether it wants a place for winners of its pool."""

    call: Call
    shape: tuple[int, ...]
    pool: bool


def conv2d_layer(x_shape, weight, bias, stride, padding, dilation, groups, relu, pool) -> Layer | None:
    """`conv2d_block_forward` for images of x_shape (N, C, H, W); None if it is no single kernel."""
    if algorithm("conv2d") == "explicit" or pool not in (None, FUSED_POOL) or weight.dtype != np.float32:
        return None
    outputs = weight.shape[0]
    out_size = conv_output_size(x_shape[2:], weight.shape[2:], stride, padding, dilation)
    if pool is not None:
        out_size = out_size[0] // 2, out_size[1] // 2
    shape = (x_shape[0], outputs, *out_size)
    if math.prod(shape) == 0:
        return None
    bias = np.zeros(outputs, np.float32) if bias is None else contiguous(bias)
    n, channels, height, width = x_shape
    call = conv.prepare(
        (n, height, width, channels), conv.taps_first(weight), bias, shape, stride, padding, dilation, groups,
        relu=bool(relu), pool=pool is not None, kept=True,
    )  # fmt: skip
    return Layer(call, shape, pool is not None)


def linear_layer(x_shape, weight, bias, relu) -> Layer | None:
    """`linear_forward`, or `linear_relu_forward`, for x of shape (N, in), or (N, C, H, W) to be flattened."""
    shape = x_shape[0], weight.shape[0]
    if len(x_shape) not in (2, 4) or math.prod(shape) * math.prod(x_shape) == 0:
        return None
    return Layer(dense.prepare(x_shape, weight, bias, relu), shape, False)


class Chain:
    """Layers of which each reads the result of the one before. Threads may run it at the same time."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        # One buffer has room for scratch, winners and two results, one that is read and one that is written.
        scratch = _lines(max(layer.call.scratch for layer in layers))
        winners = _lines(max(math.prod(layer.shape) if layer.pool else 0 for layer in layers) // 4 + 1)
        result = _lines(max((math.prod(layer.shape) for layer in layers[:-1]), default=0))
        self._winners = 4 * scratch
        places = [4 * (scratch + winners + i % 2 * result) for i in range(len(layers) - 1)]
        self._floats = scratch + winners + 2 * result + _LINE
        self._alive = [layer.call.alive for layer in layers]
        self._steps = [
            (layer.call.kernel, layer.call.constants, place)
            for layer, place in zip(layers, [*places, _RESULT], strict=True)
        ]
        self._shape = layers[-1].shape

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The last layer's result. x: float32, of the shape that the first layer was made for."""
        source = channels_last(x) if x.ndim == 4 else contiguous(x)
        images = len(self._shape) == 4
        y = memory.empty_images(*self._shape) if images else memory.empty(self._shape)
        buffer = memory.empty(self._floats)
        start = aligned(address(buffer))
        winners, here = start + self._winners, address(source)
        for kernel, constants, place in self._steps:
            there = address(y) if place == _RESULT else start + place
            kernel(here, there, winners, start, *constants)
            here = there
        return y


def _lines(floats: int) -> int:
    """`floats` and a vector more, that reads may go beyond them, in whole cache lines."""
    return -(-(floats + _LINE) // _LINE) * _LINE

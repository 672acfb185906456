"""Integers of deployed models on the device: bytes in, sums by dp4a in int32, bytes or float32 out.

The arithmetic is `reference/integer.py`'s, to the bit. Products take the stored bytes as they are, padding
standing for the zero point; what the zero points add to a sum, x_zero times the sum of the weights, is
subtracted once for each output. Between sums int32 may wrap around: the last sum fits, and so is right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from minicnn_kernels.cuda.driver import cuda, kernel, launch, rint
from minicnn_kernels.cuda.finish import as_bytes, as_floats
from minicnn_kernels.cuda.instructions import dot4_signed
from minicnn_kernels.cuda.maps import typed
from minicnn_kernels.cuda.pairs import product
from minicnn_kernels.cuda.pooling import max_pool2d_forward
from minicnn_kernels.cuda.quantization import dequantize, quantize
from minicnn_kernels.cuda.shape import cat, reshape
from minicnn_kernels.cuda.storage import dense, empty, flat, on_device, to_device
from minicnn_kernels.cuda.whole_products import FOUR, multiply_bytes, padded_rows, window_rows, window_sums
from minicnn_kernels.device_array import DeviceArray
from minicnn_kernels.integer_calls import IntegerCall, check_calls, run_calls
from minicnn_kernels.windows import pool_output_size

__all__ = [
    "IntegerProgram",
    "flatten",
    "integer_add_forward",
    "integer_avg_pool2d_forward",
    "integer_conv2d_forward",
    "integer_linear_forward",
    "integer_lookup",
    "integer_max_pool2d_forward",
]

_ONES = np.int32(0x01010101)  # four bytes of 1


def integer_conv2d_forward(
    x: Any,
    weight: Any,
    bias: Any,
    factor: Any,
    x_zero: int,
    y_zero: int | None,
    qmin: int,
    qmax: int,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    pool: Any,
) -> DeviceArray:
    """Convolution of x (N, C, H, W) uint8 with weight (O, C/groups, kh, kw) int8; padding adds nothing.

    pool: None, or (kernel_size, stride) of a max pooling behind it, without padding.
    """
    on_device("integer_conv2d", x, weight, bias, factor)
    rows, out = window_rows(x, weight.shape, stride, padding, dilation, groups, x_zero)
    acc, offset = _products(rows, weight, bias, x_zero)
    y = _finished(acc, offset, factor, y_zero, qmin, qmax, math.prod(out))
    y = y.view((x.shape[0], weight.shape[0], *out), None)
    if pool is None:
        return y
    window = *pool, (0, 0), (1, 1), False
    return max_pool2d_forward(y, *window)[0] if y_zero is None else integer_max_pool2d_forward(y, *window)


def integer_linear_forward(
    x: Any, weight: Any, bias: Any, factor: Any, x_zero: int, y_zero: int | None, qmin: int, qmax: int
) -> DeviceArray:
    """x (N, K) uint8 times the transpose of weight (O, K) int8."""
    on_device("integer_linear", x, weight, bias, factor)
    acc, offset = _products(padded_rows(x).elements, weight, bias, x_zero)
    y = _finished(acc, offset, factor, y_zero, qmin, qmax, 1)
    return y.view((x.shape[0], weight.shape[0]), None)


def integer_avg_pool2d_forward(
    x: Any,
    factor: Any,
    x_zero: int,
    y_zero: int | None,
    qmin: int,
    qmax: int,
    kernel_size: Any,
    stride: Any,
    padding: Any,
) -> DeviceArray:
    """Sums over windows of x uint8, padding adding nothing, times the factor, which also divides."""
    on_device("integer_avg_pool2d", x, factor)
    acc = window_sums(x, x_zero, kernel_size, stride, padding)
    return _finished(acc, None, factor, y_zero, qmin, qmax, 1)


def integer_max_pool2d_forward(
    x: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> DeviceArray:
    """Maximum over windows of x uint8, padding never; 0 for a window that meets no pixel at all."""
    on_device("integer_max_pool2d", x)
    out = pool_output_size(x.shape[2:], kernel_size, stride, padding, dilation, ceil_mode)
    y = empty((*x.shape[:2], *out), np.uint8)
    geometry = (*x.shape[2:], *out, *kernel_size, *stride, *padding, *dilation)
    launch(_max_pool, y.size, flat(y), flat(dense(x)), geometry, y.size)
    return y


def integer_add_forward(
    a: Any,
    b: Any,
    a_scale: Any,
    a_zero: int,
    b_scale: Any,
    b_zero: int,
    y_scale: Any,
    y_zero: int,
    qmin: int,
    qmax: int,
) -> DeviceArray:
    """The sum of two lattices, uint8 of one shape, on a third; scales are 0-d float32 or numbers."""
    on_device("integer_add", a, b, a_scale, b_scale, y_scale)
    y = empty(a.shape, np.uint8)
    scales = (flat(typed(scale, np.float32)) for scale in (a_scale, b_scale, y_scale))
    zeros = int(a_zero), int(b_zero), int(y_zero)
    launch(_add, y.size, flat(y), flat(dense(a)), flat(dense(b)), *scales, *zeros, qmin, qmax, y.size)
    return y


def integer_lookup(x: Any, table: Any) -> DeviceArray:
    """table[x], for x uint8: every function of one number. table (256,), uint8 or float32."""
    on_device("integer_lookup", x, table)
    y = empty(x.shape, table.dtype)
    launch(_look_up, y.size, flat(y), flat(dense(x)), flat(dense(table)), y.size)
    return y


def flatten(x: Any) -> DeviceArray:
    """(N, C, H, W) -> (N, C H W)."""
    return reshape(x, (x.shape[0], math.prod(x.shape[1:])))


class IntegerProgram:
    """A row of calls on the device, one after the other; see `minicnn_kernels/integer_calls.py`.

    Arrays among the arguments of the calls, the weights of a file, move to the device here and are made ready
    for its products, once; what comes in has to be there. inputs, outputs: the numbers of the values that
    come in and go out. Raises ValueError for calls that are no program.
    """

    def __init__(self, calls: Sequence[Any], inputs: Sequence[int], outputs: Sequence[int]) -> None:
        self.calls = tuple(_moved(IntegerCall(*call)) for call in calls)
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        check_calls(self.calls, self.inputs, self.outputs)

    def __call__(self, *arrays: Any) -> tuple[Any, ...]:
        """The outputs, a tuple. Raises ValueError if the number of arrays is not that of the inputs,
        TypeError if one is in host memory."""
        on_device("IntegerProgram", *arrays)
        return run_calls(_KERNELS, self.calls, self.inputs, self.outputs, arrays)


_KERNELS: dict[str, Any] = {
    "concatenate": cat,
    "dequantize": dequantize,
    "flatten": flatten,
    "integer_add_forward": integer_add_forward,
    "integer_avg_pool2d_forward": integer_avg_pool2d_forward,
    "integer_conv2d_forward": integer_conv2d_forward,
    "integer_linear_forward": integer_linear_forward,
    "integer_lookup": integer_lookup,
    "integer_max_pool2d_forward": integer_max_pool2d_forward,
    "quantize": quantize,
}


class _Weight(NamedTuple):
    """A weight made ready.

    words: (O, depth) int8, as deep as the rows that it meets. offset: what the sum of each output has to be
    changed by, (O,) int32. shape: the weight's own.
    """

    words: DeviceArray
    offset: DeviceArray
    shape: tuple[int, ...]


def _moved(call: IntegerCall) -> IntegerCall:
    """The call with its arrays on the device and its weight made ready."""
    arguments: list[Any] = [to_device(x) if isinstance(x, np.ndarray) else x for x in call.arguments]
    if call.kernel in ("integer_conv2d_forward", "integer_linear_forward"):
        _, weight, bias, _, x_zero = arguments[:5]
        arguments[1] = _ready(weight, bias, x_zero)
    return call._replace(arguments=tuple(arguments))


def _ready(weight: Any, bias: Any, x_zero: int) -> _Weight:
    if isinstance(weight, _Weight):
        return weight
    outputs = weight.shape[0]
    elements = padded_rows(reshape(weight, (outputs, math.prod(weight.shape[1:])))).elements
    words = elements.view((outputs, elements.shape[3]), None)
    offset = empty((outputs,), np.int32)
    given = flat(offset if bias is None else dense(bias)), bias is not None
    depth = words.shape[1] // FOUR
    launch(_offsets, outputs, flat(offset), flat(words).view(np.int32), *given, x_zero, depth, outputs)
    return _Weight(words, offset, weight.shape)


def _products(rows: DeviceArray, weight: Any, bias: Any, x_zero: int) -> tuple[DeviceArray, DeviceArray]:
    """(sums of products of the bytes, the weight's offset), both int32. weight: ready, or int8."""
    ready = _ready(weight, bias, x_zero)
    return multiply_bytes(rows, ready.words), ready.offset


def _finished(
    acc: DeviceArray, offset: Any, factor: Any, y_zero: int | None, qmin: int, qmax: int, after: int
) -> DeviceArray:
    if y_zero is None:
        return as_floats(acc, offset, factor, after)
    return as_bytes(acc, offset, factor, after, y_zero, qmin, qmax)


@kernel("int32[::1], int32[::1], int32[::1], boolean, int64, int64, int64", registers=40)
def _offsets(offset, weight, bias, has_bias, x_zero, depth, outputs):
    """The bias less x_zero times the sum of the weights, modulo 2^32."""
    for i in range(cuda.grid(1), outputs, cuda.gridsize(1)):
        total = np.int32(0)
        for k in range(i * depth, (i + 1) * depth):
            total = dot4_signed(weight[k], _ONES, total)
        change = -x_zero * np.int64(total)
        if has_bias:
            change += np.int64(bias[i])
        offset[i] = np.int32(change)


@kernel("uint8[::1], uint8[::1], UniTuple(int64, 12), int64", registers=64)
def _max_pool(y, x, geometry, size):
    h, w, out_h, out_w, kh, kw, sh, sw, ph, pw, dh, dw = geometry
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        top, left = e // out_w % out_h * sh - ph, e % out_w * sw - pw
        image = e // (out_w * out_h) * h * w
        best = np.int64(0)
        for p in range(kh):
            for q in range(kw):
                i, j = top + p * dh, left + q * dw
                if 0 <= i < h and 0 <= j < w:
                    best = max(best, np.int64(x[image + i * w + j]))
        y[e] = best


@kernel(
    "uint8[::1], uint8[::1], uint8[::1], float32[::1], float32[::1], float32[::1], "
    "int64, int64, int64, int64, int64, int64",
    registers=48,
)
def _add(y, a, b, a_scale, b_scale, y_scale, a_zero, b_zero, y_zero, qmin, qmax, size):
    low, high = np.float32(qmin - y_zero), np.float32(qmax - y_zero)
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        # Each product is rounded before the sum: fused, the last bit could differ.
        total = product(np.float32(np.int64(a[i]) - a_zero), a_scale[0])
        total += product(np.float32(np.int64(b[i]) - b_zero), b_scale[0])
        value = rint(total / y_scale[0])
        value = low if value < low else value
        value = high if value > high else value
        y[i] = np.int64(value) + y_zero


@kernel("float32[::1], uint8[::1], float32[::1], int64", registers=32)
def _look_up(y, x, table, size):
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        y[i] = table[x[i]]

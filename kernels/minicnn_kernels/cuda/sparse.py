"""Layers whose weights are mostly zeros, on the device: one thread for each result walks one row.

Rows are those of `reference/sparse.py`. Sums run in the order of the columns, so results repeat bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minicnn_kernels.cuda.driver import cuda, kernel, launch
from minicnn_kernels.cuda.elementwise import ne
from minicnn_kernels.cuda.indexing import take
from minicnn_kernels.cuda.order import true_positions
from minicnn_kernels.cuda.shape import permute, reshape
from minicnn_kernels.cuda.storage import dense, empty, flat, on_device
from minicnn_kernels.device_array import DeviceArray
from minicnn_kernels.windows import conv_output_size

__all__ = ["sparse_conv2d_forward", "sparse_linear_forward", "to_sparse_rows"]

_ZERO = np.float32(0)


def to_sparse_rows(weight: Any) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
    """(values, columns int32, starts int32) of a weight (O, K) or (O, C, kh, kw); -0 is a zero.

    Waits for the device: the shape of the result depends on how many elements are not 0.
    """
    on_device("to_sparse_rows", weight)
    outputs = weight.shape[0]
    rows = weight if weight.ndim == 2 else reshape(permute(weight, (0, 2, 3, 1)), (outputs, -1))
    width, rows = rows.shape[1], reshape(rows, (rows.size,))
    places = true_positions(ne(rows, 0))
    columns, starts = empty(places.shape, np.int32), empty((outputs + 1,), np.int32)
    launch(_columns, columns.size, flat(columns), flat(places), width, columns.size)
    launch(_starts, starts.size, flat(starts), flat(places), width, columns.size, starts.size)
    return take(rows, places, 0), columns, starts


def sparse_linear_forward(x: Any, values: Any, columns: Any, starts: Any, bias: Any) -> DeviceArray:
    """x weight^T + bias. x (..., in), the weight as rows, bias (out,) or None -> (..., out)."""
    on_device("sparse_linear", x, values, columns, starts, bias)
    outputs = starts.size - 1
    y = empty((*x.shape[:-1], outputs))
    launch(_times_rows, y.size, flat(y), flat(dense(x)), *_weight(values, columns, starts, bias), x.shape[-1],
           outputs, y.size)  # fmt: skip
    return y


def sparse_conv2d_forward(
    x: Any,
    values: Any,
    columns: Any,
    starts: Any,
    bias: Any,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> DeviceArray:
    """Convolution of x (N, C, H, W) with a weight as rows -> (N, O, H', W')."""
    on_device("sparse_conv2d", x, values, columns, starts, bias)
    n, channels, *size = x.shape
    outputs = starts.size - 1
    out = conv_output_size(size, kernel_size, stride, padding, dilation)
    y = empty((n, outputs, *out))
    geometry = (channels, *size, *out, *kernel_size, *stride, *padding, *dilation)
    weight = _weight(values, columns, starts, bias)
    launch(_convolve, y.size, flat(y), flat(dense(x)), *weight, geometry, outputs, groups, y.size)
    return y


def _weight(values: Any, columns: Any, starts: Any, bias: Any) -> tuple[Any, ...]:
    rows = (flat(dense(array)) for array in (values, columns, starts))
    return *rows, flat(dense(values if bias is None else bias)), bias is not None


_WEIGHT = "float32[::1], int32[::1], int32[::1], float32[::1], boolean"


@kernel("int32[::1], int64[::1], int64, int64", registers=32)
def _columns(columns, places, width, size):
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        columns[i] = places[i] % width


@kernel("int32[::1], int64[::1], int64, int64, int64", registers=32)
def _starts(starts, places, width, count, size):
    """Where the first place at or behind each row's beginning stands, by bisection."""
    for row in range(cuda.grid(1), size, cuda.gridsize(1)):
        low, high = 0, count
        while low < high:
            middle = (low + high) // 2
            if places[middle] < row * width:
                low = middle + 1
            else:
                high = middle
        starts[row] = low


@kernel(f"float32[::1], float32[::1], {_WEIGHT}, int64, int64, int64", registers=48)
def _times_rows(y, x, values, columns, starts, bias, has_bias, depth, outputs, size):
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        output, row, total = e % outputs, e // outputs * depth, _ZERO
        for k in range(starts[output], starts[output + 1]):
            total += values[k] * x[row + columns[k]]
        y[e] = total + bias[output] if has_bias else total


@kernel(f"float32[::1], float32[::1], {_WEIGHT}, UniTuple(int64, 13), int64, int64, int64", registers=64)
def _convolve(y, x, values, columns, starts, bias, has_bias, geometry, outputs, groups, size):
    """A column stands for a tap and a channel of the group, channels innermost."""
    channels, h, w, out_h, out_w, _, kw, sh, sw, ph, pw, dh, dw = geometry
    inside = channels // groups
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        column, row, output = e % out_w, e // out_w % out_h, e // (out_w * out_h) % outputs
        image, total = e // (out_w * out_h * outputs), _ZERO
        first = image * channels + output // (outputs // groups) * inside
        for k in range(starts[output], starts[output + 1]):
            tap, channel = columns[k] // inside, columns[k] % inside
            i, j = row * sh - ph + tap // kw * dh, column * sw - pw + tap % kw * dw
            if 0 <= i < h and 0 <= j < w:
                total += values[k] * x[((first + channel) * h + i) * w + j]
        y[e] = total + bias[output] if has_bias else total

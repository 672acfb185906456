"""Layers on lattices in exact integers, on the device, with the bits of `reference/quantization.py`.

Values become whole steps in int32, sums are exact in int64 (`whole_products.py`), what follows a sum is in
`finish.py`. Deployed models, whose integers are stored as bytes, are in `integer.py`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minicnn_kernels.cuda.driver import cuda, kernel, launch, rint
from minicnn_kernels.cuda.finish import as_floats, as_points
from minicnn_kernels.cuda.maps import constant
from minicnn_kernels.cuda.storage import dense, empty, flat, on_device
from minicnn_kernels.cuda.whole_products import multiply_steps, padded_rows, window_rows, window_sums
from minicnn_kernels.device_array import DeviceArray

__all__ = ["quantized_avg_pool2d_forward", "quantized_conv2d_forward", "quantized_linear_forward"]

_MOST = np.float32(2**30)  # steps of a bias


def quantized_conv2d_forward(
    x: Any,
    weight: Any,
    bias: Any,
    x_scale: Any,
    w_scale: Any,
    y_scale: Any,
    y_zero_point: Any,
    qmin: int,
    qmax: int,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> DeviceArray:
    """Convolution of a lattice with a lattice, in exact integers; see the reference.

    x (N, C, H, W), weight (O, C/groups, kh, kw) -> (N, O, H', W').
    """
    on_device("quantized_conv2d", x, weight, bias, x_scale, w_scale, y_scale, y_zero_point)
    rows, out = window_rows(_steps(x, x_scale), weight.shape, stride, padding, dilation, groups, 0)
    acc = multiply_steps(rows, _weight_steps(weight, w_scale))
    y = _finished(acc, bias, x_scale, w_scale, y_scale, y_zero_point, qmin, qmax, math.prod(out))
    return y.view((x.shape[0], weight.shape[0], *out), None)


def quantized_linear_forward(
    x: Any,
    weight: Any,
    bias: Any,
    x_scale: Any,
    w_scale: Any,
    y_scale: Any,
    y_zero_point: Any,
    qmin: int,
    qmax: int,
) -> DeviceArray:
    """The same for x (..., in) and weight (out, in)."""
    on_device("quantized_linear", x, weight, bias, x_scale, w_scale, y_scale, y_zero_point)
    steps = _steps(x, x_scale).view((x.size // x.shape[-1], x.shape[-1]), None)
    acc = multiply_steps(padded_rows(steps).elements, _weight_steps(weight, w_scale))
    y = _finished(acc, bias, x_scale, w_scale, y_scale, y_zero_point, qmin, qmax, 1)
    return y.view((*x.shape[:-1], weight.shape[0]), None)


def quantized_avg_pool2d_forward(
    x: Any,
    x_scale: Any,
    y_scale: Any,
    y_zero_point: Any,
    qmin: int,
    qmax: int,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    divisor: int,
) -> DeviceArray:
    """Average pooling of points of a lattice, padded zeros included, in exact integers.

    A convolution with weights of 1 step of the scale 1 / divisor. x (N, C, H, W) -> (N, C, H', W').
    """
    on_device("quantized_avg_pool2d", x, x_scale, y_scale, y_zero_point)
    acc = window_sums(_steps(x, x_scale), 0, kernel_size, stride, padding)
    share = constant(np.float32(1) / np.float32(divisor), np.float32)
    return _finished(acc, None, x_scale, share, y_scale, y_zero_point, qmin, qmax, 1)


def _steps(x: DeviceArray, scale: DeviceArray) -> DeviceArray:
    """Points of one lattice as whole numbers, int32. scale: 0-d, or (C,) along dimension 0."""
    steps = empty(x.shape, np.int32)
    after = max(math.prod(x.shape[1:]), 1)
    sizes = scale.size, after, steps.size
    launch(_to_steps, steps.size, flat(steps), flat(dense(x)), flat(dense(scale)), *sizes)
    return steps


def _weight_steps(weight: DeviceArray, scale: DeviceArray) -> DeviceArray:
    """(O, depth) int32, as deep as the rows that it meets."""
    steps = _steps(weight, scale).view((weight.shape[0], math.prod(weight.shape[1:])), None)
    elements = padded_rows(steps).elements
    return elements.view((elements.shape[0], elements.shape[3]), None)


def _finished(
    acc: DeviceArray,
    bias: Any,
    x_scale: Any,
    w_scale: Any,
    y_scale: Any,
    y_zero_point: Any,
    qmin: int,
    qmax: int,
    after: int,
) -> DeviceArray:
    """From exact sums to the result: bias, then float or requantized."""
    channels = w_scale.size if bias is None else bias.size
    factor = empty((channels,))
    offset = None if bias is None else empty((channels,), np.int64)
    scales = flat(dense(x_scale)), flat(dense(w_scale)), w_scale.size
    given = flat(factor if y_scale is None else dense(y_scale)), y_scale is not None
    counted = flat(factor), flat(factor if offset is None else offset)
    steps = flat(factor if bias is None else dense(bias)), bias is not None
    launch(_count_in_steps, channels, *counted, *steps, *scales, *given, channels)
    if y_scale is None:
        return as_floats(acc, offset, factor, after)
    return as_points(acc, offset, factor, after, y_scale, y_zero_point, qmin, qmax)


@kernel("int32[::1], float32[::1], float32[::1], int64, int64, int64", registers=40)
def _to_steps(steps, x, scale, scales, after, size):
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        steps[i] = np.int32(rint(x[i] / scale[i // after % scales]))


@kernel(
    "float32[::1], int64[::1], float32[::1], boolean, float32[::1], float32[::1], int64, float32[::1], "
    "boolean, int64",
    registers=40,
)
def _count_in_steps(
    factor, offset, bias, has_bias, x_scale, w_scale, w_scales, y_scale, has_y_scale, channels
):
    """The bias in whole steps of x_scale * w_scale, and what one such step is in steps of y_scale."""
    for i in range(cuda.grid(1), channels, cuda.gridsize(1)):
        unit = x_scale[0] * w_scale[i % w_scales]
        if has_bias:
            steps = rint(bias[i] / unit)
            steps = _MOST if steps > _MOST else steps
            offset[i] = np.int64(-_MOST if steps < -_MOST else steps)
        factor[i] = unit / y_scale[0] if has_y_scale else unit

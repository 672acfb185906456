"""What `minicnn.compile` fuses: ReLU, max-pooling, batch norm's scaling and sums of one shape in one pass.

On a GPU these ops only move memory, so an op that is done while a value is in a register anyway costs
nothing. Forward, everything behind a convolution or behind the statistics of a batch is one kernel. Backward,
a pool with ReLU is one kernel by its winners; masking a gradient apart from batch norm's two passes over it
costs one of eight trips to memory, and is left to the kernels of the other files. Formulas and `winners` are
those of `reference/block.py`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minicnn_kernels.cuda.activation import relu_backward
from minicnn_kernels.cuda.conv import (
    conv2d_backward_bias,
    conv2d_backward_input,
    conv2d_backward_weight,
    convolution,
)
from minicnn_kernels.cuda.driver import cuda, device_function, kernel, launch
from minicnn_kernels.cuda.gemm import LONGEST
from minicnn_kernels.cuda.instructions import load4, store4
from minicnn_kernels.cuda.linear import dense_layer
from minicnn_kernels.cuda.normalization import batch_norm_backward, batch_statistics
from minicnn_kernels.cuda.pooling import max_pool2d_backward
from minicnn_kernels.cuda.storage import dense, empty, flat, on_device
from minicnn_kernels.device_array import DeviceArray
from minicnn_kernels.reference.block import DEAD
from minicnn_kernels.windows import conv_output_size, pool_output_size

__all__ = [
    "add_relu_forward",
    "batch_norm_block_backward",
    "batch_norm_block_forward",
    "conv2d_block_backward",
    "conv2d_block_forward",
    "linear_relu_forward",
    "shortcut_backward",
    "shortcut_forward",
]

_ZERO, _ONE, _INFINITY = np.float32(0), np.float32(1), np.float32(np.inf)
_WINDOWS = "UniTuple(int64, 8)"  # height and width of the image, of the result, of a window, of its step
_PLACES = "UniTuple(int64, 8)"
_OPTIONAL = "float32[::1], boolean"


def conv2d_block_forward(
    x: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    relu: bool,
    pool: Any,
) -> tuple[DeviceArray, Any]:
    """max_pool(relu(weight * x + bias)) -> (y, winners)."""
    if pool is None:
        return convolution(x, weight, bias, stride, padding, dilation, groups, relu=relu), None
    y = convolution(x, weight, bias, stride, padding, dilation, groups)
    windows, y_shape = _windows(y, pool)
    pooled, winners = empty(y_shape), empty(y_shape, np.uint8)
    launch(_pool, pooled.size, flat(pooled), flat(winners), flat(y), windows, relu, pooled.size)
    return pooled, winners


def conv2d_block_backward(
    grad: Any,
    y: Any,
    winners: Any,
    x: Any,
    weight: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    relu: bool,
    pool: Any,
    needs: Any,
) -> tuple[Any, Any, Any]:
    """(dx, dweight, dbias) of `conv2d_block_forward`. grad and y (N, O, H'', W'')."""
    size = conv_output_size(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    grad = _before_relu_and_pool(grad, y, winners, (x.shape[0], weight.shape[0], *size), relu, pool)
    geometry = (stride, padding, dilation, groups)
    return (
        conv2d_backward_input(grad, weight, x.shape, *geometry) if needs[0] else None,
        conv2d_backward_weight(grad, x, weight.shape, *geometry) if needs[1] else None,
        conv2d_backward_bias(grad) if needs[2] else None,
    )


def batch_norm_block_forward(
    x: Any, weight: Any, bias: Any, residual: Any, eps: float, relu: bool, pool: Any
) -> tuple[DeviceArray, Any, DeviceArray, DeviceArray]:
    """max_pool(relu(batch_norm(x) + residual)) -> (y, winners, mean, inv_std)."""
    on_device("batch_norm", x, weight, bias, residual)
    x = dense(x)
    mean, inv_std = batch_statistics(x, eps)
    arrays: list[Any] = [flat(x), flat(mean), flat(inv_std)]
    for array in (weight, bias, residual):
        arrays += [flat(x if array is None else dense(array)), array is not None]
    channels, pixels = x.shape[1], math.prod(x.shape[2:])
    if pool is None:
        y = empty(x.shape)
        of_y, of_x, of_residual = flat(y), arrays[0], arrays[-2]
        by_fours = all(array.is_aligned for array in (of_y, of_x, of_residual)) and y.size <= LONGEST
        if by_fours and pixels % 4 == 0:
            fours = y.size // 4
            launch(_norm_by_fours, fours, of_y, *arrays, relu, channels, pixels // 4, fours)
        else:
            launch(_norm, y.size, of_y, *arrays, relu, channels, pixels, y.size)
        return y, None, mean, inv_std
    windows, y_shape = _windows(x, pool)
    y, winners = empty(y_shape), empty(y_shape, np.uint8)
    launch(_norm_pool, y.size, flat(y), flat(winners), *arrays, relu, channels, windows, y.size)
    return y, winners, mean, inv_std


def batch_norm_block_backward(
    grad: Any,
    y: Any,
    winners: Any,
    x: Any,
    weight: Any,
    bias: Any,
    has_residual: bool,
    mean: Any,
    inv_std: Any,
    relu: bool,
    pool: Any,
    needs: Any,
) -> tuple[Any, Any, Any, Any]:
    """(dx, dweight, dbias, dresidual) of `batch_norm_block_forward`. grad and y have its result's shape."""
    grad = _before_relu_and_pool(grad, y, winners, x.shape, relu, pool)
    gradients = batch_norm_backward(grad, x, weight, mean, inv_std, needs[:3])
    return *gradients, grad if has_residual and needs[3] else None


def add_relu_forward(a: Any, b: Any) -> DeviceArray:
    """max(a + b, 0) of arrays of one shape; its gradient by either is `relu_backward`."""
    on_device("add_relu", a, b)
    y = empty(a.shape)
    launch(_add_relu, y.size, flat(y), flat(dense(a)), flat(dense(b)), y.size)
    return y


def linear_relu_forward(x: Any, weight: Any, bias: Any) -> DeviceArray:
    """max(x weight^T + bias, 0); arguments as `linear_forward`'s."""
    return dense_layer(x, weight, bias, relu=True)


def shortcut_forward(x: Any, step: Any, before: int, channels: int) -> DeviceArray:
    """Every step-th pixel of x (N, C, H, W) between channels of zeros, `before` of them first."""
    on_device("shortcut", x)
    n, c, h, w = x.shape
    y = empty((n, channels, -(-h // step[0]), -(-w // step[1])))
    places = (c, h, w, *y.shape[1:], *step)
    launch(_shortcut, y.size, flat(y), flat(dense(x)), places, before, y.size)
    return y


def shortcut_backward(grad: Any, input_shape: Any, step: Any, before: int) -> DeviceArray:
    """Gradient of `shortcut_forward` by x of input_shape."""
    on_device("shortcut", grad)
    dx = empty(input_shape)
    places = (*input_shape[1:], *grad.shape[1:], *step)
    launch(_shortcut_backward, dx.size, flat(dx), flat(dense(grad)), places, before, dx.size)
    return dx


def _windows(x: DeviceArray, pool: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(what kernels are told of the windows, shape of the result) for x (N, C, H, W)."""
    kernel_size, stride = pool
    out = pool_output_size(x.shape[2:], kernel_size, stride, (0, 0), (1, 1), False)
    return (*x.shape[2:], *out, *kernel_size, *stride), (*x.shape[:2], *out)


def _before_relu_and_pool(grad: Any, y: Any, winners: Any, shape: Any, relu: bool, pool: Any) -> Any:
    """The gradient before ReLU and pool, of `shape`. No position of a window is called `DEAD`."""
    if pool is not None:
        kernel_size, stride = pool
        return max_pool2d_backward(grad, winners, shape, kernel_size, stride, (0, 0), (1, 1))
    return relu_backward(grad, y) if relu else grad


@device_function
def _normalized(x, place, channel, mean, inv_std, weight, has_weight, bias, has_bias, residual, has_residual):
    """Batch norm's result, and the residual added, for one element."""
    value = (x[place] - mean[channel]) * inv_std[channel]
    if has_weight:
        value *= weight[channel]
    if has_bias:
        value += bias[channel]
    if has_residual:
        value += residual[place]
    return value


@kernel("float32[::1], float32[::1], float32[::1], int64", registers=32)
def _add_relu(y, a, b, size):
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        value = a[i] + b[i]
        y[i] = _ZERO if value < _ZERO else value


@kernel(f"float32[::1], uint8[::1], float32[::1], {_WINDOWS}, boolean, int64", registers=64)
def _pool(y, winners, x, windows, relu, size):
    """One thread a window. Windows lie inside of the image: there is no padding."""
    h, w, out_h, out_w, kh, kw, sh, sw = windows
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        first = (e // (out_w * out_h) * h + e // out_w % out_h * sh) * w + e % out_w * sw
        best, winner = x[first], 0
        for p in range(kh):
            for q in range(kw):
                value = x[first + p * w + q]
                if value > best or (value != value and best == best):  # the first NaN is never replaced
                    best, winner = value, p * kw + q
        if relu and best <= _ZERO:
            best, winner = _ZERO, DEAD
        y[e], winners[e] = best, winner


_NORM = f"float32[::1], float32[::1], float32[::1], {_OPTIONAL}, {_OPTIONAL}, {_OPTIONAL}, boolean"


@kernel(f"float32[::1], {_NORM}, int64, int64, int64", registers=64)
def _norm(
    y, x, mean, inv_std, weight, has_weight, bias, has_bias, residual, has_residual, relu, channels, pixels,
    size,
):  # fmt: skip
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        value = _normalized(
            x, i, i // pixels % channels, mean, inv_std, weight, has_weight, bias, has_bias, residual,
            has_residual,
        )  # fmt: skip
        y[i] = _ZERO if relu and value < _ZERO else value


@device_function
def _activated(x, center, scale, weight, bias, added, relu):
    value = (x - center) * scale * weight + bias + added
    return _ZERO if relu and value < _ZERO else value


@kernel(f"float32[::1], {_NORM}, int64, int64, int64", registers=64)
def _norm_by_fours(
    y, x, mean, inv_std, weight, has_weight, bias, has_bias, residual, has_residual, relu, channels, quarter,
    size,
):  # fmt: skip
    """Four neighbours of one channel at a time. quarter: of the pixels of a channel."""
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        channel, first = i // quarter % channels, np.int32(4 * i)
        center, scale = mean[channel], inv_std[channel]
        w, b = weight[channel] if has_weight else _ONE, bias[channel] if has_bias else _ZERO
        x0, x1, x2, x3 = load4(x, first)
        r0, r1, r2, r3 = load4(residual, first) if has_residual else (_ZERO, _ZERO, _ZERO, _ZERO)
        store4(
            y,
            first,
            _activated(x0, center, scale, w, b, r0, relu),
            _activated(x1, center, scale, w, b, r1, relu),
            _activated(x2, center, scale, w, b, r2, relu),
            _activated(x3, center, scale, w, b, r3, relu),
        )


@kernel(f"float32[::1], uint8[::1], {_NORM}, int64, {_WINDOWS}, int64", registers=80)
def _norm_pool(
    y, winners, x, mean, inv_std, weight, has_weight, bias, has_bias, residual, has_residual, relu, channels,
    windows, size,
):  # fmt: skip
    h, w, out_h, out_w, kh, kw, sh, sw = windows
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        image = e // (out_w * out_h)
        first = (image * h + e // out_w % out_h * sh) * w + e % out_w * sw
        best, winner = -_INFINITY, 0
        for p in range(kh):
            for q in range(kw):
                value = _normalized(
                    x, first + p * w + q, image % channels, mean, inv_std, weight, has_weight, bias, has_bias,
                    residual, has_residual,
                )  # fmt: skip
                if value > best or (value != value and best == best):
                    best, winner = value, p * kw + q
        if relu and best <= _ZERO:
            best, winner = _ZERO, DEAD
        y[e], winners[e] = best, winner


@kernel(f"float32[::1], float32[::1], {_PLACES}, int64, int64", registers=48)
def _shortcut(y, x, places, before, size):
    c, h, w, channels, out_h, out_w, down, across = places
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        i, j, channel = e // out_w % out_h * down, e % out_w * across, e // (out_w * out_h) % channels
        image, mine = e // (out_w * out_h * channels), channel - before
        y[e] = x[((image * c + mine) * h + i) * w + j] if 0 <= mine < c else _ZERO


@kernel(f"float32[::1], float32[::1], {_PLACES}, int64, int64", registers=48)
def _shortcut_backward(dx, grad, places, before, size):
    c, h, w, channels, out_h, out_w, down, across = places
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        i, j = e // w % h, e % w
        picked = e // (w * h) // c * channels + before + e // (w * h) % c  # the channel, through all images
        inside = i % down == 0 and j % across == 0
        dx[e] = grad[(picked * out_h + i // down) * out_w + j // across] if inside else _ZERO

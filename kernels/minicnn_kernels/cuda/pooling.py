"""Max, average and adaptive pooling: one thread for each window forward, for each pixel backward.

A pixel collects from the windows that cover it, in a fixed order and without atomic additions. Sizes, counts
and the meaning of argmax are those of `reference/pooling.py`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minicnn_kernels.cuda.driver import cuda, kernel, launch
from minicnn_kernels.cuda.storage import dense, empty, flat, on_device
from minicnn_kernels.device_array import DeviceArray
from minicnn_kernels.windows import pool_output_size

__all__ = [
    "adaptive_avg_pool2d_backward",
    "adaptive_avg_pool2d_forward",
    "adaptive_max_pool2d_backward",
    "adaptive_max_pool2d_forward",
    "avg_pool2d_backward",
    "avg_pool2d_forward",
    "max_pool2d_backward",
    "max_pool2d_forward",
    "max_pool2d_indices",
]

_ZERO, _INFINITY = np.float32(0), np.float32(np.inf)
_GEOMETRY = "UniTuple(int64, 12)"
_SIZES = "UniTuple(int64, 4)"


def max_pool2d_forward(
    x: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> tuple[DeviceArray, DeviceArray]:
    """Maximum over windows -> (y, argmax), both (N, C, H', W'); see the reference for argmax."""
    on_device("max_pool2d", x)
    out = pool_output_size(x.shape[2:], kernel_size, stride, padding, dilation, ceil_mode)
    y = empty((*x.shape[:2], *out))
    argmax = empty(y.shape, np.uint8 if math.prod(kernel_size) <= 256 else np.int32)
    geometry = (*x.shape[2:], *out, *kernel_size, *stride, *padding, *dilation)
    launch(_max_forward, y.size, flat(y), flat(argmax), flat(dense(x)), geometry, y.size)
    return y, argmax


def max_pool2d_backward(
    grad: Any, argmax: Any, input_shape: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any
) -> DeviceArray:
    """Each window's gradient goes to the pixel that won. grad, argmax (N, C, H', W') -> input_shape."""
    on_device("max_pool2d", grad, argmax)
    dx = empty(input_shape)
    geometry = (*input_shape[2:], *grad.shape[2:], *kernel_size, *stride, *padding, *dilation)
    arrays = flat(dx), flat(dense(grad)), flat(dense(argmax))
    apart = all(size <= step for size, step in zip(kernel_size, stride, strict=True))
    if apart and tuple(padding) == (0, 0) and tuple(dilation) == (1, 1):
        cells = tuple(-(-size // step) for size, step in zip(input_shape[2:], stride, strict=True))
        count = math.prod((*input_shape[:2], *cells))
        launch(_max_backward_apart, count, *arrays, geometry, cells, count)
    else:
        launch(_max_backward, dx.size, *arrays, geometry, dx.size)
    return dx


def max_pool2d_indices(
    argmax: Any, input_shape: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any
) -> DeviceArray:
    """Positions of the winners in their image, h W + w, int64 (N, C, H', W')."""
    on_device("max_pool2d", argmax)
    indices = empty(argmax.shape, np.int64)
    geometry = (*input_shape[2:], *argmax.shape[2:], *kernel_size, *stride, *padding, *dilation)
    launch(_indices, indices.size, flat(indices), flat(dense(argmax)), geometry, indices.size)
    return indices


def avg_pool2d_forward(
    x: Any,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: Any,
) -> DeviceArray:
    """Mean over windows -> (N, C, H', W'); the divisor is as in the reference."""
    on_device("avg_pool2d", x)
    out = pool_output_size(x.shape[2:], kernel_size, stride, padding, (1, 1), ceil_mode)
    y = empty((*x.shape[:2], *out))
    geometry = (*x.shape[2:], *out, *kernel_size, *stride, *padding, 1, 1)
    launch(
        _avg_forward,
        y.size,
        flat(y),
        flat(dense(x)),
        geometry,
        count_include_pad,
        divisor_override or 0,
        y.size,
    )
    return y


def avg_pool2d_backward(
    grad: Any,
    input_shape: Any,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: Any,
) -> DeviceArray:
    """Every pixel of a window receives an equal share of the window's gradient. grad (N, C, H', W')."""
    on_device("avg_pool2d", grad)
    dx = empty(input_shape)
    geometry = (*input_shape[2:], *grad.shape[2:], *kernel_size, *stride, *padding, 1, 1)
    launch(
        _avg_backward,
        dx.size,
        flat(dx),
        flat(dense(grad)),
        geometry,
        count_include_pad,
        divisor_override or 0,
        dx.size,
    )
    return dx


def adaptive_avg_pool2d_forward(x: Any, output_size: Any) -> DeviceArray:
    """Mean over output_size = (H', W') windows that cover the image. (N, C, H, W) -> (N, C, H', W')."""
    on_device("adaptive_avg_pool2d", x)
    y = empty((*x.shape[:2], *output_size))
    launch(_adaptive_avg_forward, y.size, flat(y), flat(dense(x)), (*x.shape[2:], *output_size), y.size)
    return y


def adaptive_avg_pool2d_backward(grad: Any, input_shape: Any) -> DeviceArray:
    """Every pixel of a window receives an equal share of the window's gradient. grad (N, C, H', W')."""
    on_device("adaptive_avg_pool2d", grad)
    dx = empty(input_shape)
    sizes = (*input_shape[2:], *grad.shape[2:])
    launch(_adaptive_avg_backward, dx.size, flat(dx), flat(dense(grad)), sizes, dx.size)
    return dx


def adaptive_max_pool2d_forward(x: Any, output_size: Any) -> tuple[DeviceArray, DeviceArray]:
    """Maximum over the windows of `adaptive_avg_pool2d_forward` -> (y, indices), both (N, C, H', W')."""
    on_device("adaptive_max_pool2d", x)
    y = empty((*x.shape[:2], *output_size))
    indices = empty(y.shape, np.int64)
    sizes = (*x.shape[2:], *output_size)
    launch(_adaptive_max_forward, y.size, flat(y), flat(indices), flat(dense(x)), sizes, y.size)
    return y, indices


def adaptive_max_pool2d_backward(grad: Any, indices: Any, input_shape: Any) -> DeviceArray:
    """Each window's gradient goes to the pixel that won. grad, indices (N, C, H', W') -> input_shape."""
    on_device("adaptive_max_pool2d", grad, indices)
    dx = empty(input_shape)
    sizes = (*input_shape[2:], *grad.shape[2:])
    launch(_adaptive_max_backward, dx.size, flat(dx), flat(dense(grad)), flat(dense(indices)), sizes, dx.size)
    return dx


@kernel(f"float32[::1], uint8[::1], float32[::1], {_GEOMETRY}, int64", registers=64)
def _max_forward(y, argmax, x, geometry, size):
    h, w, out_h, out_w, kh, kw, sh, sw, ph, pw, dh, dw = geometry
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        top, left = e // out_w % out_h * sh - ph, e % out_w * sw - pw
        image = e // (out_w * out_h) * h * w
        best, winner, met = -_INFINITY, 0, False
        for p in range(kh):
            for q in range(kw):
                i, j = top + p * dh, left + q * dw
                if 0 <= i < h and 0 <= j < w:
                    value = x[image + i * w + j]
                    # The first pixel, a larger one, or the first NaN, which nothing replaces.
                    if not met or value > best or (value != value and best == best):
                        best, winner, met = value, p * kw + q, True
        y[e], argmax[e] = best, winner


@kernel(f"float32[::1], float32[::1], uint8[::1], {_GEOMETRY}, int64", registers=64)
def _max_backward(dx, grad, argmax, geometry, size):
    h, w, out_h, out_w, kh, kw, sh, sw, ph, pw, dh, dw = geometry
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        row, column, first = e // w % h, e % w, e // (w * h) * out_h * out_w
        total = _ZERO
        for p in range(kh):
            down = row + ph - p * dh
            i = down // sh
            if down >= 0 and i * sh == down and i < out_h:
                for q in range(kw):
                    right = column + pw - q * dw
                    j = right // sw
                    if right >= 0 and j * sw == right and j < out_w:
                        window = first + i * out_w + j
                        if argmax[window] == p * kw + q:
                            total += grad[window]
        dx[e] = total


@kernel(f"float32[::1], float32[::1], uint8[::1], {_GEOMETRY}, UniTuple(int64, 2), int64", registers=64)
def _max_backward_apart(dx, grad, argmax, geometry, cells, size):
    """One thread a window that shares no pixel: it writes the pixels up to the next one. For 2 x 2 of step 2
    that is 5 divisions for 4 pixels; `_max_backward` makes 13 for each, three times the trip to memory."""
    h, w, out_h, out_w, kh, kw, sh, sw, _, _, _, _ = geometry
    down, across = cells
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        i, j, image = e // across % down, e % across, e // (across * down)
        winner, value = np.int64(-1), _ZERO
        if i < out_h and j < out_w:
            window = (image * out_h + i) * out_w + j
            winner, value = np.int64(argmax[window]), grad[window]
        first = (image * h + i * sh) * w + j * sw
        for p in range(min(sh, h - i * sh)):
            for q in range(min(sw, w - j * sw)):
                won = p < kh and q < kw and p * kw + q == winner
                dx[first + p * w + q] = value if won else _ZERO


@kernel(f"int64[::1], uint8[::1], {_GEOMETRY}, int64", registers=48)
def _indices(indices, argmax, geometry, size):
    _, w, out_h, out_w, _, kw, sh, sw, ph, pw, dh, dw = geometry
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        tap = np.int64(argmax[e])
        row = e // out_w % out_h * sh - ph + tap // kw * dh
        indices[e] = row * w + e % out_w * sw - pw + tap % kw * dw


@kernel(f"float32[::1], float32[::1], {_GEOMETRY}, boolean, int64, int64", registers=64)
def _avg_forward(y, x, geometry, count_padding, divisor, size):
    h, w, out_h, out_w, kh, kw, sh, sw, ph, pw, _, _ = geometry
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        top, left = e // out_w % out_h * sh - ph, e % out_w * sw - pw
        image = e // (out_w * out_h) * h * w
        total = _ZERO
        for i in range(max(top, 0), min(top + kh, h)):
            for j in range(max(left, 0), min(left + kw, w)):
                total += x[image + i * w + j]
        count = divisor
        if divisor == 0 and count_padding:
            count = (min(top + kh, h + ph) - top) * (min(left + kw, w + pw) - left)
        elif divisor == 0:
            count = (min(top + kh, h) - max(top, 0)) * (min(left + kw, w) - max(left, 0))
        y[e] = total / np.float32(count)


@kernel(f"float32[::1], float32[::1], {_GEOMETRY}, boolean, int64, int64", registers=64)
def _avg_backward(dx, grad, geometry, count_padding, divisor, size):
    h, w, out_h, out_w, kh, kw, sh, sw, ph, pw, _, _ = geometry
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        row, column, first = e // w % h, e % w, e // (w * h) * out_h * out_w
        total = _ZERO
        # Windows i with i sh - ph <= row < i sh - ph + kh.
        for i in range(max((row + ph - kh) // sh + 1, 0), min((row + ph) // sh + 1, out_h)):
            for j in range(max((column + pw - kw) // sw + 1, 0), min((column + pw) // sw + 1, out_w)):
                top, left = i * sh - ph, j * sw - pw
                count = divisor
                if divisor == 0 and count_padding:
                    count = (min(top + kh, h + ph) - top) * (min(left + kw, w + pw) - left)
                elif divisor == 0:
                    count = (min(top + kh, h) - max(top, 0)) * (min(left + kw, w) - max(left, 0))
                total += grad[first + i * out_w + j] / np.float32(count)
        dx[e] = total


@kernel(f"float32[::1], float32[::1], {_SIZES}, int64", registers=64)
def _adaptive_avg_forward(y, x, sizes, size):
    h, w, out_h, out_w = sizes
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        row, column, image = e // out_w % out_h, e % out_w, e // (out_w * out_h) * h * w
        top, bottom = row * h // out_h, ((row + 1) * h + out_h - 1) // out_h
        left, right = column * w // out_w, ((column + 1) * w + out_w - 1) // out_w
        total = _ZERO
        for i in range(top, bottom):
            for j in range(left, right):
                total += x[image + i * w + j]
        y[e] = total / np.float32((bottom - top) * (right - left))


@kernel(f"float32[::1], float32[::1], {_SIZES}, int64", registers=64)
def _adaptive_avg_backward(dx, grad, sizes, size):
    h, w, out_h, out_w = sizes
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        row, column, first = e // w % h, e % w, e // (w * h) * out_h * out_w
        total = _ZERO
        # The window i begins at floor(i h / out_h) and ends before ceil((i + 1) h / out_h).
        for i in range(row * out_h // h, ((row + 1) * out_h + h - 1) // h):
            rows = ((i + 1) * h + out_h - 1) // out_h - i * h // out_h
            for j in range(column * out_w // w, ((column + 1) * out_w + w - 1) // w):
                columns = ((j + 1) * w + out_w - 1) // out_w - j * w // out_w
                total += grad[first + i * out_w + j] / np.float32(rows * columns)
        dx[e] = total


@kernel(f"float32[::1], int64[::1], float32[::1], {_SIZES}, int64", registers=64)
def _adaptive_max_forward(y, indices, x, sizes, size):
    h, w, out_h, out_w = sizes
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        row, column, image = e // out_w % out_h, e % out_w, e // (out_w * out_h) * h * w
        top, left = row * h // out_h, column * w // out_w
        best, winner = x[image + top * w + left], top * w + left
        for i in range(top, ((row + 1) * h + out_h - 1) // out_h):
            for j in range(left, ((column + 1) * w + out_w - 1) // out_w):
                value = x[image + i * w + j]
                if value > best or (value != value and best == best):
                    best, winner = value, i * w + j
        y[e], indices[e] = best, winner


@kernel(f"float32[::1], float32[::1], int64[::1], {_SIZES}, int64", registers=64)
def _adaptive_max_backward(dx, grad, indices, sizes, size):
    h, w, out_h, out_w = sizes
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        row, column, first = e // w % h, e % w, e // (w * h) * out_h * out_w
        total = _ZERO
        for i in range(row * out_h // h, ((row + 1) * out_h + h - 1) // h):
            for j in range(column * out_w // w, ((column + 1) * out_w + w - 1) // w):
                window = first + i * out_w + j
                if indices[window] == row * w + column:
                    total += grad[window]
        dx[e] = total

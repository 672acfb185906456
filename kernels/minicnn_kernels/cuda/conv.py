"""Convolution by an im2col matrix and the tiles of `gemm.py`: the explicit rung.

Images are (N, C, H, W) in C order. Windows become columns (N, C kh kw, H' W'), so that weight times columns
is the result as it lies in memory; images and groups are the batches of the product. The gradient of the
input is gathered pixel by pixel, without atomic additions, so it repeats bit for bit. A 1x1 kernel of stride
1 needs no columns: the image is its own.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minicnn_kernels.cuda.driver import cuda, kernel, launch
from minicnn_kernels.cuda.elementwise import add
from minicnn_kernels.cuda.epilogue import Epilogue
from minicnn_kernels.cuda.gemm import gemm
from minicnn_kernels.cuda.reduction import sum as total
from minicnn_kernels.cuda.storage import dense, empty, flat, on_device
from minicnn_kernels.device_array import DeviceArray
from minicnn_kernels.windows import conv_output_size

__all__ = [
    "col2im",
    "conv2d_backward_bias",
    "conv2d_backward_input",
    "conv2d_backward_weight",
    "conv2d_forward",
    "im2col",
]

_ZERO = np.float32(0)
_GEOMETRY = "UniTuple(int64, 13)"


def im2col(x: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any) -> DeviceArray:
    """Every window as a column: x (N, C, H, W) -> (N, C kh kw, H' W'). PyTorch's `unfold`."""
    on_device("im2col", x)
    n, c, *size = x.shape
    out = conv_output_size(size, kernel_size, stride, padding, dilation)
    columns = empty((n, c * math.prod(kernel_size), math.prod(out)))
    geometry = (c, *size, *out, *kernel_size, *stride, *padding, *dilation)
    launch(_im2col, columns.size, flat(columns), flat(dense(x)), geometry, columns.size)
    return columns


def col2im(
    columns: Any, output_size: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any
) -> DeviceArray:
    """Add every column back to its window, the transpose of `im2col`: PyTorch's `fold`.

    columns (N, C kh kw, L), output_size (H, W) -> (N, C, H, W).
    """
    on_device("col2im", columns)
    c = columns.shape[1] // math.prod(kernel_size)
    out = conv_output_size(output_size, kernel_size, stride, padding, dilation)
    x = empty((columns.shape[0], c, *output_size))
    geometry = (c, *output_size, *out, *kernel_size, *stride, *padding, *dilation)
    launch(_col2im, x.size, flat(x), flat(dense(columns)), geometry, x.size)
    return x


def conv2d_forward(
    x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> DeviceArray:
    """weight * x + bias: x (N, C, H, W), weight (O, C/groups, kh, kw), bias (O,)|None -> (N, O, H', W')."""
    on_device("conv2d", x, weight, bias)
    n, outputs = x.shape[0], weight.shape[0]
    out = conv_output_size(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    columns = _columns(x, weight.shape[2:], stride, padding, dilation)
    y = empty((n, outputs, *out))
    m, k, pixels = outputs // groups, math.prod(weight.shape[1:]), math.prod(out)
    gemm(
        flat(y),
        (outputs * pixels, m * pixels, pixels, 1),
        flat(dense(weight)),
        (0, m * k, k, 1),
        flat(columns),
        (groups * k * pixels, k * pixels, pixels, 1),
        (m, pixels, k),
        (n, groups),
        Epilogue(None if bias is None else flat(dense(bias)), (1, 0)),
    )
    return y


def conv2d_backward_input(
    grad: Any,
    weight: Any,
    input_shape: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    onto: Any = None,
) -> DeviceArray:
    """Gradient by the input: grad (N, O, H', W'), weight (O, C/groups, kh, kw) -> input_shape.

    onto: an array of input_shape that it is added to.
    """
    on_device("conv2d", grad, weight, onto)
    n, outputs, *out = grad.shape
    m, k, pixels = outputs // groups, math.prod(weight.shape[1:]), math.prod(out)
    columns = empty((n, groups * k, pixels))
    gemm(
        flat(columns),
        (groups * k * pixels, k * pixels, pixels, 1),
        flat(dense(weight)),
        (0, m * k, 1, k),
        flat(dense(grad)),
        (outputs * pixels, m * pixels, pixels, 1),
        (k, pixels, m),
        (n, groups),
    )
    if _is_its_own_columns(weight.shape[2:], stride, padding):
        dx = columns.view(input_shape, None)
    else:
        dx = col2im(columns, tuple(input_shape[2:]), weight.shape[2:], stride, padding, dilation)
    return dx if onto is None else add(dx, onto)


def conv2d_backward_weight(
    grad: Any, x: Any, weight_shape: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> DeviceArray:
    """Gradient by the weight: grad (N, O, H', W'), x (N, C, H, W) -> weight_shape (O, C/groups, kh, kw)."""
    on_device("conv2d", grad, x)
    n, outputs, *out = grad.shape
    m, k, pixels = outputs // groups, math.prod(weight_shape[1:]), math.prod(out)
    columns = _columns(x, tuple(weight_shape[2:]), stride, padding, dilation)
    # One product for each image: many blocks; then one sum in the order of the images.
    parts = empty((n, *weight_shape))
    gemm(
        flat(parts),
        (outputs * k, m * k, k, 1),
        flat(dense(grad)),
        (outputs * pixels, m * pixels, pixels, 1),
        flat(columns),
        (groups * k * pixels, k * pixels, 1, pixels),
        (m, k, pixels),
        (n, groups),
    )
    return total(parts, 0, False)


def conv2d_backward_bias(grad: Any) -> DeviceArray:
    """Gradient of the bias: the sum over images and pixels. (N, O, H', W') -> (O,)."""
    return total(grad, (0, 2, 3), False)


def _columns(x: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any) -> DeviceArray:
    if _is_its_own_columns(kernel_size, stride, padding):
        return dense(x)
    return im2col(x, kernel_size, stride, padding, dilation)


def _is_its_own_columns(kernel_size: Any, stride: Any, padding: Any) -> bool:
    return (*kernel_size, *stride, *padding) == (1, 1, 1, 1, 0, 0)


@kernel(f"float32[::1], float32[::1], {_GEOMETRY}, int64", registers=64)
def _im2col(columns, x, geometry, size):
    """One thread an element; neighbours in a warp are neighbours in a row of pixels."""
    _, h, w, out_h, out_w, kh, kw, sh, sw, ph, pw, dh, dw = geometry
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        column, tap = e % out_w, e // (out_w * out_h)
        row = e // out_w % out_h
        i = row * sh - ph + tap // kw % kh * dh
        j = column * sw - pw + tap % kw * dw
        channel = tap // (kw * kh)  # counted through all images
        columns[e] = x[(channel * h + i) * w + j] if 0 <= i < h and 0 <= j < w else _ZERO


@kernel(f"float32[::1], float32[::1], {_GEOMETRY}, int64", registers=64)
def _col2im(x, columns, geometry, size):
    """One thread a pixel: it collects from every window that covers it."""
    _, h, w, out_h, out_w, kh, kw, sh, sw, ph, pw, dh, dw = geometry
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        column, row, channel = e % w, e // w % h, e // (w * h)
        total = _ZERO
        for p in range(kh):
            down = row + ph - p * dh
            i = down // sh
            if down >= 0 and i * sh == down and i < out_h:
                for q in range(kw):
                    right = column + pw - q * dw
                    j = right // sw
                    if right >= 0 and j * sw == right and j < out_w:
                        total += columns[(((channel * kh + p) * kw + q) * out_h + i) * out_w + j]
        x[e] = total

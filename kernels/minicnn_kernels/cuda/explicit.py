"""Convolution by an im2col matrix in memory and the matrix product: the explicit rung.

Kept beside the implicit algorithm because it is the one that everybody learns, and a witness that the other
is right. Images are (N, C, H, W) in C order. Windows become columns (N, C kh kw, H' W'), so that weight times
columns is the result as it lies in memory; images and groups are the batches of the product. The gradient of
the input is gathered pixel by pixel, without atomic additions, so it repeats bit for bit. A 1x1 kernel of
stride 1 needs no columns: the image is its own.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minicnn_kernels.cuda.driver import cuda, kernel, launch
from minicnn_kernels.cuda.elementwise import add
from minicnn_kernels.cuda.epilogue import NOTHING, Epilogue
from minicnn_kernels.cuda.gemm import gemm
from minicnn_kernels.cuda.reduction import sum as total
from minicnn_kernels.cuda.storage import dense, empty, flat, on_device
from minicnn_kernels.cuda.taps import Geometry
from minicnn_kernels.device_array import DeviceArray
from minicnn_kernels.windows import conv_output_size

__all__ = ["backward_input", "backward_weight", "col2im", "forward", "im2col"]

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


def forward(
    y: DeviceArray, x: DeviceArray, weight: DeviceArray, g: Geometry, epilogue: Epilogue = NOTHING
) -> None:
    """Write the convolution into y (N, O, H', W'), with what the epilogue does to it; its bias is by
    channels."""
    m, k, pixels = g.outputs // g.groups, g.terms, math.prod(g.out)
    gemm(
        flat(y),
        (g.outputs * pixels, m * pixels, pixels, 1),
        flat(weight),
        (0, m * k, k, 1),
        flat(_columns(x, g)),
        (g.groups * k * pixels, k * pixels, pixels, 1),
        (m, pixels, k),
        (g.n, g.groups),
        epilogue,
    )


def backward_input(
    grad: DeviceArray, weight: DeviceArray, g: Geometry, onto: DeviceArray | None
) -> DeviceArray:
    """The gradient by the input, (N, C, H, W); onto: what it is added to."""
    m, k, pixels = g.outputs // g.groups, g.terms, math.prod(g.out)
    columns = empty((g.n, g.groups * k, pixels))
    gemm(
        flat(columns),
        (g.groups * k * pixels, k * pixels, pixels, 1),
        flat(weight),
        (0, m * k, 1, k),
        flat(grad),
        (g.outputs * pixels, m * pixels, pixels, 1),
        (k, pixels, m),
        (g.n, g.groups),
    )
    if _is_its_own_columns(g):
        dx = columns.view((g.n, g.channels, *g.image), None)
    else:
        dx = col2im(columns, g.image, g.kernel_size, g.stride, g.padding, g.dilation)
    return dx if onto is None else add(dx, onto)


def backward_weight(grad: DeviceArray, x: DeviceArray, g: Geometry) -> DeviceArray:
    """The gradient by the weight, (O, C/groups, kh, kw)."""
    m, k, pixels = g.outputs // g.groups, g.terms, math.prod(g.out)
    # One product for each image: many blocks; then one sum in the order of the images.
    parts = empty((g.n, g.outputs, g.channels // g.groups, *g.kernel_size))
    gemm(
        flat(parts),
        (g.outputs * k, m * k, k, 1),
        flat(grad),
        (g.outputs * pixels, m * pixels, pixels, 1),
        flat(_columns(x, g)),
        (g.groups * k * pixels, k * pixels, 1, pixels),
        (m, k, pixels),
        (g.n, g.groups),
    )
    return total(parts, 0, False)


def _columns(x: DeviceArray, g: Geometry) -> DeviceArray:
    return x if _is_its_own_columns(g) else im2col(x, g.kernel_size, g.stride, g.padding, g.dilation)


def _is_its_own_columns(g: Geometry) -> bool:
    return (*g.kernel_size, *g.stride, *g.padding) == (1, 1, 1, 1, 0, 0)


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

"""Convolution as in the textbook: write the im2col matrix, then multiply matrices.

Kept beside the implicit algorithm because it is the one that everybody learns, and a witness that the other
is right. The matrix has one row per output pixel and one column per (tap, channel): kh kw times the image.
"""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from minicnn_kernels import memory
from minicnn_kernels.cpu.compiler import kernel
from minicnn_kernels.cpu.gemm import multiply_matrices
from minicnn_kernels.cpu.layout import address, channels_last
from minicnn_kernels.cpu.microkernel import FLOAT_BYTES, copy_floats, load_float, store_float, zero_floats
from minicnn_kernels.windows import conv_output_size


def im2col(x, kernel_size, stride, padding, dilation):
    """Every window as a column: x (N, C, H, W) -> (N, C kh kw, H' W'). PyTorch's `unfold`."""
    out_size = conv_output_size(x.shape[2:], kernel_size, stride, padding, dilation)
    n, channels = x.shape[:2]
    rows = _window_rows(channels_last(x), kernel_size, out_size, stride, padding, dilation)
    rows = rows.reshape(n, math.prod(out_size), math.prod(kernel_size), channels)
    columns = memory.empty((n, channels, math.prod(kernel_size), math.prod(out_size)))
    np.copyto(columns, rows.transpose(0, 3, 2, 1))
    return columns.reshape(n, channels * math.prod(kernel_size), math.prod(out_size))


def col2im(columns, output_size, kernel_size, stride, padding, dilation):
    """Add every column back to its window, the transpose of `im2col`: PyTorch's `fold`.

    columns (N, C kh kw, L), output_size (H, W) -> (N, C, H, W).
    """
    n, taps = columns.shape[0], math.prod(kernel_size)
    channels, pixels = columns.shape[1] // taps, columns.shape[2]
    rows = memory.empty((n, pixels, taps, channels))
    np.copyto(rows, columns.reshape(n, channels, taps, pixels).transpose(0, 3, 2, 1))
    images = memory.empty_images(n, channels, *output_size)
    out_size = conv_output_size(output_size, kernel_size, stride, padding, dilation)
    _add_window_rows(rows, images, kernel_size, out_size, stride, padding, dilation)
    return images


def forward(x, taps, bias, y, stride, padding, dilation, groups) -> None:
    """y (N, O, H', W') = bias + x * taps for images x (N, H, W, C), taps (kh, kw, C/groups, O)."""
    kh, kw, in_group, outputs = taps.shape
    n, _, *out_size = y.shape
    out_group = outputs // groups
    result = y.transpose(0, 2, 3, 1).reshape(n * math.prod(out_size), outputs)
    for g in range(groups):
        rows = _window_rows(_group(x, g, in_group), (kh, kw), out_size, stride, padding, dilation)
        chosen = slice(g * out_group, (g + 1) * out_group)
        matrix = taps.reshape(kh * kw * in_group, outputs)[:, chosen]
        multiply_matrices(rows, matrix, result[:, chosen], bias[chosen])


def backward_input(grad, taps, dx, stride, padding, dilation, groups) -> None:
    """dx (N, C, H, W) from grad (N, H', W', O)."""
    kh, kw, in_group, outputs = taps.shape
    n, *out_size, _ = grad.shape
    out_group, depth = outputs // groups, kh * kw * in_group
    grad = grad.reshape(n * math.prod(out_size), outputs)
    rows = memory.empty((grad.shape[0], depth))
    for g in range(groups):
        chosen = slice(g * out_group, (g + 1) * out_group)
        multiply_matrices(grad[:, chosen], taps.reshape(depth, outputs)[:, chosen].T, rows)
        images = dx if groups == 1 else memory.empty_images(n, in_group, *dx.shape[2:])
        _add_window_rows(rows, images, (kh, kw), out_size, stride, padding, dilation)
        if groups > 1:
            dx[:, g * in_group : (g + 1) * in_group] = images


def backward_weight(grad, x, dw, stride, padding, dilation, groups) -> None:
    """dw (kh, kw, C/groups, O) from grad (N, H', W', O) and x (N, H, W, C)."""
    kh, kw, in_group, outputs = dw.shape
    n, *out_size, _ = grad.shape
    out_group = outputs // groups
    grad = grad.reshape(n * math.prod(out_size), outputs)
    for g in range(groups):
        rows = _window_rows(_group(x, g, in_group), (kh, kw), out_size, stride, padding, dilation)
        chosen = slice(g * out_group, (g + 1) * out_group)
        target = dw.reshape(kh * kw * in_group, outputs)[:, chosen]
        multiply_matrices(rows.T, grad[:, chosen], target)


def _group(x: np.ndarray, g: int, in_group: int) -> np.ndarray:
    return np.ascontiguousarray(x[..., g * in_group : (g + 1) * in_group])


def _window_rows(x, kernel_size, out_size, stride, padding, dilation) -> np.ndarray:
    """The transposed im2col matrix of images (N, H, W, C): (N H' W', kh kw C)."""
    n, height, width, channels = x.shape
    rows = memory.empty((n * math.prod(out_size), math.prod(kernel_size) * channels))
    _gather_windows(
        address(x),
        address(rows),
        n,
        height,
        width,
        channels,
        *out_size,
        *kernel_size,
        *stride,
        *padding,
        *dilation,
    )
    return rows


def _add_window_rows(rows, images, kernel_size, out_size, stride, padding, dilation) -> None:
    """The transpose of `_window_rows`: every entry of `rows` is added to its pixel of images (N, C, H, W)."""
    n, channels, height, width = images.shape
    _scatter_windows(
        address(rows), address(images), n, height, width, channels,
        *out_size, *kernel_size, *stride, *padding, *dilation,
    )  # fmt: skip


@kernel(parallel=True)
def _gather_windows(
    x, rows, images, height, width, channels, out_height, out_width, kh, kw, sh, sw, ph, pw, dh, dw
):
    for task in prange(images * out_height):
        index = np.intp(task)
        image, i = index // out_height, index % out_height
        row = rows + FLOAT_BYTES * index * out_width * kh * kw * channels
        for j in range(out_width):
            for p in range(kh):
                h = i * sh + p * dh - ph
                for q in range(kw):
                    w = j * sw + q * dw - pw
                    if 0 <= h < height and 0 <= w < width:
                        copy_floats(
                            row, x + FLOAT_BYTES * ((image * height + h) * width + w) * channels, channels
                        )
                    else:
                        zero_floats(row, channels)
                    row += FLOAT_BYTES * channels


@kernel(parallel=True)
def _scatter_windows(
    rows, x, images, height, width, channels, out_height, out_width, kh, kw, sh, sw, ph, pw, dh, dw
):
    for task in prange(images):
        image = np.intp(task)
        pixels = x + FLOAT_BYTES * image * height * width * channels
        zero_floats(pixels, height * width * channels)
        row = rows + FLOAT_BYTES * image * out_height * out_width * kh * kw * channels
        for i in range(out_height):
            for j in range(out_width):
                for p in range(kh):
                    h = i * sh + p * dh - ph
                    for q in range(kw):
                        w = j * sw + q * dw - pw
                        if 0 <= h < height and 0 <= w < width:
                            pixel = pixels + FLOAT_BYTES * (h * width + w) * channels
                            for c in range(channels):
                                place = pixel + FLOAT_BYTES * c
                                store_float(place, load_float(place) + load_float(row + FLOAT_BYTES * c))
                        row += FLOAT_BYTES * channels

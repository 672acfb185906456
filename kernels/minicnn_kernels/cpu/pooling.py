"""Pooling over channels-last images: windows in the outer loops, a pixel's channels in the inner one.

The inner loop runs over contiguous memory and vectorizes. Tasks are rows of windows or whole images,
so results do not depend on the number of threads. What each kernel means is in `reference/pooling.py`.
Windows of 2x2 over (64, 32, 32, 32), two threads: forward 0.31 ms (PyTorch 4.2), backward 0.22 (0.52).
"""

from __future__ import annotations

import numpy as np
from numba import prange

from minicnn_kernels import memory
from minicnn_kernels.cpu.compiler import kernel
from minicnn_kernels.cpu.layout import channels_last
from minicnn_kernels.windows import pool_output_size

__all__ = [
    "adaptive_avg_pool2d_backward",
    "adaptive_avg_pool2d_forward",
    "avg_pool2d_backward",
    "avg_pool2d_forward",
    "max_pool2d_backward",
    "max_pool2d_forward",
]


def max_pool2d_forward(x, kernel_size, stride, padding, dilation, ceil_mode):
    """Maximum over windows -> (y, argmax), both (N, C, H', W'); argmax = p kw + q is the tap that won."""
    out_h, out_w = pool_output_size(x.shape[2:], kernel_size, stride, padding, dilation, ceil_mode)
    images = channels_last(x)
    n, _, _, c = images.shape
    y = memory.empty((n, out_h, out_w, c))
    taps = kernel_size[0] * kernel_size[1]
    argmax = memory.empty(y.shape, np.uint8 if taps <= 256 else np.int32)
    _max_pool2d(images, y, argmax, np.array((kernel_size, stride, padding, dilation)))
    return y.transpose(0, 3, 1, 2), argmax.transpose(0, 3, 1, 2)


@kernel(parallel=True)
def _max_pool2d(x, y, argmax, window):
    images, out_height, _, _ = y.shape
    for task in prange(images * out_height):
        image, i = np.int64(task) // out_height, np.int64(task) % out_height
        _max_row(x[image], y[image, i], argmax[image, i], i, window)


@kernel
def _max_row(x, y, argmax, i, window):
    """One row of windows. The first tap inside the image is taken, the others must beat it."""
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = window
    height, width, channels = x.shape
    for j in range(y.shape[0]):
        best, winner = y[j], argmax[j]
        untouched = True
        for p in range(kh):
            row = i * sh - ph + p * dh
            if row < 0 or row >= height:
                continue
            for q in range(kw):
                column = j * sw - pw + q * dw
                if column < 0 or column >= width:
                    continue
                pixel = x[row, column]
                tap = p * kw + q
                if untouched:
                    untouched = False
                    for c in range(channels):
                        best[c] = pixel[c]
                        winner[c] = tap
                else:
                    for c in range(channels):
                        value, top = pixel[c], best[c]
                        # Unordered comparison: NaN beats every number, and nothing beats NaN.
                        wins = (not value <= top) and top == top
                        best[c] = value if wins else top
                        winner[c] = tap if wins else winner[c]
        if untouched:  # dilation can leap over a small image
            for c in range(channels):
                best[c] = -np.inf
                winner[c] = 0


def max_pool2d_backward(grad, argmax, input_shape, kernel_size, stride, padding, dilation):
    """Each window's gradient goes to the pixel that won. grad, argmax (N, C, H', W') -> input_shape."""
    n, c, h, w = input_shape
    dx = memory.empty((n, h, w, c))
    grad = channels_last(grad)
    argmax = np.ascontiguousarray(argmax.transpose(0, 2, 3, 1))
    if kernel_size == stride and padding == (0, 0) and dilation == (1, 1):
        _scatter_disjoint(grad, argmax, dx, *kernel_size)
    else:
        _scatter(grad, argmax, dx, np.array((kernel_size, stride, padding, dilation)))
    return dx.transpose(0, 3, 1, 2)


@kernel(parallel=True)
def _scatter_disjoint(grad, argmax, dx, kh, kw):
    """Windows side by side: every pixel belongs to one window and is written once, a row in a task."""
    images, height, _, _ = dx.shape
    for task in prange(images * height):
        image, row = np.int64(task) // height, np.int64(task) % height
        i = row // kh
        if i < grad.shape[1]:
            _scatter_row(grad[image, i], argmax[image, i], dx[image, row], row % kh * kw, kw)
        else:
            _clear(dx[image, row])


@kernel
def _scatter_row(grad, argmax, dx, first_tap, kw):
    width, channels = dx.shape
    covered = min(width, grad.shape[0] * kw)
    for column in range(covered):
        share, winner, pixel = grad[column // kw], argmax[column // kw], dx[column]
        tap = first_tap + column % kw
        for c in range(channels):
            pixel[c] = share[c] if winner[c] == tap else np.float32(0)
    _clear(dx[covered:])


@kernel
def _clear(pixels):
    for pixel in range(pixels.shape[0]):
        for c in range(pixels.shape[1]):
            pixels[pixel, c] = 0


@kernel(parallel=True)
def _scatter(grad, argmax, dx, window):
    """Windows may overlap: a task is an image."""
    for image in prange(dx.shape[0]):
        _scatter_image(grad[image], argmax[image], dx[image], window)


@kernel
def _scatter_image(grad, argmax, dx, window):
    """Comparing all taps vectorizes, following argmax does not."""
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = window
    height, width, channels = dx.shape
    for row in range(height):
        _clear(dx[row])
    for i in range(grad.shape[0]):
        for j in range(grad.shape[1]):
            share, winner = grad[i, j], argmax[i, j]
            for p in range(kh):
                row = i * sh - ph + p * dh
                if row < 0 or row >= height:
                    continue
                for q in range(kw):
                    column = j * sw - pw + q * dw
                    if column < 0 or column >= width:
                        continue
                    pixel = dx[row, column]
                    tap = p * kw + q
                    for c in range(channels):
                        pixel[c] += share[c] if winner[c] == tap else np.float32(0)


def avg_pool2d_forward(x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override):
    """Mean over windows -> (N, C, H', W')."""
    size = x.shape[2:]
    out = pool_output_size(size, kernel_size, stride, padding, (1, 1), ceil_mode)
    windows = _windows(size, out, kernel_size, stride, padding, count_include_pad, divisor_override)
    return _gather_windows(x, *windows)


def avg_pool2d_backward(
    grad, input_shape, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
):
    """Every pixel of a window receives an equal share of the window's gradient. grad (N, C, H', W')."""
    size, out = input_shape[2:], grad.shape[2:]
    windows = _windows(size, out, kernel_size, stride, padding, count_include_pad, divisor_override)
    return _spread_windows(grad, input_shape, *windows)


def adaptive_avg_pool2d_forward(x, output_size):
    """Mean over output_size = (H', W') windows that cover the image. (N, C, H, W) -> (N, C, H', W')."""
    return _gather_windows(x, *_adaptive_windows(x.shape[2:], output_size))


def adaptive_avg_pool2d_backward(grad, input_shape):
    """Every pixel of a window receives an equal share of the window's gradient. grad (N, C, H', W')."""
    return _spread_windows(grad, input_shape, *_adaptive_windows(input_shape[2:], grad.shape[2:]))


def _windows(size, out, kernel_size, stride, padding, count_include_pad, divisor_override):
    """(rows (H', 2), columns (W', 2), share (H', W')): first and past-the-last pixel, 1 / divisor."""
    spans, counts = [], []
    for n, o, k, s, p in zip(size, out, kernel_size, stride, padding, strict=True):
        start = np.arange(o) * s - p
        spans.append(np.stack([np.maximum(start, 0), np.minimum(start + k, n)], axis=1))
        counts.append(np.minimum(start + k, n + p) - start if count_include_pad else spans[-1] @ (-1, 1))
    divisor = np.outer(*counts) if divisor_override is None else np.full(out, divisor_override)
    return *spans, np.float32(1) / divisor.astype(np.float32)


def _adaptive_windows(size, out):
    """As `_windows`: [floor(i H / H'), ceil((i + 1) H / H')) in each dimension."""
    spans = []
    for n, o in zip(size, out, strict=True):
        i = np.arange(o)
        spans.append(np.stack([i * n // o, -(-(i + 1) * n // o)], axis=1))
    return *spans, np.float32(1) / np.outer(*(span @ (-1, 1) for span in spans)).astype(np.float32)


def _gather_windows(x, rows, columns, share):
    images = channels_last(x)
    y = memory.empty((images.shape[0], *share.shape, images.shape[3]))
    _window_means(images, y, rows, columns, share)
    return y.transpose(0, 3, 1, 2)


def _spread_windows(grad, input_shape, rows, columns, share):
    n, c, h, w = input_shape
    dx = memory.empty((n, h, w, c))
    _spread_means(channels_last(grad), dx, rows, columns, share)
    return dx.transpose(0, 3, 1, 2)


@kernel(parallel=True)
def _window_means(x, y, rows, columns, share):
    """A task is one row of windows."""
    images, out_height, _, _ = y.shape
    for task in prange(images * out_height):
        image, i = np.int64(task) // out_height, np.int64(task) % out_height
        _mean_row(x[image, rows[i, 0] : rows[i, 1]], y[image, i], columns, share[i])


@kernel
def _mean_row(x, y, columns, share):
    channels = y.shape[1]
    for j in range(y.shape[0]):
        mean = y[j]
        for c in range(channels):
            mean[c] = 0
        for row in range(x.shape[0]):
            for column in range(columns[j, 0], columns[j, 1]):
                pixel = x[row, column]
                for c in range(channels):
                    mean[c] += pixel[c]
        for c in range(channels):
            mean[c] *= share[j]


@kernel(parallel=True)
def _spread_means(grad, dx, rows, columns, share):
    """A task is one image, because windows may overlap."""
    for image in prange(dx.shape[0]):
        _spread_image(grad[image], dx[image], rows, columns, share)


@kernel
def _spread_image(grad, dx, rows, columns, share):
    for row in range(dx.shape[0]):
        _clear(dx[row])
    for i in range(rows.shape[0]):
        for j in range(columns.shape[0]):
            mean = grad[i, j]
            for row in range(rows[i, 0], rows[i, 1]):
                for column in range(columns[j, 0], columns[j, 1]):
                    pixel = dx[row, column]
                    for c in range(dx.shape[2]):
                        pixel[c] += mean[c] * share[i, j]

"""Max, average and adaptive pooling of images, with their gradients.

x is (N, C, H, W); kernel_size, stride, padding, dilation and output_size are pairs (h, w). Windows
and counts follow PyTorch: padding is implicit (never a maximum, zero in a mean), and in ceil mode a last
window may hang over the end (`windows.py`). 1-d pooling has height 1.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

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


def _windows(x, fill, kernel_size, stride, padding, dilation, out):
    """x padded by `fill`, as windows: (..., H, W) -> (..., H', W', kh, kw), a view."""
    (kh, kw), (sh, sw), (ph, pw), (dh, dw), (out_h, out_w) = kernel_size, stride, padding, dilation, out
    # At the end there is room for a last window that hangs over, in ceil mode.
    margin = ((0, 0),) * (x.ndim - 2) + ((ph, ph + sh - 1), (pw, pw + sw - 1))
    padded = np.pad(x, margin, constant_values=fill)
    span = (dh * (kh - 1) + 1, dw * (kw - 1) + 1)
    windows = sliding_window_view(padded, span, axis=(-2, -1))
    return windows[..., ::sh, ::sw, ::dh, ::dw][..., :out_h, :out_w, :, :]


def _scatter(share, x_shape, kernel_size, stride, padding, dilation):
    """Sum of share(i, j), the (N, C, H', W') gradient of tap (i, j), over the pixels that the taps read."""
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = kernel_size, stride, padding, dilation
    n, c, h, w = x_shape
    first = share(0, 0)
    out_h, out_w = first.shape[2:]
    # Rows and columns past the padding are those over which the last window hangs.
    height = max(ph + h, (out_h - 1) * sh + dh * (kh - 1) + 1)
    width = max(pw + w, (out_w - 1) * sw + dw * (kw - 1) + 1)
    padded = np.zeros((n, c, height, width), first.dtype)
    for i in range(kh):
        for j in range(kw):
            top, left = i * dh, j * dw
            padded[:, :, top : top + sh * out_h : sh, left : left + sw * out_w : sw] += share(i, j)
    return padded[:, :, ph : ph + h, pw : pw + w]


def max_pool2d_forward(x, kernel_size, stride, padding, dilation, ceil_mode):
    """Maximum over windows -> (y, argmax), both (N, C, H', W').

    argmax = p kw + q says which tap (p, q) of the window won: the first maximum, or the first NaN; never a
    padded pixel. uint8 if kh kw <= 256, else int32. A window that meets no pixel at all (dilation can leap
    over a small image) gives -inf and argmax 0.
    """
    kh, kw = kernel_size
    out = pool_output_size(x.shape[2:], kernel_size, stride, padding, dilation, ceil_mode)
    windows = _windows(x, -np.inf, kernel_size, stride, padding, dilation, out)
    inside = _windows(np.ones(x.shape[2:], bool), False, kernel_size, stride, padding, dilation, out)
    y = windows.max(axis=(-2, -1))
    winner = inside & ((windows == y[..., None, None]) | np.isnan(windows))
    argmax = winner.reshape(*y.shape, kh * kw).argmax(axis=-1)
    return y, argmax.astype(np.uint8 if kh * kw <= 256 else np.int32)


def max_pool2d_backward(grad, argmax, input_shape, kernel_size, stride, padding, dilation):
    """Each window's gradient goes to the pixel that won. grad, argmax (N, C, H', W') -> input_shape."""
    kw = kernel_size[1]

    def share(i, j):
        return np.where(argmax == i * kw + j, grad, 0)

    return _scatter(share, input_shape, kernel_size, stride, padding, dilation)


def max_pool2d_indices(argmax, input_shape, kernel_size, stride, padding, dilation):
    """Positions of the winners in their image, h W + w, int64 (N, C, H', W')."""
    (_, kw), (sh, sw), (ph, pw), (dh, dw) = kernel_size, stride, padding, dilation
    out_h, out_w = argmax.shape[2:]
    i, j = np.divmod(argmax.astype(np.int64), kw)
    row = np.arange(out_h)[:, None] * sh - ph + i * dh
    column = np.arange(out_w) * sw - pw + j * dw
    return row * input_shape[3] + column


def avg_pool2d_forward(x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override):
    """Mean over windows -> (N, C, H', W').

    The sum is divided by divisor_override if that is not None, else by the number of pixels in the window,
    counting padded ones or not (those beyond the padding, in ceil mode, never count).
    """
    out = pool_output_size(x.shape[2:], kernel_size, stride, padding, (1, 1), ceil_mode)
    windows = _windows(x, 0, kernel_size, stride, padding, (1, 1), out)
    divisor = _divisor(x.shape[2:], out, kernel_size, stride, padding, count_include_pad, divisor_override)
    return windows.sum(axis=(-2, -1)) / divisor.astype(x.dtype)


def avg_pool2d_backward(
    grad, input_shape, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
):
    """Every pixel of a window receives an equal share of the window's gradient. grad (N, C, H', W')."""
    size, out = input_shape[2:], grad.shape[2:]
    divisor = _divisor(size, out, kernel_size, stride, padding, count_include_pad, divisor_override)
    share = grad / divisor.astype(grad.dtype)
    return _scatter(lambda i, j: share, input_shape, kernel_size, stride, padding, (1, 1))


def _divisor(size, out, kernel_size, stride, padding, count_include_pad, divisor_override):
    """What each window's sum is divided by: (H', W')."""
    if divisor_override is not None:
        return np.full(out, divisor_override)
    counts = []
    for n, o, k, s, p in zip(size, out, kernel_size, stride, padding, strict=True):
        start = np.arange(o) * s - p
        if count_include_pad:
            counts.append(np.minimum(start + k, n + p) - start)
        else:
            counts.append(np.minimum(start + k, n) - np.maximum(start, 0))
    return np.outer(*counts)


def _adaptive_windows(size, output_size):
    """Output pixel and slices of its window: floor(i H / H') to ceil((i + 1) H / H') in each dimension."""
    (h, w), (out_h, out_w) = size, output_size
    for i in range(out_h):
        rows = slice(i * h // out_h, -(-(i + 1) * h // out_h))
        for j in range(out_w):
            yield i, j, rows, slice(j * w // out_w, -(-(j + 1) * w // out_w))


def adaptive_avg_pool2d_forward(x, output_size):
    """Mean over output_size = (H', W') windows that cover the image. (N, C, H, W) -> (N, C, H', W')."""
    y = np.empty((*x.shape[:2], *output_size), x.dtype)
    for i, j, rows, columns in _adaptive_windows(x.shape[2:], output_size):
        y[:, :, i, j] = x[:, :, rows, columns].mean(axis=(2, 3))
    return y


def adaptive_avg_pool2d_backward(grad, input_shape):
    """Every pixel of a window receives an equal share of the window's gradient. grad (N, C, H', W')."""
    dx = np.zeros(input_shape, grad.dtype)
    for i, j, rows, columns in _adaptive_windows(input_shape[2:], grad.shape[2:]):
        count = (rows.stop - rows.start) * (columns.stop - columns.start)
        dx[:, :, rows, columns] += (grad[:, :, i, j] / count)[:, :, None, None]
    return dx


def adaptive_max_pool2d_forward(x, output_size):
    """Maximum over the windows of `adaptive_avg_pool2d_forward` -> (y, indices), both (N, C, H', W').

    indices: position h W + w of the first maximum (or first NaN) in its image, int64.
    """
    n, c, _, w = x.shape
    y = np.empty((n, c, *output_size), x.dtype)
    indices = np.empty(y.shape, np.int64)
    for i, j, rows, columns in _adaptive_windows(x.shape[2:], output_size):
        window = x[:, :, rows, columns]
        row, column = np.divmod(
            window.reshape(n, c, window.shape[2] * window.shape[3]).argmax(axis=2), window.shape[3]
        )
        y[:, :, i, j] = window.max(axis=(2, 3))
        indices[:, :, i, j] = (rows.start + row) * w + columns.start + column
    return y, indices


def adaptive_max_pool2d_backward(grad, indices, input_shape):
    """Each window's gradient goes to the pixel that won. grad, indices (N, C, H', W') -> input_shape."""
    n, c, h, w = input_shape
    dx = np.zeros((n, c, h * w), grad.dtype)
    image, channel = np.ogrid[:n, :c]
    np.add.at(dx, (image[..., None, None], channel[..., None, None], indices), grad)
    return dx.reshape(input_shape)

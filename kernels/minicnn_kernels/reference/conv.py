"""Convolution (cross-correlation, as everywhere in deep learning) through im2col and a matrix product.

im2col writes every window as a column; then convolution is `weight @ columns`, the gradient of the
input is col2im of `weight^T @ grad`, and the gradient of the weight is `grad @ columns^T`
(Chellapilla et al. 2006). Groups are a batch dimension of these products.

Shapes: x (N, C, H, W), weight (O, C/groups, kh, kw), bias (O,), result (N, O, H', W') with
H' = (H + 2 ph - dh (kh - 1) - 1) // sh + 1. stride, padding and dilation are pairs (h, w).
1-d convolution has height 1. Transposed convolution is `conv2d_backward_input` used forward.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from minicnn_kernels.windows import conv_output_size

__all__ = [
    "col2im",
    "conv2d_backward_bias",
    "conv2d_backward_input",
    "conv2d_backward_weight",
    "conv2d_forward",
    "im2col",
]


def im2col(x, kernel_size, stride, padding, dilation):
    """Every window as a column: x (N, C, H, W) -> (N, C kh kw, H' W'). PyTorch's `unfold`."""
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = kernel_size, stride, padding, dilation
    padded = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    span = (dh * (kh - 1) + 1, dw * (kw - 1) + 1)
    windows = sliding_window_view(padded, span, axis=(2, 3))[:, :, ::sh, ::sw, ::dh, ::dw]
    n, c, out_h, out_w = windows.shape[:4]
    return windows.transpose(0, 1, 4, 5, 2, 3).reshape(n, c * kh * kw, out_h * out_w)


def col2im(columns, output_size, kernel_size, stride, padding, dilation):
    """Add every column back to its window, the transpose of `im2col`: PyTorch's `fold`.

    columns (N, C kh kw, L), output_size (H, W) -> (N, C, H, W).
    """
    (h, w), (kh, kw), (sh, sw), (ph, pw), (dh, dw) = output_size, kernel_size, stride, padding, dilation
    out_h, out_w = conv_output_size(output_size, kernel_size, stride, padding, dilation)
    n, c = columns.shape[0], columns.shape[1] // (kh * kw)
    taps = columns.reshape(n, c, kh, kw, out_h, out_w)
    padded = np.zeros((n, c, h + 2 * ph, w + 2 * pw), columns.dtype)
    for i in range(kh):
        for j in range(kw):
            top, left = i * dh, j * dw
            padded[:, :, top : top + sh * out_h : sh, left : left + sw * out_w : sw] += taps[:, :, i, j]
    return padded[:, :, ph : ph + h, pw : pw + w]


def conv2d_forward(x, weight, bias, stride, padding, dilation, groups):
    """weight * x + bias: x (N, C, H, W), weight (O, C/groups, kh, kw), bias (O,)|None -> (N, O, H', W')."""
    n, outputs = x.shape[0], weight.shape[0]
    out_h, out_w = conv_output_size(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    columns = _grouped(im2col(x, weight.shape[2:], stride, padding, dilation), groups)
    y = (_matrices(weight, groups) @ columns).reshape(n, outputs, out_h, out_w)
    return y if bias is None else y + bias[:, None, None]


def conv2d_backward_input(grad, weight, input_shape, stride, padding, dilation, groups, onto=None):
    """Gradient by the input: grad (N, O, H', W'), weight (O, C/groups, kh, kw) -> input_shape.

    onto: an array of input_shape that it is added to, and that may be overwritten by the sum.
    """
    n, outputs, out_h, out_w = grad.shape
    c, h, w = input_shape[1:]
    rows = _grouped(grad.reshape(n, outputs, out_h * out_w), groups)
    columns = _matrices(weight, groups).swapaxes(1, 2) @ rows
    columns = columns.reshape(n, c * math.prod(weight.shape[2:]), out_h * out_w)
    dx = col2im(columns, (h, w), weight.shape[2:], stride, padding, dilation)
    return dx if onto is None else dx + onto


def conv2d_backward_weight(grad, x, weight_shape, stride, padding, dilation, groups):
    """Gradient by the weight: grad (N, O, H', W'), x (N, C, H, W) -> weight_shape (O, C/groups, kh, kw)."""
    n, outputs, out_h, out_w = grad.shape
    rows = _grouped(grad.reshape(n, outputs, out_h * out_w), groups)
    columns = _grouped(im2col(x, weight_shape[2:], stride, padding, dilation), groups)
    return (rows @ columns.swapaxes(2, 3)).sum(axis=0).reshape(weight_shape)


def conv2d_backward_bias(grad):
    """Gradient by the bias: the sum over images and pixels. (N, O, H', W') -> (O,)."""
    return grad.sum(axis=(0, 2, 3))


def _grouped(rows, groups):
    """(N, R, L) -> (N, groups, R / groups, L)."""
    n, r, length = rows.shape
    return rows.reshape(n, groups, r // groups, length)


def _matrices(weight, groups):
    """(O, C/groups, kh, kw) -> (groups, O / groups, C/groups kh kw)."""
    return weight.reshape(groups, weight.shape[0] // groups, math.prod(weight.shape[1:]))

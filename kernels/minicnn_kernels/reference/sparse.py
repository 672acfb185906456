"""Layers whose weights are mostly zeros, in plain NumPy: rows of what is not 0 (compressed sparse rows, CSR).

values, columns and starts: the elements of row o that are not 0 are values[starts[o] : starts[o + 1]], in the
columns of the same places. A convolution's rows are its weights as (O, kh kw C/groups), channels innermost.
"""

from __future__ import annotations

import math

import numpy as np

from minicnn_kernels.reference.conv import conv2d_forward

__all__ = ["sparse_conv2d_forward", "sparse_linear_forward", "to_sparse_rows"]


def to_sparse_rows(weight):
    """(values, columns int32, starts int32) of a weight (O, K) or (O, C, kh, kw); -0 is a zero."""
    rows = weight if weight.ndim == 2 else weight.transpose(0, 2, 3, 1).reshape(len(weight), -1)
    places = np.nonzero(rows)
    starts = np.concatenate(([0], np.cumsum((rows != 0).sum(axis=1))))
    return rows[places], places[1].astype(np.int32), starts.astype(np.int32)


def sparse_linear_forward(x, values, columns, starts, bias):
    """x weight^T + bias. x (..., in), the weight as rows, bias (out,) or None -> (..., out)."""
    weight = _dense(values, columns, starts, x.shape[-1])
    y = x @ weight.T
    return y if bias is None else y + bias


def sparse_conv2d_forward(x, values, columns, starts, bias, kernel_size, stride, padding, dilation, groups):
    """Convolution of x (N, C, H, W) with a weight as rows -> (N, O, H', W')."""
    channels = x.shape[1] // groups
    rows = _dense(values, columns, starts, channels * math.prod(kernel_size))
    weight = rows.reshape(len(rows), *kernel_size, channels).transpose(0, 3, 1, 2)
    return conv2d_forward(x, weight, bias, stride, padding, dilation, groups)


def _dense(values, columns, starts, width):
    weight = np.zeros((len(starts) - 1, width), values.dtype)
    weight[np.repeat(np.arange(len(weight)), np.diff(starts)), columns] = values
    return weight

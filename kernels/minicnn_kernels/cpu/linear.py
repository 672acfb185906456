"""Matrix products and the dense layer, all through `gemm.py`. Shapes and formulas: `reference/linear.py`."""

from __future__ import annotations

import math

import numpy as np

from minicnn_kernels import memory
from minicnn_kernels.cpu.gemm import column_sums, multiply_matrices
from minicnn_kernels.cpu.layout import contiguous
from minicnn_kernels.reference import linear as reference

__all__ = [
    "linear_backward_bias",
    "linear_backward_input",
    "linear_backward_weight",
    "linear_forward",
    "linear_relu_forward",
    "matmul",
]


def matmul(a, b):
    """a @ b by NumPy's rules: 1-d operands are vectors, leading dimensions broadcast."""
    if a.dtype != np.float32 or b.dtype != np.float32 or a.ndim == 0 or b.ndim == 0:
        return reference.matmul(a, b)  # integers, and the error that 0-d operands deserve
    if a.shape[-1] != b.shape[max(b.ndim - 2, 0)]:
        return reference.matmul(a, b)  # NumPy's error
    left = a[None, :] if a.ndim == 1 else a
    right = b[:, None] if b.ndim == 1 else b
    batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    rows, depth, columns = left.shape[-2], left.shape[-1], right.shape[-1]
    out = memory.empty((*batch, rows, columns))
    if right.ndim == 2 and left.flags.c_contiguous:  # one tall product
        count = math.prod(left.shape[:-1])  # not -1: of an array without elements NumPy can't tell it
        multiply_matrices(left.reshape(count, depth), right, out.reshape(count, columns))
    else:
        left = np.broadcast_to(left, (*batch, rows, depth))
        right = np.broadcast_to(right, (*batch, depth, columns))
        for index in np.ndindex(batch):
            multiply_matrices(left[index], right[index], out[index])
    shape = (*batch, *((rows,) if a.ndim > 1 else ()), *((columns,) if b.ndim > 1 else ()))
    return out.reshape(shape)


def linear_forward(x, weight, bias):
    """x weight^T + bias. x (..., in), weight (out, in), bias (out,) or None -> (..., out)."""
    return _linear(x, weight, bias, relu=False)


def linear_relu_forward(x, weight, bias):
    """max(x weight^T + bias, 0), a block of `reference/block.py`."""
    return _linear(x, weight, bias, relu=True)


def _linear(x, weight, bias, *, relu):
    out = memory.empty((*x.shape[:-1], weight.shape[0]))
    multiply_matrices(_rows(x), weight.T, _rows(out), bias, relu=relu)
    return out


def linear_backward_input(grad, weight):
    """grad weight. grad (..., out), weight (out, in) -> (..., in)."""
    dx = memory.empty((*grad.shape[:-1], weight.shape[1]))
    multiply_matrices(_rows(grad), weight, _rows(dx))
    return dx


def linear_backward_weight(grad, x):
    """grad^T x over all leading dimensions. grad (..., out), x (..., in) -> (out, in).

    The result lies in memory as (in, out), as the weights of dense layers do: then an optimizer step runs
    through both alike.
    """
    dw = memory.empty((x.shape[-1], grad.shape[-1]))
    return multiply_matrices(_rows(x).T, _rows(grad), dw).T


def linear_backward_bias(grad):
    """Sum over all leading dimensions. grad (..., out) -> (out,)."""
    return column_sums(contiguous(_rows(grad)))


def _rows(x: np.ndarray) -> np.ndarray:
    """All leading dimensions as one: (..., K) -> (M, K)."""
    return x if x.ndim == 2 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])

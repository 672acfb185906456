"""Layer norm over contiguous rows: sums of a row in float64. Formulas are in `reference/normalization.py`."""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from minicnn_kernels import memory
from minicnn_kernels.cpu.compiler import REDUCTION, kernel
from minicnn_kernels.cpu.layout import contiguous
from minicnn_kernels.cpu.normalization import column_sum

__all__ = ["layer_norm_backward", "layer_norm_forward"]


def layer_norm_forward(x, normalized_ndim, weight, bias, eps):
    """Normalize over the last normalized_ndim dimensions -> (y, mean, inv_std)."""
    leading = x.shape[: x.ndim - normalized_ndim]
    count = math.prod(x.shape[x.ndim - normalized_ndim :])
    rows = contiguous(x).reshape(-1, count) if x.size else np.empty((math.prod(leading), count), np.float32)
    y = memory.empty(x.shape)
    mean = np.empty((*leading, *(1,) * normalized_ndim), np.float32)
    inv_std = np.empty_like(mean)
    affine = _flat_or(weight, 1, count), _flat_or(bias, 0, count)
    _layer_norm(rows, *affine, float(eps), y.reshape(rows.shape), mean.reshape(-1), inv_std.reshape(-1))
    return y, mean, inv_std


def layer_norm_backward(grad, x, normalized_ndim, weight, mean, inv_std, needs):
    """(dx, dweight, dbias) of `layer_norm_forward`."""
    shape = x.shape[x.ndim - normalized_ndim :]
    count = math.prod(shape)
    rows = math.prod(x.shape[: x.ndim - normalized_ndim])
    dx = memory.empty(x.shape)
    arrays = (contiguous(array).reshape(rows, count) for array in (grad, x, dx))
    statistics = contiguous(mean).reshape(-1), contiguous(inv_std).reshape(-1)
    dweight, dbias = _layer_norm_backward(*arrays, _flat_or(weight, 1, count), *statistics)
    wanted = dx, dweight.reshape(shape), dbias.reshape(shape)
    return tuple(array if need else None for array, need in zip(wanted, needs, strict=True))


def _flat_or(parameter, default, count):
    return np.full(count, default, np.float32) if parameter is None else contiguous(parameter).reshape(-1)


@kernel(parallel=True)
def _layer_norm(x, weight, bias, eps, y, mean, inv_std):
    for row in prange(x.shape[0]):
        values, result = x[row], y[row]
        mean[row], inv_std[row] = _row_moments(values, eps)
        center, scale = mean[row], inv_std[row]
        for i in range(values.size):
            result[i] = (values[i] - center) * scale * weight[i] + bias[i]


@kernel(fastmath=REDUCTION)
def _row_moments(x, eps):
    total = np.float64(0)
    for i in range(x.size):
        total += x[i]
    mean = np.float32(total / x.size)
    square = np.float64(0)
    for i in range(x.size):
        distance = x[i] - mean
        square += distance * distance
    return mean, np.float32(1 / math.sqrt(square / x.size + eps))


@kernel(parallel=True)
def _layer_norm_backward(grad, x, dx, weight, mean, inv_std):
    rows, count = x.shape
    size = min(256, max(16, 16384 // max(count, 1)))  # rows in a task
    blocks = (rows + size - 1) // size
    along = np.zeros((blocks, count), np.float32)
    plain = np.zeros((blocks, count), np.float32)
    for task in prange(blocks):
        first = np.int64(task) * size
        for row in range(first, min(first + size, rows)):
            _row_gradient(
                grad[row], x[row], weight, mean[row], inv_std[row], dx[row], along[task], plain[task]
            )
    dweight = np.empty(count, np.float32)
    dbias = np.empty(count, np.float32)
    for i in range(count):
        dweight[i] = column_sum(along, i)
        dbias[i] = column_sum(plain, i)
    return dweight, dbias


@kernel(fastmath=REDUCTION)
def _row_gradient(grad, x, weight, mean, inv_std, dx, dweight, dbias):
    share = along = np.float64(0)
    for i in range(x.size):
        g = grad[i]
        normalized = (x[i] - mean) * inv_std
        share += g * weight[i]
        along += g * weight[i] * normalized
        dweight[i] += g * normalized
        dbias[i] += g
    share32, along32 = np.float32(share / x.size), np.float32(along / x.size)
    for i in range(x.size):
        normalized = (x[i] - mean) * inv_std
        dx[i] = (grad[i] * weight[i] - share32 - normalized * along32) * inv_std

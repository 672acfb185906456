"""Batch norm over channels-last rows and layer norm over contiguous rows.

Statistics are taken in blocks of rows that fit in cache: mean and squared distances of a block in
float32, blocks merged in float64 (Chan et al. 1983). So one pass over memory is as exact as two, and the
sums do not depend on the number of threads. Formulas are in `reference/normalization.py`.
"""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from minicnn_kernels import memory
from minicnn_kernels.cpu.compiler import REDUCTION, kernel
from minicnn_kernels.cpu.layout import contiguous

__all__ = [
    "batch_norm_backward",
    "batch_norm_forward",
    "batch_norm_inference",
    "batch_norm_inference_backward",
    "layer_norm_backward",
    "layer_norm_forward",
]


def batch_norm_forward(x, weight, bias, eps):
    """Normalize by the statistics of this batch -> (y, mean, inv_std): shapes of x, (C,), (C,)."""
    rows = _rows(x)
    channels = x.shape[1]
    mean, inv_std = np.empty(channels, np.float32), np.empty(channels, np.float32)
    _moments(rows, float(eps), mean, inv_std)
    return _normalize(x, rows, mean, _times(inv_std, weight), bias), mean, inv_std


def batch_norm_backward(grad, x, weight, mean, inv_std, needs):
    """(dx, dweight, dbias) of `batch_norm_forward`; mean and inv_std depend on x, too."""
    grad, x_rows = _rows(grad), _rows(x)
    dweight, dbias = _channel_gradients(grad, x_rows, mean, inv_std)
    dx = None
    if needs[0]:
        dx, out = _like(x)
        scale = _times(inv_std, weight)
        _input_gradient(grad, x_rows, mean, inv_std, scale, dweight, dbias, out)
    return dx, dweight if needs[1] else None, dbias if needs[2] else None


def batch_norm_inference(x, weight, bias, running_mean, running_var, eps):
    """Normalize by the running statistics (C,) -> y of x's shape."""
    return _normalize(x, _rows(x), running_mean, _times(_inverse_std(running_var, eps), weight), bias)


def batch_norm_inference_backward(grad, x, weight, running_mean, running_var, eps, needs):
    """(dx, dweight, dbias) of `batch_norm_inference`; the running statistics are constants."""
    inv_std = _inverse_std(running_var, eps)
    rows = _rows(grad)
    dx = dweight = dbias = None
    if needs[0]:
        zeros = np.zeros_like(inv_std)
        dx = _normalize(x, rows, zeros, _times(inv_std, weight), None)
    if needs[1] or needs[2]:
        dweight, dbias = _channel_gradients(rows, _rows(x), contiguous(running_mean), inv_std)
    return dx, dweight if needs[1] else None, dbias if needs[2] else None


def _rows(x):
    """(N, C, ...) as (N ..., C), contiguous: a view if x is channels-last."""
    return contiguous(np.moveaxis(x, 1, -1)).reshape(-1, x.shape[1])


def _like(x):
    """A new channels-last array of x's shape, and its rows as `_rows` gives them."""
    buffer = memory.empty((x.shape[0], *x.shape[2:], x.shape[1]))
    return np.moveaxis(buffer, -1, 1), buffer.reshape(-1, x.shape[1])


def _times(inv_std, weight):
    return inv_std if weight is None else inv_std * weight


def _inverse_std(variance, eps):
    return np.float32(1) / np.sqrt(variance + np.float32(eps))


def _normalize(x, rows, mean, scale, bias):
    y, out = _like(x)
    bias = np.zeros_like(scale) if bias is None else contiguous(bias)
    _affine(rows, contiguous(mean), scale, bias, out)
    return y


@kernel
def _block_rows(channels):
    """Rows in a block: about 64 KiB, so that the second look at it finds it in cache."""
    return min(256, max(16, 16384 // max(channels, 1)))


@kernel(parallel=True)
def _moments(x, eps, mean, inv_std):
    rows, channels = x.shape
    size = _block_rows(channels)
    blocks = (rows + size - 1) // size
    means = np.empty((blocks, channels), np.float32)
    squares = np.empty((blocks, channels), np.float32)
    for task in prange(blocks):
        first = np.int64(task) * size
        _block_moments(x[first : first + size], means[task], squares[task])
    _merge(means, squares, rows, size, eps, mean, inv_std)


@kernel
def _block_moments(x, mean, square):
    """Mean and sum of squared distances from it, per column."""
    rows, channels = x.shape
    first = x[0]  # differences from it keep the digits that a mean far from zero would take
    for c in range(channels):
        mean[c] = 0
        square[c] = 0
    for row in range(1, rows):
        values = x[row]
        for c in range(channels):
            mean[c] += values[c] - first[c]
    share = np.float32(1 / rows)
    for c in range(channels):
        mean[c] = first[c] + mean[c] * share
    for row in range(rows):
        values = x[row]
        for c in range(channels):
            distance = values[c] - mean[c]
            square[c] += distance * distance


@kernel
def _merge(means, squares, rows, size, eps, mean, inv_std):
    blocks, channels = means.shape
    total = np.zeros(channels)
    spread = np.zeros(channels)
    for block in range(blocks):
        count = min(size, rows - block * size)
        for c in range(channels):
            total[c] += count * np.float64(means[block, c])
    for c in range(channels):
        total[c] /= rows
    for block in range(blocks):
        count = min(size, rows - block * size)
        for c in range(channels):
            distance = means[block, c] - total[c]
            spread[c] += squares[block, c] + count * distance * distance
    for c in range(channels):
        mean[c] = total[c]
        inv_std[c] = 1 / math.sqrt(spread[c] / rows + eps)


@kernel(parallel=True)
def _affine(x, mean, scale, bias, y):
    rows, channels = x.shape
    size = _block_rows(channels)
    for task in prange((rows + size - 1) // size):
        first = np.int64(task) * size
        for row in range(first, min(first + size, rows)):
            values, result = x[row], y[row]
            for c in range(channels):
                result[c] = (values[c] - mean[c]) * scale[c] + bias[c]


@kernel(parallel=True)
def _channel_gradients(grad, x, mean, inv_std):
    """(sum of grad times normalized x, sum of grad) over the rows, per channel."""
    rows, channels = x.shape
    size = _block_rows(channels)
    blocks = (rows + size - 1) // size
    along = np.empty((blocks, channels), np.float32)
    plain = np.empty((blocks, channels), np.float32)
    for task in prange(blocks):
        first = np.int64(task) * size
        _block_gradients(grad[first : first + size], x[first : first + size], mean, along[task], plain[task])
    dweight = np.empty(channels, np.float32)
    dbias = np.empty(channels, np.float32)
    for c in range(channels):
        dweight[c] = np.float64(inv_std[c]) * _column_sum(along, c)
        dbias[c] = _column_sum(plain, c)
    return dweight, dbias


@kernel
def _column_sum(x, c):
    total = 0.0
    for row in range(x.shape[0]):
        total += x[row, c]
    return total


@kernel
def _block_gradients(grad, x, mean, along, plain):
    rows, channels = x.shape
    for c in range(channels):
        along[c] = 0
        plain[c] = 0
    for row in range(rows):
        values, g = x[row], grad[row]
        for c in range(channels):
            along[c] += g[c] * (values[c] - mean[c])
            plain[c] += g[c]


@kernel(parallel=True)
def _input_gradient(grad, x, mean, inv_std, scale, dweight, dbias, dx):
    """scale (grad - dbias / rows - normalized x dweight / rows)."""
    rows, channels = x.shape
    size = _block_rows(channels)
    slope = np.empty(channels, np.float32)
    offset = np.empty(channels, np.float32)
    for c in range(channels):
        slope[c] = inv_std[c] * dweight[c] / rows
        offset[c] = dbias[c] / rows
    for task in prange((rows + size - 1) // size):
        first = np.int64(task) * size
        for row in range(first, min(first + size, rows)):
            values, g, result = x[row], grad[row], dx[row]
            for c in range(channels):
                result[c] = (g[c] - offset[c] - (values[c] - mean[c]) * slope[c]) * scale[c]


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
    size = _block_rows(count)
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
        dweight[i] = _column_sum(along, i)
        dbias[i] = _column_sum(plain, i)
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

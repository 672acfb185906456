"""Signs and ternary values of floats, and their gradients, in one pass over memory.

Formulas are in `reference/binary.py`; products of what is made here are in `binary.py`. A scale per channel
is fast where channels are innermost in memory, as they are in weights; else NumPy's loops serve.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from minicnn_kernels import memory
from minicnn_kernels.cpu.compiler import kernel
from minicnn_kernels.cpu.layout import CHUNK, elementwise
from minicnn_kernels.reference import binary as reference

__all__ = ["binarize_backward", "binarize_forward", "mean_magnitude", "ternarize_forward", "ternary_scale"]

_PARTS = 16  # of a sum over rows


def mean_magnitude(x, axis):
    """Mean of |x|, 0-d or per index of `axis` (C,), and never 0."""
    if axis is None or not _innermost(x, axis):
        return reference.mean_magnitude(x, axis)
    rows = _rows(x, axis)
    mean = _magnitudes(rows).sum(axis=0) / len(rows)
    return np.maximum(mean, reference.SMALLEST_SCALE).astype(np.float32)


def ternary_scale(x, factor, axis):
    """(threshold, scale) of ternary values for x, both 0-d or per index of `axis` (C,)."""
    if axis is None or not _innermost(x, axis):
        return reference.ternary_scale(x, factor, axis)
    rows = _rows(x, axis)
    threshold = factor * (_magnitudes(rows).sum(axis=0) / len(rows))
    sums, counts = _magnitudes_above(rows, threshold)
    scale = sums.sum(axis=0) / np.maximum(counts.sum(axis=0), 1)
    return threshold.astype(np.float32), np.maximum(scale, reference.SMALLEST_SCALE).astype(np.float32)


def binarize_forward(x, scale, axis):
    """scale where x >= 0, else -scale. scale: 0-d, or (C,) along `axis`."""
    if x.dtype != np.float32 or (axis is not None and not _innermost(x, axis)):
        return reference.binarize_forward(x, scale, axis)
    y, y_flat, x_flat = elementwise(x)
    if axis is None:
        _signs(y_flat, x_flat, np.float32(scale))
    else:
        channels = len(scale)
        _signs_of_channels(y_flat.reshape(-1, channels), x_flat.reshape(-1, channels), _floats(scale))
    return y


def binarize_backward(grad, x, limit):
    """Gradient of a sign, straight through: grad where |x| <= limit, else 0."""
    if x.dtype != np.float32:
        return reference.binarize_backward(grad, x, limit)
    dx, dx_flat, x_flat, grad_flat = elementwise(x, grad)
    _pass_inside(dx_flat, x_flat, grad_flat, np.float32(limit))
    return dx


def ternarize_forward(x, threshold, scale, axis):
    """scale where x > threshold, -scale where x < -threshold, else 0. Both 0-d, or (C,) along `axis`."""
    if axis is None or not _innermost(x, axis):
        return reference.ternarize_forward(x, threshold, scale, axis)
    y, y_flat, x_flat = elementwise(x)
    rows = (array.reshape(-1, len(scale)) for array in (y_flat, x_flat))
    _ternary_of_channels(*rows, _floats(threshold), _floats(scale))
    return y


def _innermost(x, axis):
    """Whether x is float32 and dense, and elements along `axis` are neighbours in memory."""
    order = memory.memory_order(x)
    dense = x.size > 0 and x.transpose(order).flags.c_contiguous
    return x.dtype == np.float32 and dense and order[-1] == axis % x.ndim


def _rows(x, axis):
    """(elements of a channel, channels), in the order of memory."""
    return x.transpose(memory.memory_order(x)).reshape(-1, x.shape[axis])


def _floats(values):
    return np.ascontiguousarray(values, np.float32)


@kernel(parallel=True)
def _magnitudes(x):
    """Sums of |x| by channel, in a fixed number of parts and in double precision."""
    sums = np.zeros((_PARTS, x.shape[1]))
    for part in prange(_PARTS):
        for row in range(len(x) * part // _PARTS, len(x) * (part + 1) // _PARTS):
            for c in range(x.shape[1]):
                sums[part, c] += abs(x[row, c])
    return sums


@kernel(parallel=True)
def _magnitudes_above(x, threshold):
    sums, counts = np.zeros((_PARTS, x.shape[1])), np.zeros((_PARTS, x.shape[1]))
    for part in prange(_PARTS):
        for row in range(len(x) * part // _PARTS, len(x) * (part + 1) // _PARTS):
            for c in range(x.shape[1]):
                size = np.float64(abs(x[row, c]))
                kept = 1.0 if size > threshold[c] else 0.0
                sums[part, c] += kept * size
                counts[part, c] += kept
    return sums, counts


@kernel(parallel=True)
def _signs(y, x, scale):
    for chunk in prange((y.size + CHUNK - 1) // CHUNK):
        start = np.int64(chunk) * CHUNK
        for i in range(start, min(start + CHUNK, y.size)):
            y[i] = scale if x[i] >= 0 else -scale


@kernel(parallel=True)
def _signs_of_channels(y, x, scale):
    for row in prange(y.shape[0]):
        for c in range(y.shape[1]):
            y[row, c] = scale[c] if x[row, c] >= 0 else -scale[c]


@kernel(parallel=True)
def _pass_inside(dx, x, grad, limit):
    for chunk in prange((dx.size + CHUNK - 1) // CHUNK):
        start = np.int64(chunk) * CHUNK
        for i in range(start, min(start + CHUNK, dx.size)):
            dx[i] = grad[i] if abs(x[i]) <= limit else np.float32(0)


@kernel(parallel=True)
def _ternary_of_channels(y, x, threshold, scale):
    for row in prange(y.shape[0]):
        for c in range(y.shape[1]):
            sign = scale[c] if x[row, c] > 0 else -scale[c]
            y[row, c] = sign if abs(x[row, c]) > threshold[c] else np.float32(0)

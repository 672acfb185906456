"""Sums of large float32 arrays in parallel; every other reduction is the reference's.

Axes of a dense array are merged, in its own order of memory, into (outer, reduced, inner). Sums of a
block are float32 in 16 or more lanes, blocks add up in float64: exact to about 1e-7 and independent of
the number of threads. NumPy's maxima, scans and sorts are vectorised already.
"""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from minicnn_kernels import memory
from minicnn_kernels.cpu.compiler import REDUCTION, kernel
from minicnn_kernels.cpu.layout import flat
from minicnn_kernels.reference import reduction as reference

__all__ = ["mean", "sum", "sum_to", "var"]

_SMALL = 1 << 14  # elements: below, NumPy has finished before threads have started
_BLOCK = 1 << 13  # elements that one task sums up in float32


def sum(x, dim, keepdim):
    """Sum; whole numbers and booleans add up in int64."""
    if x.size < _SMALL or x.dtype != np.float32:
        return reference.sum(x, dim, keepdim)
    dims = range(x.ndim) if dim is None else (dim,) if isinstance(dim, int) else dim
    reduced = {axis % x.ndim for axis in dims}
    total = _sum(x, reduced)
    if keepdim:
        return total
    return total.reshape([size for axis, size in enumerate(x.shape) if axis not in reduced])


def mean(x, dim, keepdim):
    """Mean; NaN over nothing."""
    if x.size < _SMALL or x.dtype != np.float32:
        return reference.mean(x, dim, keepdim)
    total = sum(x, dim, keepdim)
    total /= np.float32(x.size // max(total.size, 1))
    return total


def var(x, dim, correction, keepdim):
    """Mean squared distance from the mean, divided by (count - correction): NaN where that is 0 of 0."""
    if x.size < _SMALL or x.dtype != np.float32:
        return reference.var(x, dim, correction, keepdim)
    distance = np.subtract(x, mean(x, dim, True), out=memory.empty_like(x))
    total = sum(np.square(distance, out=distance), dim, keepdim)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.divide(total, np.float32(max(x.size // total.size - correction, 0)), out=total)


def sum_to(x, shape):
    """x summed down to `shape`, from which it was broadcast; x itself if nothing was."""
    shape = tuple(shape)
    if x.shape == shape:
        return x
    padded = (1,) * (x.ndim - len(shape)) + shape
    dims = tuple(i for i, (old, new) in enumerate(zip(x.shape, padded, strict=True)) if old != new)
    return sum(x, dims, True).reshape(shape)


def _sum(x, reduced):
    """Sum of float32 `x` over the set of axes `reduced`, which stay with size 1."""
    data = flat(x)
    if data is None:
        return reference.sum(x, tuple(reduced), True)
    order = memory.memory_order(x)
    groups: list[tuple[int, bool]] = []  # (size, is it reduced) of neighbours in memory, merged
    for axis in order:
        size, gone = x.shape[axis], axis in reduced
        if groups and groups[-1][1] == gone:
            size *= groups.pop()[0]
        groups.append((size, gone))
    while any(gone for _, gone in groups):
        last = max(i for i, (_, gone) in enumerate(groups) if gone)
        outer, inner = (math.prod(size for size, _ in part) for part in (groups[:last], groups[last + 1 :]))
        data = _sum_middle(data.reshape(outer, groups[last][0], inner))
        del groups[last]
    shape = [1 if axis in reduced else x.shape[axis] for axis in order]
    return data.reshape(shape).transpose(memory.inverse_order(order))


def _sum_middle(x):
    """(outer, size, inner) -> (outer, inner)."""
    outer, size, inner = x.shape
    rows = _BLOCK if inner == 1 else min(128, max(16, _BLOCK // inner))
    blocks = -(-size // rows)
    partial = memory.empty((outer * blocks, inner))
    if inner == 1:
        _sum_lines(x.reshape(outer, size), partial.reshape(-1))
    else:
        _sum_rows(x, rows, partial)
    if blocks == 1:
        return partial
    return partial.reshape(outer, blocks, inner).sum(axis=1, dtype=np.float64).astype(np.float32)


@kernel(parallel=True)
def _sum_lines(x, partial):
    outer, size = x.shape
    blocks = (size + _BLOCK - 1) // _BLOCK
    for task in prange(outer * blocks):
        first = np.int64(task) % blocks * _BLOCK
        partial[task] = _line_sum(x[np.int64(task) // blocks, first : first + _BLOCK])


@kernel(fastmath=REDUCTION)
def _line_sum(x):
    total = np.float32(0)
    for i in range(x.size):
        total += x[i]
    return total


@kernel(parallel=True)
def _sum_rows(x, rows, partial):
    outer, size, inner = x.shape
    blocks = (size + rows - 1) // rows
    for task in prange(outer * blocks):
        matrix, total = x[np.int64(task) // blocks], partial[task]
        first = np.int64(task) % blocks * rows
        for i in range(inner):
            total[i] = 0
        for row in range(first, min(first + rows, size)):
            values = matrix[row]
            for i in range(inner):
                total[i] += values[i]

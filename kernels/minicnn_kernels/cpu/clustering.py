"""Codebooks looked up, and their gradients summed, in one pass each over memory as it lies.

For 128 x 3136 weights and 16 clusters, on one thread, 0.35 and 0.45 ms where NumPy takes 1.0 and 3.9. k-means
runs once per layer: there NumPy's loops serve.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from minicnn_kernels import memory
from minicnn_kernels.cpu.compiler import kernel
from minicnn_kernels.cpu.layout import CHUNK, elementwise
from minicnn_kernels.reference import clustering as reference

__all__ = ["codebook_backward", "codebook_forward"]

_TASKS = 64  # at most: each has sums of its own, and a codebook may have 32768 of them


def codebook_forward(x, centroids, index):
    """centroids[index] where x is not 0, and 0 where it is. x, index: one shape."""
    if x.dtype != np.float32 or centroids.dtype != np.float32:
        return reference.codebook_forward(x, centroids, index)
    _check_index(index, len(centroids))
    y, flat_y, flat_x = elementwise(x)
    _look_up(flat_y, flat_x, np.ascontiguousarray(centroids), _in_order_of(y, index))
    return y


def codebook_backward(grad, x, index, clusters):
    """Gradient of the centroids (clusters,): the sum over the members of each."""
    if grad.dtype != np.float32 or x.dtype != np.float32:
        return reference.codebook_backward(grad, x, index, clusters)
    _check_index(index, clusters)
    like, _, flat_x, flat_grad = elementwise(x, grad)
    share = max(CHUNK, -(-x.size // _TASKS))
    sums = np.zeros((-(-x.size // share), clusters))
    _sum_members(sums, flat_grad, flat_x, _in_order_of(like, index), share)
    return sums.sum(axis=0).astype(np.float32)


def _check_index(index, clusters):
    """Compiled loops do not look where they read."""
    if index.size and not (index.min() >= 0 and index.max() < clusters):
        raise IndexError(
            f"codebook: expected an index from 0 to {clusters - 1}, got {index.min()} to {index.max()}"
        )


def _in_order_of(like, index):
    """The elements of `index`, flat, in the order in which those of the dense array `like` lie."""
    return np.ascontiguousarray(index.transpose(memory.memory_order(like))).reshape(-1)


@kernel(parallel=True)
def _look_up(y, x, centroids, index):
    for chunk in prange((y.size + CHUNK - 1) // CHUNK):
        start = np.int64(chunk) * CHUNK
        for i in range(start, min(start + CHUNK, y.size)):
            y[i] = centroids[index[i]] if x[i] != 0 else np.float32(0)


@kernel(parallel=True)
def _sum_members(sums, grad, x, index, share):
    """A row of `sums` (tasks, clusters), float64 zeros, for every `share` elements."""
    for task in prange(len(sums)):
        start = np.int64(task) * share
        row = sums[task]
        for i in range(start, min(start + share, x.size)):
            if x[i] != 0:
                row[index[i]] += grad[i]

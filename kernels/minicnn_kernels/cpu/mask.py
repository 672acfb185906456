"""Masks in one pass over memory: a training step applies each four times (weight, gradient, step, momentum).

On bits, for a choice between floats is not vectorized: 401,408 weights in 0.14 and, in place, 0.05 ms, where
NumPy's `copyto(where=...)` took 0.98 and 0.81 (one thread).
"""

from __future__ import annotations

import numpy as np
from numba import prange

from minicnn_kernels import memory
from minicnn_kernels.cpu.compiler import kernel
from minicnn_kernels.cpu.layout import CHUNK, flat
from minicnn_kernels.reference import quantization as reference

__all__ = ["apply_mask", "apply_mask_"]


def apply_mask(x, keep):
    """x where `keep` (bool, the shape of x) holds, and +0 elsewhere."""
    result = memory.empty_like(x)
    flats = _in_memory(keep, x, result)
    if flats is None:
        return reference.apply_mask(x, keep)
    _chunks(flats[2], flats[1], flats[0])
    return result


def apply_mask_(x, keep):
    """Write 0 into x, in place, wherever `keep` does not hold."""
    flats = _in_memory(keep, x)
    if flats is None:
        reference.apply_mask_(x, keep)
    else:
        _chunks_in_place(flats[1], flats[0])


def _in_memory(keep, *arrays):
    """Their bits as whole numbers, 1-d, in an order of memory that they share; None if they share none.

    The bits of a float and -1 are the float, those and 0 are +0, NaN included.
    """
    strides = tuple(4 * stride for stride in keep.strides)
    if any(array.dtype != np.float32 or array.strides != strides for array in arrays):
        return None
    flats = [flat(array) for array in (keep, *arrays)]
    if any(one is None for one in flats):
        return None
    return [one.view(np.int8 if one.dtype == bool else np.int32) for one in flats]


@kernel(parallel=True)
def _chunks(y, x, keep):
    for chunk in prange((y.size + CHUNK - 1) // CHUNK):
        start = np.int64(chunk) * CHUNK
        stop = start + CHUNK
        _choose(y[start:stop], x[start:stop], keep[start:stop])


@kernel(parallel=True)
def _chunks_in_place(x, keep):
    for chunk in prange((x.size + CHUNK - 1) // CHUNK):
        start = np.int64(chunk) * CHUNK
        _choose_in_place(x[start : start + CHUNK], keep[start : start + CHUNK])


@kernel
def _choose(y, x, keep):
    for i in range(y.size):
        y[i] = x[i] & -np.int32(keep[i])


@kernel
def _choose_in_place(x, keep):  # apart from _choose: with y and x in one place that is not vectorized
    for i in range(x.size):
        x[i] &= -np.int32(keep[i])

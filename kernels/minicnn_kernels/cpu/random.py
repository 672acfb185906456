"""The philox generator compiled: the bits of `reference/random.py`, a block of four words at a time.

Dropout draws a mask per step and is fused. The distributions are the reference's: they are drawn when
a model is made or an epoch begins.
"""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from minicnn_kernels import memory
from minicnn_kernels.cpu.compiler import kernel

__all__ = ["dropout_mask"]

_BLOCKS = 1 << 12  # of four elements, in one task


def dropout_mask(shape, p, seed, offset):
    """Boolean, False with probability p (to 32 bits)."""
    size = math.prod(shape)
    keep = memory.empty(size, np.bool_)
    run = _keep if size <= 4 * _BLOCKS else _keep_chunks
    run(keep, np.uint64(round(p * 2**32)), np.uint64(seed & (1 << 64) - 1), np.uint64(offset))
    return keep.reshape(shape)


@kernel
def _keep(keep, threshold, seed, offset):
    whole = keep.size // 4
    for block in range(whole):
        words = _philox(seed, offset + np.uint64(block))
        for i in range(4):
            keep[4 * block + i] = words[i] >= threshold
    if 4 * whole < keep.size:
        words = _philox(seed, offset + np.uint64(whole))
        for i in range(keep.size - 4 * whole):
            keep[4 * whole + i] = words[i] >= threshold


@kernel(parallel=True)
def _keep_chunks(keep, threshold, seed, offset):
    for chunk in prange((keep.size + 4 * _BLOCKS - 1) // (4 * _BLOCKS)):
        first = np.int64(chunk) * _BLOCKS
        _keep(keep[4 * first : 4 * (first + _BLOCKS)], threshold, seed, offset + np.uint64(first))


@kernel(inline="always")
def _philox(seed, counter):
    """Ten rounds on one counter: four words below 2**32, as uint64."""
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    c0, c1, c2, c3 = counter & low, counter >> half, np.uint64(0), np.uint64(0)
    k0, k1 = seed & low, seed >> half
    for _ in range(10):
        first, second = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1 = (second >> half) ^ c1 ^ k0, second & low
        c2, c3 = (first >> half) ^ c3 ^ k1, first & low
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & low, (k1 + np.uint64(0xBB67AE85)) & low
    return c0, c1, c2, c3

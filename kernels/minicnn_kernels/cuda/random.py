"""The philox generator: the bits of `reference/random.py`, one thread for each counter, of four elements.

Dropout draws its mask here. Distributions are drawn on the host, where a model is made, and moved.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minicnn_kernels.cuda.driver import cuda, device_function, kernel, launch, listening
from minicnn_kernels.cuda.storage import empty, flat
from minicnn_kernels.device_array import DeviceArray
from minicnn_kernels.reference.random import random_blocks

__all__ = ["dropout_mask", "random_blocks"]

_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_FIRST, _SECOND = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_FIRST_STEP, _SECOND_STEP = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_ZERO = np.uint64(0)


def dropout_mask(shape: Any, p: float, seed: int, offset: int) -> DeviceArray:
    """Boolean, False with probability p (to 32 bits)."""
    keep = empty(tuple(shape), np.bool_)
    threshold, key = np.uint64(round(p * 2**32)), np.uint64(seed & (1 << 64) - 1)
    blocks = -(-math.prod(shape) // 4)
    if listening.recording is None:
        launch(_keep, blocks, flat(keep), threshold, key, np.uint64(offset), keep.size, blocks)
    else:  # every repetition has numbers of its own
        numbers, place = listening.recording.late(int(key), offset)
        launch(_keep_late, blocks, flat(keep), threshold, numbers, place, keep.size, blocks)
    return keep


@device_function
def _philox(seed, counter):
    """Ten rounds on one counter: four words below 2**32, as uint64."""
    c0, c1, c2, c3 = counter & _LOW, counter >> _HALF, _ZERO, _ZERO
    k0, k1 = seed & _LOW, seed >> _HALF
    for _ in range(10):
        first, second = _FIRST * c0, _SECOND * c2
        c0, c1 = (second >> _HALF) ^ c1 ^ k0, second & _LOW
        c2, c3 = (first >> _HALF) ^ c3 ^ k1, first & _LOW
        k0, k1 = (k0 + _FIRST_STEP) & _LOW, (k1 + _SECOND_STEP) & _LOW
    return c0, c1, c2, c3


@device_function
def _keep_block(keep, threshold, seed, offset, block, size):
    words = _philox(seed, offset + np.uint64(block))
    for i in range(4):
        if 4 * block + i < size:
            keep[4 * block + i] = words[i] >= threshold


@kernel("boolean[::1], uint64, uint64, uint64, int64, int64")
def _keep(keep, threshold, seed, offset, size, blocks):
    for block in range(cuda.grid(1), blocks, cuda.gridsize(1)):
        _keep_block(keep, threshold, seed, offset, block, size)


@kernel("boolean[::1], uint64, int64[::1], int64, int64, int64")
def _keep_late(keep, threshold, numbers, place, size, blocks):
    """`_keep` with seed and offset from device memory, where a recording writes new ones."""
    for block in range(cuda.grid(1), blocks, cuda.gridsize(1)):
        seed, offset = np.uint64(numbers[place]), np.uint64(numbers[place + 1])
        _keep_block(keep, threshold, seed, offset, block, size)

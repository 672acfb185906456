"""Random numbers of other kinds than dropout's mask: the bits of `reference/random.py`, on the device.

One thread for each counter of philox, which makes four numbers. Normal numbers need logarithms in double
precision and are drawn on the host (`host.py`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minicnn_kernels.cuda.driver import cuda, kernel, launch
from minicnn_kernels.cuda.order import sort
from minicnn_kernels.cuda.pairs import product
from minicnn_kernels.cuda.random import _philox
from minicnn_kernels.cuda.storage import empty, flat
from minicnn_kernels.device_array import DeviceArray
from minicnn_kernels.reference.random import random_blocks

__all__ = ["philox", "random_integers", "random_permutation", "random_uniform"]

_HALF, _EIGHT, _UNIT = np.uint64(32), np.uint64(8), np.float32(2**-24)
_COUNTER = "uint64, uint64"


def philox(seed: int, offset: int, blocks: int) -> DeviceArray:
    """(blocks, 4) uint32: ten rounds on the counters offset, offset + 1, ...; both arguments of 64 bits."""
    words = empty((blocks, 4), np.uint32)
    launch(_words, blocks, flat(words), *_counter(seed, offset), words.size, blocks)
    return words


def random_uniform(shape: Any, low: float, high: float, dtype: Any, seed: int, offset: int) -> DeviceArray:
    """Uniform in [low, high): low + (high - low) u with u of 24 bits; float32."""
    result = empty(_sizes(shape), dtype)
    blocks, limits = random_blocks(result.size), (np.float32(low), np.float32(high - low))
    launch(_uniform, blocks, flat(result), *limits, *_counter(seed, offset), result.size, blocks)
    return result


def random_integers(shape: Any, low: int, high: int, seed: int, offset: int) -> DeviceArray:
    """int64 in [low, high), high - low at most 2**32: the upper half of word * (high - low)."""
    result = empty(_sizes(shape), np.int64)
    blocks, limits = random_blocks(result.size), (low, np.uint64(high - low))
    launch(_integers, blocks, flat(result), *limits, *_counter(seed, offset), result.size, blocks)
    return result


def random_permutation(n: int, seed: int, offset: int) -> DeviceArray:
    """0 to n - 1 as int64 in random order: the stable order of n random words."""
    return sort(random_integers((n,), 0, 1 << 32, seed, offset), 0, False)[1]


def _sizes(shape: Any) -> tuple[int, ...]:
    return (shape,) if isinstance(shape, int) else tuple(shape)


def _counter(seed: int, offset: int) -> tuple[np.uint64, np.uint64]:
    return np.uint64(seed & (1 << 64) - 1), np.uint64(offset)


@kernel(f"uint32[::1], {_COUNTER}, int64, int64")
def _words(out, seed, offset, size, blocks):
    for block in range(cuda.grid(1), blocks, cuda.gridsize(1)):
        words = _philox(seed, offset + np.uint64(block))
        for i in range(4):
            if 4 * block + i < size:
                out[4 * block + i] = words[i]


@kernel(f"float32[::1], float32, float32, {_COUNTER}, int64, int64")
def _uniform(out, low, width, seed, offset, size, blocks):
    for block in range(cuda.grid(1), blocks, cuda.gridsize(1)):
        words = _philox(seed, offset + np.uint64(block))
        for i in range(4):
            if 4 * block + i < size:
                unit = np.float32(words[i] >> _EIGHT) * _UNIT
                out[4 * block + i] = product(unit, width) + low  # not fused: the bits of the reference


@kernel(f"int64[::1], int64, uint64, {_COUNTER}, int64, int64")
def _integers(out, low, width, seed, offset, size, blocks):
    for block in range(cuda.grid(1), blocks, cuda.gridsize(1)):
        words = _philox(seed, offset + np.uint64(block))
        for i in range(4):
            if 4 * block + i < size:
                out[4 * block + i] = np.int64((words[i] * width) >> _HALF) + low

"""Random numbers from a counter: philox4x32-10.

A number depends on (seed, offset, position) alone, so back ends and thread counts cannot change it: element
i in logical C order uses word i % 4 of block offset + i // 4. The caller keeps the offset and adds
`random_blocks(size)` to it after each call (`minicnn.random.Generator`).

Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

from __future__ import annotations

import math

import numpy as np

_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85  # golden ratio and sqrt(3) - 1
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox(seed, offset, blocks):
    """(blocks, 4) uint32: ten rounds on the counters offset, offset + 1, ...; both arguments of 64 bits."""
    counter = np.arange(blocks, dtype=np.uint64) + np.uint64(offset)
    c0, c1 = counter & _LOW, counter >> _HALF
    c2 = c3 = np.zeros_like(counter)
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF
    for _ in range(10):
        first, second = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            second >> _HALF ^ c1 ^ np.uint64(k0),
            second & _LOW,
            first >> _HALF ^ c3 ^ np.uint64(k1),
            first & _LOW,
        )
        k0, k1 = k0 + _KEY_STEPS[0] & 0xFFFFFFFF, k1 + _KEY_STEPS[1] & 0xFFFFFFFF
    return np.stack((c0, c1, c2, c3), axis=1).astype(np.uint32)


def random_blocks(size):
    """How many counter values `size` random elements use up."""
    return -(-size // 4)


def random_uniform(shape, low, high, dtype, seed, offset):
    """Uniform in [low, high): low + (high - low) u with u of 24 bits in float32, of 32 bits in float64."""
    words, dtype = _words(shape, seed, offset), np.dtype(dtype)
    if dtype == np.float32:
        unit = (words >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)
    else:
        unit = words * 2.0**-32
    return (unit * dtype.type(high - low) + dtype.type(low)).reshape(shape)


def random_normal(shape, mean, std, dtype, seed, offset):
    """Normal by Box and Muller (1958): words 2j, 2j + 1 give elements 2j, 2j + 1. Computed in float64."""
    size = math.prod(shape)
    pairs = philox(seed, offset, random_blocks(size)).reshape(-1, 2)
    radius = np.sqrt(-2 * np.log((pairs[:, 0] + 1.0) * 2.0**-32))  # + 1: never the logarithm of 0
    angle = pairs[:, 1] * (2 * np.pi * 2.0**-32)
    both = np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=1)
    return (both.reshape(-1)[:size] * std + mean).astype(dtype).reshape(shape)


def random_integers(shape, low, high, seed, offset):
    """int64 in [low, high), high - low at most 2**32: the upper half of word * (high - low)."""
    words = _words(shape, seed, offset).astype(np.uint64)
    return ((words * np.uint64(high - low) >> _HALF).astype(np.int64) + low).reshape(shape)


def random_permutation(n, seed, offset):
    """0 to n - 1 as int64 in random order: the stable order of n random words."""
    return np.argsort(_words((n,), seed, offset), kind="stable").astype(np.int64)


def dropout_mask(shape, p, seed, offset):
    """Boolean, False with probability p (to 32 bits)."""
    return (_words(shape, seed, offset) >= np.uint64(round(p * 2**32))).reshape(shape)


def _words(shape, seed, offset):
    size = math.prod(shape)
    return philox(seed, offset, random_blocks(size)).reshape(-1)[:size]

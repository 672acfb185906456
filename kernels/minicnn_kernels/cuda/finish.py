"""From exact sums to results: the `requantize` of the design, one thread an element.

A sum gets its offset (bias, corrections), becomes float32, is multiplied by a factor, and is then left as it
is or rounded half to even, limited, and stored as a point of a lattice or as its whole number. No product
meets a sum that could fuse with it, so the bits are those of the reference.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minicnn_kernels.cuda.driver import Kernel, cuda, device_function, kernel, launch, rint
from minicnn_kernels.cuda.storage import dense, empty, flat
from minicnn_kernels.device_array import DeviceArray

__all__ = ["as_bytes", "as_floats", "as_points"]

_SUMS = "int64[::1], int64[::1], int64, float32[::1], int64, int64"


def as_floats(acc: DeviceArray, offset: Any, factor: DeviceArray, after: int) -> DeviceArray:
    """float32(acc + offset) * factor.

    acc: int32 or int64; offset, None or whole numbers (C,), and factor, 0-d or (C,), belong to channel
    i // after % C of element i.
    """
    return _finished(_floats, np.float32, acc, offset, factor, after)


def as_points(
    acc: DeviceArray, offset: Any, factor: DeviceArray, after: int, scale: Any, zero: Any, low: int, high: int
) -> DeviceArray:
    """The same as points of the lattice of scale and zero point (0-d), for whole numbers from low to high."""
    lattice = flat(dense(scale)), flat(dense(zero)), low, high
    return _finished(_points, np.float32, acc, offset, factor, after, *lattice)


def as_bytes(
    acc: DeviceArray, offset: Any, factor: DeviceArray, after: int, zero: int, low: int, high: int
) -> DeviceArray:
    """The same as whole numbers from `low` to `high`, `zero` standing for 0: uint8."""
    return _finished(_bytes, np.uint8, acc, offset, factor, after, zero, low, high)


def _finished(
    run: Kernel, dtype: Any, acc: DeviceArray, offset: Any, factor: DeviceArray, after: int, *rest: Any
) -> DeviceArray:
    result = empty(acc.shape, dtype)
    offsets = 0 if offset is None else offset.size
    given = flat(acc if offset is None else dense(offset)), offsets
    sums = flat(acc), *given, flat(dense(factor)), factor.size, max(after, 1)
    launch(run, result.size, flat(result), *sums, *rest, result.size)
    return result


@device_function
def _product(acc, offset, offsets, factor, factors, after, i):
    total = acc[i]
    if offsets > 0:
        total = acc.dtype.type(total + offset[i // after % offsets])
    return np.float32(total) * factor[i // after % factors]


@device_function
def _limited(value, low, high):
    value = low if value < low else value
    return high if value > high else value


@kernel(f"float32[::1], {_SUMS}, int64", registers=48)
def _floats(y, acc, offset, offsets, factor, factors, after, size):
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        y[i] = _product(acc, offset, offsets, factor, factors, after, i)


@kernel(f"float32[::1], {_SUMS}, float32[::1], int32[::1], int64, int64, int64", registers=48)
def _points(y, acc, offset, offsets, factor, factors, after, scale, zero, low, high, size):
    bottom, top = np.float32(low - zero[0]), np.float32(high - zero[0])
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        value = rint(_product(acc, offset, offsets, factor, factors, after, i))
        y[i] = _limited(value, bottom, top) * scale[0]


@kernel(f"uint8[::1], {_SUMS}, int64, int64, int64, int64", registers=48)
def _bytes(y, acc, offset, offsets, factor, factors, after, zero, low, high, size):
    bottom, top = np.float32(low - zero), np.float32(high - zero)
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        value = rint(_product(acc, offset, offsets, factor, factors, after, i))
        y[i] = np.int64(_limited(value, bottom, top)) + zero

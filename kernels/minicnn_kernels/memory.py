"""The buffer pool that every back end allocates its results from.

A fresh multi-megabyte allocation costs a page fault for every 4 KiB; a training step asks for the
same sizes again and again. Memory of an array from `empty` returns to the pool when the last view
of it dies, and the next request of that size class gets it. All buffers are 64-byte aligned (one
cache line, one AVX-512 vector). Small arrays are left to NumPy, whose own cache is faster.
"""

from __future__ import annotations

import math
import threading
from collections import deque

import numpy as np

ALIGNMENT = 64
SMALL = 1 << 16  # bytes; below this malloc reuses memory without page faults
_MAX_RETAINED = 4 << 30  # bytes kept for reuse; more is given back to the system

_free: dict[int, deque[np.ndarray]] = {}
_lock = threading.Lock()
_retained = 0
_poison = False


class _Lease:
    """Owns one raw buffer while arrays view it, and returns it to the pool when it dies."""

    __slots__ = ("__array_interface__", "raw")

    def __init__(self, raw: np.ndarray, interface: dict) -> None:
        self.raw = raw
        self.__array_interface__ = interface

    def __del__(self) -> None:
        _give_back(self.raw)


def _size_class(nbytes: int) -> int:
    """`nbytes` rounded up to one of eight steps per octave: at most 12.5% is wasted."""
    step = 1 << max(nbytes.bit_length() - 4, 6)
    return -(-nbytes // step) * step


def _give_back(raw: np.ndarray) -> None:
    global _retained
    # No lock: this runs inside the garbage collector, where waiting for one could deadlock.
    # deque.append is atomic; the count may be off by a buffer, and it only bounds the cache.
    if _retained + raw.nbytes > _MAX_RETAINED:
        return
    if _poison:
        raw.fill(0xFF)  # every float32 and float64 becomes NaN
    queue = _free.get(raw.nbytes)
    if queue is not None:
        _retained += raw.nbytes
        queue.append(raw)


def _take(nbytes: int) -> np.ndarray:
    global _retained
    size = _size_class(nbytes) + ALIGNMENT
    queue = _free.get(size)
    if queue is None:
        with _lock:
            queue = _free.setdefault(size, deque())
    try:
        raw = queue.pop()
        _retained -= size
    except IndexError:
        raw = np.empty(size, np.uint8)
        if _poison:
            raw.fill(0xFF)
    return raw


def empty(shape: int | tuple[int, ...], dtype=np.float32) -> np.ndarray:
    """An uninitialised C-contiguous array from the pool, 64-byte aligned when not small."""
    if isinstance(shape, (int, np.integer)):
        shape = (int(shape),)
    dtype = np.dtype(dtype)
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < SMALL:
        small = np.empty(shape, dtype)
        if _poison:
            small.reshape(-1).view(np.uint8).fill(0xFF)
        return small
    raw = _take(nbytes)
    address = raw.ctypes.data
    aligned = -(-address // ALIGNMENT) * ALIGNMENT
    interface = {"shape": tuple(shape), "typestr": dtype.str, "data": (aligned, False), "version": 3}
    return np.asarray(_Lease(raw, interface))


def zeros(shape: int | tuple[int, ...], dtype=np.float32) -> np.ndarray:
    """`empty`, filled with zeros."""
    array = empty(shape, dtype)
    array.fill(0)
    return array


def empty_images(n: int, channels: int, height: int, width: int, dtype=np.float32) -> np.ndarray:
    """Uninitialised images: shape (N, C, H, W), memory (N, H, W, C)."""
    return empty((n, height, width, channels), dtype).transpose(0, 3, 1, 2)


def empty_like(x: np.ndarray, dtype=None) -> np.ndarray:
    """Uninitialised array of the shape of `x` and, if `x` is dense, of its order of axes in memory.

    So elementwise kernels keep channels-last images channels-last.
    """
    dtype = x.dtype if dtype is None else dtype
    if x.flags.c_contiguous:
        return empty(x.shape, dtype)
    order = memory_order(x)
    return empty(tuple(x.shape[axis] for axis in order), dtype).transpose(inverse_order(order))


def memory_order(x: np.ndarray) -> tuple[int, ...]:
    """Axes of `x` from the slowest to the fastest in memory; ties keep their order."""
    return tuple(sorted(range(x.ndim), key=lambda axis: (-abs(x.strides[axis]), axis)))


def inverse_order(order: tuple[int, ...]) -> list[int]:
    """The permutation of axes that undoes `order`."""
    return sorted(range(len(order)), key=order.__getitem__)


def retained_bytes() -> int:
    """Bytes that lie in the pool, ready for reuse."""
    return _retained


def clear() -> None:
    """Give all unused memory of the pool back to the system."""
    global _retained
    for queue in list(_free.values()):
        while queue:
            try:
                _retained -= queue.pop().nbytes
            except IndexError:
                break


def poison(enabled: bool) -> bool:
    """For tests: fill returned and new buffers with NaN so that a stale read shows.

    Returns the previous setting.
    """
    global _poison
    previous, _poison = _poison, enabled
    return previous

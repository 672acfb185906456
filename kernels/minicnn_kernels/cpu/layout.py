"""Which memory order an array has, and the one place that changes it.

Images have the shape (N, C, H, W) and, in this back end, the memory of (N, H, W, C): a pixel's
channels lie side by side. An array that comes in another order is copied once, by these functions;
kernels then see plain C-contiguous arrays and are compiled for no other layout.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange

from minicnn_kernels import memory
from minicnn_kernels.cpu.blocks import transpose
from minicnn_kernels.cpu.compiler import kernel

__all__ = [
    "CHUNK",
    "address",
    "aligned",
    "channels_last",
    "contiguous",
    "copy_into",
    "elementwise",
    "flat",
    "float32",
]

# Elements in one task of a kernel over flat memory: 128 KiB stay in a core's cache, and what fits into one
# task runs without waking other threads (4 us at best, as long as the work itself).
CHUNK = 1 << 15


def channels_last(x: np.ndarray) -> np.ndarray:
    """The (N, H, W, C) C-contiguous array of images (N, C, H, W): a view if memory allows, else a copy."""
    return contiguous(x.transpose(0, 2, 3, 1))


def contiguous(x: np.ndarray) -> np.ndarray:
    """`x` in C order and float32: itself if it is so already, else a copy."""
    if x.flags.c_contiguous and x.dtype == np.float32:
        return x
    out = memory.empty(x.shape)
    copy_into(out, x)
    return out


def flat(x: np.ndarray) -> np.ndarray | None:
    """All elements of `x` in the order of memory, as a 1-d view; None if memory has gaps or repeats."""
    if not x.flags.c_contiguous:
        x = x.transpose(memory.memory_order(x))
        if not x.flags.c_contiguous:
            return None
    return x.reshape(-1)


def aligned(like: np.ndarray, x: np.ndarray) -> np.ndarray:
    """`x` as float32 in the memory order of the dense `like` of its shape: itself if it is so already."""
    same = x.strides == like.strides or (x.flags.c_contiguous and like.flags.c_contiguous)
    if same and x.dtype == np.float32:
        return x
    out = memory.empty_like(like, np.float32)
    copy_into(out, x)
    return out


def elementwise(x: np.ndarray, *others: np.ndarray) -> tuple[Any, ...]:
    """A new float32 array shaped and ordered like `x`; then, flat in that order, it, `x` and `others`."""
    order = tuple(range(x.ndim)) if x.flags.c_contiguous else memory.memory_order(x)
    in_order = x.transpose(order)
    if x.dtype != np.float32 or not in_order.flags.c_contiguous:
        x = in_order = contiguous(x)
        order = tuple(range(x.ndim))
    out = memory.empty(in_order.shape)
    rest = (aligned(x, other).transpose(order).reshape(-1) for other in others)
    return out.transpose(memory.inverse_order(order)), out.reshape(-1), in_order.reshape(-1), *rest


def copy_into(destination: np.ndarray, source: np.ndarray) -> None:
    """Overwrite `destination` with `source` of the same shape; layouts change in tiles, in parallel."""
    if source.size >= _WORTH_TILING and source.dtype == destination.dtype == np.float32:
        sizes = _as_transpose(destination, source)
        if sizes is not None and sizes[2] >= 8:  # for 3 columns NumPy's loop is 5 times as fast
            _transpose(address(destination), address(source), *sizes)
            return
    np.copyto(destination, source, casting="unsafe")


_WORTH_TILING = 8192  # elements: below, NumPy's copy is done before threads have started


def _as_transpose(destination: np.ndarray, source: np.ndarray) -> tuple[int, int, int] | None:
    """(batch, rows, columns) of `source` if the memory of `destination` is (batch, columns, rows)."""
    axes = [axis for axis in memory.memory_order(destination) if destination.shape[axis] > 1]
    order = [axes.index(axis) for axis in memory.memory_order(source) if source.shape[axis] > 1]
    first = next((i for i, axis in enumerate(order) if i != axis), None)
    if first is None:
        return None  # the same order: nothing to transpose
    split = first + order[first:].index(first)  # source: batch, rows, columns; `columns` lead in destination
    if order[first:] != [*range(order[first], len(order)), *range(first, order[first])]:
        return None
    if flat(destination) is None or flat(source) is None:
        return None
    sizes = [destination.shape[axes[i]] for i in order]
    return math.prod(sizes[:first]), math.prod(sizes[first:split]), math.prod(sizes[split:])


@kernel(parallel=True)
def _transpose(target, source, batch, rows, columns):
    """Addresses of float32. A task has 64 rows: blocks that are turned in registers, see `blocks.py`."""
    strips = (rows + 63) // 64
    for task in prange(batch * strips):
        matrix, first = np.int64(task) // strips * rows * columns, np.int64(task) % strips * 64
        here, there = source + 4 * (matrix + first * columns), target + 4 * (matrix + first)
        transpose(here, columns, min(64, rows - first), columns, there, rows)


def address(x: np.ndarray) -> int:
    """Where the first element of `x` lies. The caller keeps `x` alive while a kernel works there."""
    return x.ctypes.data


def float32(x: np.ndarray) -> np.ndarray:
    """`x` as float32, in the memory order it has."""
    return x if x.dtype == np.float32 else x.astype(np.float32)

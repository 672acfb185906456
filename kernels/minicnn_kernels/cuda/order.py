"""Sorting, and where a mask is true: every thread finds the one place where its element belongs.

Runs are merged pair by pair: an element's place is its place in its own run plus what bisection finds in the
other one, so equal elements keep their order, any length is served and no two threads write to one place. A
million elements take 20 passes over memory (Satish et al. 2009 rank in the same way, by blocks).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minicnn_kernels.cuda.driver import cuda, device_function, kernel, launch
from minicnn_kernels.cuda.storage import cast, dense, empty, flat, on_device, to_device, to_host
from minicnn_kernels.device_array import DeviceArray

__all__ = ["sort", "topk", "true_positions"]

_CHUNK = 256  # elements of a mask that one thread looks through


def sort(x: Any, dim: int, descending: bool) -> tuple[DeviceArray, DeviceArray]:
    """(values, positions) in order along `dim`; equal elements keep their order, NaN counts as largest."""
    on_device("sort", x)
    if not x.ndim:
        raise ValueError("sort: expected an array with dimensions, got a 0-d one")
    dim %= x.ndim
    last = (*(axis for axis in range(x.ndim) if axis != dim), dim)
    x = x.permuted(last)
    length = x.shape[-1]
    values, positions = cast(x, x.dtype), empty(x.shape, np.int64)
    launch(_number, x.size, flat(positions), length, x.size)
    run, other, other_positions = 1, empty(x.shape, x.dtype), empty(x.shape, np.int64)
    while run < length:
        source = flat(values), flat(positions)
        launch(_merge, x.size, flat(other), flat(other_positions), *source, run, length, descending, x.size)
        values, other, positions, other_positions = other, values, other_positions, positions
        run *= 2
    back = tuple(last.index(axis) for axis in range(x.ndim))
    return values.permuted(back), positions.permuted(back)


def topk(x: Any, k: int, dim: int, largest: bool) -> tuple[DeviceArray, DeviceArray]:
    """(values, positions) of the k largest or smallest elements along `dim`, best first."""
    values, order = sort(x, dim, largest)
    best = tuple(slice(k) if axis == dim % x.ndim else slice(None) for axis in range(x.ndim))
    return cast(values.sliced(best), x.dtype), cast(order.sliced(best), np.int64)


def true_positions(mask: Any) -> DeviceArray:
    """Where a boolean array holds, int64 (count,): places in C order, ascending.

    Waits for the device: the counts of its parts are read, for the shape of the result depends on them.
    """
    chunks = -(-mask.size // _CHUNK)
    mask, counts = dense(mask), empty((chunks,), np.int64)
    launch(_count_chunks, chunks, flat(counts), flat(mask), _CHUNK, mask.size, chunks)
    ends = np.cumsum(to_host(counts))
    result = empty((int(ends[-1]) if chunks else 0,), np.int64)
    if result.size:
        starts = to_device(np.concatenate(([0], ends[:-1])))
        launch(_place, chunks, flat(result), flat(starts), flat(mask), _CHUNK, mask.size, chunks)
    return result


@device_function
def _precedes(a, b, descending):
    """Whether a stands before b where both differ; NaN is larger than all numbers."""
    if descending:
        a, b = b, a
    return a < b or (b != b and a == a)


@kernel("int64[::1], int64, int64", registers=32)
def _number(out, length, size):
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        out[i] = i % length


@kernel("float32[::1], int64[::1], float32[::1], int64[::1], int64, int64, boolean, int64", registers=48)
def _merge(out, out_positions, x, positions, run, length, descending, size):
    """Runs of `run` elements within lines of `length`, each pair of them merged into one."""
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        line, place, value = i // length * length, i % length, x[i]
        own = place // run
        is_first = own % 2 == 0
        start = min((own + 1 if is_first else own - 1) * run, length)
        low, high = start, min(start + run, length)
        while low < high:
            middle = (low + high) // 2
            other = x[line + middle]
            # Of equal elements those of the first run come first.
            if is_first:
                comes_before = _precedes(other, value, descending)
            else:
                comes_before = not _precedes(value, other, descending)
            if comes_before:
                low = middle + 1
            else:
                high = middle
        target = line + own // 2 * 2 * run + place - own * run + low - start
        out[target], out_positions[target] = value, positions[i]


@kernel("int64[::1], boolean[::1], int64, int64, int64", registers=32)
def _count_chunks(counts, mask, chunk, size, chunks):
    for j in range(cuda.grid(1), chunks, cuda.gridsize(1)):
        count = 0
        for i in range(j * chunk, min((j + 1) * chunk, size)):
            count += 1 if mask[i] else 0
        counts[j] = count


@kernel("int64[::1], int64[::1], boolean[::1], int64, int64, int64", registers=32)
def _place(out, starts, mask, chunk, size, chunks):
    for j in range(cuda.grid(1), chunks, cuda.gridsize(1)):
        place = starts[j]
        for i in range(j * chunk, min((j + 1) * chunk, size)):
            if mask[i]:
                out[place] = i
                place += 1

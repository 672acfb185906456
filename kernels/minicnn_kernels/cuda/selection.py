"""Which elements, filters or channels of a weight are the least, on the device; see `reference/selection.py`.

There are no doubles here: sums are float32, collected in two floats and rounded once. Where two units differ
by less than that they count as equal, and the first goes; scores of single weights are as they are, so their
masks are those of the host.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minicnn_kernels.cuda.driver import cuda, kernel, launch, launch_blocks
from minicnn_kernels.cuda.elementwise import ne
from minicnn_kernels.cuda.order import sort
from minicnn_kernels.cuda.pairs import pair_sums
from minicnn_kernels.cuda.reduction import sum as total
from minicnn_kernels.cuda.shape import full, reshape
from minicnn_kernels.cuda.storage import cast, dense, empty, flat, on_device, to_host
from minicnn_kernels.cuda.trees import THREADS
from minicnn_kernels.device_array import DeviceArray

__all__ = ["count_nonzero", "keep_n_of_m", "smallest", "spread_units", "unit_sums"]

_sums = pair_sums("unit sums", lambda x: x)


def count_nonzero(x: Any) -> int:
    """How many elements are not 0, as a Python int: waits for the device."""
    return int(to_host(total(ne(x, 0), None, False)))


def unit_sums(x: Any, groups: int, axis: int | None) -> DeviceArray:
    """The sum over each unit, float32 (units,); for axis None the elements in C order, (size,)."""
    on_device("unit_sums", x)
    x = cast(x, np.float32)
    if axis is None:
        return reshape(x, (x.size,))
    g, a, b, rest = _parts(x.shape, groups)
    x = x.view((g, a, b, rest), None)
    if axis == 1:
        x = dense(x.permuted((0, 2, 1, 3)))
    high, low = (empty((g * x.shape[1],)) for _ in range(2))
    sizes = (1, high.size, x.shape[2] * rest)
    launch_blocks(_sums, (high.size, 1), THREADS, flat(high), flat(low), flat(x), *sizes)
    return high


def spread_units(flags: Any, shape: Any, groups: int, axis: int | None) -> DeviceArray:
    """Flags per unit (units,) as flags per element, bool of `shape`."""
    on_device("spread_units", flags)
    if axis is None:
        return reshape(flags, shape)
    g, a, b, _ = parts = _parts(shape, groups)
    flags = reshape(flags, (g, a, 1, 1) if axis == 0 else (g, 1, b, 1))
    return reshape(flags.broadcast(parts), shape)


def smallest(scores: Any, count: int) -> DeviceArray:
    """True at the `count` smallest elements of scores (n,), and of equal ones at the first. No NaN."""
    on_device("smallest", scores)
    chosen = full(scores.shape, False, np.dtype(bool))
    if count:
        _, order = sort(scores, 0, False)
        launch(_choose, count, flat(chosen), flat(order), count)
    return chosen


def keep_n_of_m(scores: Any, n: int, m: int) -> DeviceArray:
    """True at the n largest of every m neighbours along axis 1, of equal ones at the last; bool like scores.

    scores (A, B, ...), B a multiple of m.
    """
    on_device("keep_n_of_m", scores)
    keep = empty(scores.shape, np.bool_)
    after = math.prod(scores.shape[2:])
    launch(_keep_largest, keep.size, flat(keep), flat(dense(scores)), m - n, m, after, keep.size)
    return keep


def _parts(shape: Any, groups: int) -> tuple[int, ...]:
    """(G, A, B, rest) for a weight (G A, B, ...)."""
    return groups, shape[0] // groups, shape[1], math.prod(shape[2:])


@kernel("boolean[::1], int64[::1], int64", registers=32)
def _choose(chosen, order, count):
    for i in range(cuda.grid(1), count, cuda.gridsize(1)):
        chosen[order[i]] = True


@kernel("boolean[::1], float32[::1], int64, int64, int64, int64", registers=48)
def _keep_largest(keep, scores, gone, m, after, size):
    """Each element counts those of its m neighbours that go before it."""
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        mine, own = i // after % m, scores[i]
        before = 0
        for j in range(m):
            other = scores[i + (j - mine) * after]
            before += 1 if other < own or (other == own and j < mine) else 0
        keep[i] = before >= gone

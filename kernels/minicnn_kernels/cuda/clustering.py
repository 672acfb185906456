"""Weight sharing on the device: k-means of numbers, and values looked up in a codebook.

The steps are those of `reference/clustering.py`. Where it has doubles there are pairs of floats here
(`pairs.py`); centroids and gradients are rounded to float32 once, and so come out as there. One block of
threads goes through all sweeps of Lloyd's algorithm, so that the host never waits between them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minicnn_kernels.cuda.distributions import random_permutation
from minicnn_kernels.cuda.driver import cuda, device_function, kernel, launch, launch_blocks
from minicnn_kernels.cuda.indexing import take
from minicnn_kernels.cuda.order import sort, true_positions
from minicnn_kernels.cuda.pairs import block_pair_sum, divide, halves, plus, plus_pair
from minicnn_kernels.cuda.shape import copy_into, full, reshape
from minicnn_kernels.cuda.storage import dense, empty, flat, on_device, to_device, to_host
from minicnn_kernels.cuda.trees import THREADS
from minicnn_kernels.device_array import DeviceArray
from minicnn_kernels.reference.clustering import _SWEEPS

__all__ = ["codebook_backward", "codebook_forward", "kmeans", "nearest_centroid"]

_ZERO, _TWO = np.float32(0), np.float32(2)
_PAIRS = "float32[::1], float32[::1]"


def kmeans(x: Any, clusters: int, init: str, seed: int) -> DeviceArray:
    """The centroids (clusters,) of the elements of x, ascending; arguments as in the reference.

    Waits for the device: how many distinct elements there are decides what is done, and the numbers that the
    first centroids are made of, two for each at most, are read by the host.
    """
    on_device("kmeans", x)
    values, _ = sort(reshape(x, (x.size,)), 0, False)
    changes = empty(values.shape, np.bool_)
    launch(_changes, values.size, flat(changes), flat(values), values.size)
    distinct = take(values, true_positions(changes), 0)
    if distinct.size <= clusters:
        result = full((clusters,), 0, x.dtype)
        if distinct.size:
            copy_into(result, distinct.sliced((-1,)))
            copy_into(result.sliced((slice(distinct.size),)), distinct)
        return result
    first = _started(values, distinct, clusters, init, seed)
    high, low = (to_device(np.array(half)) for half in zip(*map(halves, first), strict=True))
    total_high, total_low = empty((values.size + 1,)), empty((values.size + 1,))
    launch(_running_sums, 1, flat(total_high), flat(total_low), flat(values), values.size)
    ends, before = (empty((clusters + 1,), np.int64) for _ in range(2))
    found = flat(high), flat(low), flat(ends), flat(before)
    totals = flat(values), flat(total_high), flat(total_low)
    launch_blocks(_lloyd, (1, 1), THREADS, *found, *totals, values.size, clusters, _SWEEPS)
    return high


def nearest_centroid(x: Any, centroids: Any, dtype: Any) -> DeviceArray:
    """For each element the position of the nearest of the ascending centroids; between two, the larger."""
    on_device("nearest_centroid", x, centroids)
    index = empty(x.shape, dtype)
    sizes = centroids.size, index.size
    launch(_nearest, index.size, flat(index), flat(dense(x)), flat(dense(centroids)), *sizes)
    return index


def codebook_forward(x: Any, centroids: Any, index: Any) -> DeviceArray:
    """centroids[index] where x is not 0, and 0 where it is. x, index: one shape."""
    on_device("codebook", x, centroids, index)
    y = empty(x.shape)
    launch(_look_up, y.size, flat(y), flat(dense(x)), flat(dense(centroids)), flat(dense(index)), y.size)
    return y


def codebook_backward(grad: Any, x: Any, index: Any, clusters: int) -> DeviceArray:
    """Gradient of the centroids (clusters,): the sum over the members of each, one block a centroid."""
    on_device("codebook", grad, x, index)
    sums = empty((clusters,))
    arrays = flat(dense(grad)), flat(dense(x)), flat(dense(index))
    launch_blocks(_sum_members, (clusters, 1), THREADS, flat(sums), *arrays, x.size)
    return sums


def _started(values: DeviceArray, distinct: DeviceArray, clusters: int, init: str, seed: int) -> np.ndarray:
    """The centroids that the search starts with, in double precision."""
    if init == "linear":
        ends = to_host(take(values, to_device(np.array([0, values.size - 1])), 0)).astype(np.float64)
        return np.linspace(ends[0], ends[1], clusters)
    if init == "density":  # np.quantile, of the two neighbours of each place alone
        places = (np.arange(clusters) + 0.5) / clusters * (values.size - 1)
        below = np.floor(places).astype(np.int64)
        both = np.stack((below, np.minimum(below + 1, values.size - 1)))
        left, right = to_host(take(values, to_device(both), 0)).astype(np.float64)
        share, width = places - below, right - left
        return np.where(share >= 0.5, right - width * (1 - share), left + width * share)
    drawn = random_permutation(distinct.size, seed, 0).sliced((slice(clusters),))
    return np.sort(to_host(take(distinct, drawn, 0)).astype(np.float64))


@device_function
def _middle(high, low, i):
    """The pair half-way between centroids i and i + 1."""
    total, lost = plus_pair(high[i], low[i], high[i + 1], low[i + 1])
    return total / _TWO, lost / _TWO


@device_function
def _first_from(values, size, high, low):
    """How many of the ascending values lie below a pair."""
    start, end = 0, size
    while start < end:
        middle = (start + end) // 2
        if values[middle] < high or (values[middle] == high and low > _ZERO):
            start = middle + 1
        else:
            end = middle
    return start


@device_function
def _distance(value, high, low):
    """|value - pair|, as a pair."""
    far, rest = plus(-high, -low, value)
    return (-far, -rest) if far < _ZERO else (far, rest)


@device_function
def _move_one(high, low, ends, values, clusters, empty_one):
    """Put the centroid without members on the value that is farthest from its own; of equal ones the first.

    As in the reference first members are looked at before last ones. The rest moves up or down by one.
    """
    moved, best, best_low = _ZERO, np.float32(-1), _ZERO
    for last in range(2):
        for owner in range(clusters):
            if ends[owner] < ends[owner + 1]:
                value = values[ends[owner + 1] - 1] if last == 1 else values[ends[owner]]
                far, rest = _distance(value, high[owner], low[owner])
                if far > best or (far == best and rest > best_low):
                    moved, best, best_low = value, far, rest
    place = empty_one
    while place + 1 < clusters and (
        high[place + 1] < moved or (high[place + 1] == moved and low[place + 1] < _ZERO)
    ):
        high[place], low[place] = high[place + 1], low[place + 1]
        place += 1
    while place > 0 and (high[place - 1] > moved or (high[place - 1] == moved and low[place - 1] > _ZERO)):
        high[place], low[place] = high[place - 1], low[place - 1]
        place -= 1
    high[place], low[place] = moved, _ZERO


@kernel("boolean[::1], float32[::1], int64", registers=32)
def _changes(out, values, size):
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        out[i] = i == 0 or values[i] != values[i - 1]


@kernel(f"{_PAIRS}, float32[::1], int64", registers=32)
def _running_sums(high, low, values, size):
    """One thread, one pass: a million values take some hundredths of a second, once for a layer."""
    if cuda.grid(1) == 0:
        total, lost = _ZERO, _ZERO
        high[0], low[0] = total, lost
        for i in range(size):
            total, lost = plus(total, lost, values[i])
            high[i + 1], low[i + 1] = total, lost


@kernel(f"{_PAIRS}, int64[::1], int64[::1], float32[::1], {_PAIRS}, int64, int64, int64", registers=128)
def _lloyd(high, low, ends, before, values, total_high, total_low, size, clusters, sweeps):
    """Sweeps of one block until no interval of the sorted values changes its end.

    ends, before (clusters + 1,): those of this sweep and of the last one.
    """
    shared = cuda.shared.array(2, np.int64)  # [how many ends moved, which centroid has no members or -1]
    moved = cuda.shared.array(THREADS, np.int32)  # how many of each thread's ends did
    thread = cuda.threadIdx.x
    for i in range(thread, clusters + 1, THREADS):
        before[i] = -1
    for _ in range(sweeps):
        searching = True
        while searching:
            cuda.syncthreads()  # the centroids are written, and shared[1] was read by all
            for i in range(thread, clusters + 1, THREADS):
                ends[i] = size if i == clusters else 0
                if 0 < i < clusters:
                    middle, rest = _middle(high, low, i - 1)
                    ends[i] = _first_from(values, size, middle, rest)
            cuda.syncthreads()
            if thread == 0:
                shared[1] = -1
                for i in range(clusters - 1, -1, -1):
                    if ends[i] == ends[i + 1]:
                        shared[1] = i
                if shared[1] >= 0:
                    _move_one(high, low, ends, values, clusters, shared[1])
            cuda.syncthreads()
            searching = shared[1] >= 0
        moved[thread] = 0
        for i in range(thread, clusters + 1, THREADS):
            if before[i] != ends[i]:
                before[i] = ends[i]
                moved[thread] += 1
        cuda.syncthreads()
        if thread == 0:
            shared[0] = 0
            for i in range(THREADS):
                shared[0] += moved[i]
        cuda.syncthreads()
        if shared[0] == 0:
            break
        for i in range(thread, clusters, THREADS):
            first, after = ends[i], ends[i + 1]
            total, lost = plus_pair(
                total_high[after], total_low[after], -total_high[first], -total_low[first]
            )
            count = after - first
            whole = np.float32(count)
            high[i], low[i] = divide(total, lost, whole, np.float32(count - np.int64(whole)))


@kernel("uint8[::1], float32[::1], float32[::1], int64, int64", registers=40)
def _nearest(index, x, centroids, clusters, size):
    """Bisection for the first middle between two centroids that lies beyond the element; NaN beyond all."""
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        low, high = 0, clusters - 1
        while low < high:
            place = (low + high) // 2
            if x[i] < (centroids[place + 1] + centroids[place]) / _TWO:
                high = place
            else:
                low = place + 1
        index[i] = low


@kernel("float32[::1], float32[::1], float32[::1], uint8[::1], int64", registers=32)
def _look_up(y, x, centroids, index, size):
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        y[i] = centroids[index[i]] if x[i] != _ZERO else _ZERO


@kernel("float32[::1], float32[::1], float32[::1], uint8[::1], int64", registers=48)
def _sum_members(sums, grad, x, index, size):
    """Block j adds up the gradients of the members of centroid j."""
    shared_high = cuda.shared.array(THREADS, np.float32)
    shared_low = cuda.shared.array(THREADS, np.float32)
    thread, target = cuda.threadIdx.x, cuda.blockIdx.x
    total, lost = _ZERO, _ZERO
    for i in range(thread, size, THREADS):
        if index[i] == target and x[i] != _ZERO:
            total, lost = plus(total, lost, grad[i])
    shared_high[thread], shared_low[thread] = total, lost
    total, _ = block_pair_sum(shared_high, shared_low, thread)
    if thread == 0:
        sums[target] = total

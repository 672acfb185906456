"""Reductions: one block of threads for each result, which meets in shared memory; several where results are
few.

An array is seen as (before, kept, after): result j collects x[b, j, a] for all b and a. All dims that are
neighbours, the axes of a batch norm and the last dimensions are of this form; others are permuted first,
which copies. Sums run in a fixed order: the same shapes give the same bits.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minicnn_kernels.cuda.driver import (
    SIMULATED,
    Kernel,
    cuda,
    device_function,
    exp,
    kernel,
    launch,
    launch_blocks,
    log,
)
from minicnn_kernels.cuda.storage import cast, dense, empty, flat, on_device
from minicnn_kernels.cuda.trees import THREADS, folded
from minicnn_kernels.device_array import DeviceArray

__all__ = [
    "all", "any", "argmax", "argmin", "cumsum", "logsumexp", "max", "mean", "min", "prod", "sum",
    "sum_to", "var",
]  # fmt: skip

_ENOUGH_BLOCKS = 4 if SIMULATED else 512  # with fewer results than this, several blocks share one
_LEAST = 4 if SIMULATED else 4096  # elements that are worth a block of their own
_ZERO, _ONE, _INFINITY = np.float32(0), np.float32(1), np.float32(np.inf)


def _reduction(
    name: str, start: Any, combine: Callable, types: tuple[str, str] = ("float32", "float32")
) -> Kernel:
    """A kernel for one way of combining two values, whose neutral one is `start`."""
    combine = device_function(combine)
    fold = folded(combine)
    gives, takes = types
    whole = np.int64 if gives == "int64" else (np.bool_ if gives == "boolean" else np.float32)

    @kernel(f"{gives}[::1], {takes}[::1], int64, int64, int64, int64", name=name, registers=48)
    def run(out, x, before, kept, after, parts):
        """out (kept, parts): block (j, p) takes every parts-th round of THREADS elements of result j."""
        shared = cuda.shared.array(THREADS, whole)
        thread, target, part = cuda.threadIdx.x, cuda.blockIdx.x, cuda.blockIdx.y
        value = whole(start)
        for i in range(part * THREADS + thread, before * after, parts * THREADS):
            value = combine(value, whole(x[(i // after * kept + target) * after + i % after]))
        shared[thread] = value
        found = fold(shared, thread)
        if thread == 0:
            out[target * parts + part] = found

    return run


def _largest(a, b):
    return a if a > b or a != a else b


def _smallest(a, b):
    return a if a < b or a != a else b


_sum = _reduction("sum", 0, lambda a, b: a + b)
_sum_whole = _reduction("sum of whole numbers", 0, lambda a, b: a + b, ("int64", "int64"))
_prod = _reduction("prod", 1, lambda a, b: a * b)
_prod_whole = _reduction("prod of whole numbers", 1, lambda a, b: a * b, ("int64", "int64"))
_max = _reduction("max", -np.inf, _largest)
_max_whole = _reduction("max of whole numbers", np.iinfo(np.int64).min, _largest, ("int64", "int64"))
_min = _reduction("min", np.inf, _smallest)
_min_whole = _reduction("min of whole numbers", np.iinfo(np.int64).max, _smallest, ("int64", "int64"))
_any = _reduction("any", False, lambda a, b: a or b, ("boolean", "float32"))
_all = _reduction("all", True, lambda a, b: a and b, ("boolean", "float32"))


def sum(x: Any, dim: Any, keepdim: bool) -> DeviceArray:
    """Sum; whole numbers and booleans add up in int64."""
    whole = x.dtype != np.float32
    return _reduced("sum", _sum_whole if whole else _sum, x, dim, keepdim, np.int64 if whole else np.float32)


def mean(x: Any, dim: Any, keepdim: bool) -> DeviceArray:
    """Mean; NaN over nothing."""
    total = sum(x, dim, keepdim)
    _divide(total, _count(x.shape, dim))
    return total


def prod(x: Any, dim: Any, keepdim: bool) -> DeviceArray:
    """Product; whole numbers and booleans multiply in int64."""
    whole = x.dtype != np.float32
    return _reduced(
        "prod", _prod_whole if whole else _prod, x, dim, keepdim, np.int64 if whole else np.float32
    )


def max(x: Any, dim: Any, keepdim: bool) -> DeviceArray:
    """Largest element; NaN wins. Raises ValueError over nothing."""
    return _extreme("max", _max, _max_whole, x, dim, keepdim)


def min(x: Any, dim: Any, keepdim: bool) -> DeviceArray:
    """Smallest element; NaN wins. Raises ValueError over nothing."""
    return _extreme("min", _min, _min_whole, x, dim, keepdim)


def any(x: Any, dim: Any, keepdim: bool) -> DeviceArray:
    """Whether one element is not zero."""
    return _reduced("any", _any, x, dim, keepdim, np.bool_)


def all(x: Any, dim: Any, keepdim: bool) -> DeviceArray:
    """Whether no element is zero."""
    return _reduced("all", _all, x, dim, keepdim, np.bool_)


def argmax(x: Any, dim: Any, keepdim: bool) -> DeviceArray:
    """Position of the first largest element along `dim`, or in the flattened array; NaN counts as largest."""
    return _position("argmax", x, dim, keepdim, True)


def argmin(x: Any, dim: Any, keepdim: bool) -> DeviceArray:
    """Position of the first smallest element along `dim`, or in the flattened array; NaN counts so too."""
    return _position("argmin", x, dim, keepdim, False)


def var(x: Any, dim: Any, correction: Any, keepdim: bool) -> DeviceArray:
    """Mean squared distance from the mean, divided by (count - correction): NaN where that is 0 of 0."""
    on_device("var", x)
    x, sizes, shape = _seen(x, dim, keepdim)
    count, kept = sizes[0] * sizes[2], sizes[1]
    mean, squares = _collected(_sum, x, sizes, shape, np.float32), empty(x.shape)
    _divide(mean, count)
    launch(_squared_distances, x.size, flat(squares), flat(x), flat(mean), kept, sizes[2], x.size)
    result = _collected(_sum, squares, sizes, shape, np.float32)
    _divide(result, builtins.max(count - correction, 0))
    return result


def logsumexp(x: Any, dim: Any, keepdim: bool) -> DeviceArray:
    """log(sum(exp(x))), without overflow."""
    on_device("logsumexp", x)
    x, sizes, shape = _seen(x, dim, keepdim)
    top, powers = _collected(_max, x, sizes, shape, np.float32), empty(x.shape)
    launch(_shifted_powers, x.size, flat(powers), flat(x), flat(top), sizes[1], sizes[2], x.size)
    result = _collected(_sum, powers, sizes, shape, np.float32)
    launch(_shifted_logarithms, result.size, flat(result), flat(top), result.size)
    return result


def cumsum(x: Any, dim: int) -> DeviceArray:
    """Sum of all elements up to here along `dim`; whole numbers and booleans in int64."""
    on_device("cumsum", x)
    result = cast(x, np.float32 if x.dtype == np.float32 else np.int64)
    if x.ndim:
        size, after = x.shape[dim], math.prod(x.shape[dim % x.ndim + 1 :])
        if x.size:
            launch(_cumsum, x.size // size, flat(result), size, after, x.size // size)
    return result


def sum_to(x: Any, shape: tuple[int, ...]) -> DeviceArray:
    """x summed down to `shape`, from which it was broadcast; x itself if nothing was."""
    if x.shape == tuple(shape):
        return x
    extra = x.ndim - len(shape)
    stretched = (extra + i for i, size in enumerate(shape) if size == 1 and x.shape[extra + i] != 1)
    return sum(x, (*range(extra), *stretched), False).view(shape, None)


def _reduced(op: str, run: Kernel, x: Any, dim: Any, keepdim: bool, dtype: Any) -> DeviceArray:
    on_device(op, x)
    return _collected(run, *_seen(x, dim, keepdim), dtype)


def _collected(run: Kernel, x: DeviceArray, sizes: Any, shape: tuple[int, ...], dtype: Any) -> DeviceArray:
    """The result of `shape` from x in C order, seen as sizes = (before, kept, after)."""
    before, kept, after = sizes
    parts = 1
    if 0 < kept < _ENOUGH_BLOCKS:
        parts = builtins.min(-(-before * after // _LEAST), -(-_ENOUGH_BLOCKS // kept))
    parts = builtins.max(parts, 1)
    result = empty(shape, dtype)
    if parts == 1:
        launch_blocks(run, (kept, 1), THREADS, flat(result), flat(x), before, kept, after, 1)
        return result
    partial = empty((kept, parts), dtype)
    launch_blocks(run, (kept, parts), THREADS, flat(partial), flat(x), before, kept, after, parts)
    # Each row of `partial` again is one result: nothing before, the parts after.
    launch_blocks(run, (kept, 1), THREADS, flat(result), flat(partial), 1, kept, parts, 1)
    return result


def _extreme(op: str, run: Kernel, run_whole: Kernel, x: Any, dim: Any, keepdim: bool) -> DeviceArray:
    if _count(x.shape, dim) == 0:
        raise ValueError(f"{op}: nothing to choose from in shape {x.shape} along {dim}")
    return _reduced(op, run if x.dtype == np.float32 else run_whole, x, dim, keepdim, x.dtype)


def _position(op: str, x: Any, dim: Any, keepdim: bool, largest: bool) -> DeviceArray:
    on_device(op, x)
    if _count(x.shape, dim) == 0:
        raise ValueError(f"{op}: nothing to choose from in shape {x.shape} along {dim}")
    x, (before, kept, after), shape = _seen(x, dim, keepdim)
    result = empty(shape, np.int64)
    launch(_first_extreme, kept, flat(result), flat(x), before, kept, after, largest)
    return result


def _seen(
    x: DeviceArray, dim: Any, keepdim: bool
) -> tuple[DeviceArray, tuple[int, int, int], tuple[int, ...]]:
    """(x in C order, (before, kept, after), shape of the result)."""
    dims = range(x.ndim) if dim is None else [d % x.ndim for d in (dim if isinstance(dim, tuple) else (dim,))]
    gone = [axis in dims for axis in range(x.ndim)]
    shape = tuple(
        1 if lost else size for size, lost in zip(x.shape, gone, strict=True) if keepdim or not lost
    )
    kept_axes = [axis for axis in range(x.ndim) if not gone[axis]]
    if kept_axes and kept_axes[-1] - kept_axes[0] >= len(kept_axes):  # reduced axes lie in between
        lost_axes = [axis for axis in range(x.ndim) if gone[axis]]
        x = x.permuted((*kept_axes, *lost_axes))
        kept_axes = list(range(len(kept_axes)))
    x = dense(x)
    first, last = (kept_axes[0], kept_axes[-1] + 1) if kept_axes else (x.ndim, x.ndim)
    sizes = (math.prod(x.shape[:first]), math.prod(x.shape[first:last]), math.prod(x.shape[last:]))
    return x, sizes, shape


def _count(shape: tuple[int, ...], dim: Any) -> int:
    dims = range(len(shape)) if dim is None else (dim if isinstance(dim, tuple) else (dim,))
    return math.prod(shape[d] for d in dims)


def _divide(x: DeviceArray, divisor: int) -> None:
    launch(_divide_in_place, x.size, flat(x), np.float32(divisor), x.size)


@kernel("float32[::1], float32, int64", registers=32)
def _divide_in_place(x, divisor, size):
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        x[i] = x[i] / divisor


@kernel("float32[::1], float32[::1], float32[::1], int64, int64, int64", registers=40)
def _squared_distances(out, x, mean, kept, after, size):
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        distance = x[i] - mean[i // after % kept]
        out[i] = distance * distance


@kernel("float32[::1], float32[::1], float32[::1], int64, int64, int64", registers=40)
def _shifted_powers(out, x, top, kept, after, size):
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        shift = top[i // after % kept]
        out[i] = exp(x[i] - shift if -_INFINITY < shift < _INFINITY else x[i])


@kernel("float32[::1], float32[::1], int64", registers=32)
def _shifted_logarithms(x, top, size):
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        x[i] = log(x[i]) + (top[i] if -_INFINITY < top[i] < _INFINITY else _ZERO)


@kernel("int64[::1], float32[::1], int64, int64, int64, boolean", registers=48)
def _first_extreme(out, x, before, kept, after, largest):
    for target in range(cuda.grid(1), kept, cuda.gridsize(1)):
        best, place = x[target * after], 0
        for i in range(1, before * after):
            value = x[(i // after * kept + target) * after + i % after]
            better = value > best if largest else value < best
            if (better or value != value) and best == best:
                best, place = value, i
        out[target] = place


@kernel("float32[::1], int64, int64, int64", registers=40)
def _cumsum(x, size, after, lines):
    for line in range(cuda.grid(1), lines, cuda.gridsize(1)):
        first = line // after * size * after + line % after
        total = x[first]
        for i in range(1, size):
            total += x[first + i * after]
            x[first + i * after] = total

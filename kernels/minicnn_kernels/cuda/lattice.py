"""Ranges and the lattices made of them, on the device, with the bits of `reference/quantization.py`.

One block of threads decides about all channels: a scale depends on the largest of all of them, and a range
moves as a whole while it is empty. Divisions are rounded as IEEE has it, products by themselves.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minicnn_kernels.cuda.driver import (
    SIMULATED,
    cuda,
    device_function,
    floor,
    kernel,
    launch,
    launch_blocks,
    rint,
)
from minicnn_kernels.cuda.pairs import block_pair_sum, plus_pair, product, square_of
from minicnn_kernels.cuda.storage import dense, empty, flat, on_device
from minicnn_kernels.cuda.trees import THREADS, folded, folded_pairs
from minicnn_kernels.device_array import DeviceArray
from minicnn_kernels.reference.quantization import _EMPTY_SCALE, _SMALLEST_SCALE

__all__ = ["choose_scale", "histogram", "least_error_values", "move_range", "value_range"]

_ENOUGH_BLOCKS = 4 if SIMULATED else 512  # with fewer channels than this, several blocks share one
_LEAST = 4 if SIMULATED else 4096  # elements that are worth a block of their own
_ZERO, _ONE, _TWO, _INFINITY = (np.float32(x) for x in (0, 1, 2, np.inf))
_SMALLEST, _EMPTY, _SHARE = np.float32(_SMALLEST_SCALE), np.float32(_EMPTY_SCALE), np.float32(1 / 256)


def _simulated_next(x: Any, towards: Any) -> Any:
    return np.nextafter(np.float32(x), np.float32(towards))


_next = _simulated_next if SIMULATED else getattr(cuda, "libdevice").nextafterf  # noqa: B009  (as in pairs.py)


def value_range(x: Any, axis: int | None) -> tuple[DeviceArray, DeviceArray]:
    """Smallest and largest number, widened to hold 0, per tensor (0-d) or per index of `axis` (C,)."""
    on_device("value_range", x)
    x, (before, kept, after) = _by_channel(x, axis)
    shape = () if axis is None else (kept,)
    parts = 1
    if 0 < kept < _ENOUGH_BLOCKS:
        parts = max(min(-(-before * after // _LEAST), -(-_ENOUGH_BLOCKS // kept)), 1)
    low, high = empty((kept, parts)), empty((kept, parts))
    source, sizes = flat(x), (before, kept, after)
    launch_blocks(_range, (kept, parts), THREADS, flat(low), flat(high), source, source, *sizes, parts)
    if parts > 1:
        partial = flat(low), flat(high)
        low, high = empty((kept, 1)), empty((kept, 1))
        # Each row of the partial results again is one channel: nothing before, the parts after.
        launch_blocks(_range, (kept, 1), THREADS, flat(low), flat(high), *partial, 1, kept, parts, 1)
    return low.view(shape, None), high.view(shape, None)


def move_range(low: Any, high: Any, new_low: Any, new_high: Any, momentum: float) -> None:
    """Move the range low, high in place by the share `momentum` towards new_low, new_high (all 0-d or (C,)).

    A range that is still empty everywhere is replaced as a whole.
    """
    on_device("move_range", low, high, new_low, new_high)
    ranges = flat(low), flat(high), flat(dense(new_low)), flat(dense(new_high))
    launch_blocks(_move, (1, 1), THREADS, *ranges, np.float32(momentum), low.size)


def choose_scale(
    low: Any, high: Any, qmin: int, qmax: int, symmetric: bool, power_of_two: bool
) -> tuple[DeviceArray, DeviceArray]:
    """The lattice for values from `low` <= 0 to `high` >= 0: (scale, zero_point int32), both like low."""
    on_device("choose_scale", low, high)
    scale, zero_point = empty(low.shape), empty(low.shape, np.int32)
    arrays = flat(scale), flat(zero_point), flat(dense(low)), flat(dense(high))
    rule = qmin, qmax, symmetric, power_of_two
    launch_blocks(_choose, (1, 1), THREADS, *arrays, *rule, low.ndim > 0, low.size)
    return scale, zero_point


def histogram(x: Any, width: float, bins: int) -> DeviceArray:
    """How many elements lie in each of `bins` bins of `width` around 0: int64 (bins,). None outside them."""
    on_device("histogram", x)
    counts = empty((bins,), np.int64)
    launch(_clear, bins, flat(counts), bins)
    launch(_count, x.size, flat(counts), flat(dense(x)), np.float32(width), bins, x.size)
    return counts


def least_error_values(
    x: Any,
    axis: int | None,
    qmin: int,
    qmax: int,
    symmetric: bool,
    power_of_two: bool,
    candidates: int = 100,
) -> tuple[DeviceArray, DeviceArray]:
    """Of the ranges of x times i / candidates those whose lattice errs least, squared and added up.

    low, high 0-d, or (C,) along `axis`. One block a channel tries all candidates.
    """
    low, high = value_range(x, axis)
    x, sizes = _by_channel(x, axis)
    bounds, rule = (flat(low), flat(high)), (qmin, qmax, symmetric)
    floors, shares = empty((candidates,)), empty(low.shape)
    launch(_floors, candidates, flat(floors), *bounds, *rule, low.ndim > 0, low.size, candidates)
    errors = flat(shares), flat(x), *bounds, flat(floors), *rule, power_of_two, candidates
    launch_blocks(_least_error, (low.size, 1), THREADS, *errors, *sizes)
    for bound in bounds:
        launch(_shorten, low.size, bound, flat(shares), low.size)
    return low, high


def _by_channel(x: DeviceArray, axis: int | None) -> tuple[DeviceArray, tuple[int, int, int]]:
    """x in C order, and its sizes (before, channels, after) around `axis`."""
    if axis is None:
        return dense(x), (1, 1, x.size)
    axis %= x.ndim
    return dense(x), (math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :]))


_block_maximum = folded(device_function(lambda a, b: max(a, b)))
_block_range = folded_pairs(device_function(lambda low, high, a, b: (min(low, a), max(high, b))))


@kernel(f"{', '.join(['float32[::1]'] * 4)}, int64, int64, int64, int64", registers=48)
def _range(low, high, lows, highs, before, kept, after, parts):
    """Block (j, p) takes every parts-th round of THREADS elements of channel j. NaN changes nothing."""
    shared_low = cuda.shared.array(THREADS, np.float32)
    shared_high = cuda.shared.array(THREADS, np.float32)
    thread, target, part = cuda.threadIdx.x, cuda.blockIdx.x, cuda.blockIdx.y
    smallest, largest = _ZERO, _ZERO
    for i in range(part * THREADS + thread, before * after, parts * THREADS):
        place = (i // after * kept + target) * after + i % after
        smallest = lows[place] if lows[place] < smallest else smallest
        largest = highs[place] if highs[place] > largest else largest
    shared_low[thread], shared_high[thread] = smallest, largest
    smallest, largest = _block_range(shared_low, shared_high, thread)
    if thread == 0:
        low[target * parts + part], high[target * parts + part] = smallest, largest


@device_function
def _limited(value, low, high):
    value = low if value < low else value
    return high if value > high else value


@device_function
def _step_of(low, high, qmin, qmax, symmetric):
    """The step that brings the range onto the whole numbers from qmin to qmax."""
    if not symmetric:
        levels = np.float32(qmax - qmin)
        return high / levels - low / levels
    step = high / np.float32(qmax)
    below = low / np.float32(qmin) if qmin != 0 else _ZERO
    return below if below > step else step


@device_function
def _scale_of(step, low, high, qmin, qmax, symmetric, power_of_two):
    """A step made a scale: not too small, a power of two if asked for, and holding the ends of the range."""
    scale = _EMPTY
    if step > _ZERO:
        scale = step if step > _SMALLEST else _SMALLEST
    if power_of_two:
        power = _ONE
        while power < scale:
            power *= _TWO
        while power <= _ONE and power / _TWO >= scale:
            power /= _TWO
        scale = power
    outside = high / scale > np.float32(qmax) or (qmin != 0 and low / scale < np.float32(qmin))
    return _next(scale, _INFINITY) if symmetric and outside else scale


@device_function
def _zero_of(scale, low, qmin, qmax, symmetric):
    """The whole number, as float32, that 0 falls on."""
    if symmetric:
        return _ZERO
    return _limited(rint(np.float32(qmin) - low / scale), np.float32(qmin), np.float32(qmax))


@kernel(
    "float32[::1], int32[::1], float32[::1], float32[::1], int64, int64, boolean, boolean, boolean, int64",
    registers=48,
)
def _choose(scale, zero_point, low, high, qmin, qmax, symmetric, power_of_two, has_channels, channels):
    shared = cuda.shared.array(THREADS, np.float32)
    thread = cuda.threadIdx.x
    top = _ZERO
    for i in range(thread, channels, THREADS):
        step = _step_of(low[i], high[i], qmin, qmax, symmetric)
        top = step if step > top else top
    shared[thread] = top
    top = _block_maximum(shared, thread)
    least = product(top, _SHARE) if has_channels else _ZERO
    for i in range(thread, channels, THREADS):
        step = _step_of(low[i], high[i], qmin, qmax, symmetric)
        step = least if least > step else step
        scale[i] = _scale_of(step, low[i], high[i], qmin, qmax, symmetric, power_of_two)
        zero_point[i] = np.int32(_zero_of(scale[i], low[i], qmin, qmax, symmetric))


@kernel(f"{', '.join(['float32[::1]'] * 4)}, float32, int64", registers=48)
def _move(low, high, new_low, new_high, momentum, channels):
    shared = cuda.shared.array(THREADS, np.int32)
    thread = cuda.threadIdx.x
    found = np.int32(0)
    for i in range(thread, channels, THREADS):
        found = np.int32(1) if high[i] > low[i] else found
    shared[thread] = found
    found = _block_maximum(shared, thread)  # and nobody moves a bound that another has not looked at yet
    share = momentum if found > 0 else _ONE
    for i in range(thread, channels, THREADS):
        low[i] = low[i] + product(new_low[i] - low[i], share)
        high[i] = high[i] + product(new_high[i] - high[i], share)


@kernel("int64[::1], int64", registers=32)
def _clear(counts, bins):
    for i in range(cuda.grid(1), bins, cuda.gridsize(1)):
        counts[i] = 0


@kernel("int64[::1], float32[::1], float32, int64, int64", registers=48)
def _count(counts, x, width, bins, size):
    """Whole numbers are added by atomic instructions: their order does not change the sums.

    A thread that meets one bin several times in a row, as that of 0 behind a ReLU, adds them up first.
    """
    present, met = np.int64(0), np.int64(0)
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        place = np.int64(floor(x[i] / width)) + bins // 2
        place = min(max(place, 0), bins - 1)  # the last bin has its upper edge
        if place != present and met > 0:
            cuda.atomic.add(counts, present, met)
            met = np.int64(0)
        present, met = place, met + 1
    if met > 0:
        cuda.atomic.add(counts, present, met)


@kernel(
    "float32[::1], float32[::1], float32[::1], int64, int64, boolean, boolean, int64, int64", registers=48
)
def _floors(floors, low, high, qmin, qmax, symmetric, has_channels, channels, candidates):
    """For each candidate the smallest step that a channel may have: a share of the largest of all."""
    for i in range(cuda.grid(1), candidates, cuda.gridsize(1)):
        share, top = np.float32(i + 1) / np.float32(candidates), _ZERO
        if has_channels:
            for j in range(channels):
                step = _step_of(product(low[j], share), product(high[j], share), qmin, qmax, symmetric)
                top = step if step > top else top
        floors[i] = product(top, _SHARE)


@kernel(
    f"{', '.join(['float32[::1]'] * 5)}, int64, int64, boolean, boolean, int64, int64, int64, int64",
    registers=80,
)
def _least_error(
    shares, x, low, high, floors, qmin, qmax, symmetric, power_of_two, candidates, before, kept, after
):
    """Block j finds the share of the range of channel j whose lattice errs least; of equal ones the first.

    Squares are exact as pairs of floats, and so added up: see `pairs.py`.
    """
    shared_high = cuda.shared.array(THREADS, np.float32)
    shared_low = cuda.shared.array(THREADS, np.float32)
    thread, target = cuda.threadIdx.x, cuda.blockIdx.x
    best, least, least_low = _ONE, _INFINITY, _ZERO
    for candidate in range(candidates):
        share = np.float32(candidate + 1) / np.float32(candidates)
        smallest, largest = product(low[target], share), product(high[target], share)
        step = _step_of(smallest, largest, qmin, qmax, symmetric)
        step = floors[candidate] if floors[candidate] > step else step
        scale = _scale_of(step, smallest, largest, qmin, qmax, symmetric, power_of_two)
        zero = _zero_of(scale, smallest, qmin, qmax, symmetric)
        bottom, top = np.float32(qmin) - zero, np.float32(qmax) - zero
        total, lost = _ZERO, _ZERO
        for i in range(thread, before * after, THREADS):
            value = x[(i // after * kept + target) * after + i % after]
            error = value - product(_limited(rint(value / scale), bottom, top), scale)
            square, rest = square_of(error)
            total, lost = plus_pair(total, lost, square, rest)
        shared_high[thread], shared_low[thread] = total, lost
        total, lost = block_pair_sum(shared_high, shared_low, thread)
        if total < least or (total == least and lost < least_low):
            best, least, least_low = share, total, lost
    if thread == 0:
        shares[target] = best


@kernel("float32[::1], float32[::1], int64", registers=32)
def _shorten(bound, shares, channels):
    for i in range(cuda.grid(1), channels, cuda.gridsize(1)):
        bound[i] = product(bound[i], shares[i])

"""Sums over the channels of a batch and the rows of a layer, for `normalization.py`.

A block of threads takes a slice of a channel that its threads hold in registers, so the two passes of its
statistics, the mean first, read memory once; a second kernel merges the slices. Slices fill the device, not
channels: W3's first batch norm has 32 of these for 132 multiprocessors. Threads meet in shared memory, and
sums have a fixed order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minicnn_kernels.cuda.driver import SIMULATED, cuda, device_function, kernel, launch_blocks, sqrt
from minicnn_kernels.cuda.storage import empty, flat
from minicnn_kernels.cuda.trees import THREADS, block_sum
from minicnn_kernels.device_array import DeviceArray

__all__ = ["find_channel_sums", "find_statistics", "layer_backward"]

_HELD = 4 if SIMULATED else 16  # elements that a thread holds: that many loads are on their way at once
_SLICE = THREADS * _HELD
_ZERO, _ONE = np.float32(0), np.float32(1)


def find_statistics(
    mean: DeviceArray, inv_std: DeviceArray, x: DeviceArray, n: int, channels: int, pixels: int, eps: float
) -> None:
    """Write those of x, seen as (n, channels, pixels), to the first two, of `channels` elements."""
    count, rounding = n * pixels, np.float32(eps)
    parts = _slices(count)
    means, squares = (mean, inv_std) if parts == 1 else (empty((channels, parts)) for _ in range(2))
    found = flat(means), flat(squares)
    sizes = (count, channels, max(pixels, 1), parts)
    launch_blocks(_statistics, (channels * parts,), THREADS, *found, flat(x), *sizes, rounding)
    if parts > 1:
        merged = flat(mean), flat(inv_std)
        launch_blocks(_merge_statistics, (channels,), THREADS, *merged, *found, count, parts, rounding)


def _slices(count: int) -> int:
    """How many blocks share `count` elements; with none, one finds out that there are none."""
    return max(-(-count // _SLICE), 1)


def find_channel_sums(
    dweight: DeviceArray, dbias: DeviceArray, grad: Any, x: Any, mean: Any, inv_std: Any, *sizes: int
) -> None:
    """Write the gradients of weight and bias to the first two; the next four are flat. sizes: elements of a
    channel, channels, pixels."""
    count, channels, pixels = sizes
    parts = _slices(count)
    sums = (dweight, dbias) if parts == 1 else [empty((channels, parts)) for _ in range(2)]
    found = [flat(array) for array in sums]
    saved = (grad, x, mean, inv_std)
    launch_blocks(
        _channel_sums, (channels * parts,), THREADS, *found, *saved, count, channels, max(pixels, 1), parts
    )
    if parts > 1:
        launch_blocks(_merge_sums, (channels,), THREADS, flat(dweight), flat(dbias), *found, parts)


@device_function
def _further(place, pixel, channels, pixels):
    """(place, pixel) of the element that is THREADS further on in its channel: a division by `pixels` for
    each would take as long as its trip to memory."""
    place += THREADS // pixels * channels * pixels + THREADS % pixels
    pixel += THREADS % pixels
    if pixel >= pixels:
        pixel -= pixels
        place += (channels - 1) * pixels
    return place, pixel


@kernel("float32[::1], float32[::1], float32[::1], int64, int64, int64, int64, float32")
def _statistics(mean, spread, x, count, channels, pixels, parts, eps):
    """Block (c, p) of one row: mean and sum of squared distances of a slice of channel c, `count` elements of
    x (n, channels, pixels); 1 / sqrt(var + eps) instead of the sum if the slice is the whole channel."""
    shared = cuda.shared.array(THREADS, np.float32)
    held = cuda.local.array(_HELD, np.float32)
    thread, block = cuda.threadIdx.x, cuda.blockIdx.x
    channel, first = block // parts, block % parts * _SLICE
    size = np.float32(min(count - first, _SLICE))
    pixel = (first + thread) % pixels
    place = ((first + thread) // pixels * channels + channel) * pixels + pixel
    for k in range(_HELD):  # apart from their use, so that all loads are on their way before the first sum
        held[k] = x[place] if first + k * THREADS + thread < count else _ZERO
        place, pixel = _further(place, pixel, channels, pixels)
    total = _ZERO
    for k in range(_HELD):
        total += held[k]
    shared[thread] = total
    center = block_sum(shared, thread) / size
    total = _ZERO
    for k in range(_HELD):
        distance = held[k] - center if first + k * THREADS + thread < count else _ZERO
        total += distance * distance
    shared[thread] = total
    total = block_sum(shared, thread)
    if thread == 0:
        mean[block] = center
        spread[block] = total if parts > 1 else _ONE / sqrt(total / size + eps)


@kernel("float32[::1], float32[::1], float32[::1], float32[::1], int64, int64, float32")
def _merge_statistics(mean, inv_std, means, squares, count, parts, eps):
    """Block c: the channel's from its slices'. A slice's squares lie around its own mean: what these are away
    from the channel's comes on top, so that a distant mean loses nothing (Chan et al. 1983, eq. 2.1)."""
    shared = cuda.shared.array(THREADS, np.float32)
    thread, channel = cuda.threadIdx.x, cuda.blockIdx.x
    total = _ZERO
    for p in range(thread, parts, THREADS):
        total += means[channel * parts + p] * np.float32(min(count - p * _SLICE, _SLICE))
    shared[thread] = total
    center = block_sum(shared, thread) / np.float32(count)
    total = _ZERO
    for p in range(thread, parts, THREADS):
        distance = means[channel * parts + p] - center
        size = np.float32(min(count - p * _SLICE, _SLICE))
        total += squares[channel * parts + p] + distance * distance * size
    shared[thread] = total
    variance = block_sum(shared, thread) / np.float32(count)
    if thread == 0:
        mean[channel] = center
        inv_std[channel] = _ONE / sqrt(variance + eps)


@kernel(
    "float32[::1], float32[::1], float32[::1], float32[::1], float32[::1], float32[::1], "
    "int64, int64, int64, int64"
)
def _channel_sums(dweight, dbias, grad, x, mean, inv_std, count, channels, pixels, parts):
    """Block (c, p) of one row: what a slice of channel c adds to the gradients of weight and bias."""
    shared = cuda.shared.array(THREADS, np.float32)
    held, gradients = cuda.local.array(_HELD, np.float32), cuda.local.array(_HELD, np.float32)
    thread, block = cuda.threadIdx.x, cuda.blockIdx.x
    channel, first = block // parts, block % parts * _SLICE
    pixel = (first + thread) % pixels
    place = ((first + thread) // pixels * channels + channel) * pixels + pixel
    for k in range(_HELD):  # as in `_statistics`
        inside = first + k * THREADS + thread < count
        held[k], gradients[k] = x[place] if inside else _ZERO, grad[place] if inside else _ZERO
        place, pixel = _further(place, pixel, channels, pixels)
    center, by_weight, by_bias = mean[channel], _ZERO, _ZERO
    for k in range(_HELD):
        by_bias += gradients[k]
        by_weight += gradients[k] * (held[k] - center)
    shared[thread] = by_weight
    by_weight = block_sum(shared, thread)
    shared[thread] = by_bias
    by_bias = block_sum(shared, thread)
    if thread == 0:
        dweight[block] = by_weight * inv_std[channel]
        dbias[block] = by_bias


@kernel("float32[::1], float32[::1], float32[::1], float32[::1], int64")
def _merge_sums(dweight, dbias, by_weight, by_bias, parts):
    """Block c: the sums of its slices'."""
    shared = cuda.shared.array(THREADS, np.float32)
    thread, channel = cuda.threadIdx.x, cuda.blockIdx.x
    total = _ZERO
    for p in range(thread, parts, THREADS):
        total += by_weight[channel * parts + p]
    shared[thread] = total
    first = block_sum(shared, thread)
    total = _ZERO
    for p in range(thread, parts, THREADS):
        total += by_bias[channel * parts + p]
    shared[thread] = total
    second = block_sum(shared, thread)
    if thread == 0:
        dweight[channel], dbias[channel] = first, second


@kernel("float32[::1], float32[::1], float32[::1], float32[::1], float32[::1], float32[::1], boolean, int64")
def layer_backward(dx, grad, x, mean, inv_std, weight, has_weight, length):
    shared = cuda.shared.array(THREADS, np.float32)
    thread, row = cuda.threadIdx.x, cuda.blockIdx.x
    first, center, scale = row * length, mean[row], inv_std[row]
    plain, along = _ZERO, _ZERO
    for i in range(thread, length, THREADS):
        inner = grad[first + i] * weight[i] if has_weight else grad[first + i]
        plain += inner
        along += inner * (x[first + i] - center) * scale
    shared[thread] = plain
    plain = block_sum(shared, thread) / np.float32(length)
    shared[thread] = along
    along = block_sum(shared, thread) / np.float32(length)
    for i in range(thread, length, THREADS):
        inner = grad[first + i] * weight[i] if has_weight else grad[first + i]
        dx[first + i] = (inner - plain - (x[first + i] - center) * scale * along) * scale

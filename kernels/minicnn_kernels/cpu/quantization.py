"""Fake quantization in one pass, integer sums in float32 where that is exact.

Rules and formulas are in `reference/quantization.py`, and results are equal to those there to the last bit,
but for the gradient of a scale, a sum. A scale per channel is fast where channels are innermost in memory, as
they are in weights; else NumPy's loops serve.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from minicnn_kernels import memory
from minicnn_kernels.algorithms import using
from minicnn_kernels.cpu.compiler import kernel
from minicnn_kernels.cpu.conv import conv2d_forward
from minicnn_kernels.cpu.layout import CHUNK, elementwise, flat
from minicnn_kernels.cpu.linear import linear_forward
from minicnn_kernels.cpu.pooling import avg_pool2d_forward
from minicnn_kernels.reference import quantization as reference

__all__ = [
    "fake_quantize_backward",
    "fake_quantize_backward_scale",
    "fake_quantize_forward",
    "quantized_avg_pool2d_forward",
    "quantized_conv2d_forward",
    "quantized_linear_forward",
    "value_range",
]

_EXACT = 1 << 24  # float32 holds every whole number up to here
_LANES = 64  # of comparisons that go on side by side: four registers


def value_range(x, axis):
    """Smallest and largest number, widened to hold 0, per tensor (0-d) or per index of `axis` (C,)."""
    values = flat(x) if x.dtype == np.float32 else None
    if values is None or not _innermost(x, axis):
        return reference.value_range(x, axis)
    if axis is None:
        low, high = _range_of_chunks(values)
        return np.asarray(low.min(initial=0), np.float32), np.asarray(high.max(initial=0), np.float32)
    return _range_of_channels(values.reshape(-1, x.shape[axis]))


def fake_quantize_forward(x, scale, zero_point, qmin, qmax, axis):
    """The nearest point of the lattice: (saturate(rint(x / scale) + zero_point) - zero_point) * scale."""
    if x.dtype != np.float32 or not _innermost(x, axis):
        return reference.fake_quantize_forward(x, scale, zero_point, qmin, qmax, axis)
    y, y_flat, x_flat = elementwise(x)
    low, high = _bounds(zero_point, qmin, qmax)
    if axis is None:
        _forward_chunks(y_flat, x_flat, np.float32(scale), np.float32(low), np.float32(high))
    else:
        _forward_channels(y_flat.reshape(-1, len(scale)), x_flat.reshape(-1, len(scale)), scale, low, high)
    return y


def fake_quantize_backward(grad, x, scale, zero_point, qmin, qmax, axis):
    """Gradient by x, straight through: grad inside the range, 0 outside."""
    if x.dtype != np.float32 or not _innermost(x, axis):
        return reference.fake_quantize_backward(grad, x, scale, zero_point, qmin, qmax, axis)
    dx, *flats = elementwise(x, grad)
    low, high = _bounds(zero_point, qmin, qmax)
    if axis is None:
        _backward_chunks(*flats, np.float32(scale), np.float32(low), np.float32(high))
    else:
        _backward_channels(*(array.reshape(-1, len(scale)) for array in flats), scale, low, high)
    return dx


def fake_quantize_backward_scale(grad, x, scale, zero_point, qmin, qmax, axis):
    """Gradient by the scale, shaped like it; added up in double precision."""
    if x.dtype != np.float32 or not _innermost(x, axis):
        return reference.fake_quantize_backward_scale(grad, x, scale, zero_point, qmin, qmax, axis)
    _, _, x_flat, grad_flat = elementwise(x, grad)
    low, high = _bounds(zero_point, qmin, qmax)
    if axis is None:
        sums = _scale_chunks(x_flat, grad_flat, np.float32(scale), np.float32(low), np.float32(high))
        return np.asarray(sums.sum(dtype=np.float64), np.float32)
    channels = len(scale)
    return _scale_channels(
        x_flat.reshape(-1, channels), grad_flat.reshape(-1, channels), scale, low, high
    ).astype(np.float32)


def quantized_conv2d_forward(
    x, weight, bias, x_scale, w_scale, y_scale, y_zero_point, qmin, qmax, stride, padding, dilation, groups
):
    """Convolution of a lattice with a lattice, in exact integers; see the reference."""

    def product(x, weight):
        with using("conv2d", "implicit"):  # sums of products: Winograd's transforms leave the whole numbers
            return conv2d_forward(x, weight, None, stride, padding, dilation, groups)

    acc = exact_product(product, x, x_scale, weight, w_scale)
    if acc is None:
        return reference.quantized_conv2d_forward(
            x, weight, bias, x_scale, w_scale, y_scale, y_zero_point, qmin, qmax,
            stride, padding, dilation, groups,
        )  # fmt: skip
    return _finish_sums(acc, bias, x_scale, w_scale, y_scale, y_zero_point, qmin, qmax, axis=1)


def quantized_linear_forward(x, weight, bias, x_scale, w_scale, y_scale, y_zero_point, qmin, qmax):
    """The same for x (..., in) and weight (out, in); see the reference."""
    options = x_scale, w_scale, y_scale, y_zero_point, qmin, qmax
    acc = exact_product(lambda x, weight: linear_forward(x, weight, None), x, x_scale, weight, w_scale)
    if acc is None:
        return reference.quantized_linear_forward(x, weight, bias, *options)
    return _finish_sums(acc, bias, *options, axis=x.ndim - 1)


def quantized_avg_pool2d_forward(
    x, x_scale, y_scale, y_zero_point, qmin, qmax, kernel_size, stride, padding, divisor
):
    """Average pooling of points of a lattice, in exact integers; see the reference."""
    window = kernel_size, stride, padding
    steps, below, above = _steps(x, x_scale)
    if max(below, above) * kernel_size[0] * kernel_size[1] >= _EXACT:
        return reference.quantized_avg_pool2d_forward(
            x, x_scale, y_scale, y_zero_point, qmin, qmax, *window, divisor
        )
    acc = avg_pool2d_forward(steps, *window, False, True, 1)
    w_scale = reference.share(x_scale, divisor)
    return _finish_sums(acc, None, x_scale, w_scale, y_scale, y_zero_point, qmin, qmax, axis=1)


def exact_product(product, x, x_scale, weight, w_scale):
    """product(x, weight) in steps of both, without rounding; None where float32 can't have it.

    Where x lies between -below and above, and the weights of an output add up to -negative and positive, no
    partial sum is larger than above * positive + below * negative, or the other way round, whatever the order
    of the additions. If that is too much, x is cut into 16 high + low, whose sums meet in double precision.
    """
    x, below, above = _steps(x, x_scale)
    weight, negative, positive = _weight_steps(weight, w_scale)

    def fits(below, above):
        larger = np.maximum(above * positive + below * negative, above * negative + below * positive)
        return bool((larger < _EXACT).all())

    if fits(below, above):
        return product(x, weight)
    if not (fits(below / 16 + 1, above / 16 + 1) and fits(8, 8)):
        return None
    high = np.rint(x / np.float32(16))
    low = x - np.float32(16) * high
    return 16.0 * product(high, weight).astype(np.float64) + product(low, weight)


def _steps(x, x_scale):
    """x in whole steps, float32, and how far they go below and above 0 (NaN left out)."""
    steps, *flats = elementwise(x)
    _steps_chunks(*flats, np.float32(x_scale))
    low, high = value_range(steps, None)
    return steps, -float(low), float(high)


def _weight_steps(weight, w_scale):
    """The weight in whole steps, float32, and what those below and above 0 add up to (O,), without sign."""
    outputs = weight.shape[0]
    if not _innermost(weight, 0):
        steps = np.rint(weight / reference.along(w_scale, weight, 0))
        rows = steps.reshape(outputs, -1)
        sums = (np.maximum(part, 0).sum(axis=1, dtype=np.float64) for part in (-rows, rows))
        return steps, *sums
    steps, *flats = elementwise(weight)
    scale = np.ascontiguousarray(np.broadcast_to(w_scale, (outputs,)))
    return steps, *_weight_channels(*(array.reshape(-1, outputs) for array in flats), scale)


def _finish_sums(acc, bias, x_scale, w_scale, y_scale, y_zero_point, qmin, qmax, axis):
    """`reference.finish_sums` in one pass, for sums whose channels are innermost in memory."""
    if acc.dtype != np.float32 or not _innermost(acc, axis):
        return reference.finish_sums(acc, bias, x_scale, w_scale, y_scale, y_zero_point, qmin, qmax, axis)
    channels = acc.shape[axis]
    steps, factor = reference.counted_in_steps(bias, x_scale, w_scale, y_scale)
    steps = np.zeros(channels) if steps is None else steps
    factor = np.ascontiguousarray(np.broadcast_to(factor, (channels,)))
    y, *flats = elementwise(acc)
    rows = (array.reshape(-1, channels) for array in flats)
    if y_scale is None:
        _to_floats(*rows, steps, factor)
    else:
        low, high = _bounds(y_zero_point, qmin, qmax)
        _requantize(*rows, steps, factor, np.float32(y_scale), np.float32(low), np.float32(high))
    return y


def _innermost(x, axis):
    """Whether elements along `axis` are neighbours in memory and x has no gaps; always for axis None."""
    if axis is None:
        return True
    order = memory.memory_order(x)
    return x.size > 0 and order[-1] == axis % x.ndim and x.transpose(order).flags.c_contiguous


def _bounds(zero_point, qmin, qmax):
    """What x / scale is limited to, float32."""
    zero_point = np.asarray(zero_point).astype(np.float32)
    return qmin - zero_point, qmax - zero_point


@kernel(parallel=True)
def _range_of_chunks(x):
    """Extremes of every chunk, (chunks, _LANES) each: in lanes, since NaN forbids LLVM another order."""
    chunks = (x.size + CHUNK - 1) // CHUNK
    lows, highs = np.zeros((chunks, _LANES), np.float32), np.zeros((chunks, _LANES), np.float32)
    for chunk in prange(chunks):
        start = np.int64(chunk) * CHUNK
        end = min(start + CHUNK, x.size)
        low, high = lows[chunk], highs[chunk]
        for first in range(start, end - _LANES + 1, _LANES):
            row = x[first : first + _LANES]
            for c in range(_LANES):
                low[c] = row[c] if row[c] < low[c] else low[c]
                high[c] = row[c] if row[c] > high[c] else high[c]
        for i in range(end - (end - start) % _LANES, end):
            low[0], high[0] = min(low[0], x[i]), max(high[0], x[i])
    return lows, highs


@kernel
def _range_of_channels(x):
    low, high = np.zeros(x.shape[1], np.float32), np.zeros(x.shape[1], np.float32)
    for row in x:
        for c in range(row.size):
            low[c] = row[c] if row[c] < low[c] else low[c]
            high[c] = row[c] if row[c] > high[c] else high[c]
    return low, high


@kernel(inline="always")
def _nearest(x, scale, low, high):
    """In this order NaN stays NaN."""
    step = np.rint(x / scale)
    step = low if step < low else step
    return (high if step > high else step) * scale


@kernel(parallel=True)
def _forward_chunks(y, x, scale, low, high):
    for chunk in prange((y.size + CHUNK - 1) // CHUNK):
        start = np.int64(chunk) * CHUNK
        for i in range(start, min(start + CHUNK, y.size)):
            y[i] = _nearest(x[i], scale, low, high)


@kernel(parallel=True)
def _forward_channels(y, x, scale, low, high):
    for row in prange(y.shape[0]):
        for c in range(y.shape[1]):
            y[row, c] = _nearest(x[row, c], scale[c], low[c], high[c])


@kernel(parallel=True)
def _backward_chunks(dx, x, grad, scale, low, high):
    for chunk in prange((dx.size + CHUNK - 1) // CHUNK):
        start = np.int64(chunk) * CHUNK
        for i in range(start, min(start + CHUNK, dx.size)):
            v = x[i] / scale
            dx[i] = grad[i] if v >= low and v <= high else np.float32(0)


@kernel(parallel=True)
def _backward_channels(dx, x, grad, scale, low, high):
    for row in prange(dx.shape[0]):
        for c in range(dx.shape[1]):
            v = x[row, c] / scale[c]
            dx[row, c] = grad[row, c] if v >= low[c] and v <= high[c] else np.float32(0)


@kernel(inline="always")
def _by_scale(x, scale, low, high):
    v = x / scale
    slope = np.rint(v) - v
    slope = low if v <= low else slope
    return high if v >= high else slope


@kernel(parallel=True)
def _scale_chunks(x, grad, scale, low, high):
    """Sums of every chunk, (chunks, _LANES): each lane adds up 512 products at most in float32."""
    chunks = (x.size + CHUNK - 1) // CHUNK
    sums = np.zeros((chunks, _LANES), np.float32)
    for chunk in prange(chunks):
        start = np.int64(chunk) * CHUNK
        end = min(start + CHUNK, x.size)
        total = sums[chunk]
        for first in range(start, end - _LANES + 1, _LANES):
            values, upstream = x[first : first + _LANES], grad[first : first + _LANES]
            for c in range(_LANES):
                total[c] += upstream[c] * _by_scale(values[c], scale, low, high)
        for i in range(end - (end - start) % _LANES, end):
            total[0] += grad[i] * _by_scale(x[i], scale, low, high)
    return sums


@kernel
def _scale_channels(x, grad, scale, low, high):
    sums = np.zeros(scale.size)
    for row in range(x.shape[0]):
        for c in range(x.shape[1]):
            sums[c] += np.float64(grad[row, c] * _by_scale(x[row, c], scale[c], low[c], high[c]))
    return sums


@kernel(parallel=True)
def _steps_chunks(steps, x, scale):
    for chunk in prange((steps.size + CHUNK - 1) // CHUNK):
        start = np.int64(chunk) * CHUNK
        for i in range(start, min(start + CHUNK, steps.size)):
            steps[i] = np.rint(x[i] / scale)


@kernel
def _weight_channels(steps, x, scale):
    negative, positive = np.zeros(scale.size), np.zeros(scale.size)
    for row in range(x.shape[0]):
        for c in range(x.shape[1]):
            step = np.rint(x[row, c] / scale[c])
            steps[row, c] = step
            negative[c] -= min(step, np.float32(0))
            positive[c] += max(step, np.float32(0))
    return negative, positive


@kernel(parallel=True)
def _to_floats(y, acc, bias, factor):
    for row in prange(y.shape[0]):
        for c in range(y.shape[1]):
            y[row, c] = np.float32(np.float64(acc[row, c]) + bias[c]) * factor[c]


@kernel(parallel=True)
def _requantize(y, acc, bias, factor, y_scale, low, high):
    for row in prange(y.shape[0]):
        for c in range(y.shape[1]):
            step = np.rint(np.float32(np.float64(acc[row, c]) + bias[c]) * factor[c])
            step = low if step < low else step
            y[row, c] = (high if step > high else step) * y_scale

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
from minicnn_kernels.cpu.compiler import REDUCTION, kernel
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
        return np.asarray(sums.sum(), np.float32)
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

    acc = _exact(product, x, x_scale, weight, w_scale)
    if acc is None:
        return reference.quantized_conv2d_forward(
            x, weight, bias, x_scale, w_scale, y_scale, y_zero_point, qmin, qmax,
            stride, padding, dilation, groups,
        )  # fmt: skip
    return _finish_sums(acc, bias, x_scale, w_scale, y_scale, y_zero_point, qmin, qmax, axis=1)


def quantized_linear_forward(x, weight, bias, x_scale, w_scale, y_scale, y_zero_point, qmin, qmax):
    """The same for x (..., in) and weight (out, in); see the reference."""
    options = x_scale, w_scale, y_scale, y_zero_point, qmin, qmax
    acc = _exact(lambda x, weight: linear_forward(x, weight, None), x, x_scale, weight, w_scale)
    if acc is None:
        return reference.quantized_linear_forward(x, weight, bias, *options)
    return _finish_sums(acc, bias, *options, axis=x.ndim - 1)


def quantized_avg_pool2d_forward(
    x, x_scale, y_scale, y_zero_point, qmin, qmax, kernel_size, stride, padding, divisor
):
    """Average pooling of points of a lattice, in exact integers; see the reference."""
    window = kernel_size, stride, padding
    steps, largest = _steps(x, x_scale)
    if not largest * kernel_size[0] * kernel_size[1] < _EXACT:
        return reference.quantized_avg_pool2d_forward(
            x, x_scale, y_scale, y_zero_point, qmin, qmax, *window, divisor
        )
    acc = avg_pool2d_forward(steps, *window, False, True, 1)
    w_scale = reference.share(x_scale, divisor)
    return _finish_sums(acc, None, x_scale, w_scale, y_scale, y_zero_point, qmin, qmax, axis=1)


def _exact(product, x, x_scale, weight, w_scale):
    """product(x, weight) in steps of both, without rounding; None where float32 can't have it.

    Every partial sum is at most max abs(x) times the sum of abs(weight) of one output, whatever the order of
    the additions. If that is too much, x is cut into 16 high + low, whose sums meet in double precision.
    """
    x, largest = _steps(x, x_scale)
    weight = np.rint(weight / reference.along(w_scale, weight, 0))
    heaviest = float(np.abs(weight).reshape(weight.shape[0], -1).sum(axis=1, dtype=np.float64).max(initial=0))
    if largest * heaviest < _EXACT:
        return product(x, weight)
    if (largest / 16 + 1) * heaviest >= _EXACT:
        return None
    high = np.rint(x / np.float32(16))
    low = x - np.float32(16) * high
    return 16.0 * product(high, weight).astype(np.float64) + product(low, weight)


def _steps(x, x_scale):
    """x in whole steps, float32, and the largest magnitude among them (NaN left out)."""
    steps, *flats = elementwise(x)
    return steps, float(_steps_chunks(*flats, np.float32(x_scale)).max(initial=0))


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


@kernel(parallel=True, fastmath=REDUCTION)
def _range_of_chunks(x):
    chunks = (x.size + CHUNK - 1) // CHUNK
    lows, highs = np.zeros(chunks, np.float32), np.zeros(chunks, np.float32)
    for chunk in prange(chunks):
        start = np.int64(chunk) * CHUNK
        low = high = np.float32(0)
        for i in range(start, min(start + CHUNK, x.size)):
            low = x[i] if x[i] < low else low
            high = x[i] if x[i] > high else high
        lows[chunk], highs[chunk] = low, high
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
    return low if v <= low else high if v >= high else np.rint(v) - v


@kernel(parallel=True, fastmath=REDUCTION)
def _scale_chunks(x, grad, scale, low, high):
    sums = np.zeros((x.size + CHUNK - 1) // CHUNK)
    for chunk in prange(sums.size):
        start = np.int64(chunk) * CHUNK
        total = 0.0
        for i in range(start, min(start + CHUNK, x.size)):
            total += np.float64(grad[i] * _by_scale(x[i], scale, low, high))
        sums[chunk] = total
    return sums


@kernel
def _scale_channels(x, grad, scale, low, high):
    sums = np.zeros(scale.size)
    for row in range(x.shape[0]):
        for c in range(x.shape[1]):
            sums[c] += np.float64(grad[row, c] * _by_scale(x[row, c], scale[c], low[c], high[c]))
    return sums


@kernel(parallel=True, fastmath=REDUCTION)
def _steps_chunks(steps, x, scale):
    largest = np.zeros((steps.size + CHUNK - 1) // CHUNK, np.float32)
    for chunk in prange(largest.size):
        start = np.int64(chunk) * CHUNK
        most = np.float32(0)
        for i in range(start, min(start + CHUNK, steps.size)):
            step = np.rint(x[i] / scale)
            steps[i] = step
            most = abs(step) if abs(step) > most else most
        largest[chunk] = most
    return largest


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

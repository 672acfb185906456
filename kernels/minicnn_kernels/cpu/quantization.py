"""Fake quantization in one pass, masks in the order of memory, integer sums in float32 where that is exact.

Rules and formulas are in `reference/quantization.py`, and results are equal to those there to the last bit.
A scale per channel is for weights, which are small: there NumPy's loops serve.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from minicnn_kernels import memory
from minicnn_kernels.algorithms import using
from minicnn_kernels.cpu.compiler import kernel
from minicnn_kernels.cpu.conv import conv2d_forward
from minicnn_kernels.cpu.layout import CHUNK, elementwise
from minicnn_kernels.cpu.linear import linear_forward
from minicnn_kernels.reference import quantization as reference

__all__ = [
    "apply_mask",
    "fake_quantize_backward",
    "fake_quantize_forward",
    "quantized_conv2d_forward",
    "quantized_linear_forward",
]

_EXACT = 1 << 24  # float32 holds every whole number up to here


def apply_mask(x, keep):
    """x where `keep` (bool, the shape of x) holds, and +0 elsewhere."""
    result = memory.empty_like(x)
    result.fill(0)
    np.copyto(result, x, where=keep)
    return result


def fake_quantize_forward(x, scale, zero_point, qmin, qmax, axis):
    """The nearest point of the lattice: (saturate(rint(x / scale) + zero_point) - zero_point) * scale."""
    if scale.ndim or x.dtype != np.float32:
        return reference.fake_quantize_forward(x, scale, zero_point, qmin, qmax, axis)
    y, *arrays = elementwise(x)
    _forward_chunks(*arrays, np.float32(scale), *_bounds(zero_point, qmin, qmax))
    return y


def fake_quantize_backward(grad, x, scale, zero_point, qmin, qmax, axis):
    """Gradient by x, straight through: grad inside the range, 0 where x saturates."""
    if scale.ndim or x.dtype != np.float32:
        return reference.fake_quantize_backward(grad, x, scale, zero_point, qmin, qmax, axis)
    dx, *arrays = elementwise(x, grad)
    _backward_chunks(*arrays, np.float32(scale), *_bounds(zero_point, qmin, qmax))
    return dx


def quantized_conv2d_forward(
    x, weight, bias, x_scale, w_scale, y_scale, y_zero_point, qmin, qmax, stride, padding, dilation, groups
):
    """Convolution of a lattice with a lattice, in exact integers; see the reference."""

    def product(x, weight):
        with using("conv2d", "implicit"):  # sums of products: Winograd's transforms leave the whole numbers
            return conv2d_forward(x, weight, None, stride, padding, dilation, groups)

    acc = _exact(product, *_steps(x, x_scale, weight, w_scale))
    if acc is None:
        return reference.quantized_conv2d_forward(
            x, weight, bias, x_scale, w_scale, y_scale, y_zero_point, qmin, qmax,
            stride, padding, dilation, groups,
        )  # fmt: skip
    return reference.finish_sums(acc, bias, x_scale, w_scale, y_scale, y_zero_point, qmin, qmax, axis=1)


def quantized_linear_forward(x, weight, bias, x_scale, w_scale, y_scale, y_zero_point, qmin, qmax):
    """The same for x (..., in) and weight (out, in); see the reference."""
    options = x_scale, w_scale, y_scale, y_zero_point, qmin, qmax
    acc = _exact(lambda x, weight: linear_forward(x, weight, None), *_steps(x, x_scale, weight, w_scale))
    if acc is None:
        return reference.quantized_linear_forward(x, weight, bias, *options)
    return reference.finish_sums(acc, bias, *options, axis=x.ndim - 1)


def _steps(x, x_scale, weight, w_scale):
    """Both as whole numbers in float32."""
    steps, *arrays = elementwise(x)
    _steps_chunks(*arrays, np.float32(x_scale))
    return steps, np.rint(weight / reference.along(w_scale, weight, 0))


def _exact(product, x, weight):
    """product(x, weight) of whole numbers without rounding; None where float32 can't have it.

    Every partial sum is at most max abs(x) times the sum of abs(weight) of one output, whatever the order of
    the additions. If that is too much, x is cut into 16 high + low, whose sums meet in double precision.
    """
    heaviest = float(np.abs(weight).reshape(weight.shape[0], -1).sum(axis=1, dtype=np.float64).max(initial=0))
    largest = float(np.abs(x).max(initial=0))
    if largest * heaviest < _EXACT:
        return product(x, weight)
    if (largest / 16 + 1) * heaviest >= _EXACT:
        return None
    high = np.rint(x / np.float32(16))
    low = x - np.float32(16) * high
    return 16.0 * product(high, weight).astype(np.float64) + product(low, weight)


def _bounds(zero_point, qmin, qmax):
    return np.float32(qmin - int(zero_point)), np.float32(qmax - int(zero_point))


@kernel(parallel=True)
def _forward_chunks(y, x, scale, low, high):
    for chunk in prange((y.size + CHUNK - 1) // CHUNK):
        start = np.int64(chunk) * CHUNK
        for i in range(start, min(start + CHUNK, y.size)):
            step = np.rint(x[i] / scale)
            step = low if step < low else step  # in this order NaN stays NaN
            y[i] = (high if step > high else step) * scale


@kernel(parallel=True)
def _backward_chunks(dx, x, grad, scale, low, high):
    for chunk in prange((dx.size + CHUNK - 1) // CHUNK):
        start = np.int64(chunk) * CHUNK
        for i in range(start, min(start + CHUNK, dx.size)):
            step = np.rint(x[i] / scale)
            dx[i] = grad[i] if step >= low and step <= high else np.float32(0)


@kernel(parallel=True)
def _steps_chunks(steps, x, scale):
    for chunk in prange((steps.size + CHUNK - 1) // CHUNK):
        start = np.int64(chunk) * CHUNK
        for i in range(start, min(start + CHUNK, steps.size)):
            steps[i] = np.rint(x[i] / scale)

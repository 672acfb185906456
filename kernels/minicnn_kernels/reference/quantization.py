"""Masks and quantization in plain NumPy: the specification of minicnn's integer arithmetic.

A lattice is the set of floats (q - zero_point) * scale for whole numbers q from qmin to qmax. The arithmetic
is ONNX's (QuantizeLinear, QLinearConv): weights are signed with zero point 0, sums are exact integers, and
requantize(acc) = saturate(rint(float32(acc) * float32(x_scale * w_scale / y_scale)) + zero_point), where rint
rounds half to even. scale and zero_point are 0-d, or (C,) along `axis` of the array that they belong to.
"""

from __future__ import annotations

import numpy as np

from minicnn_kernels.reference.conv import conv2d_forward
from minicnn_kernels.reference.linear import linear_forward

__all__ = [
    "apply_mask",
    "apply_mask_",
    "choose_scale",
    "dequantize",
    "fake_quantize_backward",
    "fake_quantize_backward_scale",
    "fake_quantize_forward",
    "quantize",
    "quantized_conv2d_forward",
    "quantized_linear_forward",
    "value_range",
]


def apply_mask(x, keep):
    """x where `keep` (bool, the shape of x) holds, and +0 elsewhere."""
    return np.where(keep, x, np.zeros((), x.dtype))


def apply_mask_(x, keep):
    """Write 0 into x, in place, wherever `keep` does not hold."""
    np.copyto(x, 0, where=np.logical_not(keep))


def value_range(x, axis):
    """Smallest and largest element, widened to hold 0, per tensor (0-d) or per index of `axis` (C,)."""
    others = None if axis is None else tuple(i for i in range(x.ndim) if i != axis)
    low, high = x.min(axis=others, initial=0), x.max(axis=others, initial=0)
    return np.asarray(low, x.dtype), np.asarray(high, x.dtype)


def choose_scale(low, high, qmin, qmax, symmetric, power_of_two):
    """The lattice for values from `low` <= 0 to `high` >= 0: (scale, zero_point int32), both like low.

    symmetric: zero_point is 0, and the larger side decides; else 0 falls on the whole number nearest to
    qmin - low / scale (Jacob et al. 2018, eq. 1). power_of_two: the next larger power of two. An empty range
    has scale 1, so that a dead channel quantizes to zeros.
    """
    low, high = np.asarray(low), np.asarray(high)
    if symmetric:
        negative = -low / -qmin if qmin < 0 else np.zeros_like(low)
        scale = np.maximum(high / qmax, negative)
    else:
        scale = (high - low) / (qmax - qmin)
    smallest = np.finfo(low.dtype).tiny
    scale = np.where(high > low, np.maximum(scale, smallest), 1).astype(low.dtype)
    if power_of_two:
        scale = np.exp2(np.ceil(np.log2(scale))).astype(low.dtype)
    if symmetric:
        return scale, np.zeros(low.shape, np.int32)
    return scale, np.clip(np.rint(qmin - low / scale), qmin, qmax).astype(np.int32)


def fake_quantize_forward(x, scale, zero_point, qmin, qmax, axis):
    """The nearest point of the lattice: (saturate(rint(x / scale) + zero_point) - zero_point) * scale."""
    scale = along(scale, x, axis)
    return np.clip(np.rint(x / scale), *_bounds(x, zero_point, qmin, qmax, axis)) * scale


def fake_quantize_backward(grad, x, scale, zero_point, qmin, qmax, axis):
    """Gradient by x, straight through: grad inside the range, 0 where x saturates (Bengio et al. 2013)."""
    low, high = _bounds(x, zero_point, qmin, qmax, axis)
    steps = np.rint(x / along(scale, x, axis))
    return np.where((steps >= low) & (steps <= high), grad, np.zeros((), grad.dtype))


def fake_quantize_backward_scale(grad, x, scale, zero_point, qmin, qmax, axis):
    """Gradient by the scale, shaped like it (Esser et al. 2020, LSQ, eq. 3; with a zero point likewise).

    d y / d scale = rint(v) - v for v = x / scale inside the range, and the bound minus zero_point outside.
    """
    low, high = _bounds(x, zero_point, qmin, qmax, axis)
    v = x / along(scale, x, axis)
    steps = np.rint(v)
    product = grad * np.where(steps < low, low, np.where(steps > high, high, steps - v))
    others = None if scale.ndim == 0 else tuple(i for i in range(x.ndim) if i != axis)
    return np.asarray(product.sum(axis=others), scale.dtype)


def quantize(x, scale, zero_point, qmin, qmax, axis, dtype):
    """The whole numbers q of the nearest points of the lattice, as `dtype`."""
    steps = np.clip(np.rint(x / along(scale, x, axis)), *_bounds(x, zero_point, qmin, qmax, axis))
    return (steps + along(zero_point, x, axis)).astype(dtype)


def dequantize(q, scale, zero_point, axis):
    """(q - zero_point) * scale, in the type of scale."""
    steps = q.astype(np.int32) - along(zero_point, q, axis)
    return steps.astype(scale.dtype) * along(scale, q, axis)


def quantized_conv2d_forward(
    x, weight, bias, x_scale, w_scale, y_scale, y_zero_point, qmin, qmax, stride, padding, dilation, groups
):
    """Convolution of a lattice with a lattice, in exact integers: the floats that integer kernels stand for.

    x (N, C, H, W), weight (O, C/groups, kh, kw): points of lattices with the scales x_scale (0-d), w_scale
    (0-d or (O,)). The bias is rounded to whole steps of x_scale * w_scale. y_scale None: the result is
    float(acc) * (x_scale * w_scale); else it is requantized, to y_zero_point and from qmin to qmax.
    """
    acc = conv2d_forward(*_steps(x, x_scale, weight, w_scale), None, stride, padding, dilation, groups)
    return finish_sums(acc, bias, x_scale, w_scale, y_scale, y_zero_point, qmin, qmax, axis=1)


def quantized_linear_forward(x, weight, bias, x_scale, w_scale, y_scale, y_zero_point, qmin, qmax):
    """The same for x (..., in) and weight (out, in); see `quantized_conv2d_forward`."""
    acc = linear_forward(*_steps(x, x_scale, weight, w_scale), None)
    return finish_sums(acc, bias, x_scale, w_scale, y_scale, y_zero_point, qmin, qmax, axis=x.ndim - 1)


def _steps(x, x_scale, weight, w_scale):
    """Both as whole numbers in float64, where sums of products are exact up to 2^53."""
    steps = np.rint(x / x_scale), np.rint(weight / along(w_scale, weight, 0))
    return tuple(array.astype(np.float64) for array in steps)


def finish_sums(acc, bias, x_scale, w_scale, y_scale, y_zero_point, qmin, qmax, axis):
    """From exact sums to the result: bias, then float or requantized; channels of acc along `axis`."""
    dtype = x_scale.dtype
    unit = x_scale * w_scale
    if bias is not None:
        acc = acc + along(np.rint(bias / unit).astype(np.float64), acc, axis)
    acc = acc.astype(dtype)
    if y_scale is None:
        return acc * along(unit, acc, axis)
    steps = np.rint(acc * along(unit / y_scale, acc, axis))
    return np.clip(steps, *_bounds(acc, y_zero_point, qmin, qmax, None)) * y_scale


def _bounds(x, zero_point, qmin, qmax, axis):
    """What x / scale is limited to, in the type of x: 0 lies in between."""
    zero_point = along(zero_point, x, axis).astype(x.dtype)
    return qmin - zero_point, qmax - zero_point


def along(parameter, x, axis):
    """A 0-d or (C,) array shaped so that it broadcasts along `axis` of x."""
    parameter = np.asarray(parameter)
    if parameter.ndim == 0 or axis is None:
        return parameter
    return parameter.reshape([-1 if i == axis else 1 for i in range(x.ndim)])

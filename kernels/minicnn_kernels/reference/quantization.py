"""Masks and quantization in plain NumPy: the specification of minicnn's integer arithmetic.

A lattice is the set of floats (q - zero_point) * scale for whole numbers q from qmin to qmax. The arithmetic
is ONNX's (QuantizeLinear, QLinearConv): weights are signed with zero point 0, sums are exact integers, and
requantize(acc) = saturate(rint(float32(acc) * (x_scale * w_scale / y_scale)) + zero_point) in float32, where
rint rounds half to even. scale and zero_point are 0-d, or (C,) along `axis` of the array that they belong to.
"""

from __future__ import annotations

import numpy as np

from minicnn_kernels.reference.conv import conv2d_forward
from minicnn_kernels.reference.linear import linear_forward
from minicnn_kernels.reference.pooling import avg_pool2d_forward

__all__ = [
    "apply_mask",
    "apply_mask_",
    "choose_scale",
    "dequantize",
    "fake_quantize_backward",
    "fake_quantize_backward_scale",
    "fake_quantize_forward",
    "move_range",
    "quantize",
    "quantized_avg_pool2d_forward",
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
    """Smallest and largest number, widened to hold 0, per tensor (0-d) or per index of `axis` (C,).

    NaN is no number and changes nothing.
    """
    others = None if axis is None else tuple(i for i in range(x.ndim) if i != axis)
    low, high = np.fmin.reduce(x, axis=others, initial=0), np.fmax.reduce(x, axis=others, initial=0)
    return np.asarray(low, x.dtype), np.asarray(high, x.dtype)


def move_range(low, high, new_low, new_high, momentum):
    """Move the range low, high in place by the share `momentum` towards new_low, new_high (all 0-d or (C,)).

    Jacob et al. 2018, section 3.1. A range that is still empty everywhere is replaced as a whole.
    """
    share = np.asarray(momentum if np.any(high > low) else 1, low.dtype)
    for running, new in ((low, new_low), (high, new_high)):
        running[...] = running + (new - running) * share


_SMALLEST_SCALE = 2.0**-60  # the product of two scales is still a normal float32
_EMPTY_SCALE = 2.0**-16  # of what is always 0: fine enough for a bias to be counted in its steps


def choose_scale(low, high, qmin, qmax, symmetric, power_of_two):
    """The lattice for values from `low` <= 0 to `high` >= 0: (scale, zero_point int32), both like low.

    symmetric: zero_point is 0, and the larger side decides; else 0 falls on the whole number nearest to
    qmin - low / scale (Jacob et al. 2018, eq. 1). power_of_two: the next larger power of two. Of several
    channels none gets less than 1/256 of the largest scale: what that hides adds less than one step to a
    result of 8 bits, and a dead channel's bias, a multiple of the scale, stays below 2^31 steps.
    """
    low, high = np.asarray(low), np.asarray(high)
    if symmetric:
        scale = np.maximum(high / qmax, low / qmin if qmin else np.zeros_like(low))
    else:
        scale = high / (qmax - qmin) - low / (qmax - qmin)  # high - low could overflow
    if scale.ndim:
        scale = np.maximum(scale, scale.max(initial=0) / 256)
    scale = np.where(scale > 0, np.maximum(scale, _SMALLEST_SCALE), _EMPTY_SCALE).astype(low.dtype)
    if power_of_two:
        mantissa, exponent = np.frexp(scale)  # scale = mantissa 2^exponent, mantissa from 0.5 to below 1
        scale = np.ldexp(np.ones_like(scale), exponent - (mantissa == 0.5))
    if not symmetric:
        return scale, np.clip(np.rint(qmin - low / scale), qmin, qmax).astype(np.int32)
    # The quotient was rounded: without this the largest value may lie a hair outside, and get no gradient.
    outside = (high / scale > qmax) | (low / scale < qmin) if qmin else high / scale > qmax
    return np.where(outside, np.nextafter(scale, np.inf, dtype=scale.dtype), scale), np.zeros(
        low.shape, np.int32
    )


def fake_quantize_forward(x, scale, zero_point, qmin, qmax, axis):
    """The nearest point of the lattice: (saturate(rint(x / scale) + zero_point) - zero_point) * scale."""
    scale = along(scale, x, axis)
    return np.clip(np.rint(x / scale), *_bounds(x, zero_point, qmin, qmax, axis)) * scale


def fake_quantize_backward(grad, x, scale, zero_point, qmin, qmax, axis):
    """Gradient by x, straight through: grad inside the range, 0 outside (Bengio et al. 2013).

    The ends of the range belong to it: where the range is that of x, they are its largest elements.
    """
    low, high = _bounds(x, zero_point, qmin, qmax, axis)
    v = x / along(scale, x, axis)
    return np.where((v >= low) & (v <= high), grad, np.zeros((), grad.dtype))


def fake_quantize_backward_scale(grad, x, scale, zero_point, qmin, qmax, axis):
    """Gradient by the scale, shaped like it (Esser et al. 2020, LSQ, eq. 3; with a zero point likewise).

    d y / d scale = rint(v) - v for v = x / scale inside the range, else the end of the range, in steps.
    """
    low, high = _bounds(x, zero_point, qmin, qmax, axis)
    v = x / along(scale, x, axis)
    product = grad * np.where(v <= low, low, np.where(v >= high, high, np.rint(v) - v))
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


def quantized_avg_pool2d_forward(
    x, x_scale, y_scale, y_zero_point, qmin, qmax, kernel_size, stride, padding, divisor
):
    """Average pooling of points of a lattice: a convolution with weights of 1 step of the scale 1 / divisor.

    x (N, C, H, W); padded zeros count; the rest as in `quantized_conv2d_forward`.
    """
    steps = np.rint(x / x_scale).astype(np.float64)
    acc = avg_pool2d_forward(steps, kernel_size, stride, padding, False, True, 1)  # divided by 1: sums
    return finish_sums(acc, None, x_scale, share(x_scale, divisor), y_scale, y_zero_point, qmin, qmax, axis=1)


def share(x_scale, divisor):
    """1 / divisor, 0-d, in the type of x_scale."""
    return np.asarray(1, x_scale.dtype) / np.asarray(divisor, x_scale.dtype)


def _steps(x, x_scale, weight, w_scale):
    """Both as whole numbers in float64, where sums of products are exact up to 2^53."""
    steps = np.rint(x / x_scale), np.rint(weight / along(w_scale, weight, 0))
    return tuple(array.astype(np.float64) for array in steps)


def finish_sums(acc, bias, x_scale, w_scale, y_scale, y_zero_point, qmin, qmax, axis):
    """From exact sums to the result: bias, then float or requantized; channels of acc along `axis`."""
    bias_steps, factor = counted_in_steps(bias, x_scale, w_scale, y_scale)
    if bias is not None:
        acc = acc + along(bias_steps, acc, axis)
    y = acc.astype(x_scale.dtype) * along(factor, acc, axis)
    if y_scale is None:
        return y
    return np.clip(np.rint(y), *_bounds(y, y_zero_point, qmin, qmax, None)) * y_scale


def counted_in_steps(bias, x_scale, w_scale, y_scale):
    """The bias in whole steps of x_scale * w_scale, float64, and what one such step is in steps of y_scale.

    A bias has at most 2^30 steps, so that it and a sum below 2^30 fit into int32. y_scale None: the second
    is x_scale * w_scale itself.
    """
    unit = x_scale * w_scale
    steps = None if bias is None else np.clip(np.rint(bias / unit).astype(np.float64), -(2**30), 2**30)
    return steps, unit if y_scale is None else unit / y_scale


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

"""Integers in deployed models, in plain NumPy: the specification of every fast integer kernel.

A stored number q, uint8, with its zero_point (0 to 255), stands for (q - zero_point) * scale; weights are
int8 with zero point 0. Sums are exact: the caller sees to it that each one, with the bias, fits into int32.
What follows a sum is the arithmetic of `reference/quantization.py`, step by step in float32, so that a model
trained on a lattice and its deployed integers agree in every bit.

Common arguments: bias (O,) int32 or None, in steps of x_scale * w_scale; factor float32, what one step of the
sum is in steps of the result (`counted_in_steps`), (O,) or 0-d. y_zero None: the result is float32, sum *
factor. Else it is uint8, rounded half to even and limited to qmin ... qmax, where a ReLU is qmin = y_zero.
Pairs are (h, w); images are (N, C, H, W).
"""

from __future__ import annotations

import math

import numpy as np

from minicnn_kernels.integer_calls import IntegerCall, check_calls, run_calls
from minicnn_kernels.reference.conv import conv2d_forward
from minicnn_kernels.reference.pooling import avg_pool2d_forward, max_pool2d_forward
from minicnn_kernels.reference.quantization import along, dequantize, quantize
from minicnn_kernels.reference.shape import cat

__all__ = [
    "IntegerProgram",
    "flatten",
    "integer_add_forward",
    "integer_avg_pool2d_forward",
    "integer_conv2d_forward",
    "integer_linear_forward",
    "integer_lookup",
    "integer_max_pool2d_forward",
]


def integer_conv2d_forward(
    x, weight, bias, factor, x_zero, y_zero, qmin, qmax, stride, padding, dilation, groups, pool
):
    """Convolution of x (N, C, H, W) uint8 with weight (O, C/groups, kh, kw) int8; padding adds nothing.

    pool: None, or (kernel_size, stride) of a max pooling behind it, without padding.
    """
    acc = conv2d_forward(_steps(x, x_zero), _steps(weight, 0), None, stride, padding, dilation, groups)
    y = _finish(acc, bias, factor, y_zero, qmin, qmax, axis=1)
    if pool is None:
        return y
    return max_pool2d_forward(y.astype(np.float32), *pool, (0, 0), (1, 1), False)[0].astype(y.dtype)


def integer_linear_forward(x, weight, bias, factor, x_zero, y_zero, qmin, qmax):
    """x (N, K) uint8 times the transpose of weight (O, K) int8."""
    acc = _steps(x, x_zero) @ _steps(weight, 0).T
    return _finish(acc, bias, factor, y_zero, qmin, qmax, axis=1)


def integer_avg_pool2d_forward(x, factor, x_zero, y_zero, qmin, qmax, kernel_size, stride, padding):
    """Sums over windows of x uint8, padding adding nothing, times the factor, which also divides."""
    acc = avg_pool2d_forward(_steps(x, x_zero), kernel_size, stride, padding, False, True, 1)
    return _finish(acc, None, factor, y_zero, qmin, qmax, axis=1)


def integer_max_pool2d_forward(x, kernel_size, stride, padding, dilation, ceil_mode):
    """Maximum over windows of x uint8, padding never; 0 for a window that meets no pixel at all."""
    y, _ = max_pool2d_forward(x.astype(np.float32), kernel_size, stride, padding, dilation, ceil_mode)
    return np.maximum(y, 0).astype(np.uint8)


def integer_add_forward(a, b, a_scale, a_zero, b_scale, b_zero, y_scale, y_zero, qmin, qmax):
    """The sum of two lattices, uint8 of one shape, on a third; scales are 0-d float32."""
    total = dequantize(a, a_scale, a_zero, None) + dequantize(b, b_scale, b_zero, None)
    return quantize(total, y_scale, y_zero, qmin, qmax, None, np.uint8)


def integer_lookup(x, table):
    """table[x], for x uint8: every function of one number. table (256,), uint8 or float32."""
    return table[x]


def flatten(x):
    """(N, C, H, W) -> (N, C H W)."""
    return x.reshape(len(x), math.prod(x.shape[1:]))


class IntegerProgram:
    """A row of calls run one by one: what a program means. See `minicnn_kernels/integer_calls.py`.

    inputs, outputs: the numbers of the values that come in and go out. Raises ValueError for calls that are
    no program.
    """

    def __init__(self, calls, inputs, outputs):
        self.calls = tuple(IntegerCall(*call) for call in calls)
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        check_calls(self.calls, self.inputs, self.outputs)

    def __call__(self, *arrays):
        """The outputs, a tuple. Raises ValueError if the number of arrays is not that of the inputs."""
        return run_calls(_KERNELS, self.calls, self.inputs, self.outputs, arrays)


_KERNELS = {
    "concatenate": cat,
    "dequantize": dequantize,
    "flatten": flatten,
    "integer_add_forward": integer_add_forward,
    "integer_avg_pool2d_forward": integer_avg_pool2d_forward,
    "integer_conv2d_forward": integer_conv2d_forward,
    "integer_linear_forward": integer_linear_forward,
    "integer_lookup": integer_lookup,
    "integer_max_pool2d_forward": integer_max_pool2d_forward,
    "quantize": quantize,
}


def _steps(q, zero_point):
    """Whole numbers in float64, where sums of products are exact up to 2^53."""
    return q.astype(np.float64) - zero_point


def _finish(acc, bias, factor, y_zero, qmin, qmax, axis):
    """From exact sums to the result: bias, then float or requantized; channels of acc along `axis`."""
    if bias is not None:
        acc = acc + along(bias, acc, axis)
    y = acc.astype(np.float32) * along(factor, acc, axis)
    if y_zero is None:
        return y
    steps = np.clip(np.rint(y), np.float32(qmin - y_zero), np.float32(qmax - y_zero))
    return (steps + np.float32(y_zero)).astype(np.uint8)

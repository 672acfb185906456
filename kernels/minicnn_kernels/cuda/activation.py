"""Activations and their gradients: formulas for `maps.py`; softmax with one thread for each row.

The formulas are those of `reference/activation.py` in float32. Softmax works along any dimension: neighbours
in a warp take neighbouring rows, so all but the last dimension are read in order.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minicnn_kernels.cuda.driver import (
    Kernel,
    cuda,
    device_function,
    erf,
    exp,
    expm1,
    kernel,
    launch,
    log,
    log1p,
    tanh,
)
from minicnn_kernels.cuda.maps import elementwise, with_numbers
from minicnn_kernels.cuda.storage import dense, empty, flat, on_device
from minicnn_kernels.device_array import DeviceArray
from minicnn_kernels.reference import activation as reference

__all__ = [
    "elu_backward", "elu_forward", "gelu_backward", "gelu_forward", "hardtanh_backward",
    "hardtanh_forward", "leaky_relu_backward", "leaky_relu_forward", "log_softmax_backward",
    "log_softmax_forward", "relu_backward", "relu_forward", "sigmoid_backward", "sigmoid_forward",
    "silu_backward", "silu_forward", "softmax_backward", "softmax_forward", "softplus_backward",
    "softplus_forward", "tanh_backward", "tanh_forward",
]  # fmt: skip

_ZERO, _HALF, _ONE, _THREE = (np.float32(value) for value in (0, 0.5, 1, 3))
_INFINITY = np.float32(np.inf)
_TANH_SCALE, _TANH_CUBIC = np.float32(math.sqrt(2 / math.pi)), np.float32(0.044715)
_ROOT_HALF, _DENSITY = np.float32(math.sqrt(0.5)), np.float32(1 / math.sqrt(2 * math.pi))


@device_function
def _sigmoid(x):
    e = exp(-x if x > _ZERO else x)
    return (e if x < _ZERO else _ONE) / (_ONE + e)


def _silu_backward(grad, x):
    s = _sigmoid(x)
    return grad * s * (_ONE + x * (_ONE - s))


def _gelu(x, p, q):
    return _HALF * x * (_ONE + erf(x * _ROOT_HALF))


def _gelu_backward(grad, x, p, q):
    density = exp(-_HALF * x * x) * _DENSITY
    return grad * (_HALF * (_ONE + erf(x * _ROOT_HALF)) + x * density)


def _gelu_tanh(x, p, q):
    return _HALF * x * (_ONE + tanh(_TANH_SCALE * (x + _TANH_CUBIC * x * x * x)))


def _gelu_tanh_backward(grad, x, p, q):
    t = tanh(_TANH_SCALE * (x + _TANH_CUBIC * x * x * x))
    slope = _TANH_SCALE * (_ONE + _THREE * _TANH_CUBIC * x * x)
    return grad * _HALF * (_ONE + t + x * (_ONE - t * t) * slope)


def _hardtanh(x, low, high):
    x = low if x < low else x
    return high if x > high else x


def _softplus(x, beta, threshold):
    z = x * beta
    smooth = (z if z > _ZERO else _ZERO) + log1p(exp(-z if z > _ZERO else z))
    return x if z > threshold else smooth / beta


def _elu(x, alpha, q):
    return alpha * expm1(x) if x <= _ZERO else x


def _elu_backward(grad, x, alpha, q):
    return grad * alpha * exp(x) if x <= _ZERO else grad


# fmt: off
relu_forward = elementwise(reference.relu_forward, np.negative, lambda x: _ZERO if x <= _ZERO else x)
relu_backward = elementwise(reference.relu_backward, np.add, lambda grad, y: _ZERO if y <= _ZERO else grad)
sigmoid_forward = elementwise(reference.sigmoid_forward, np.sqrt, lambda x: _sigmoid(x))
sigmoid_backward = elementwise(reference.sigmoid_backward, np.add, lambda grad, y: grad * y * (_ONE - y))
tanh_forward = elementwise(reference.tanh_forward, np.tanh, lambda x: tanh(x))
tanh_backward = elementwise(reference.tanh_backward, np.add, lambda grad, y: grad * (_ONE - y * y))
silu_forward = elementwise(reference.silu_forward, np.sqrt, lambda x: x * _sigmoid(x))
silu_backward = elementwise(reference.silu_backward, np.add, _silu_backward)
leaky_relu_forward = with_numbers(reference.leaky_relu_forward, lambda x, p, q: x if x > _ZERO else x * p)
leaky_relu_backward = with_numbers(
    reference.leaky_relu_backward, lambda grad, x, p, q: grad if x > _ZERO else grad * p
)
hardtanh_forward = with_numbers(reference.hardtanh_forward, _hardtanh)
hardtanh_backward = with_numbers(
    reference.hardtanh_backward, lambda grad, x, p, q: _ZERO if x <= p or x >= q else grad
)
elu_forward = with_numbers(reference.elu_forward, _elu)
elu_backward = with_numbers(reference.elu_backward, _elu_backward)
softplus_forward = with_numbers(reference.softplus_forward, _softplus)
softplus_backward = with_numbers(
    reference.softplus_backward, lambda grad, x, p, q: grad if x * p > q else grad * _sigmoid(x * p)
)
_erf_gelu, _erf_gelu_backward = (
    with_numbers(reference.gelu_forward, _gelu), with_numbers(reference.gelu_backward, _gelu_backward)
)
_fast_gelu, _fast_gelu_backward = (
    with_numbers(reference.gelu_forward, _gelu_tanh),
    with_numbers(reference.gelu_backward, _gelu_tanh_backward),
)
# fmt: on


def gelu_forward(x: Any, approximate: str) -> DeviceArray:
    """x Phi(x), Phi the normal distribution; approximate='tanh' as in the reference."""
    return (_fast_gelu if approximate == "tanh" else _erf_gelu)(x)


def gelu_backward(grad: Any, x: Any, approximate: str) -> DeviceArray:
    """grad (Phi(x) + x Phi'(x)), or the derivative of the tanh formula."""
    return (_fast_gelu_backward if approximate == "tanh" else _erf_gelu_backward)(grad, x)


def softmax_forward(x: Any, dim: int) -> DeviceArray:
    """exp(x) / sum(exp(x)) along the int `dim`, after subtracting the maximum."""
    return _over_rows(_softmax, dim, x)


def softmax_backward(grad: Any, y: Any, dim: int) -> DeviceArray:
    """y (grad - sum(grad y)) along `dim`."""
    return _over_rows(_softmax_backward, dim, y, grad)


def log_softmax_forward(x: Any, dim: int) -> DeviceArray:
    """x - log(sum(exp(x))) along the int `dim`, after subtracting the maximum."""
    return _over_rows(_log_softmax, dim, x)


def log_softmax_backward(grad: Any, y: Any, dim: int) -> DeviceArray:
    """grad - exp(y) sum(grad) along `dim`."""
    return _over_rows(_log_softmax_backward, dim, y, grad)


def _over_rows(run: Kernel, dim: int, *arrays: Any) -> DeviceArray:
    """Run a kernel on the lines along `dim`: result first, then `arrays`, then how a line lies in memory."""
    on_device("softmax", *arrays)
    shape = arrays[0].shape
    result = empty(shape)
    length, after = (shape[dim], math.prod(shape[dim % len(shape) + 1 :])) if shape else (1, 1)
    lines = result.size // length if length else 0
    launch(run, lines, flat(result), *(flat(dense(x)) for x in arrays), length, after, lines)
    return result


_LINES = "int64, int64, int64"


@kernel(f"float32[::1], float32[::1], {_LINES}", registers=48)
def _softmax(y, x, length, after, lines):
    for line in range(cuda.grid(1), lines, cuda.gridsize(1)):
        first = line // after * length * after + line % after
        end = first + length * after
        top, total = -_INFINITY, _ZERO
        for i in range(first, end, after):
            top = _larger(top, x[i])
        for i in range(first, end, after):
            e = exp(x[i] - top)
            y[i] = e
            total += e
        for i in range(first, end, after):
            y[i] = y[i] / total


@kernel(f"float32[::1], float32[::1], float32[::1], {_LINES}", registers=48)
def _softmax_backward(dx, y, grad, length, after, lines):
    for line in range(cuda.grid(1), lines, cuda.gridsize(1)):
        first = line // after * length * after + line % after
        end = first + length * after
        along = _ZERO
        for i in range(first, end, after):
            along += grad[i] * y[i]
        for i in range(first, end, after):
            dx[i] = y[i] * (grad[i] - along)


@kernel(f"float32[::1], float32[::1], {_LINES}", registers=48)
def _log_softmax(y, x, length, after, lines):
    for line in range(cuda.grid(1), lines, cuda.gridsize(1)):
        first = line // after * length * after + line % after
        end = first + length * after
        top, total = -_INFINITY, _ZERO
        for i in range(first, end, after):
            top = _larger(top, x[i])
        for i in range(first, end, after):
            total += exp(x[i] - top)
        shift = log(total)
        for i in range(first, end, after):
            y[i] = x[i] - top - shift


@kernel(f"float32[::1], float32[::1], float32[::1], {_LINES}", registers=48)
def _log_softmax_backward(dx, y, grad, length, after, lines):
    for line in range(cuda.grid(1), lines, cuda.gridsize(1)):
        first = line // after * length * after + line % after
        end = first + length * after
        total = _ZERO
        for i in range(first, end, after):
            total += grad[i]
        for i in range(first, end, after):
            dx[i] = grad[i] - exp(y[i]) * total


@device_function
def _larger(a, b):
    """The larger of both; NaN wins."""
    return a if a > b or a != a else b

"""Activations over dense memory in parallel, forward and backward; softmax over rows.

ReLU has loops of its own, because every net compiles them; the others share two, chosen by a code that
the loop does not look at again. Softmax of another dimension than the last, and the activations that
are not listed here, are the reference's.
"""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from minicnn_kernels import memory
from minicnn_kernels.cpu.compiler import REDUCTION, kernel
from minicnn_kernels.cpu.layout import CHUNK, contiguous, elementwise
from minicnn_kernels.cpu.vector_math import exp, largest, normal, sigmoid, tanh
from minicnn_kernels.reference import activation as reference

__all__ = [
    "gelu_backward", "gelu_forward", "leaky_relu_backward", "leaky_relu_forward", "log_softmax_backward",
    "log_softmax_forward", "relu_backward", "relu_forward", "sigmoid_backward", "sigmoid_forward",
    "silu_backward", "silu_forward", "softmax_backward", "softmax_forward", "tanh_backward", "tanh_forward",
]  # fmt: skip

_LEAKY_RELU, _SIGMOID, _TANH, _SILU, _GELU, _GELU_TANH = range(6)
_TANH_SCALE, _TANH_CUBIC = np.float32(math.sqrt(2 / math.pi)), np.float32(0.044715)
_DENSITY = np.float32(1 / math.sqrt(2 * math.pi))


def relu_forward(x):
    """max(x, 0); NaN stays NaN."""
    y, *arrays = elementwise(x)
    (_relu if y.size <= CHUNK else _relu_chunks)(*arrays)
    return y


def relu_backward(grad, y):
    """`grad` where y > 0; 0 at the kink."""
    dx, *arrays = elementwise(y, grad)
    (_relu_backward if dx.size <= CHUNK else _relu_backward_chunks)(*arrays)
    return dx


def leaky_relu_forward(x, negative_slope):
    """x where x > 0, else negative_slope x."""
    return _forward(_LEAKY_RELU, x, negative_slope)


def leaky_relu_backward(grad, x, negative_slope):
    """`grad`, times negative_slope where x <= 0."""
    return _backward(_LEAKY_RELU, grad, x, negative_slope)


def sigmoid_forward(x):
    """1 / (1 + exp(-x))."""
    return _forward(_SIGMOID, x)


def sigmoid_backward(grad, y):
    """grad y (1 - y)."""
    return _backward(_SIGMOID, grad, y)


def tanh_forward(x):
    """tanh(x): NumPy's, which is vectorised and exact near 0."""
    if x.dtype != np.float32:
        return reference.tanh_forward(x)
    return np.tanh(x, out=memory.empty_like(x))


def tanh_backward(grad, y):
    """grad (1 - y^2)."""
    return _backward(_TANH, grad, y)


def silu_forward(x):
    """x sigmoid(x)."""
    return _forward(_SILU, x)


def silu_backward(grad, x):
    """grad s (1 + x (1 - s)) with s = sigmoid(x)."""
    return _backward(_SILU, grad, x)


def gelu_forward(x, approximate):
    """x Phi(x), Phi the normal distribution; approximate='tanh' as in the reference."""
    return _forward(_GELU_TANH if approximate == "tanh" else _GELU, x)


def gelu_backward(grad, x, approximate):
    """grad (Phi(x) + x Phi'(x)), or the derivative of the tanh formula."""
    return _backward(_GELU_TANH if approximate == "tanh" else _GELU, grad, x)


def softmax_forward(x, dim):
    """exp(x) / sum(exp(x)) along the int `dim`."""
    return _over_rows(_softmax, x) if _is_last(x, dim) else reference.softmax_forward(x, dim)


def softmax_backward(grad, y, dim):
    """y (grad - sum(grad y)) along `dim`."""
    if _is_last(y, dim):
        return _over_rows(_softmax_backward, y, grad)
    return reference.softmax_backward(grad, y, dim)


def log_softmax_forward(x, dim):
    """x - log(sum(exp(x))) along the int `dim`."""
    return _over_rows(_log_softmax, x) if _is_last(x, dim) else reference.log_softmax_forward(x, dim)


def log_softmax_backward(grad, y, dim):
    """grad - exp(y) sum(grad) along `dim`."""
    if _is_last(y, dim):
        return _over_rows(_log_softmax_backward, y, grad)
    return reference.log_softmax_backward(grad, y, dim)


@kernel
def _relu(y, x):
    for i in range(y.size):
        value = x[i]
        y[i] = np.float32(0) if value <= 0 else value


@kernel(parallel=True)
def _relu_chunks(y, x):
    for chunk in prange((y.size + CHUNK - 1) // CHUNK):
        start = np.int64(chunk) * CHUNK
        _relu(y[start : start + CHUNK], x[start : start + CHUNK])


@kernel
def _relu_backward(dx, y, grad):
    for i in range(dx.size):
        dx[i] = np.float32(0) if y[i] <= 0 else grad[i]


@kernel(parallel=True)
def _relu_backward_chunks(dx, y, grad):
    for chunk in prange((dx.size + CHUNK - 1) // CHUNK):
        start = np.int64(chunk) * CHUNK
        stop = start + CHUNK
        _relu_backward(dx[start:stop], y[start:stop], grad[start:stop])


def _forward(op, x, slope=0.0):
    y, *arrays = elementwise(x)
    (_apply if y.size <= CHUNK else _apply_chunks)(*arrays, op, float(slope))
    return y


@kernel
def _apply(y, x, op, slope):
    size = y.size
    if op == _LEAKY_RELU:
        slope32 = np.float32(slope)
        for i in range(size):
            y[i] = x[i] if x[i] > 0 else x[i] * slope32
    elif op == _SIGMOID:
        for i in range(size):
            y[i] = sigmoid(x[i])
    elif op == _SILU:
        for i in range(size):
            y[i] = x[i] * sigmoid(x[i])
    elif op == _GELU:
        for i in range(size):
            y[i] = x[i] * normal(x[i])[0]
    else:
        for i in range(size):
            value = x[i]
            u = _TANH_SCALE * (value + _TANH_CUBIC * value * value * value)
            y[i] = np.float32(0.5) * value * (np.float32(1) + tanh(u))


@kernel(parallel=True)
def _apply_chunks(y, x, op, slope):
    for chunk in prange((y.size + CHUNK - 1) // CHUNK):
        start = np.int64(chunk) * CHUNK
        _apply(y[start : start + CHUNK], x[start : start + CHUNK], op, slope)


def _backward(op, grad, saved, slope=0.0):
    dx, *arrays = elementwise(saved, grad)
    (_apply_backward if dx.size <= CHUNK else _apply_backward_chunks)(*arrays, op, float(slope))
    return dx


@kernel
def _apply_backward(dx, saved, grad, op, slope):
    """`saved` is the result for sigmoid and tanh, the input for the others."""
    size, one, half = dx.size, np.float32(1), np.float32(0.5)
    if op == _LEAKY_RELU:
        slope32 = np.float32(slope)
        for i in range(size):
            dx[i] = grad[i] if saved[i] > 0 else grad[i] * slope32
    elif op == _SIGMOID:
        for i in range(size):
            dx[i] = grad[i] * saved[i] * (one - saved[i])
    elif op == _TANH:
        for i in range(size):
            dx[i] = grad[i] * (one - saved[i] * saved[i])
    elif op == _SILU:
        for i in range(size):
            s = sigmoid(saved[i])
            dx[i] = grad[i] * s * (one + saved[i] * (one - s))
    elif op == _GELU:
        for i in range(size):
            probability, bell = normal(saved[i])
            dx[i] = grad[i] * (probability + saved[i] * _DENSITY * bell)
    else:
        for i in range(size):
            x = saved[i]
            t = tanh(_TANH_SCALE * (x + _TANH_CUBIC * x * x * x))
            slope_u = _TANH_SCALE * (one + np.float32(3) * _TANH_CUBIC * x * x)
            dx[i] = grad[i] * half * (one + t + x * (one - t * t) * slope_u)


@kernel(parallel=True)
def _apply_backward_chunks(dx, saved, grad, op, slope):
    for chunk in prange((dx.size + CHUNK - 1) // CHUNK):
        start = np.int64(chunk) * CHUNK
        stop = start + CHUNK
        _apply_backward(dx[start:stop], saved[start:stop], grad[start:stop], op, slope)


def _is_last(x, dim):
    return x.ndim > 0 and dim % x.ndim == x.ndim - 1 and x.size > 0


def _over_rows(run, *arrays):
    """Run a kernel on the rows of the last dimension: result first, then `arrays`, all contiguous."""
    result = memory.empty(arrays[0].shape)
    shape = (-1, result.shape[-1])
    run(result.reshape(shape), *(contiguous(array).reshape(shape) for array in arrays))
    return result


@kernel(parallel=True)
def _softmax(y, x):
    for row in prange(x.shape[0]):
        _softmax_row(y[row], x[row])


@kernel(fastmath=REDUCTION)
def _softmax_row(y, x):
    top, total = largest(x), np.float32(0)
    for i in range(x.size):
        y[i] = exp(x[i] - top)
        total += y[i]
    share = np.float32(1) / total
    for i in range(x.size):
        y[i] *= share


@kernel(parallel=True)
def _softmax_backward(dx, y, grad):
    for row in prange(y.shape[0]):
        _softmax_row_backward(dx[row], y[row], grad[row])


@kernel(fastmath=REDUCTION)
def _softmax_row_backward(dx, y, grad):
    along = np.float32(0)
    for i in range(y.size):
        along += grad[i] * y[i]
    for i in range(y.size):
        dx[i] = y[i] * (grad[i] - along)


@kernel(parallel=True)
def _log_softmax(y, x):
    for row in prange(x.shape[0]):
        log_softmax_row(y[row], x[row])


@kernel(fastmath=REDUCTION)
def log_softmax_row(y, x):
    """One row; cross-entropy begins with it, too."""
    top, total = largest(x), np.float32(0)
    for i in range(x.size):
        y[i] = x[i] - top
        total += exp(y[i])
    log_total = np.float32(math.log(total))
    for i in range(x.size):
        y[i] -= log_total


@kernel(parallel=True)
def _log_softmax_backward(dx, y, grad):
    for row in prange(y.shape[0]):
        _log_softmax_row_backward(dx[row], y[row], grad[row])


@kernel(fastmath=REDUCTION)
def _log_softmax_row_backward(dx, y, grad):
    total = np.float32(0)
    for i in range(y.size):
        total += grad[i]
    for i in range(y.size):
        dx[i] = grad[i] - exp(y[i]) * total

"""ReLU and leaky ReLU, forward and backward, over dense memory in parallel.

The other activations are the reference's: they live on NumPy's vectorised exp and tanh, which the
scalar ones that Numba calls do not reach.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from minicnn_kernels.cpu.compiler import kernel
from minicnn_kernels.cpu.layout import CHUNK, elementwise

__all__ = ["leaky_relu_backward", "leaky_relu_forward", "relu_backward", "relu_forward"]


def relu_forward(x):
    """max(x, 0); NaN stays NaN."""
    y, *arrays = elementwise(x)
    (_relu if y.size <= CHUNK else _relu_chunks)(*arrays)
    return y


def relu_backward(grad, y):
    """`grad` where y > 0; 0 at the kink."""
    dx, flat_dx, flat_y, flat_grad = elementwise(y, grad)
    (_relu_backward if dx.size <= CHUNK else _relu_backward_chunks)(flat_dx, flat_y, flat_grad)
    return dx


def leaky_relu_forward(x, negative_slope):
    """x where x > 0, else negative_slope x."""
    y, *arrays = elementwise(x)
    (_leaky_relu if y.size <= CHUNK else _leaky_relu_chunks)(*arrays, float(negative_slope))
    return y


def leaky_relu_backward(grad, x, negative_slope):
    """`grad`, times negative_slope where x <= 0."""
    dx, *arrays = elementwise(x, grad)
    run = _leaky_relu_backward if dx.size <= CHUNK else _leaky_relu_backward_chunks
    run(*arrays, float(negative_slope))
    return dx


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


@kernel
def _leaky_relu(y, x, negative_slope):
    slope = np.float32(negative_slope)
    for i in range(y.size):
        value = x[i]
        y[i] = value if value > 0 else value * slope


@kernel(parallel=True)
def _leaky_relu_chunks(y, x, negative_slope):
    for chunk in prange((y.size + CHUNK - 1) // CHUNK):
        start = np.int64(chunk) * CHUNK
        _leaky_relu(y[start : start + CHUNK], x[start : start + CHUNK], negative_slope)


@kernel
def _leaky_relu_backward(dx, x, grad, negative_slope):
    slope = np.float32(negative_slope)
    for i in range(dx.size):
        dx[i] = grad[i] if x[i] > 0 else grad[i] * slope


@kernel(parallel=True)
def _leaky_relu_backward_chunks(dx, x, grad, negative_slope):
    for chunk in prange((dx.size + CHUNK - 1) // CHUNK):
        start = np.int64(chunk) * CHUNK
        stop = start + CHUNK
        _leaky_relu_backward(dx[start:stop], x[start:stop], grad[start:stop], negative_slope)

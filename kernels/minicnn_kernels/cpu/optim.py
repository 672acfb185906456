"""Optimizer steps, each fused into one pass over memory, in place; and the norm that clipping needs.

Formulas and sources are in `reference/optim.py`. A parameter is walked in its own order of memory; a
gradient or a buffer that lies in another order is brought into it once.
"""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from minicnn_kernels.cpu.compiler import REDUCTION, kernel
from minicnn_kernels.cpu.layout import CHUNK, aligned, contiguous, copy_into, flat

__all__ = ["adam_step", "rmsprop_step", "sgd_step", "squared_norm"]

_NOTHING = np.empty(0, np.float32)  # stands for a buffer that is None: kernels look at its size


def sgd_step(param, grad, momentum_buffer, lr, momentum, dampening, weight_decay, nesterov, l1):
    """Stochastic gradient descent, in place on `param` and `momentum_buffer` (None without momentum)."""
    rates = weight_decay, l1, lr, momentum, 1 - dampening, nesterov
    _step(_sgd, _sgd_chunks, (param, momentum_buffer), grad, rates)


def adam_step(
    param,
    grad,
    exp_avg,
    exp_avg_sq,
    max_exp_avg_sq,
    step,
    lr,
    beta1,
    beta2,
    eps,
    weight_decay,
    decoupled,
    l1,
):
    """Adam, in place on `param` and its moments. `step` counts from 1."""
    shrink, decay = (1 - lr * weight_decay, 0) if decoupled else (1, weight_decay)
    step_size, root = lr / (1 - beta1**step), math.sqrt(1 - beta2**step)
    rates = decay, l1, step_size, root, 1 - beta1, beta2, 1 - beta2, eps, shrink
    _step(_adam, _adam_chunks, (param, exp_avg, exp_avg_sq, max_exp_avg_sq), grad, rates)


def rmsprop_step(
    param, grad, square_avg, grad_avg, momentum_buffer, lr, alpha, eps, weight_decay, momentum, l1
):
    """RMSprop, in place on `param` and its averages."""
    rates = weight_decay, l1, lr, alpha, 1 - alpha, eps, momentum
    _step(_rmsprop, _rmsprop_chunks, (param, square_avg, grad_avg, momentum_buffer), grad, rates)


def squared_norm(x):
    """Sum of squares as a Python float, accumulated in double precision."""
    view = flat(x)
    if view is None or x.dtype != np.float32:
        view = contiguous(x).reshape(-1)
    if view.size <= CHUNK:
        return _squares(view)
    return math.fsum(_square_chunks(view))


def _step(run, run_chunks, state, grad, rates):
    """Run a kernel over flat views of the arrays in `state` (the parameter first) and of `grad`.

    rates: numbers, handed over as one float32 array; the first two are weight decay and l1.
    """
    param = state[0]
    order = param if flat(param) is not None else np.empty(param.shape, np.float32)
    arrays = [None if array is None else aligned(order, array) for array in state]
    views = [_NOTHING if array is None else flat(array) for array in arrays]
    run = run if param.size <= CHUNK else run_chunks
    run(*views, flat(aligned(order, grad)), np.array(rates, np.float32))
    for original, array in zip(state, arrays, strict=True):
        if array is not original:
            copy_into(original, array)


@kernel
def _regularized(grad, value, rates):
    """grad + weight_decay value + l1 sign(value)."""
    weight_decay, l1 = rates[0], rates[1]
    if weight_decay != 0:
        grad += weight_decay * value
    if l1 != 0:
        grad += l1 if value > 0 else (-l1 if value < 0 else value)
    return grad


@kernel
def _sgd(param, buffer, grad, rates):
    lr, momentum, keep, nesterov = rates[2], rates[3], rates[4], rates[5] != 0
    if buffer.size == 0:
        for i in range(param.size):
            param[i] -= lr * _regularized(grad[i], param[i], rates)
        return
    for i in range(param.size):
        g = _regularized(grad[i], param[i], rates)
        velocity = momentum * buffer[i] + keep * g
        buffer[i] = velocity
        param[i] -= lr * (g + momentum * velocity if nesterov else velocity)


@kernel(parallel=True)
def _sgd_chunks(param, buffer, grad, rates):
    for chunk in prange((param.size + CHUNK - 1) // CHUNK):
        a = np.int64(chunk) * CHUNK
        z = a + CHUNK
        _sgd(param[a:z], buffer[a:z], grad[a:z], rates)


@kernel
def _adam(param, average, square, largest, grad, rates):
    step_size, root, new1 = rates[2], rates[3], rates[4]
    beta2, new2, eps, shrink = rates[5], rates[6], rates[7], rates[8]
    for i in range(param.size):
        g = _regularized(grad[i], param[i], rates)
        average[i] += new1 * (g - average[i])
        second = beta2 * square[i] + new2 * (g * g)
        square[i] = second
        if largest.size > 0:
            second = second if second > largest[i] else largest[i]
            largest[i] = second
        param[i] = shrink * param[i] - step_size * average[i] / (np.sqrt(second) / root + eps)


@kernel(parallel=True)
def _adam_chunks(param, average, square, largest, grad, rates):
    for chunk in prange((param.size + CHUNK - 1) // CHUNK):
        a = np.int64(chunk) * CHUNK
        z = a + CHUNK
        _adam(param[a:z], average[a:z], square[a:z], largest[a:z], grad[a:z], rates)


@kernel
def _rmsprop(param, square, mean, velocity, grad, rates):
    lr, alpha, new, eps, momentum = rates[2], rates[3], rates[4], rates[5], rates[6]
    for i in range(param.size):
        g = _regularized(grad[i], param[i], rates)
        square[i] = alpha * square[i] + new * (g * g)
        variance = square[i]
        if mean.size > 0:
            mean[i] += new * (g - mean[i])
            variance -= mean[i] * mean[i]
        update = g / (np.sqrt(variance) + eps)
        if velocity.size > 0:
            update += momentum * velocity[i]
            velocity[i] = update
        param[i] -= lr * update


@kernel(parallel=True)
def _rmsprop_chunks(param, square, mean, velocity, grad, rates):
    for chunk in prange((param.size + CHUNK - 1) // CHUNK):
        a = np.int64(chunk) * CHUNK
        z = a + CHUNK
        _rmsprop(param[a:z], square[a:z], mean[a:z], velocity[a:z], grad[a:z], rates)


@kernel(fastmath=REDUCTION)
def _squares(x):
    total = 0.0
    for i in range(x.size):
        value = np.float64(x[i])
        total += value * value
    return total


@kernel(parallel=True)
def _square_chunks(x):
    chunks = (x.size + CHUNK - 1) // CHUNK
    totals = np.empty(chunks)
    for chunk in prange(chunks):
        start = np.int64(chunk) * CHUNK
        totals[chunk] = _squares(x[start : start + CHUNK])
    return totals

"""Optimizer steps, each one launch, in place; and the norm that clipping needs.

Formulas and sources are in `reference/optim.py`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minicnn_kernels.cuda.driver import Kernel, cuda, device_function, kernel, launch, sqrt
from minicnn_kernels.cuda.elementwise import square
from minicnn_kernels.cuda.rates import rates
from minicnn_kernels.cuda.reduction import sum as total
from minicnn_kernels.cuda.storage import dense, flat, on_device, to_host
from minicnn_kernels.device_array import DeviceArray

__all__ = ["adam_step", "clamp_", "rmsprop_step", "scale_", "sgd_step", "soft_threshold_", "squared_norm"]

_ZERO, _ONE = np.float32(0), np.float32(1)
_PARTS = 4096  # sums of squares that the host adds up in double precision


def sgd_step(
    param: Any,
    grad: Any,
    momentum_buffer: Any,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    l1: float,
) -> None:
    """Stochastic gradient descent, in place on `param` and `momentum_buffer` (None without momentum)."""
    numbers = (weight_decay, l1, lr, momentum, 1 - dampening)
    _step(_sgd, param, grad, (momentum_buffer,), numbers, nesterov)


def adam_step(
    param: Any,
    grad: Any,
    exp_avg: Any,
    exp_avg_sq: Any,
    max_exp_avg_sq: Any,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    l1: float,
) -> None:
    """Adam, in place on `param` and its moments. `step` counts from 1."""
    shrink, decay = (1 - lr * weight_decay, 0) if decoupled else (1, weight_decay)
    step_size, root = lr / (1 - beta1**step), math.sqrt(1 - beta2**step)
    numbers = (decay, l1, step_size, root, 1 - beta1, beta2, 1 - beta2, eps, shrink)
    _step(_adam, param, grad, (exp_avg, exp_avg_sq, max_exp_avg_sq), numbers)


def rmsprop_step(
    param: Any,
    grad: Any,
    square_avg: Any,
    grad_avg: Any,
    momentum_buffer: Any,
    lr: float,
    alpha: float,
    eps: float,
    weight_decay: float,
    momentum: float,
    l1: float,
) -> None:
    """RMSprop, in place on `param` and its averages."""
    numbers = (weight_decay, l1, lr, alpha, 1 - alpha, eps, momentum)
    _step(_rmsprop, param, grad, (square_avg, grad_avg, momentum_buffer), numbers)


def scale_(x: Any, factor: float) -> None:
    """Multiply `x` by a number, in place."""
    launch(_scale, x.size, _in_place(x), np.float32(factor), x.size)


def clamp_(x: Any, min: Any, max: Any) -> None:
    """Limit `x` to [min, max], in place; None means no limit on that side."""
    limits = np.float32(-np.inf if min is None else min), np.float32(np.inf if max is None else max)
    launch(_limit, x.size, _in_place(x), *limits, x.size)


def soft_threshold_(x: Any, amount: float) -> None:
    """Move every element towards zero by `amount`, stopping there, in place."""
    launch(_shrink, x.size, _in_place(x), np.float32(amount), x.size)


def squared_norm(x: Any) -> float:
    """Sum of squares as a Python float: rows of it in float32, these in double precision. Waits for the
    device."""
    squares = square(dense(x))
    rows = math.gcd(squares.size, _PARTS)
    return float(
        to_host(total(squares.view((rows, -(-squares.size // max(rows, 1))), None), 1, False)).sum(
            dtype=float
        )
    )


def _step(run: Kernel, param: Any, grad: Any, state: tuple, numbers: tuple, *flags: bool) -> None:
    """Arguments of a step: the parameter, its gradient, each state with whether it is there, then numbers."""
    on_device("optimizer", param, grad, *state)
    arrays: list[Any] = []
    for array in state:
        arrays += [_in_place(param if array is None else array), array is not None]
    launch(run, param.size, _in_place(param), flat(dense(grad)), *arrays, *rates(numbers), *flags, param.size)


def _in_place(x: DeviceArray) -> Any:
    """Flat elements to write to. Raises ValueError for a view that has gaps or another order."""
    if not x.is_dense:
        raise ValueError(
            f"cuda: expected an array in C order to change in place, got a view of shape {x.shape}"
        )
    return flat(x)


@device_function
def _sign(x):
    return _ONE if x > _ZERO else (-_ONE if x < _ZERO else x)


@kernel("float32[::1], float32[::1], float32[::1], boolean, float32[::1], int64, boolean, int64")
def _sgd(param, grad, velocity, has_velocity, rates, r, nesterov, size):
    decay, l1, lr = rates[r], rates[r + 1], rates[r + 2]
    momentum, undampened = rates[r + 3], rates[r + 4]
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        w = param[i]
        g = grad[i] + decay * w + l1 * _sign(w)
        if has_velocity:
            v = momentum * velocity[i] + undampened * g
            velocity[i] = v
            g = g + momentum * v if nesterov else v
        param[i] = w - lr * g


@kernel(
    "float32[::1], float32[::1], float32[::1], boolean, float32[::1], boolean, float32[::1], boolean, "
    "float32[::1], int64, int64"
)
def _adam(
    param,
    grad,
    mean,
    has_mean,
    square,
    has_square,
    largest,
    has_largest,
    rates,
    r,
    size,
):
    decay, l1, step_size, root = rates[r], rates[r + 1], rates[r + 2], rates[r + 3]
    new_mean, old_square, new_square = rates[r + 4], rates[r + 5], rates[r + 6]
    eps, shrink = rates[r + 7], rates[r + 8]
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        w = param[i]
        g = grad[i] + decay * w + l1 * _sign(w)
        w *= shrink
        m = mean[i] + new_mean * (g - mean[i])
        v = old_square * square[i] + new_square * g * g
        mean[i], square[i] = m, v
        if has_largest:
            v = v if v > largest[i] else largest[i]
            largest[i] = v
        param[i] = w - step_size * m / (sqrt(v) / root + eps)


@kernel(
    "float32[::1], float32[::1], float32[::1], boolean, float32[::1], boolean, float32[::1], boolean, "
    "float32[::1], int64, int64"
)
def _rmsprop(
    param,
    grad,
    square,
    has_square,
    mean,
    has_mean,
    velocity,
    has_velocity,
    rates,
    r,
    size,
):
    decay, l1, lr, alpha = rates[r], rates[r + 1], rates[r + 2], rates[r + 3]
    new, eps, momentum = rates[r + 4], rates[r + 5], rates[r + 6]
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        w = param[i]
        g = grad[i] + decay * w + l1 * _sign(w)
        s = alpha * square[i] + new * g * g
        square[i] = s
        if has_mean:
            m = mean[i] + new * (g - mean[i])
            mean[i] = m
            s -= m * m
        update = g / (sqrt(s) + eps)
        if has_velocity:
            update += momentum * velocity[i]
            velocity[i] = update
        param[i] = w - lr * update


@kernel("float32[::1], float32, int64")
def _scale(x, factor, size):
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        x[i] *= factor


@kernel("float32[::1], float32, float32, int64")
def _limit(x, low, high, size):
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        value = low if x[i] < low else x[i]
        x[i] = high if value > high else value


@kernel("float32[::1], float32, int64")
def _shrink(x, amount, size):
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        value = x[i]
        left = (value if value > _ZERO else -value) - amount
        x[i] = _sign(value) * (left if left > _ZERO else _ZERO)

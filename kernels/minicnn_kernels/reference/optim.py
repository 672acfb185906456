"""Optimizer steps in plain NumPy: the specification, with PyTorch's formulas.

Unlike all other kernels these work in place, on the parameter and on its state. Schedules, parameter
groups and the choice of what decays live in `minicnn.optim`; the fused versions in `cpu/optim.py`.
"""

from __future__ import annotations

import numpy as np


def sgd_step(param, grad, momentum_buffer, lr, momentum, dampening, weight_decay, nesterov, l1):
    """Stochastic gradient descent, in place on `param` and `momentum_buffer` (None without momentum).

    v = momentum v + (1 - dampening) g;  w -= lr v, or lr (g + momentum v) with `nesterov`
    where g = grad + weight_decay w + l1 sign(w). All arrays have one shape.
    Polyak 1964; Nesterov's form as in Sutskever et al. 2013, with lr outside of v as PyTorch has it.
    """
    grad = _regularized(param, grad, weight_decay, l1)
    if momentum_buffer is not None:
        momentum_buffer *= momentum
        momentum_buffer += (1 - dampening) * grad
        grad = grad + momentum * momentum_buffer if nesterov else momentum_buffer
    param -= lr * grad


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
    """Adam, in place on `param` and its moments. `step` counts from 1.

    m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
    w -= lr m / (1 - beta1^step) / (sqrt(v / (1 - beta2^step)) + eps)
    where g = grad + weight_decay w + l1 sign(w) (Kingma and Ba 2015). With `decoupled` weight decay w is
    multiplied by 1 - lr weight_decay instead (AdamW: Loshchilov and Hutter 2019). `max_exp_avg_sq`, if not
    None, keeps the largest v and stands in for it (AMSGrad: Reddi et al. 2018).
    """
    grad = _regularized(param, grad, 0 if decoupled else weight_decay, l1)
    if decoupled:
        param *= 1 - lr * weight_decay
    exp_avg += (1 - beta1) * (grad - exp_avg)
    exp_avg_sq *= beta2
    exp_avg_sq += (1 - beta2) * np.square(grad)
    second = exp_avg_sq
    if max_exp_avg_sq is not None:
        second = np.maximum(max_exp_avg_sq, exp_avg_sq, out=max_exp_avg_sq)
    denominator = np.sqrt(second) / (1 - beta2**step) ** 0.5 + eps
    param -= lr / (1 - beta1**step) * exp_avg / denominator


def rmsprop_step(
    param, grad, square_avg, grad_avg, momentum_buffer, lr, alpha, eps, weight_decay, momentum, l1
):
    """RMSprop, in place on `param` and its averages.

    s = alpha s + (1 - alpha) g^2;  w -= lr g / (sqrt(s) + eps)
    where g = grad + weight_decay w + l1 sign(w) (Tieleman and Hinton 2012). With `grad_avg`, a running mean
    of g, the root is of s - mean^2 (Graves 2013, eq. 38-45). With `momentum_buffer` the update is
    v = momentum v + g / (sqrt(s) + eps);  w -= lr v.
    """
    grad = _regularized(param, grad, weight_decay, l1)
    square_avg *= alpha
    square_avg += (1 - alpha) * np.square(grad)
    variance = square_avg
    if grad_avg is not None:
        grad_avg += (1 - alpha) * (grad - grad_avg)
        variance = square_avg - np.square(grad_avg)
    update = grad / (np.sqrt(variance) + eps)
    if momentum_buffer is not None:
        momentum_buffer *= momentum
        momentum_buffer += update
        update = momentum_buffer
    param -= lr * update


def scale_(x, factor):
    """Multiply `x` by a number, in place."""
    x *= factor


def clamp_(x, min, max):
    """Limit `x` to [min, max], in place; None means no limit on that side."""
    if min is not None:
        np.maximum(x, min, out=x)
    if max is not None:
        np.minimum(x, max, out=x)


def soft_threshold_(x, amount):
    """Move every element towards zero by `amount`, stopping there, in place.

    The proximal step of the L1 norm: sign(x) max(abs(x) - amount, 0) (Parikh and Boyd 2014, sec. 6.5.2).
    """
    np.multiply(np.sign(x), np.maximum(np.abs(x) - amount, 0), out=x)


def squared_norm(x):
    """Sum of squares as a Python float, accumulated in double precision."""
    return float(np.square(x, dtype=np.float64).sum())


def _regularized(param, grad, weight_decay, l1):
    """The gradient with that of weight_decay / 2 sum(w^2) + l1 sum(abs(w)) added, or `grad` itself."""
    if weight_decay:
        grad = grad + weight_decay * param
    if l1:
        grad = grad + l1 * np.sign(param)
    return grad

"""Activations and their gradients: the formulas, for any float dtype.

`x` is the input, `y` the result, `grad` the gradient of the result; all have one shape and the
result keeps dtype and shape. NaN stays NaN, and no formula overflows for a large input. Where a
function has a kink its gradient there is PyTorch's.
"""

from __future__ import annotations

import math

import numpy as np

__all__ = [
    "elu_backward",
    "elu_forward",
    "gelu_backward",
    "gelu_forward",
    "hardtanh_backward",
    "hardtanh_forward",
    "leaky_relu_backward",
    "leaky_relu_forward",
    "log_softmax_backward",
    "log_softmax_forward",
    "relu_backward",
    "relu_forward",
    "sigmoid_backward",
    "sigmoid_forward",
    "silu_backward",
    "silu_forward",
    "softmax_backward",
    "softmax_forward",
    "softplus_backward",
    "softplus_forward",
    "tanh_backward",
    "tanh_forward",
]


def relu_forward(x):
    """max(x, 0)."""
    return np.asarray(np.maximum(x, 0))


def relu_backward(grad, y):
    """`grad` where y > 0; 0 at the kink."""
    return np.where(y <= 0, 0, grad)


def leaky_relu_forward(x, negative_slope):
    """x where x > 0, else negative_slope x (Maas et al. 2013)."""
    return np.where(x > 0, x, x * negative_slope)


def leaky_relu_backward(grad, x, negative_slope):
    """`grad`, times negative_slope where x <= 0."""
    return np.where(x > 0, grad, grad * negative_slope)


def hardtanh_forward(x, min_val, max_val):
    """x limited to [min_val, max_val]; ReLU6 is [0, 6]."""
    return np.asarray(np.clip(x, min_val, max_val))


def hardtanh_backward(grad, x, min_val, max_val):
    """`grad` strictly inside (min_val, max_val), 0 outside and on the bounds."""
    return np.where((x <= min_val) | (x >= max_val), 0, grad)


def sigmoid_forward(x):
    """1 / (1 + exp(-x)), written so that exp never overflows."""
    e = np.exp(-np.abs(x))
    return np.asarray(np.where(x < 0, e, 1) / (1 + e))


def sigmoid_backward(grad, y):
    """grad y (1 - y)."""
    return np.asarray(grad * y * (1 - y))


def tanh_forward(x):
    """tanh(x)."""
    return np.asarray(np.tanh(x))


def tanh_backward(grad, y):
    """grad (1 - y^2)."""
    return np.asarray(grad * (1 - y * y))


def silu_forward(x):
    """x sigmoid(x) (Elfwing et al. 2018)."""
    return np.asarray(x * sigmoid_forward(x))


def silu_backward(grad, x):
    """grad s (1 + x (1 - s)) with s = sigmoid(x)."""
    s = sigmoid_forward(x)
    return np.asarray(grad * s * (1 + x * (1 - s)))


_TANH_SCALE, _TANH_CUBIC = math.sqrt(2 / math.pi), 0.044715


def gelu_forward(x, approximate):
    """x Phi(x), Phi the normal distribution (Hendrycks and Gimpel 2016).

    approximate: 'none', or 'tanh' for x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
    """
    if approximate == "tanh":
        return np.asarray(0.5 * x * (1 + np.tanh(_TANH_SCALE * (x + _TANH_CUBIC * x * x * x))))
    from scipy.special import erf

    return np.asarray(0.5 * x * (1 + erf(x * math.sqrt(0.5))))


def gelu_backward(grad, x, approximate):
    """grad (Phi(x) + x Phi'(x)), or the derivative of the tanh formula."""
    if approximate == "tanh":
        t = np.tanh(_TANH_SCALE * (x + _TANH_CUBIC * x * x * x))
        slope = _TANH_SCALE * (1 + 3 * _TANH_CUBIC * x * x)
        return np.asarray(grad * 0.5 * (1 + t + x * (1 - t * t) * slope))
    from scipy.special import erf

    density = np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return np.asarray(grad * (0.5 * (1 + erf(x * math.sqrt(0.5))) + x * density))


def elu_forward(x, alpha):
    """x where x > 0, else alpha (exp(x) - 1) (Clevert et al. 2016)."""
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def elu_backward(grad, x, alpha):
    """`grad` where x > 0, else grad alpha exp(x)."""
    return np.where(x > 0, grad, grad * alpha * np.exp(np.minimum(x, 0)))


def softplus_forward(x, beta, threshold):
    """log(1 + exp(beta x)) / beta without overflow; x itself where beta x > threshold."""
    z = x * beta
    return np.where(z > threshold, x, (np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))) / beta)


def softplus_backward(grad, x, beta, threshold):
    """grad sigmoid(beta x); `grad` where beta x > threshold."""
    return np.where(x * beta > threshold, grad, grad * sigmoid_forward(x * beta))


def softmax_forward(x, dim):
    """exp(x) / sum(exp(x)) along the int `dim`, after subtracting the maximum."""
    e = np.exp(x - x.max(axis=dim, keepdims=True, initial=-np.inf))
    return e / e.sum(axis=dim, keepdims=True)


def softmax_backward(grad, y, dim):
    """y (grad - sum(grad y)) along `dim`."""
    return y * (grad - (grad * y).sum(axis=dim, keepdims=True))


def log_softmax_forward(x, dim):
    """x - log(sum(exp(x))) along the int `dim`, after subtracting the maximum."""
    z = x - x.max(axis=dim, keepdims=True, initial=-np.inf)
    with np.errstate(divide="ignore"):  # along an empty dimension the sum is 0
        return z - np.log(np.exp(z).sum(axis=dim, keepdims=True))


def log_softmax_backward(grad, y, dim):
    """grad - exp(y) sum(grad) along `dim`."""
    return grad - np.exp(y) * grad.sum(axis=dim, keepdims=True)

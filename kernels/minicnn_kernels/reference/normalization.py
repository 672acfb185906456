"""Batch and layer normalization with their gradients.

Both compute y = (x - mean) inv_std weight + bias with inv_std = 1 / sqrt(var + eps) and the biased
variance; they differ in the axes that are averaged. Batch norm (Ioffe and Szegedy 2015): x (N, C, ...),
statistics, weight and bias (C,). Layer norm (Ba et al. 2016): statistics over the last
`normalized_ndim` dimensions, whose shape weight and bias have. weight and bias may be None.
`needs` says which of (dx, dweight, dbias) are wanted; the others come back as None.
"""

from __future__ import annotations

import math

import numpy as np

__all__ = [
    "batch_norm_backward",
    "batch_norm_forward",
    "batch_norm_inference",
    "batch_norm_inference_backward",
    "batch_norm_update",
    "layer_norm_backward",
    "layer_norm_forward",
]


def _per_channel(v, ndim):
    """(C,) -> (C, 1, ...), so that it broadcasts over (N, C, ...)."""
    return v.reshape(-1, *(1,) * (ndim - 2))


def _batch_axes(x):
    return (0, *range(2, x.ndim))


def _channel_affine(x, mean, inv_std, weight, bias):
    y = (x - _per_channel(mean, x.ndim)) * _per_channel(inv_std, x.ndim)
    if weight is not None:
        y = y * _per_channel(weight, x.ndim)
    return y if bias is None else y + _per_channel(bias, x.ndim)


def batch_norm_forward(x, weight, bias, eps):
    """Normalize by the statistics of this batch -> (y, mean, inv_std): shapes of x, (C,), (C,)."""
    axes = _batch_axes(x)
    mean = x.mean(axis=axes)
    inv_std = 1 / np.sqrt(x.var(axis=axes) + eps)
    return _channel_affine(x, mean, inv_std, weight, bias), mean, inv_std


def batch_norm_backward(grad, x, weight, mean, inv_std, needs):
    """(dx, dweight, dbias) of `batch_norm_forward`; mean and inv_std depend on x, too."""
    axes = _batch_axes(x)
    normalized = _channel_affine(x, mean, inv_std, None, None)
    dbias = grad.sum(axis=axes)
    dweight = (grad * normalized).sum(axis=axes)
    dx = None
    if needs[0]:
        count = x.size // x.shape[1]
        scale = inv_std if weight is None else inv_std * weight
        means = _per_channel(dbias / count, x.ndim) + normalized * _per_channel(dweight / count, x.ndim)
        dx = (grad - means) * _per_channel(scale, x.ndim)
    return dx, dweight if needs[1] else None, dbias if needs[2] else None


def batch_norm_inference(x, weight, bias, running_mean, running_var, eps):
    """Normalize by the running statistics (C,) -> y of x's shape."""
    return _channel_affine(x, running_mean, 1 / np.sqrt(running_var + eps), weight, bias)


def batch_norm_inference_backward(grad, x, weight, running_mean, running_var, eps, needs):
    """(dx, dweight, dbias) of `batch_norm_inference`; the running statistics are constants."""
    axes = _batch_axes(x)
    inv_std = 1 / np.sqrt(running_var + eps)
    dx = dweight = dbias = None
    if needs[0]:
        dx = grad * _per_channel(inv_std if weight is None else inv_std * weight, x.ndim)
    if needs[1]:
        dweight = (grad * _channel_affine(x, running_mean, inv_std, None, None)).sum(axis=axes)
    if needs[2]:
        dbias = grad.sum(axis=axes)
    return dx, dweight, dbias


def batch_norm_update(running_mean, running_var, mean, inv_std, eps, momentum, count):
    """Move the running statistics (C,) towards this batch's, in place: r <- (1 - momentum) r + momentum b.

    mean, inv_std: from `batch_norm_forward` with this eps. count: values per channel, N H W; the running
    variance is the unbiased one, count / (count - 1) times the batch's.
    """
    var = (1 / (inv_std * inv_std) - eps) * (count / max(count - 1, 1))
    running_mean[...] = (1 - momentum) * running_mean + momentum * mean
    running_var[...] = (1 - momentum) * running_var + momentum * var


def layer_norm_forward(x, normalized_ndim, weight, bias, eps):
    """Normalize over the last normalized_ndim dimensions -> (y, mean, inv_std).

    weight, bias: x.shape[-normalized_ndim:] or None. mean, inv_std: x's shape with those dimensions 1.
    """
    axes = tuple(range(-normalized_ndim, 0))
    mean = x.mean(axis=axes, keepdims=True)
    inv_std = 1 / np.sqrt(x.var(axis=axes, keepdims=True) + eps)
    y = (x - mean) * inv_std
    if weight is not None:
        y = y * weight
    return y if bias is None else y + bias, mean, inv_std


def layer_norm_backward(grad, x, normalized_ndim, weight, mean, inv_std, needs):
    """(dx, dweight, dbias) of `layer_norm_forward`."""
    axes, leading = tuple(range(-normalized_ndim, 0)), tuple(range(x.ndim - normalized_ndim))
    normalized = (x - mean) * inv_std
    dx = dweight = dbias = None
    if needs[0]:
        count = math.prod(x.shape[x.ndim - normalized_ndim :])
        inner = grad if weight is None else grad * weight
        along = (inner * normalized).sum(axis=axes, keepdims=True) / count
        dx = (inner - inner.sum(axis=axes, keepdims=True) / count - normalized * along) * inv_std
    if needs[1]:
        dweight = (grad * normalized).sum(axis=leading)
    if needs[2]:
        dbias = grad.sum(axis=leading)
    return dx, dweight, dbias

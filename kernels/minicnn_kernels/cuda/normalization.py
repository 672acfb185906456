"""Batch and layer normalization, forward and backward; `statistics.py` has the kernels whose threads meet.

What a step of W3 at batch 512 moves at least, by 4 bytes: its four activations before batch norm have 31.5
million elements, 126 MB. Statistics read them once, normalization with ReLU and pool reads them and writes a
quarter; backward, the sums read the gradient and x, dx reads both and writes: 7 1/4 trips, 0.91 GB, 0.27 ms
at the 3.35 TB/s of an H100.

Formulas and shapes are those of `reference/normalization.py`; `needs` says which of (dx, dweight, dbias) are
wanted.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minicnn_kernels.cuda.driver import cuda, device_function, kernel, launch, launch_blocks, sqrt
from minicnn_kernels.cuda.gemm import LONGEST
from minicnn_kernels.cuda.instructions import load4, store4
from minicnn_kernels.cuda.statistics import find_channel_sums, find_statistics, layer_backward
from minicnn_kernels.cuda.storage import dense, empty, flat, on_device
from minicnn_kernels.cuda.trees import THREADS
from minicnn_kernels.device_array import DeviceArray

__all__ = [
    "batch_norm_backward",
    "batch_norm_forward",
    "batch_norm_inference",
    "batch_norm_inference_backward",
    "batch_norm_update",
    "layer_norm_backward",
    "layer_norm_forward",
]

_ZERO, _ONE = np.float32(0), np.float32(1)

Gradients = tuple[Any, Any, Any]


def batch_norm_forward(
    x: Any, weight: Any, bias: Any, eps: float
) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
    """Normalize by the statistics of this batch -> (y, mean, inv_std): shapes of x, (C,), (C,)."""
    on_device("batch_norm", x, weight, bias)
    x = dense(x)
    mean, inv_std = batch_statistics(x, eps)
    return _affine(x, mean, inv_std, weight, bias), mean, inv_std


def batch_statistics(x: DeviceArray, eps: float) -> tuple[DeviceArray, DeviceArray]:
    """(mean, 1 / sqrt(var + eps)), each (C,), of x (N, C, ...) in C order."""
    n, channels, pixels = _channels(x)
    mean, inv_std = empty((channels,)), empty((channels,))
    find_statistics(mean, inv_std, x, n, channels, pixels, eps)
    return mean, inv_std


def batch_norm_backward(grad: Any, x: Any, weight: Any, mean: Any, inv_std: Any, needs: Any) -> Gradients:
    """(dx, dweight, dbias) of `batch_norm_forward`; mean and inv_std depend on x, too."""
    return _backward(grad, x, weight, mean, inv_std, needs, moving=True)


def batch_norm_inference(
    x: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, eps: float
) -> DeviceArray:
    """Normalize by the running statistics (C,) -> y of x's shape."""
    on_device("batch_norm", x, weight, bias, running_mean, running_var)
    return _affine(dense(x), running_mean, _inverse_root(running_var, eps), weight, bias)


def batch_norm_inference_backward(
    grad: Any, x: Any, weight: Any, running_mean: Any, running_var: Any, eps: float, needs: Any
) -> Gradients:
    """(dx, dweight, dbias) of `batch_norm_inference`; the running statistics are constants."""
    inv_std = _inverse_root(running_var, eps)
    return _backward(grad, x, weight, running_mean, inv_std, needs, moving=False)


def batch_norm_update(
    running_mean: Any, running_var: Any, mean: Any, inv_std: Any, eps: float, momentum: float, count: int
) -> None:
    """Move the running statistics (C,) towards this batch's, in place; as in the reference."""
    on_device("batch_norm", running_mean, running_var, mean, inv_std)
    numbers = np.float32(eps), np.float32(momentum), np.float32(count / max(count - 1, 1))
    arrays = (flat(running_mean), flat(running_var), flat(dense(mean)), flat(dense(inv_std)))
    launch(_update, mean.size, *arrays, *numbers, mean.size)


def layer_norm_forward(
    x: Any, normalized_ndim: int, weight: Any, bias: Any, eps: float
) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
    """Normalize over the last normalized_ndim dimensions -> (y, mean, inv_std); shapes as in the
    reference."""
    on_device("layer_norm", x, weight, bias)
    x, lines = dense(x), x.shape[: x.ndim - normalized_ndim]
    rows, length = math.prod(lines), math.prod(x.shape[len(lines) :])
    y, mean, inv_std = (empty(shape) for shape in (x.shape, *[(*lines, *(1,) * normalized_ndim)] * 2))
    find_statistics(mean, inv_std, x, 1, rows, length, eps)
    launch(
        _layer_affine,
        y.size,
        flat(y),
        flat(x),
        flat(mean),
        flat(inv_std),
        *_optional(weight, x),
        *_optional(bias, x),
        length,
        y.size,
    )
    return y, mean, inv_std


def layer_norm_backward(
    grad: Any, x: Any, normalized_ndim: int, weight: Any, mean: Any, inv_std: Any, needs: Any
) -> Gradients:
    """(dx, dweight, dbias) of `layer_norm_forward`."""
    on_device("layer_norm", grad, x, weight, mean, inv_std)
    grad, x, mean, inv_std = (dense(array) for array in (grad, x, mean, inv_std))
    inner = x.shape[x.ndim - normalized_ndim :]
    length = math.prod(inner)
    rows = mean.size
    dx = dweight = dbias = None
    if needs[0]:
        dx = empty(x.shape)
        arrays = flat(dx), flat(grad), flat(x), flat(mean), flat(inv_std)
        launch_blocks(layer_backward, (rows,), THREADS, *arrays, *_optional(weight, x), length)
    if needs[1] or needs[2]:
        dweight, dbias = empty(inner), empty(inner)
        launch(
            _layer_sums,
            length,
            flat(dweight),
            flat(dbias),
            flat(grad),
            flat(x),
            flat(mean),
            flat(inv_std),
            rows,
            length,
        )
    return dx, dweight if needs[1] else None, dbias if needs[2] else None


def _channels(x: Any) -> tuple[int, int, int]:
    return x.shape[0], x.shape[1], math.prod(x.shape[2:])


def _optional(array: Any, instead: DeviceArray) -> tuple[Any, bool]:
    """A kernel's two arguments for an array that may be None: any other one stands in for it."""
    return (flat(instead), False) if array is None else (flat(dense(array)), True)


def _inverse_root(variance: DeviceArray, eps: float) -> DeviceArray:
    result = empty(variance.shape)
    launch(_inverse_roots, result.size, flat(result), flat(dense(variance)), np.float32(eps), result.size)
    return result


def _affine(x: DeviceArray, mean: Any, inv_std: Any, weight: Any, bias: Any) -> DeviceArray:
    y, (_, channels, pixels) = empty(x.shape), _channels(x)
    launch(
        _channel_affine,
        y.size,
        flat(y),
        flat(x),
        flat(dense(mean)),
        flat(dense(inv_std)),
        *_optional(weight, x),
        *_optional(bias, x),
        channels,
        pixels,
        y.size,
    )
    return y


def _backward(
    grad: Any, x: Any, weight: Any, mean: Any, inv_std: Any, needs: Any, *, moving: bool
) -> Gradients:
    on_device("batch_norm", grad, x, weight, mean, inv_std)
    grad, x, mean, inv_std = (dense(array) for array in (grad, x, mean, inv_std))
    n, channels, pixels = _channels(x)
    dweight, dbias, dx = empty((channels,)), empty((channels,)), None
    saved = flat(grad), flat(x), flat(mean), flat(inv_std)
    if moving or needs[1] or needs[2]:
        find_channel_sums(dweight, dbias, *saved, n * pixels, channels, pixels)
    if needs[0]:
        dx = empty(x.shape)
        count = np.float32(n * pixels)
        arrays = flat(dx), *saved
        per_channel = *_optional(weight, x), flat(dweight), flat(dbias), moving, count, channels
        if pixels % 4 == 0 and dx.size <= LONGEST and all(array.is_aligned for array in arrays[:3]):
            fours = dx.size // 4
            launch(_channel_backward_by_fours, fours, *arrays, *per_channel, pixels // 4, fours)
        else:
            launch(_channel_backward, dx.size, *arrays, *per_channel, pixels, dx.size)
    return dx, dweight if needs[1] else None, dbias if needs[2] else None


@kernel(
    "float32[::1], float32[::1], float32[::1], float32[::1], float32[::1], boolean, float32[::1], boolean, "
    "int64, int64, int64"
)
def _channel_affine(y, x, mean, inv_std, weight, has_weight, bias, has_bias, channels, pixels, size):
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        channel = i // pixels % channels
        value = (x[i] - mean[channel]) * inv_std[channel]
        if has_weight:
            value *= weight[channel]
        if has_bias:
            value += bias[channel]
        y[i] = value


@device_function
def _coefficients(channel, inv_std, weight, has_weight, dweight, dbias, count):
    """(a, b, c) of dx = (grad - a - (x - mean) b) c in this channel."""
    scale = inv_std[channel]
    outer = scale * weight[channel] if has_weight else scale
    return dbias[channel] / count, scale * (dweight[channel] / count), outer


@device_function
def _input_gradient(grad, x, center, a, b, c, moving):
    """moving: mean and inv_std depend on x, so that what they take away comes off the gradient."""
    return (grad - a - (x - center) * b if moving else grad) * c


_BACKWARD = (
    "float32[::1], float32[::1], float32[::1], float32[::1], float32[::1], float32[::1], boolean, "
    "float32[::1], float32[::1], boolean, float32, int64, int64, int64"
)


@kernel(_BACKWARD)
def _channel_backward(
    dx, grad, x, mean, inv_std, weight, has_weight, dweight, dbias, moving, count, channels, pixels, size
):
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        channel = i // pixels % channels
        a, b, c = _coefficients(channel, inv_std, weight, has_weight, dweight, dbias, count)
        dx[i] = _input_gradient(grad[i], x[i], mean[channel], a, b, c, moving)


@kernel(_BACKWARD)
def _channel_backward_by_fours(
    dx, grad, x, mean, inv_std, weight, has_weight, dweight, dbias, moving, count, channels, quarter, size
):
    """Four neighbours of one channel at a time. quarter: of the pixels of a channel."""
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        channel, first = i // quarter % channels, np.int32(4 * i)
        center = mean[channel]
        a, b, c = _coefficients(channel, inv_std, weight, has_weight, dweight, dbias, count)
        g0, g1, g2, g3 = load4(grad, first)
        x0, x1, x2, x3 = load4(x, first)
        store4(
            dx,
            first,
            _input_gradient(g0, x0, center, a, b, c, moving),
            _input_gradient(g1, x1, center, a, b, c, moving),
            _input_gradient(g2, x2, center, a, b, c, moving),
            _input_gradient(g3, x3, center, a, b, c, moving),
        )


@kernel("float32[::1], float32[::1], float32[::1], float32[::1], float32, float32, float32, int64")
def _update(running_mean, running_var, mean, inv_std, eps, momentum, unbiased, size):
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        variance = (_ONE / (inv_std[i] * inv_std[i]) - eps) * unbiased
        running_mean[i] = (_ONE - momentum) * running_mean[i] + momentum * mean[i]
        running_var[i] = (_ONE - momentum) * running_var[i] + momentum * variance


@kernel("float32[::1], float32[::1], float32, int64")
def _inverse_roots(out, variance, eps, size):
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        out[i] = _ONE / sqrt(variance[i] + eps)


@kernel(
    "float32[::1], float32[::1], float32[::1], float32[::1], float32[::1], boolean, float32[::1], boolean, "
    "int64, int64"
)
def _layer_affine(y, x, mean, inv_std, weight, has_weight, bias, has_bias, length, size):
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        row, column = i // length, i % length
        value = (x[i] - mean[row]) * inv_std[row]
        if has_weight:
            value *= weight[column]
        if has_bias:
            value += bias[column]
        y[i] = value


@kernel("float32[::1], float32[::1], float32[::1], float32[::1], float32[::1], float32[::1], int64, int64")
def _layer_sums(dweight, dbias, grad, x, mean, inv_std, rows, length):
    """One thread a column: neighbours in a warp read neighbours in memory."""
    for column in range(cuda.grid(1), length, cuda.gridsize(1)):
        by_weight, by_bias = _ZERO, _ZERO
        for row in range(rows):
            place = row * length + column
            by_bias += grad[place]
            by_weight += grad[place] * ((x[place] - mean[row]) * inv_std[row])
        dweight[column], dbias[column] = by_weight, by_bias

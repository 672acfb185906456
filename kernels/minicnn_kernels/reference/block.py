"""Blocks of layers that `minicnn.compile` fuses: convolution, batch norm, sum or dense layer, ReLU, max pool.

Each is the composition of the kernels of the other files, and nothing else: this is what a fused kernel must
equal. Between forward and backward a block keeps, of all that happens inside it, only which position won.

pool: None, or (kernel_size, stride), both (h, w), for windows of up to 255 positions without padding.
winners: None without a pool, else uint8 (N, C, H'', W''): the position p kw + q of the first maximum inside
the window, or `DEAD` where ReLU stopped it. `needs` is as in `normalization.py`.
"""

from __future__ import annotations

import numpy as np

from minicnn_kernels.reference.activation import relu_backward, relu_forward
from minicnn_kernels.reference.conv import (
    conv2d_backward_bias,
    conv2d_backward_input,
    conv2d_backward_weight,
    conv2d_forward,
)
from minicnn_kernels.reference.elementwise import add
from minicnn_kernels.reference.linear import linear_forward
from minicnn_kernels.reference.normalization import batch_norm_backward, batch_norm_forward
from minicnn_kernels.reference.pooling import max_pool2d_backward, max_pool2d_forward
from minicnn_kernels.windows import conv_output_size

__all__ = [
    "add_relu_forward",
    "batch_norm_block_backward",
    "batch_norm_block_forward",
    "conv2d_block_backward",
    "conv2d_block_forward",
    "linear_relu_forward",
    "shortcut_backward",
    "shortcut_forward",
]

DEAD = 255


def conv2d_block_forward(x, weight, bias, stride, padding, dilation, groups, relu, pool):
    """max_pool(relu(weight * x + bias)) -> (y, winners); arguments as `conv2d_forward`'s."""
    return _finish(conv2d_forward(x, weight, bias, stride, padding, dilation, groups), relu, pool)


def conv2d_block_backward(grad, y, winners, x, weight, stride, padding, dilation, groups, relu, pool, needs):
    """(dx, dweight, dbias) of `conv2d_block_forward`. grad and y (N, O, H'', W'')."""
    size = conv_output_size(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    grad = _unfinish(grad, y, winners, (x.shape[0], weight.shape[0], *size), relu, pool)
    geometry = (stride, padding, dilation, groups)
    return (
        conv2d_backward_input(grad, weight, x.shape, *geometry) if needs[0] else None,
        conv2d_backward_weight(grad, x, weight.shape, *geometry) if needs[1] else None,
        conv2d_backward_bias(grad) if needs[2] else None,
    )


def batch_norm_block_forward(x, weight, bias, residual, eps, relu, pool):
    """max_pool(relu(batch_norm(x) + residual)) -> (y, winners, mean, inv_std).

    residual: an array of x's shape, or None. The other arguments are `batch_norm_forward`'s.
    """
    y, mean, inv_std = batch_norm_forward(x, weight, bias, eps)
    if residual is not None:
        y = add(y, residual)
    return *_finish(y, relu, pool), mean, inv_std


def batch_norm_block_backward(
    grad, y, winners, x, weight, bias, has_residual, mean, inv_std, relu, pool, needs
):
    """(dx, dweight, dbias, dresidual) of `batch_norm_block_forward`. grad and y have its result's shape."""
    grad = _unfinish(grad, y, winners, x.shape, relu, pool)
    gradients = batch_norm_backward(grad, x, weight, mean, inv_std, needs[:3])
    return *gradients, grad if has_residual and needs[3] else None


def add_relu_forward(a, b):
    """max(a + b, 0) of arrays of one shape; its gradient by either is `relu_backward`."""
    return relu_forward(add(a, b))


def linear_relu_forward(x, weight, bias):
    """max(x weight^T + bias, 0); arguments as `linear_forward`'s."""
    return relu_forward(linear_forward(x, weight, bias))


def shortcut_forward(x, step, before, channels):
    """Every step-th pixel of x (N, C, H, W) between channels of zeros, `before` of them first.

    step: (down, across). The shortcut without parameters of He et al. 2016, "option A". Returns
    (N, channels, ceil(H / down), ceil(W / across)).
    """
    picked = x[:, :, :: step[0], :: step[1]]
    after = channels - before - x.shape[1]
    return np.pad(picked, ((0, 0), (before, after), (0, 0), (0, 0)))


def shortcut_backward(grad, input_shape, step, before):
    """Gradient of `shortcut_forward` by x of input_shape."""
    dx = np.zeros(input_shape, grad.dtype)
    dx[:, :, :: step[0], :: step[1]] = grad[:, before : before + input_shape[1]]
    return dx


def _finish(y, relu, pool):
    if relu:
        y = relu_forward(y)
    if pool is None:
        return y, None
    y, winners = max_pool2d_forward(y, *pool, (0, 0), (1, 1), False)
    return y, np.where(y <= 0, np.uint8(DEAD), winners) if relu else winners


def _unfinish(grad, y, winners, shape, relu, pool):
    """The gradient before ReLU and pool, of `shape`. No position of a window is called `DEAD`."""
    if pool is not None:
        return max_pool2d_backward(grad, winners, shape, *pool, (0, 0), (1, 1))
    return relu_backward(grad, y) if relu else grad

"""Fused blocks: what `reference/block.py` composes, without a trip to memory between the layers.

The pool of all our nets, 2x2 with stride 2, is fused; of any other, and wherever a block is too small to
share or its gradient is no plain gather, the separate kernels of this back end give the same answer.
"""

from __future__ import annotations

import numpy as np

from minicnn_kernels import memory
from minicnn_kernels.algorithms import algorithm
from minicnn_kernels.cpu.activation import relu_backward, relu_forward
from minicnn_kernels.cpu.conv import (
    conv2d_backward_bias,
    conv2d_backward_input,
    conv2d_backward_weight,
    conv2d_forward,
    convolve,
    taps_first,
)
from minicnn_kernels.cpu.elementwise import add
from minicnn_kernels.cpu.layout import channels_last, contiguous
from minicnn_kernels.cpu.linear import linear_forward
from minicnn_kernels.cpu.normalization import batch_norm_backward, batch_norm_forward
from minicnn_kernels.cpu.pooling import max_pool2d_backward, max_pool2d_forward
from minicnn_kernels.reference.block import DEAD
from minicnn_kernels.windows import conv_output_size

__all__ = [
    "add_relu_forward",
    "batch_norm_block_backward",
    "batch_norm_block_forward",
    "conv2d_block_backward",
    "conv2d_block_forward",
    "linear_relu_forward",
]

_FUSED_POOL = ((2, 2), (2, 2))


def conv2d_block_forward(x, weight, bias, stride, padding, dilation, groups, relu, pool):
    """max_pool(relu(weight * x + bias)) -> (y, winners); arguments as `conv2d_forward`'s."""
    if algorithm("conv2d") == "explicit" or pool not in (None, _FUSED_POOL):
        y = conv2d_forward(x, weight, bias, stride, padding, dilation, groups)
        return _finish(y, relu, pool)
    n, outputs = x.shape[0], weight.shape[0]
    height, width = conv_output_size(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    winners = None
    if pool is not None:
        height, width = height // 2, width // 2
        winners = memory.empty((n, height, width, outputs), np.uint8)
    y = memory.empty_images(n, outputs, height, width)
    if y.size:
        bias = np.zeros(outputs, np.float32) if bias is None else contiguous(bias)
        images, taps = channels_last(x), taps_first(weight)
        geometry = (stride, padding, dilation, groups)
        convolve(images, taps, bias, y, *geometry, relu=bool(relu), winners=winners)
    return y, None if winners is None else winners.transpose(0, 3, 1, 2)


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


def batch_norm_block_forward(x, weight, bias, eps, relu, pool):
    """max_pool(relu(batch_norm(x))) -> (y, winners, mean, inv_std); arguments as `batch_norm_forward`'s."""
    y, mean, inv_std = batch_norm_forward(x, weight, bias, eps)
    return *_finish(y, relu, pool), mean, inv_std


def batch_norm_block_backward(grad, y, winners, x, weight, mean, inv_std, relu, pool, needs):
    """(dx, dweight, dbias) of `batch_norm_block_forward`. grad and y have the shape of its result."""
    grad = _unfinish(grad, y, winners, x.shape, relu, pool)
    return batch_norm_backward(grad, x, weight, mean, inv_std, needs)


def add_relu_forward(a, b):
    """max(a + b, 0) of arrays of one shape; its gradient by either is `relu_backward`."""
    return relu_forward(add(a, b))


def linear_relu_forward(x, weight, bias):
    """max(x weight^T + bias, 0); arguments as `linear_forward`'s."""
    return relu_forward(linear_forward(x, weight, bias))


def _finish(y, relu, pool):
    """ReLU and pool by the separate kernels."""
    if relu:
        y = relu_forward(y)
    if pool is None:
        return y, None
    y, winners = max_pool2d_forward(y, *pool, (0, 0), (1, 1), False)
    if relu:
        winners[y <= 0] = DEAD
    return y, winners


def _unfinish(grad, y, winners, shape, relu, pool):
    """The gradient before ReLU and pool, of `shape`. No position of a window is called `DEAD`."""
    if pool is not None:
        return max_pool2d_backward(grad, winners, shape, *pool, (0, 0), (1, 1))
    return relu_backward(grad, y) if relu else grad

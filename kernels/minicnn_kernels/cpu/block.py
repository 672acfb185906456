"""Fused blocks: what `reference/block.py` composes, without a trip to memory between the layers.

The pool of all our nets, 2x2 with stride 2, is fused; for any other, and for gradients of depthwise
convolutions and of small batches, the separate kernels of this back end give the same answer. A convolved
map before its pool, and mostly its gradient, are never written to memory: they live in scratch buffers that
fit in cache, see `finish.py` and `block_loops.py`. The dense layer's block is in `linear.py`.
"""

from __future__ import annotations

import math

import numpy as np

from minicnn_kernels import memory
from minicnn_kernels.algorithms import algorithm
from minicnn_kernels.cpu.activation import relu_backward, relu_forward
from minicnn_kernels.cpu.block_loops import add_relu, add_relu_chunks, block_gradients, rebuild
from minicnn_kernels.cpu.block_norm import (
    masked_channel_gradients,
    pool_normalized,
    pooled_channel_gradients,
    pooled_input_gradient,
)
from minicnn_kernels.cpu.blocks import WIDE_ROWS, pack_weights, padded_columns
from minicnn_kernels.cpu.conv import (
    PIXELS_PER_BLOCK,
    conv2d_backward_bias,
    conv2d_backward_input,
    conv2d_backward_weight,
    conv2d_forward,
    convolve,
    find_windows,
    scratch_buffers,
    taps_first,
    transposed_tables,
)
from minicnn_kernels.cpu.implicit import add_parts
from minicnn_kernels.cpu.layout import CHUNK, address, channels_last, contiguous, elementwise
from minicnn_kernels.cpu.normalization import (
    batch_norm_backward,
    gradients,
    input_gradient,
    like,
    moments,
    normalize,
    pixels,
    slope_and_offset,
    times,
)
from minicnn_kernels.cpu.pooling import max_pool2d_backward, max_pool2d_forward
from minicnn_kernels.cpu.winograd import takes_weight_gradient, tile_edge
from minicnn_kernels.reference.block import DEAD
from minicnn_kernels.windows import conv_output_size

__all__ = [
    "add_relu_forward",
    "batch_norm_block_backward",
    "batch_norm_block_forward",
    "conv2d_block_backward",
    "conv2d_block_forward",
]

# What it buys over the separate kernels, batch 64, two threads, both timed in alternation on a quiet machine.
# Expected of convolution, ReLU and pool: forward 2 where few channels come in and most of the time was
# memory's, 1.3 where the products are; backward less, the weight's gradient stays what it is. Seen, forward
# and backward: 3x32x32 -> 32 channels 1.7 and 1.4, 1x28x28 -> 32 2.3 and 1.7, 32x16x16 -> 64 1.3 and 1.15,
# 32x14x14 -> 64 1.4 and 1.2, 64x16x16 -> 128 1.2 and 1.1, 128x8x8 -> 256 1.15 and 1.05.
# Expected of batch norm, ReLU and pool: 2 and 2.5, the passes over memory saved. Seen: 64x32x32 2.0 and 2.1,
# 128x16x16 2.2 and 2.2, 256x8x8 2.0 and 2.1; without the pool 1.4 to 1.5 and 1.1 to 1.25.
FUSED_POOL = ((2, 2), (2, 2))
_TASKS = 8  # of the gradient: each has sums of the weight's size
_PIXELS_PER_TASK = 512  # at least, or the separate kernels share the work better, by output channels
_PIXELS_PER_GROUP = 256  # so many images at a time that the products are not too small


def conv2d_block_forward(x, weight, bias, stride, padding, dilation, groups, relu, pool):
    """max_pool(relu(weight * x + bias)) -> (y, winners); arguments as `conv2d_forward`'s."""
    if algorithm("conv2d") == "explicit" or pool not in (None, FUSED_POOL):
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
    if needs[1] and _is_fusable(x, weight, size, groups, pool):
        return _fused_gradients(
            grad, y, winners, x, weight, stride, padding, dilation, groups, relu, pool, needs
        )
    grad = _unfinish(grad, y, winners, (x.shape[0], weight.shape[0], *size), relu, pool)
    geometry = (stride, padding, dilation, groups)
    return (
        conv2d_backward_input(grad, weight, x.shape, *geometry) if needs[0] else None,
        conv2d_backward_weight(grad, x, weight.shape, *geometry) if needs[1] else None,
        conv2d_backward_bias(grad) if needs[2] else None,
    )


def _is_fusable(x, weight, size, groups, pool):
    """Whether there is a fused gradient, and pixels of the convolution's `size` enough for all its tasks."""
    if algorithm("conv2d") == "explicit" or pool not in (None, FUSED_POOL):
        return False
    depthwise = x.shape[1] == groups == weight.shape[0] and groups > 1
    images = x.shape[0]
    return not depthwise and images >= _TASKS and images * math.prod(size) >= _TASKS * _PIXELS_PER_TASK


def _rebuilt_gradients(grad, y, winners, x, weight, out_size, geometry, relu, pool, needs):
    """Where tiles are multiplied: the gradient before pool and ReLU is rebuilt in memory, in one pass."""
    n, outputs = x.shape[0], weight.shape[0]
    whole, sums = memory.empty((n, *out_size, outputs)), np.empty((n, outputs), np.float32)
    grad, y = channels_last(grad), channels_last(y)
    winners = grad if winners is None else _channels_last_bytes(winners)
    rebuild(
        address(grad), address(y), address(winners), address(whole), address(sums), bool(relu),
        pool is not None, n, *out_size, outputs,
    )  # fmt: skip
    whole = whole.transpose(0, 3, 1, 2)
    return (
        conv2d_backward_input(whole, weight, x.shape, *geometry) if needs[0] else None,
        conv2d_backward_weight(whole, x, weight.shape, *geometry),
        sums.sum(axis=0) if needs[2] else None,
    )


def _fused_gradients(grad, y, winners, x, weight, stride, padding, dilation, groups, relu, pool, needs):
    n, channels, *size = x.shape
    outputs, in_group, *kernel = weight.shape
    size, kernel, stride, dilation = tuple(size), tuple(kernel), tuple(stride), tuple(dilation)
    out_size = conv_output_size(size, kernel, stride, padding, dilation)
    if takes_weight_gradient(channels, taps_first(weight), (n, *out_size, outputs), stride, dilation, groups):
        geometry = (stride, padding, dilation, groups)
        return _rebuilt_gradients(grad, y, winners, x, weight, out_size, geometry, relu, pool, needs)
    images = max(1, min(_PIXELS_PER_GROUP // math.prod(out_size), n // _TASKS))
    rows_per_block = max(1, PIXELS_PER_BLOCK // out_size[1])
    windows = find_windows(
        size, out_size, channels, kernel, stride, tuple(padding), dilation, groups, images, False
    )
    row_offsets, row_starts = transposed_tables(
        windows.padded_height, windows.pitch, channels, in_group, kernel, dilation, stride[0], out_size[0],
        images,
    )  # fmt: skip

    # The gradient by x is taken from the scratch if it is a direct convolution of what lies there.
    dx = whole = None
    margin, gather, grad_size, turned = (0, 0), windows, out_size, weight
    if needs[0]:
        dx, whole = memory.empty_images(*x.shape), memory.empty((n, *out_size, outputs))
        taps = taps_first(weight)
        wanted = tuple(d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True))
        by_tiles = tile_edge(outputs, taps, dx.shape, stride, dilation, groups, False)
        if stride != (1, 1) or min(wanted) < 0 or by_tiles:
            dx = None
        else:
            whole, margin = None, wanted
            gather = find_windows(
                out_size, size, outputs, kernel, stride, margin, dilation, groups, images, True
            )
            grad_size = gather.padded_height, gather.pitch
            turned = pack_weights(taps, groups, transposed=True)

    few = math.prod(kernel) * in_group <= 2 * WIDE_ROWS and outputs == padded_columns(outputs)
    packed = not (few and groups == 1 and margin == (0, 0))
    floats = 0 if windows.direct else images * windows.padded_height * windows.pitch * channels
    if whole is None:
        floats += images * math.prod(grad_size) * outputs
    if packed:
        floats += rows_per_block * out_size[1] * padded_columns(outputs // groups)
    scratch = scratch_buffers(floats)
    partial, sums = memory.empty((_TASKS, weight.size)), np.empty((n, outputs), np.float32)
    zeros = np.zeros(channels, np.float32)
    grad, y, x_images = channels_last(grad), channels_last(y), channels_last(x)
    winners = grad if winners is None else _channels_last_bytes(winners)
    block_gradients(
        address(grad), address(y), address(winners), address(x_images), address(turned), address(zeros),
        0 if dx is None else address(dx), 0 if whole is None else address(whole), address(partial),
        address(sums), address(scratch), scratch.shape[1], bool(relu), pool is not None,
        n, *size, channels, *out_size, outputs, groups,
        address(row_offsets), address(row_starts), stride[1] * channels, *padding,
        windows.padded_height, windows.pitch, windows.direct, *margin, *grad_size,
        address(gather.pixel_offsets), address(gather.tap_offsets), gather.tap_offsets.size, gather.run,
        _TASKS, images, rows_per_block, packed, weight.size,
    )  # fmt: skip
    dweight = memory.empty((*kernel, in_group, outputs))
    add_parts(address(partial), _TASKS, weight.size, address(dweight))
    if whole is not None:
        whole = whole.transpose(0, 3, 1, 2)
        dx = conv2d_backward_input(whole, weight, x.shape, stride, padding, dilation, groups)
    return dx, dweight.transpose(3, 2, 0, 1), sums.sum(axis=0) if needs[2] else None


def batch_norm_block_forward(x, weight, bias, residual, eps, relu, pool):
    """max_pool(relu(batch_norm(x) + residual)) -> (y, winners, mean, inv_std); see the reference."""
    mean, inv_std = moments(x, eps)
    scale, relu = times(inv_std, weight), bool(relu)
    if pool is None:
        return normalize(x, mean, scale, bias, relu, residual), None, mean, inv_std
    if pool != FUSED_POOL or residual is not None:
        return *_finish(normalize(x, mean, scale, bias, relu, residual), relu, pool), mean, inv_std
    n, channels, height, width = x.shape
    y = memory.empty((n, height // 2, width // 2, channels))
    winners = memory.empty(y.shape, np.uint8)
    bias = np.zeros_like(scale) if bias is None else contiguous(bias)
    pool_normalized(channels_last(x), mean, scale, bias, relu, y, winners)
    return y.transpose(0, 3, 1, 2), winners.transpose(0, 3, 1, 2), mean, inv_std


def batch_norm_block_backward(
    grad, y, winners, x, weight, bias, has_residual, mean, inv_std, relu, pool, needs
):
    """(dx, dweight, dbias, dresidual) of `batch_norm_block_forward`; see the reference."""
    if pool == FUSED_POOL and not has_residual:
        return *_pooled_gradients(grad, winners, x, weight, mean, inv_std, needs), None
    if pool is not None:
        grad, relu = max_pool2d_backward(grad, winners, x.shape, *pool, (0, 0), (1, 1)), False
    if not has_residual:
        return *gradients(grad, x, weight, bias, mean, inv_std, needs, bool(relu)), None
    if not relu:
        return *batch_norm_backward(grad, x, weight, mean, inv_std, needs), grad if needs[3] else None
    return _masked_gradients(grad, y, x, weight, mean, inv_std, needs)


def _pooled_gradients(grad, winners, x, weight, mean, inv_std, needs):
    images = channels_last(x)
    arrays = channels_last(grad), _channels_last_bytes(winners), images, contiguous(mean)
    inv_std = contiguous(inv_std)
    dweight, dbias = pooled_channel_gradients(*arrays, inv_std)
    dx = None
    if needs[0]:
        dx = memory.empty(images.shape)
        line = *slope_and_offset(x, inv_std, dweight, dbias), times(inv_std, weight)
        pooled_input_gradient(*arrays, *line, dx)
        dx = dx.transpose(0, 3, 1, 2)
    return dx, dweight if needs[1] else None, dbias if needs[2] else None


def _masked_gradients(grad, y, x, weight, mean, inv_std, needs):
    """Those of relu(batch norm + residual); what ReLU lets pass is written by the pass that sums it up."""
    mean, inv_std, x_pixels = contiguous(mean), contiguous(inv_std), pixels(x)
    passed, passed_pixels = like(x)
    dweight, dbias = masked_channel_gradients(pixels(grad), pixels(y), x_pixels, mean, inv_std, passed_pixels)
    dx = None
    if needs[0]:
        dx, out = like(x)
        scale, line = times(inv_std, weight), slope_and_offset(x, inv_std, dweight, dbias)
        input_gradient(passed_pixels, x_pixels, mean, scale, scale, False, *line, out)
    return dx, dweight if needs[1] else None, dbias if needs[2] else None, passed if needs[3] else None


def add_relu_forward(a, b):
    """max(a + b, 0) of arrays of one shape; its gradient by either is `relu_backward`."""
    y, *arrays = elementwise(a, b)
    (add_relu if y.size <= CHUNK else add_relu_chunks)(*arrays)
    return y


def _channels_last_bytes(winners):
    return np.ascontiguousarray(winners.transpose(0, 2, 3, 1))


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

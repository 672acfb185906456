"""Batch norm with what follows it, in one pass over channels-last images: the loops behind `block.py`.

ReLU and 2x2 max pool: what is written and read between them is a fourth of the images. Images are
(N, H, W, C), grad, y and winners (N, H // 2, W // 2, C). The gradient of a sum and ReLU: arrays are flat. The
statistics, and batch norm with ReLU alone, are in `normalization.py`.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from minicnn_kernels.cpu.compiler import kernel
from minicnn_kernels.cpu.finish import best_of_four
from minicnn_kernels.cpu.normalization import block_size, fold, repeat, strip_size, total_gradients
from minicnn_kernels.reference.block import DEAD

_DEAD = np.uint8(DEAD)


@kernel(parallel=True)
def pool_normalized(x, mean, scale, bias, relu, y, winners):
    """The 2x2 maxima of (x - mean) scale + bias. A task is a row of windows."""
    images, rows, columns, _ = y.shape
    for task in prange(images * rows):
        image, i = np.int64(task) // rows, np.int64(task) % rows
        upper, lower = x[image, 2 * i], x[image, 2 * i + 1]
        for j in range(columns):
            _pool_window(
                upper[2 * j], upper[2 * j + 1], lower[2 * j], lower[2 * j + 1], mean, scale, bias, relu,
                y[image, i, j], winners[image, i, j],
            )  # fmt: skip


@kernel
def _pool_window(p, q, r, s, mean, scale, bias, relu, y, winners):
    for c in range(y.size):
        m, a, b = mean[c], scale[c], bias[c]
        y[c], winners[c] = best_of_four(
            (p[c] - m) * a + b, (q[c] - m) * a + b, (r[c] - m) * a + b, (s[c] - m) * a + b, relu
        )


@kernel(parallel=True)
def pooled_channel_gradients(grad, winners, x, mean, inv_std):
    """(sum of grad times normalized x, sum of grad) per channel. A task is an image."""
    images, rows, columns, channels = grad.shape
    along, plain = np.zeros((images, channels), np.float32), np.zeros((images, channels), np.float32)
    for task in prange(images):
        image = np.int64(task)
        for i in range(rows):
            upper, lower = x[image, 2 * i], x[image, 2 * i + 1]
            for j in range(columns):
                _add_window(
                    grad[image, i, j], winners[image, i, j], upper[2 * j], upper[2 * j + 1],
                    lower[2 * j], lower[2 * j + 1], mean, along[image], plain[image],
                )  # fmt: skip
    return total_gradients(along, plain, inv_std)


@kernel
def _add_window(grad, winners, p, q, r, s, mean, along, plain):
    for c in range(grad.size):
        winner = winners[c]
        share = np.float32(0) if winner == _DEAD else grad[c]
        upper, lower = p[c] if winner == 0 else q[c], r[c] if winner == 2 else s[c]
        along[c] += share * ((upper if winner < 2 else lower) - mean[c])
        plain[c] += share


@kernel(parallel=True)
def pooled_input_gradient(grad, winners, x, mean, slope, offset, scale, dx):
    """scale (grad of the winner - offset - (x - mean) slope). A task is two rows of an image."""
    images, height, width, _ = x.shape
    _, rows, columns, _ = grad.shape
    tasks = (height + 1) // 2
    for task in prange(images * tasks):
        image, i = np.int64(task) // tasks, np.int64(task) % tasks
        covered = columns if i < rows else 0
        for j in range(covered):
            for p in range(2):
                for q in range(2):
                    _window_gradient(
                        grad[image, i, j], winners[image, i, j], 2 * p + q, x[image, 2 * i + p, 2 * j + q],
                        mean, slope, offset, scale, dx[image, 2 * i + p, 2 * j + q],
                    )  # fmt: skip
        for row in range(2 * i, min(2 * i + 2, height)):
            for column in range(2 * covered, width):
                _idle_gradient(x[image, row, column], mean, slope, offset, scale, dx[image, row, column])


@kernel
def _window_gradient(grad, winners, position, x, mean, slope, offset, scale, dx):
    here = np.uint8(position)
    for c in range(dx.size):
        share = grad[c] if winners[c] == here else np.float32(0)
        dx[c] = (share - offset[c] - (x[c] - mean[c]) * slope[c]) * scale[c]


@kernel
def _idle_gradient(x, mean, slope, offset, scale, dx):
    for c in range(dx.size):
        dx[c] = (-offset[c] - (x[c] - mean[c]) * slope[c]) * scale[c]


@kernel(parallel=True)
def masked_channel_gradients(grad, y, x, mean, inv_std, masked):
    """`pooled_channel_gradients` of masked = grad where y > 0; a task is a block that fits in cache."""
    channels = mean.size
    strip = strip_size(channels)
    size = block_size(strip)
    blocks = (x.size + size - 1) // size
    along, plain = np.empty((blocks, channels), np.float32), np.empty((blocks, channels), np.float32)
    mean = repeat(mean, strip)
    for task in prange(blocks):
        a = np.int64(task) * size
        z = a + size
        _mask_block(grad[a:z], y[a:z], x[a:z], mean, masked[a:z], along[task], plain[task])
    return total_gradients(along, plain, inv_std)


@kernel
def _mask_block(grad, y, x, mean, masked, along, plain):
    strip = mean.size
    along_strip, plain_strip = np.zeros(strip, np.float32), np.zeros(strip, np.float32)
    for start in range(0, x.size, strip):
        stop = start + strip
        values, g, result, share = x[start:stop], grad[start:stop], y[start:stop], masked[start:stop]
        for i in range(values.size):
            passed = np.float32(0) if result[i] <= 0 else g[i]
            share[i] = passed
            along_strip[i] += passed * (values[i] - mean[i])
            plain_strip[i] += passed
    fold(along_strip, along)
    fold(plain_strip, plain)

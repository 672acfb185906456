"""The shortcut of a residual net where images shrink and channels are added: pixels picked, zeros around.

In one pass over the memory, on all threads: as slice, padding and their gradients by NumPy's loops on one
thread, the two shortcuts of ResNet-20 (batch 64) were 3 of 80 ms of a training step on two threads.
Formulas: `reference/block.py`.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from minicnn_kernels import memory
from minicnn_kernels.cpu.compiler import kernel
from minicnn_kernels.cpu.layout import channels_last

__all__ = ["shortcut_backward", "shortcut_forward"]


def shortcut_forward(x, step, before, channels):
    """Every step-th pixel of x (N, C, H, W), between channels of zeros; see the reference."""
    images = channels_last(x)
    n, height, width, _ = images.shape
    y = memory.empty((n, -(-height // step[0]), -(-width // step[1]), channels))
    _pick(images, *step, before, y)
    return y.transpose(0, 3, 1, 2)


def shortcut_backward(grad, input_shape, step, before):
    """Gradient by x of `input_shape`."""
    n, channels, height, width = input_shape
    dx = memory.empty((n, height, width, channels))
    _put_back(channels_last(grad), *step, before, dx)
    return dx.transpose(0, 3, 1, 2)


@kernel(parallel=True)
def _pick(x, down, across, before, y):
    images, rows, columns, _ = y.shape
    after = before + x.shape[3]
    for task in prange(images * rows):
        image, i = np.int64(task) // rows, np.int64(task) % rows
        for j in range(columns):
            pixel = y[image, i, j]
            pixel[:before] = 0
            pixel[before:after] = x[image, i * down, j * across]
            pixel[after:] = 0


@kernel(parallel=True)
def _put_back(grad, down, across, before, dx):
    images, height, _, channels = dx.shape
    for task in prange(images * height):
        image, r = np.int64(task) // height, np.int64(task) % height
        dx[image, r] = 0
        if r % down == 0:
            for j in range(grad.shape[2]):
                dx[image, r, j * across] = grad[image, r // down, j, before : before + channels]

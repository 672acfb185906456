"""The gradient of convolution, ReLU and pool in one pass over the images; sum and ReLU in one.

Arguments of `block_gradients`, which puts together pieces of `implicit.py`, and of `rebuild` are integers, as
there. Who calls them, and when, is in `block.py`.
"""

from __future__ import annotations

import numpy as np
from numba import get_thread_id, prange

from minicnn_kernels.cpu.blocks import PACKED, multiply, padded_columns
from minicnn_kernels.cpu.compiler import kernel
from minicnn_kernels.cpu.finish import mask_rows, unpool_rows
from minicnn_kernels.cpu.implicit import add_weight_gradient, pad_rows
from minicnn_kernels.cpu.layout import CHUNK
from minicnn_kernels.cpu.microkernel import FLOAT_BYTES, zero_floats


@kernel(parallel=True)
def block_gradients(
    grad, y, winners, x, weight, zeros, dx, whole, dweight, dbias, scratch, scratch_size, relu, pool,
    images, height, width, channels, out_height, out_width, out_channels, groups,
    row_offsets, row_starts, step, top, left, padded_height, pitch, direct,
    margin_top, margin_left, grad_height, grad_pitch, pixel_offsets, taps, tap_count, run,
    tasks, images_per_block, rows_per_block, packed, size,
):  # fmt: skip
    """dweight[t] over the images of task t, dbias[i] over image i, and dx.

    The gradient before ReLU and pool is rebuilt in the scratch, image by image, between the zeros that the
    gradient by x reads beyond its edge; there it serves for both products. Where another algorithm is to
    compute dx (dx is 0), it is rebuilt in `whole` (N, H', W', O) instead, if that is not 0.
    """
    window = 2 if pool else 1
    rows, columns = out_height // window, out_width // window
    in_group, out_group = channels // groups, out_channels // groups
    panel_size = padded_columns(in_group) * tap_count * run
    grad_image = grad_height * grad_pitch * out_channels
    image_size = padded_height * pitch * channels
    for task in prange(tasks):
        part = np.intp(task)
        result = dweight + FLOAT_BYTES * part * size
        zero_floats(result, size)
        buffer = scratch + FLOAT_BYTES * np.intp(get_thread_id()) * scratch_size
        before, padded = buffer, buffer
        if not whole:
            padded += FLOAT_BYTES * images_per_block * grad_image
            zero_floats(before, images_per_block * grad_image)
        panels = padded if direct else padded + FLOAT_BYTES * images_per_block * image_size
        begin, end = images * part // tasks, images * (part + 1) // tasks
        for first in range(begin, end, images_per_block):
            count = min(images_per_block, end - first)
            if whole:
                before = whole + FLOAT_BYTES * first * grad_image
            inside = before + FLOAT_BYTES * (margin_top * grad_pitch + margin_left) * out_channels
            for i in range(count):
                place = (first + i) * rows * columns * out_channels
                target = inside + FLOAT_BYTES * i * grad_image
                sums = dbias + FLOAT_BYTES * (first + i) * out_channels
                if pool:
                    unpool_rows(
                        grad + FLOAT_BYTES * place, winners + place, rows, out_height, out_width,
                        out_channels, target, grad_pitch, sums,
                    )  # fmt: skip
                else:
                    mask_rows(
                        grad + FLOAT_BYTES * place, y + FLOAT_BYTES * place, relu, rows, out_width,
                        out_channels, target, grad_pitch, sums,
                    )  # fmt: skip
            base = x + FLOAT_BYTES * first * height * width * channels
            if not direct:
                for i in range(count):
                    pad_rows(
                        base + FLOAT_BYTES * i * height * width * channels, height, width, channels, 0,
                        padded_height, top, left, pitch, padded + FLOAT_BYTES * i * image_size,
                    )  # fmt: skip
                base = padded
            add_weight_gradient(
                base, row_offsets, size // out_channels, row_starts, step,
                inside, grad_pitch * out_channels, grad_image,
                count * out_height, out_height, out_width, channels, out_channels, groups,
                0, out_group, rows_per_block, panels, packed, result,
            )  # fmt: skip
            if dx:
                target = dx + FLOAT_BYTES * first * height * width * channels
                for g in range(groups):
                    multiply(
                        before + FLOAT_BYTES * g * out_group, pixel_offsets, count * height * width,
                        taps, tap_count, run, 1, weight + FLOAT_BYTES * g * panel_size, PACKED,
                        in_group, zeros, 0, target + FLOAT_BYTES * g * in_group, channels,
                    )  # fmt: skip


@kernel(parallel=True)
def rebuild(grad, y, winners, whole, dbias, relu, pool, images, out_height, out_width, out_channels):
    """whole (N, H', W', O): the gradient before ReLU and pool. dbias (N, O): its sums. A task is an image."""
    window = 2 if pool else 1
    rows, columns = out_height // window, out_width // window
    for task in prange(images):
        image = np.intp(task)
        place = image * rows * columns * out_channels
        target = whole + FLOAT_BYTES * image * out_height * out_width * out_channels
        sums = dbias + FLOAT_BYTES * image * out_channels
        if pool:
            unpool_rows(
                grad + FLOAT_BYTES * place, winners + place, rows, out_height, out_width,
                out_channels, target, out_width, sums,
            )  # fmt: skip
        else:
            mask_rows(
                grad + FLOAT_BYTES * place, y + FLOAT_BYTES * place, relu, rows, out_width,
                out_channels, target, out_width, sums,
            )  # fmt: skip


@kernel
def add_relu(y, a, b):
    """max(a + b, 0) over flat memory."""
    for i in range(y.size):
        total = a[i] + b[i]
        y[i] = np.float32(0) if total <= 0 else total


@kernel(parallel=True)
def add_relu_chunks(y, a, b):
    """`add_relu`, a chunk per task."""
    for chunk in prange((y.size + CHUNK - 1) // CHUNK):
        start = np.int64(chunk) * CHUNK
        stop = start + CHUNK
        add_relu(y[start:stop], a[start:stop], b[start:stop])

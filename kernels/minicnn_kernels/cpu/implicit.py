"""Convolution without an im2col matrix: the compiled loops behind `conv.py`.

An image, padded with zeros, is copied into a scratch buffer that stays in the second-level cache. There each
row of a window is one contiguous run of floats. Tables of offsets say where the windows and their rows lie,
and `multiply` reads the scratch through them as if the im2col matrix existed. All arguments are integers:
sizes, or addresses of C-contiguous float32 arrays and int64 tables; so every kernel is compiled just once.
Images are (N, H, W, C).
"""

from __future__ import annotations

import numpy as np
from numba import get_thread_id, prange

from minicnn_kernels.cpu.blocks import INT_BYTES, PACKED, multiply, pack, padded_columns
from minicnn_kernels.cpu.compiler import kernel
from minicnn_kernels.cpu.finish import pool_rows, relu_pixels
from minicnn_kernels.cpu.microkernel import FLOAT_BYTES, copy_floats, load_float, store_float, zero_floats


@kernel
def pad_rows(image, height, width, channels, first_row, rows, top, left, pitch, target):
    """Rows from first_row on of `image` with `top` rows and `left` pixels of zeros before it.

    Rows are made `pitch` pixels long. A negative margin cuts off instead.
    """
    before, skipped = max(0, left), max(0, -left)
    copied = max(0, min(width - skipped, pitch - before))
    before = min(before, pitch)
    after = pitch - before - copied
    for r in range(rows):
        line = target + FLOAT_BYTES * r * pitch * channels
        source_row = first_row + r - top
        if source_row < 0 or source_row >= height:
            zero_floats(line, pitch * channels)
        else:
            zero_floats(line, before * channels)
            source = image + FLOAT_BYTES * (source_row * width + skipped) * channels
            copy_floats(line + FLOAT_BYTES * before * channels, source, copied * channels)
            zero_floats(line + FLOAT_BYTES * (before + copied) * channels, after * channels)


@kernel(parallel=True)
def convolve(
    x, y, winners, scratch, weight, bias, scratch_size, row_offsets, taps, tap_count, run,
    images, height, width, channels, out_height, out_width, out_channels, groups,
    top, left, padded_height, pitch, row_step, window_rows, direct,
    images_per_task, bands, strip_rows, column_blocks, block_columns, relu, pool, pool_offset,
):  # fmt: skip
    """y = bias + x * weight. A task: a few images, or a band of rows of one, times a block of channels.

    relu: y = max(y, 0). pool: a strip of rows is convolved into the scratch, from pool_offset on, and y and
    winners get its 2x2 maxima. A task of several images has one strip.
    """
    blocks = (images + images_per_task - 1) // images_per_task
    window = 2 if pool else 1
    windows = out_height // window
    depth = tap_count * run
    in_group, out_group = channels // groups, out_channels // groups
    panel_size = padded_columns(out_group) * depth
    for task in prange(blocks * bands * column_blocks):
        index = np.intp(task)
        column = index % column_blocks * block_columns
        band = index // column_blocks % bands
        first = index // column_blocks // bands * images_per_task
        count = min(images_per_task, images - first)
        top_row, end_row = windows * band // bands * window, windows * (band + 1) // bands * window
        buffer = scratch + FLOAT_BYTES * np.intp(get_thread_id()) * scratch_size
        if direct:
            base = x + FLOAT_BYTES * first * height * width * channels
        else:
            base = buffer
            rows = padded_height if bands == 1 else (end_row - top_row - 1) * row_step + window_rows
            for i in range(count):
                pad_rows(
                    x + FLOAT_BYTES * (first + i) * height * width * channels, height, width, channels,
                    top_row * row_step, rows, top, left, pitch,
                    base + FLOAT_BYTES * i * rows * pitch * channels,
                )  # fmt: skip
            base -= FLOAT_BYTES * top_row * row_step * pitch * channels
        columns = out_channels if column_blocks == 1 else min(block_columns, out_channels - column)
        for start in range(top_row, end_row, strip_rows):
            rows = min(strip_rows, end_row - start)
            pixels = ((count - 1) * out_height + rows) * out_width
            offsets = row_offsets + INT_BYTES * start * out_width
            if pool:
                target = buffer + FLOAT_BYTES * pool_offset
            else:
                target = y + FLOAT_BYTES * (first * out_height + start) * out_width * out_channels
            for g in range(groups):
                multiply(
                    base + FLOAT_BYTES * g * in_group, offsets, pixels, taps, tap_count, run, 1,
                    weight + FLOAT_BYTES * (g * panel_size + column * depth), PACKED,
                    min(block_columns, out_group - column),
                    bias + FLOAT_BYTES * (g * out_group + column), 0,
                    target + FLOAT_BYTES * (g * out_group + column), out_channels,
                )  # fmt: skip
            target += FLOAT_BYTES * column
            if pool:
                for i in range(count):
                    row = (first + i) * windows + start // window
                    place = row * (out_width // window) * out_channels + column
                    pool_rows(
                        target + FLOAT_BYTES * i * out_height * out_width * out_channels, rows // window,
                        out_width, out_channels, columns, relu, y + FLOAT_BYTES * place, winners + place,
                    )  # fmt: skip
            elif relu:
                relu_pixels(target, pixels, out_channels, columns)


@kernel(parallel=True)
def weight_gradient(
    grad, x, partial, scratch, scratch_size, row_offsets, taps, step,
    images, height, width, channels, out_height, out_width, out_channels, groups,
    top, left, padded_height, pitch, direct,
    tasks, images_per_block, rows_per_block, column_blocks, block_columns, packed, size,
):  # fmt: skip
    """partial[t] = the weight's gradient over the images of task t, as (taps * channels, out_channels).

    A is the transposed im2col matrix: its rows are the weights of one output channel, its k runs over
    pixels. Each block of pixels of grad is packed behind the padded images in the scratch: read straight from
    grad, whose rows lie far apart, the products waited for memory (1.2 to 1.5 times as slow). With few
    weights per channel that does not pay, and `packed` is false.
    """
    out_group = out_channels // groups
    depth = size // out_channels
    image_size = height * width * channels if direct else padded_height * pitch * channels
    for task in prange(tasks * column_blocks):
        index = np.intp(task)
        part, column = index // column_blocks, index % column_blocks * block_columns
        columns = min(block_columns, out_group - column)
        result = partial + FLOAT_BYTES * part * size
        for i in range(depth):
            width_of_block = out_channels if column_blocks == 1 else columns
            zero_floats(result + FLOAT_BYTES * (i * out_channels + column), width_of_block)
        begin, end = images * part // tasks, images * (part + 1) // tasks
        buffer = scratch + FLOAT_BYTES * np.intp(get_thread_id()) * scratch_size
        panels = buffer if direct else buffer + FLOAT_BYTES * images_per_block * image_size
        for first in range(begin, end, images_per_block):
            count = min(images_per_block, end - first)
            base = x + FLOAT_BYTES * first * height * width * channels
            if not direct:
                for i in range(count):
                    pad_rows(
                        base + FLOAT_BYTES * i * height * width * channels, height, width, channels, 0,
                        padded_height, top, left, pitch, buffer + FLOAT_BYTES * i * image_size,
                    )  # fmt: skip
                base = buffer
            row = out_width * out_channels
            add_weight_gradient(
                base, row_offsets, depth, taps, step,
                grad + FLOAT_BYTES * first * out_height * row, row, out_height * row,
                count * out_height, out_height, out_width, channels, out_channels, groups,
                column, columns, rows_per_block, panels, packed, result,
            )  # fmt: skip


@kernel
def add_weight_gradient(
    base, row_offsets, depth, row_starts, step, grad, grad_row, grad_image,
    rows, out_height, out_width, channels, out_channels, groups,
    column, columns, rows_per_block, panels, packed, result,
):  # fmt: skip
    """result += the transposed im2col matrix of a few images times `rows` rows of pixels of grad.

    Rows of grad lie grad_row floats apart, images grad_image; close together unless they are `packed`.
    """
    in_group, out_group = channels // groups, out_channels // groups
    for i in range(0, rows, rows_per_block):
        count = min(rows_per_block, rows - i)
        pixels = count * out_width
        b = grad + FLOAT_BYTES * (i // out_height * grad_image + i % out_height * grad_row)
        for g in range(groups):
            group_column = g * out_group + column
            source, b_stride = b + FLOAT_BYTES * group_column, out_channels
            if packed:
                for r in range(count):
                    place = (i + r) // out_height * grad_image + (i + r) % out_height * grad_row
                    pack(
                        grad + FLOAT_BYTES * (place + group_column), out_channels, 1, out_width, columns,
                        panels, r * out_width, pixels,
                    )  # fmt: skip
                source, b_stride = panels, PACKED
            target = result + FLOAT_BYTES * group_column
            multiply(
                base + FLOAT_BYTES * g * in_group, row_offsets, depth, row_starts + INT_BYTES * i,
                count, out_width, step, source, b_stride, columns,
                target, out_channels, target, out_channels,
            )  # fmt: skip


@kernel(parallel=True)
def add_parts(partial, parts, size, out):
    """out = the sum of `parts` arrays of `size` floats, in their order."""
    chunk = 4096
    for task in prange((size + chunk - 1) // chunk):
        start = np.intp(task) * chunk
        stop = min(start + chunk, size)
        copy_floats(out + FLOAT_BYTES * start, partial + FLOAT_BYTES * start, stop - start)
        for part in range(1, parts):
            source = partial + FLOAT_BYTES * part * size
            for i in range(start, stop):
                total = load_float(out + FLOAT_BYTES * i) + load_float(source + FLOAT_BYTES * i)
                store_float(out + FLOAT_BYTES * i, total)

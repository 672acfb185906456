"""The compiled loops of Winograd's convolution and of its weight's gradient: tasks, tiles, edges.

Arguments are integers: sizes, or addresses of float32. `winograd.py` calls these and says how the work is
cut; transforms and products are in the two files beside it. Only `tile_rows` is a tuple, of 2 or 4 zeros: its
length is the edge of a tile, known when the code is compiled. With the edge as a number both cases lay in the
same loops, and registers did not suffice: 16 -> 16 channels of 32x32 took 1.25 times as long.
"""

from __future__ import annotations

import numpy as np
from numba import get_thread_id, prange

from minicnn_kernels.cpu.blocks import LANES, NARROW, WIDE
from minicnn_kernels.cpu.compiler import kernel
from minicnn_kernels.cpu.finish import pool_rows
from minicnn_kernels.cpu.microkernel import FLOAT_BYTES, copy_floats, load_float, store_float, zero_floats
from minicnn_kernels.cpu.winograd_products import add_tiles, multiply_tiles
from minicnn_kernels.cpu.winograd_transforms import (
    grad_2,
    grad_2_at_edges,
    input_2,
    input_2_at_edges,
    input_4,
    input_4_at_edges,
    output_2,
    output_2_added,
    output_4,
    output_4_added,
    weight_2,
    weight_4,
    weight_grad_2,
)

_TWO_ROWS = (0, 0)


@kernel(parallel=True)
def transform_weight(taps, distance, rows, columns, weight, plane, edge):
    """`distance`: floats from one tap, `rows` x `columns` of them, to the next; `plane`: between results."""
    tasks = (rows + 7) // 8
    for task in prange(tasks):
        for i in range(rows * np.intp(task) // tasks, rows * (np.intp(task) + 1) // tasks):
            for j in range(0, columns, LANES):
                panel = j // WIDE * WIDE
                panel_width = WIDE
                if columns - panel <= WIDE - NARROW:
                    panel += (j - panel) // NARROW * NARROW
                    panel_width = NARROW
                source = taps + FLOAT_BYTES * (i * columns + j)
                target = weight + FLOAT_BYTES * (panel * rows + i * panel_width + j - panel)
                if edge == 2:
                    weight_2(source, 3 * distance, distance, target, 4 * plane, plane, 0)
                else:
                    weight_4(source, 3 * distance, distance, target, 6 * plane, plane, 0)


@kernel
def _transform_inputs(
    x, zeros, height, width, channels, top, left, down, across, tile_rows, first, count,
    target, chunk, plane, patch,
):  # fmt: skip
    """B^T d B of `count` tiles from tile `first` on: (position, chunk of channels, tile, LANES)."""
    edge = len(tile_rows)
    size = edge + 2
    image, tile = first // (down * across), first % (down * across)
    i, j = tile // across, tile % across
    for t in range(count):
        i0, j0 = i * edge - top, j * edge - left
        source = x + FLOAT_BYTES * ((image * height + i0) * width + j0) * channels
        pitch = width * channels
        inside = i0 >= 0 and j0 >= 0 and i0 + size <= height and j0 + size <= width
        if channels % LANES:  # past the last vector there may be no memory
            _copy_patch(source, height - i0, width - j0, -i0, -j0, pitch, channels, size, patch)
            source, pitch, inside = patch, size * channels, True
        place = target + FLOAT_BYTES * t * LANES
        for _ in range(0, channels, LANES):
            if inside:
                if edge == 2:
                    input_2(source, pitch, channels, place, 4 * plane, plane, 0)
                else:
                    input_4(source, pitch, channels, place, 6 * plane, plane, 0)
            elif edge == 2:
                input_2_at_edges(
                    source, pitch, channels, place, 4 * plane, plane, zeros, -i0, height - i0, -j0, width - j0
                )
            else:
                input_4_at_edges(
                    source, pitch, channels, place, 6 * plane, plane, zeros, -i0, height - i0, -j0, width - j0
                )
            source += FLOAT_BYTES * LANES
            place += FLOAT_BYTES * chunk
        j += 1
        if j == across:
            i, j = i + 1, 0
            if i == down:
                image, i = image + 1, 0


@kernel(parallel=True)
def convolve(
    x, y, winners, scratch, weight, weight_plane, bias, zeros, scratch_size, chunk, plane, product,
    tile_rows, height, width, channels, out_height, out_width, outputs,
    top, left, relu, added, pool, down, across, total, tiles, column_blocks, block_columns,
):  # fmt: skip
    """A task: `tiles` tiles, numbered through all images, times a block of output channels.

    added: the result is added to y.
    """
    edge = len(tile_rows)
    size = edge + 2
    blocks = (total + tiles - 1) // tiles
    for task in prange(blocks * column_blocks):
        index = np.intp(task)
        first, column = index // column_blocks * tiles, index % column_blocks * block_columns
        count = min(tiles, total - first)
        inputs = scratch + FLOAT_BYTES * np.intp(get_thread_id()) * scratch_size
        products = inputs + FLOAT_BYTES * size * size * plane
        patch = products + FLOAT_BYTES * size * size * product
        _transform_inputs(
            x, zeros, height, width, channels, top, left, down, across, tile_rows, first, count,
            inputs, chunk, plane, patch,
        )  # fmt: skip
        for j in range(column, min(column + block_columns, outputs), WIDE):
            columns = min(WIDE, outputs - j)
            wide = columns > WIDE - NARROW
            for p in range(size * size):
                # A number added at position (1, 1) reaches every output of the tile once: the bias.
                multiply_tiles(
                    inputs + FLOAT_BYTES * p * plane, chunk, count, channels,
                    weight + FLOAT_BYTES * (p * weight_plane + j * channels), wide,
                    bias + FLOAT_BYTES * j if p == size + 1 else zeros,
                    products + FLOAT_BYTES * p * product,
                )  # fmt: skip
            _finish_tiles(
                products, product, WIDE if wide else NARROW, columns, tile_rows, first, count, down, across,
                y + FLOAT_BYTES * j, winners + j, out_height, out_width, outputs, relu, added, pool, patch,
            )  # fmt: skip


@kernel
def _finish_tiles(
    products, product, panel, columns, tile_rows, first, count, down, across,
    y, winners, out_height, out_width, outputs, relu, added, pool, patch,
):  # fmt: skip
    """A^T m A of `count` tiles from tile `first` on, for `columns` channels, then ReLU and pool."""
    edge = len(tile_rows)
    image, tile = first // (down * across), first % (down * across)
    i, j = tile // across, tile % across
    for t in range(count):
        i0, j0 = i * edge, j * edge
        valid_rows, valid_columns = min(edge, out_height - i0), min(edge, out_width - j0)
        pixel = y + FLOAT_BYTES * ((image * out_height + i0) * out_width + j0) * outputs
        target, pitch, step = pixel, out_width * outputs, outputs
        whole = valid_rows == edge and valid_columns == edge and columns % LANES == 0
        if pool or not whole:
            target, pitch, step = patch, edge * WIDE, WIDE
        for c in range(0, columns, LANES):
            source, place = products + FLOAT_BYTES * (t * panel + c), target + FLOAT_BYTES * c
            if edge == 2:
                if added and whole:
                    output_2_added(source, 4 * product, product, place, pitch, step, relu)
                else:
                    output_2(source, 4 * product, product, place, pitch, step, relu)
            elif added and whole:
                output_4_added(source, 6 * product, product, place, pitch, step, relu)
            else:
                output_4(source, 6 * product, product, place, pitch, step, relu)
        if pool:  # a tile is a window
            window = (first + t) * outputs
            pool_rows(patch, 1, 2, WIDE, columns, relu != 0, y + FLOAT_BYTES * window, winners + window)
        elif not whole:
            for r in range(valid_rows):
                for q in range(valid_columns):
                    result = pixel + FLOAT_BYTES * (r * out_width + q) * outputs
                    there = patch + FLOAT_BYTES * (r * edge + q) * WIDE
                    if added:
                        for c in range(columns):
                            before = load_float(result + FLOAT_BYTES * c)
                            store_float(
                                result + FLOAT_BYTES * c, before + load_float(there + FLOAT_BYTES * c)
                            )
                    else:
                        copy_floats(result, there, columns)
        j += 1
        if j == across:
            i, j = i + 1, 0
            if i == down:
                image, i = image + 1, 0


@kernel(parallel=True)
def weight_gradient(
    grad, x, zeros, partial, scratch, scratch_size, chunk, plane, grad_plane, sums_plane,
    height, width, channels, out_height, out_width, outputs, top, left, down, across, total,
    parts, tiles, column_blocks, block_columns,
):  # fmt: skip
    """partial[t] (3, 3, C, O) = G^T [the sum over the tiles of part t of (B^T d B) (A dY A^T)] G.

    A task: a part of all tiles, times a block of output channels.
    """
    for task in prange(parts * column_blocks):
        index = np.intp(task)
        part, column = index // column_blocks, index % column_blocks * block_columns
        stop = min(column + block_columns, outputs)
        inputs = scratch + FLOAT_BYTES * np.intp(get_thread_id()) * scratch_size
        grads = inputs + FLOAT_BYTES * 16 * plane
        sums = grads + FLOAT_BYTES * 16 * grad_plane
        patch = sums + FLOAT_BYTES * 16 * sums_plane
        zero_floats(sums, 16 * sums_plane)
        rows = (channels + LANES - 1) // LANES * LANES
        begin, end = total * part // parts, total * (part + 1) // parts
        for first in range(begin, end, tiles):
            count = min(tiles, end - first)
            _transform_inputs(
                x, zeros, height, width, channels, top, left, down, across, _TWO_ROWS, first, count,
                inputs, chunk, plane, patch,
            )  # fmt: skip
            for j in range(column, stop, WIDE):
                columns = min(WIDE, stop - j)
                wide = columns > WIDE - NARROW
                _transform_grads(
                    grad + FLOAT_BYTES * j, zeros, out_height, out_width, outputs, down, across,
                    first, count, columns, grads, WIDE if wide else NARROW, grad_plane, patch,
                )  # fmt: skip
                for p in range(16):
                    add_tiles(
                        inputs + FLOAT_BYTES * p * plane, chunk, count, channels,
                        grads + FLOAT_BYTES * p * grad_plane, wide,
                        sums + FLOAT_BYTES * (p * sums_plane + (j - column) * rows),
                    )  # fmt: skip
        result = partial + FLOAT_BYTES * 9 * part * channels * outputs
        for j in range(column, stop, WIDE):
            columns = min(WIDE, stop - j)
            panel = WIDE if columns > WIDE - NARROW else NARROW
            for i in range(channels):
                for c in range(0, columns, LANES):
                    source = sums + FLOAT_BYTES * ((j - column) * rows + i * panel + c)
                    target = result + FLOAT_BYTES * (i * outputs + j + c)
                    tap = channels * outputs
                    if c + LANES <= columns:
                        weight_grad_2(source, 4 * sums_plane, sums_plane, target, 3 * tap, tap, 0)
                    else:
                        weight_grad_2(source, 4 * sums_plane, sums_plane, patch, 3 * LANES, LANES, 0)
                        for t in range(9):
                            copy_floats(
                                target + FLOAT_BYTES * t * tap, patch + FLOAT_BYTES * t * LANES, columns - c
                            )


@kernel
def _transform_grads(
    grad, zeros, height, width, outputs, down, across, first, count, columns, target, panel, plane, patch,
):  # fmt: skip
    """A dY A^T of `count` tiles from tile `first` on, `columns` channels of them: (position, tile, panel)."""
    image, tile = first // (down * across), first % (down * across)
    i, j = tile // across, tile % across
    for t in range(count):
        i0, j0 = 2 * i, 2 * j
        source = grad + FLOAT_BYTES * ((image * height + i0) * width + j0) * outputs
        pitch, step = width * outputs, outputs
        inside = i0 + 2 <= height and j0 + 2 <= width
        if columns % LANES:
            for r in range(min(2, height - i0)):
                for q in range(min(2, width - j0)):
                    copy_floats(
                        patch + FLOAT_BYTES * (2 * r + q) * WIDE,
                        source + FLOAT_BYTES * (r * pitch + q * step), columns,
                    )  # fmt: skip
            source, pitch, step = patch, 2 * WIDE, WIDE
        place = target + FLOAT_BYTES * t * panel
        for c in range(0, FLOAT_BYTES * columns, FLOAT_BYTES * LANES):
            if inside:
                grad_2(source + c, pitch, step, place + c, 4 * plane, plane, 0)
            else:
                grad_2_at_edges(
                    source + c, pitch, step, place + c, 4 * plane, plane, zeros, 0, height - i0, 0, width - j0
                )
        j += 1
        if j == across:
            i, j = i + 1, 0
            if i == down:
                image, i = image + 1, 0


@kernel
def _copy_patch(source, end_row, end_column, first_row, first_column, pitch, channels, size, patch):
    """A tile of `size` x `size` pixels with zeros outside rows and columns [first, end) of it."""
    first = min(max(first_column, 0), size)
    stop = max(min(end_column, size), first)
    for i in range(size):
        line = patch + FLOAT_BYTES * i * size * channels
        if i < first_row or i >= end_row:
            zero_floats(line, size * channels)
        else:
            zero_floats(line, first * channels)
            start = FLOAT_BYTES * first * channels
            copy_floats(line + start, source + FLOAT_BYTES * i * pitch + start, (stop - first) * channels)
            zero_floats(line + FLOAT_BYTES * stop * channels, (size - stop) * channels)

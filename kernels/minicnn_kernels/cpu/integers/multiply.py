"""The step of a program that multiplies: a convolution, or a dense layer, for a group of images.

A dense layer is a convolution whose window is the whole image. Images lie in a task's scratch with their
border around them; tables say where windows and their rows lie, so that the im2col matrix is never written.
Where the values lie is decided in `plan.py`; the tiles are in `tile.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minicnn_kernels.cpu.compiler import kernel
from minicnn_kernels.cpu.integers.plain import (
    INT32_BYTES,
    NARROW,
    QUAD,
    WIDE,
    counts,
    multiply_plain,
    requantize,
    scale,
)
from minicnn_kernels.cpu.integers.routes import VNNI
from minicnn_kernels.cpu.pointers import FLOAT_BYTES, INT_BYTES, floats, load_int, octets

# Rows of a tile, of one vector or two. Seen on 3x3 convolutions of 32 to 128 channels, in products a cycle of
# the 64 that the instruction does: 8x2 61, 4x4 61, 12x2 58, 16x1 55; 8x1 59. With 9 or 27 products in a sum,
# as in a first layer: 8x2 0.6 and 0.7 of the peak, 12x2 0.4 and 0.7.
ROWS = 8


class Multiply(NamedTuple):
    """A convolution. x and y are places in the scratch, the *_image what lies between two images there.

    The tables x_offsets (one entry per row: a window) and y_offsets (one per unit: a window, or the four
    whose maximum is wanted) hold for `images` images of `units` each. A row is read in tap_count runs of
    4 steps bytes. weight, bias, factor: addresses of the first group's, with weight_group bytes and
    `padded` columns to the next; in_group bytes of x and out_group columns belong to a group. shared: whether
    it is large enough for threads to share.
    """

    x: int
    x_image: int
    y: int
    y_image: int
    x_offsets: int
    y_offsets: int
    images: int
    units: int
    taps: int
    tap_count: int
    steps: int
    weight: int
    weight_group: int
    bias: int
    factor: int
    padded: int
    groups: int
    in_group: int
    out_group: int
    pool: int
    to_float: int
    low: int
    high: int
    zero: int
    shared: int


@kernel
def multiply_by_tiles(step, scratch, count, part, parts):
    """y = requantized(bias + x * weight), for `count` images; one of so many equal parts of the work.

    Parts are panels of columns, so that each thread reads its own weights, or else rows.
    """
    rows = ROWS // 4 if step.pool else ROWS
    panels = (step.out_group + WIDE - 1) // WIDE
    for first in range(0, count, step.images):
        units = min(step.images, count - first) * step.units
        tiles = (units + rows - 1) // rows
        by_columns = panels % parts == 0 or tiles < parts
        begin, end = 0, units
        if not by_columns:
            begin, end = tiles * part // parts * rows, min(units, tiles * (part + 1) // parts * rows)
        x = scratch + step.x + first * step.x_image
        y = scratch + step.y + first * step.y_image
        for g in range(step.groups):
            _multiply_group(
                step, x + g * step.in_group,
                y + g * step.out_group * (FLOAT_BYTES if step.to_float else 1), begin, end,
                step.weight + g * step.weight_group, step.bias + INT32_BYTES * g * step.padded,
                step.factor + FLOAT_BYTES * g * step.padded, part if by_columns else 0,
                parts if by_columns else 1,
            )  # fmt: skip


@kernel
def _multiply_group(step, x, y, begin, end, weight, bias, factor, part, parts):
    """Units from begin to end, panel after panel of columns: its weights stay in the first-level cache."""
    column, panel = 0, 0
    while column < step.out_group:
        wide = not step.to_float and step.out_group - column > NARROW
        width = WIDE if wide else NARROW
        if panel % parts == part:
            _multiply_panel(
                step, wide, x, y + column * (FLOAT_BYTES if step.to_float else 1), begin, end,
                weight + column * step.tap_count * step.steps * QUAD,
                bias + INT32_BYTES * column, factor + FLOAT_BYTES * column,
                min(width, step.out_group - column),
            )  # fmt: skip
        column += width
        panel += 1


@kernel
def _multiply_panel(step, wide, x, y, begin, end, weight, bias, factor, columns):
    """Tile after tile of rows. One image's dense layer has one row: then tiles of one."""
    window = 4 if step.pool else 1
    low, high = np.float32(step.low), np.float32(step.high)
    single = end - begin == 1 and window == 1 and wide
    for unit in range(begin, end, ROWS // window):
        rows, places = step.x_offsets + INT_BYTES * unit * window, step.y_offsets + INT_BYTES * unit
        here = min(ROWS // window, end - unit)
        arguments = (
            x, rows, step.taps, step.tap_count, step.steps, weight, bias, factor, y, places, here, columns,
            low, high, step.zero,
        )  # fmt: skip
        if single:
            _row_tile(*arguments)
        elif step.to_float:
            _float_tile(*arguments)
        elif step.pool:
            if wide:
                _wide_pool_tile(*arguments)
            else:
                _narrow_pool_tile(*arguments)
        elif wide:
            _wide_tile(*arguments)
        else:
            _narrow_tile(*arguments)


if VNNI:
    from minicnn_kernels.cpu.integers.tile import make_tile

    _wide_tile, _narrow_tile = make_tile(ROWS, 2, 1, False), make_tile(ROWS, 1, 1, False)
    _wide_pool_tile, _narrow_pool_tile = make_tile(ROWS, 2, 4, False), make_tile(ROWS, 1, 4, False)
    _float_tile, _row_tile = make_tile(ROWS, 1, 1, True), make_tile(1, 2, 1, False)
    multiply = multiply_by_tiles
else:
    multiply = multiply_plain


class MultiplyChannels(NamedTuple):
    """A depthwise convolution: every channel has its own window of weights (taps, C) int16, one result each.

    x, y, x_offsets, y_offsets, taps: as in `Multiply`, one unit a window. sums: a place for C int32.
    """

    x: int
    x_image: int
    y: int
    y_image: int
    x_offsets: int
    y_offsets: int
    units: int
    taps: int
    tap_count: int
    weight: int
    bias: int
    factor: int
    channels: int
    sums: int
    to_float: int
    low: int
    high: int
    zero: int


@kernel
def multiply_channels(step, scratch, count):
    """y = requantized(bias + x * weight), for `count` images, channel by channel."""
    channels = step.channels
    sums, factors = counts(scratch + step.sums, channels), floats(step.factor, channels)
    for image in range(count):
        x = scratch + step.x + image * step.x_image
        y = scratch + step.y + image * step.y_image
        for unit in range(step.units):
            start = counts(step.bias, channels)
            for c in range(channels):
                sums[c] = start[c]
            row = x + load_int(step.x_offsets + INT_BYTES * unit)
            for tap in range(step.tap_count):
                pixel = octets(row + load_int(step.taps + INT_BYTES * tap), channels)
                weights = octets(step.weight + 2 * tap * channels, 2 * channels).view(np.int16)
                for c in range(channels):  # 16 bits times 16 bits: one instruction
                    sums[c] += np.int32(np.int16(pixel[c])) * np.int32(weights[c])
            place = y + load_int(step.y_offsets + INT_BYTES * unit)
            if step.to_float:
                scale(floats(place, channels), sums, factors)
            else:
                requantize(
                    octets(place, channels), sums, factors, np.float32(step.low), np.float32(step.high),
                    step.zero,
                )  # fmt: skip

"""The step of a program that multiplies: a convolution, or a dense layer, for a group of images.

A dense layer is a convolution whose window is the whole image. Images lie in a task's scratch with their
border around them; tables say where windows and their rows lie, so that the im2col matrix is never written.
Where the values lie is decided in `integer_plan.py`; the tiles are in `integer_tile.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minicnn_kernels.cpu import integer_routes as routes
from minicnn_kernels.cpu.compiler import kernel
from minicnn_kernels.cpu.integer_plain import any_tile, counts, requantize, scale
from minicnn_kernels.cpu.integer_routes import NARROW, ROWS, WIDE
from minicnn_kernels.cpu.pointers import FLOAT_BYTES, INT_BYTES, floats, load_int, octets

_INT32_BYTES = 4


class Multiply(NamedTuple):
    """A convolution. x and y are places in the scratch, the *_image what lies between two images there.

    The tables x_offsets (one entry per row: a window) and y_offsets (one per unit: a window, or the four
    whose maximum is wanted) hold for `images` images of `units` each. A row is read in tap_count runs of
    4 steps bytes. weight, bias, factor: addresses of the first group's, with weight_group bytes and
    `padded` columns to the next; in_group bytes of x and out_group columns belong to a group.
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
    plain: int
    low: int
    high: int
    zero: int


@kernel
def multiply(step, scratch, count):
    """y = requantized(bias + x * weight), for `count` images."""
    for first in range(0, count, step.images):
        units = min(step.images, count - first) * step.units
        x = scratch + step.x + first * step.x_image
        y = scratch + step.y + first * step.y_image
        for g in range(step.groups):
            _multiply_group(
                step, x + g * step.in_group,
                y + g * step.out_group * (FLOAT_BYTES if step.to_float else 1), units,
                step.weight + g * step.weight_group,
                step.bias + _INT32_BYTES * g * step.padded, step.factor + FLOAT_BYTES * g * step.padded,
            )  # fmt: skip


@kernel
def _multiply_group(step, x, y, units, weight, bias, factor):
    """Panel after panel of columns, so that their weights stay in the first-level cache."""
    column = 0
    while column < step.out_group:
        wide = not step.to_float and step.out_group - column > NARROW
        width = WIDE if wide else NARROW
        _multiply_panel(
            step, wide, x, y + column * (FLOAT_BYTES if step.to_float else 1), units,
            weight + column * step.tap_count * step.steps * 4,
            bias + _INT32_BYTES * column, factor + FLOAT_BYTES * column,
            min(width, step.out_group - column),
        )  # fmt: skip
        column += width


@kernel
def _multiply_panel(step, wide, x, y, units, weight, bias, factor, columns):
    """Tile after tile of rows. One image's dense layer has one row: then tiles of one."""
    window = 4 if step.pool else 1
    low, high = np.float32(step.low), np.float32(step.high)
    single = units == 1 and window == 1 and wide and not step.plain
    for unit in range(0, units, ROWS // window):
        rows, places = step.x_offsets + INT_BYTES * unit * window, step.y_offsets + INT_BYTES * unit
        here = min(ROWS // window, units - unit)
        arguments = (
            x, rows, step.taps, step.tap_count, step.steps, weight, bias, factor, y, places, here, columns,
            low, high, step.zero,
        )  # fmt: skip
        if step.plain:
            width = WIDE if wide else NARROW
            sizes = (width, window, step.to_float)
            any_tile(*(arguments + sizes))
        elif single:
            routes.row_tile(*arguments)
        elif step.to_float:
            routes.float_tile(*arguments)
        elif step.pool:
            if wide:
                routes.wide_pool_tile(*arguments)
            else:
                routes.narrow_pool_tile(*arguments)
        elif wide:
            routes.wide_tile(*arguments)
        else:
            routes.narrow_tile(*arguments)


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
            sums[:] = counts(step.bias, channels)
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

"""The steps of a program besides products: what comes in and goes out, pooling, sums, functions, borders.

Every step treats a group of images in a task's scratch. x and y are places there, in bytes; *_image are the
distances of two images, *_row of two rows of pixels, each of which has `channels` bytes, or floats. Which
steps a program needs is decided in `plan.py`, and which comes next in `run.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minicnn_kernels.cpu.compiler import kernel
from minicnn_kernels.cpu.integers.plain import counts, requantize, scale
from minicnn_kernels.cpu.pointers import FLOAT_BYTES, floats, octets

_EXACT: frozenset[str] = frozenset()  # no fused multiply-add: the reference rounds each product


class Quantize(NamedTuple):
    """Float images from outside: y = limited(rint(x / scale)) + zero. line: a place for a row of an image.

    scale: address of a float32.
    """

    y: int
    y_image: int
    y_row: int
    height: int
    width: int
    channels: int
    scale: int
    low: int
    high: int
    zero: int
    line: int


@kernel
def quantize(step, scratch, count, x, strides):
    """x: address of the first image. strides: bytes between images, channels, rows and columns."""
    of_image, of_channel, of_row, of_column = strides
    factor = floats(step.scale, 1)[0]
    low, high = np.float32(step.low), np.float32(step.high)
    channels = step.channels
    together = of_column == FLOAT_BYTES * channels and (channels == 1 or of_channel == FLOAT_BYTES)
    for image in range(count):
        for i in range(step.height):
            source = x + image * of_image + i * of_row
            row = octets(scratch + step.y + image * step.y_image + i * step.y_row, step.width * channels)
            if together:
                _quantize_row(row, floats(source, row.size), factor, low, high, step.zero)
                continue
            for c in range(channels):
                start, line = source + c * of_channel, scratch + step.line + c * step.width
                if of_column == FLOAT_BYTES:
                    _quantize_row(
                        octets(line, step.width), floats(start, step.width), factor, low, high, step.zero
                    )
                else:
                    for j in range(step.width):
                        number = floats(start + j * of_column, 1)
                        _quantize_row(octets(line + j, 1), number, factor, low, high, step.zero)
            _interleave(row, scratch + step.line, step.width, channels)


@kernel
def _interleave(row, lines, width, channels):
    """row[j, c] = lines[c, j]. Three stores side by side become shuffles of vectors: 3 times as fast."""
    if channels == 3:
        red, green, blue = (
            octets(lines, width), octets(lines + width, width), octets(lines + 2 * width, width)
        )  # fmt: skip
        for j in range(width):
            row[3 * j] = red[j]
            row[3 * j + 1] = green[j]
            row[3 * j + 2] = blue[j]
        return
    for c in range(channels):
        line = octets(lines + c * width, width)
        for j in range(width):
            row[j * channels + c] = line[j]


@kernel
def _quantize_row(y, x, factor, low, high, zero):
    for i in range(y.size):
        value = np.rint(x[i] / factor)
        value = low if value < low else value
        value = high if value > high else value
        y[i] = np.int32(value) + np.int32(zero)


class Load(NamedTuple):
    """Images of bytes from outside."""

    y: int
    y_image: int
    y_row: int
    height: int
    width: int
    channels: int


@kernel
def load(step, scratch, count, x, strides):
    """As `quantize`."""
    of_image, of_channel, of_row, of_column = strides
    for image in range(count):
        for i in range(step.height):
            row = octets(scratch + step.y + image * step.y_image + i * step.y_row, step.width * step.channels)
            source = x + image * of_image + i * of_row
            for j in range(step.width):
                for c in range(step.channels):
                    row[j * step.channels + c] = octets(source + j * of_column + c * of_channel, 1)[0]


class Store(NamedTuple):
    """Images to the outside, row_bytes of each row, image after image without gaps."""

    x: int
    x_image: int
    x_row: int
    height: int
    row_bytes: int


@kernel
def store(step, scratch, count, y):
    """y: address of the group's first result."""
    size = step.row_bytes
    for image in range(count):
        for i in range(step.height):
            source = octets(scratch + step.x + image * step.x_image + i * step.x_row, size)
            target = octets(y + (image * step.height + i) * size, size)
            for j in range(size):
                target[j] = source[j]


class Border(NamedTuple):
    """What lies around images becomes `zero`: top rows, and left bytes in a row, on either side."""

    x: int
    x_image: int
    x_row: int
    height: int
    row_bytes: int
    top: int
    left: int
    zero: int


@kernel
def border(step, scratch, count):
    """x is the place of the first pixel inside."""
    for image in range(count):
        inside = scratch + step.x + image * step.x_image
        above, below = step.top * step.x_row, step.height * step.x_row
        _fill(octets(inside - above - step.left, above), step.zero)
        _fill(octets(inside + below - step.left, above), step.zero)
        for i in range(step.height):
            row = inside + i * step.x_row
            _fill(octets(row - step.left, step.left), step.zero)
            _fill(octets(row + step.row_bytes, step.left), step.zero)


@kernel
def _fill(y, value):
    """By a loop, as everywhere here: Numba takes 0.5 s to compile an assignment to y[:]."""
    for i in range(y.size):
        y[i] = value


class Pool(NamedTuple):
    """Windows kh x kw of an image of height x width. sums: a place for `channels` int32; scale as `Quantize`.

    average: sums of (x - x_zero) times the scale; else the maximum.
    """

    x: int
    x_image: int
    x_row: int
    y: int
    y_image: int
    y_row: int
    height: int
    width: int
    out_height: int
    out_width: int
    channels: int
    kh: int
    kw: int
    sh: int
    sw: int
    ph: int
    pw: int
    dh: int
    dw: int
    average: int
    sums: int
    factors: int
    x_zero: int
    to_float: int
    low: int
    high: int
    zero: int


@kernel
def pool(step, scratch, count):
    """Pixels outside the image are left out: they are no maximum, and add nothing."""
    channels = step.channels
    size = FLOAT_BYTES if step.to_float else 1
    sums, factors = counts(scratch + step.sums, channels), floats(step.factors, channels)
    for image in range(count):
        for i in range(step.out_height):
            for j in range(step.out_width):
                place = scratch + step.y + image * step.y_image + i * step.y_row + j * channels * size
                corner = scratch + step.x + image * step.x_image
                top, left = i * step.sh - step.ph, j * step.sw - step.pw
                if not step.average:
                    _maximum(step, octets(place, channels), corner, top, left)
                    continue
                _sum(step, sums, corner, top, left)
                if step.to_float:
                    scale(floats(place, channels), sums, factors)
                else:
                    low, high = np.float32(step.low), np.float32(step.high)
                    requantize(octets(place, channels), sums, factors, low, high, step.zero)


@kernel
def _maximum(step, best, corner, top, left):
    _fill(best, 0)
    for p in range(step.kh):
        row = top + p * step.dh
        for q in range(step.kw):
            column = left + q * step.dw
            if 0 <= row < step.height and 0 <= column < step.width:
                pixel = octets(corner + row * step.x_row + column * best.size, best.size)
                for c in range(best.size):
                    best[c] = max(best[c], pixel[c])


@kernel
def _sum(step, sums, corner, top, left):
    _fill(sums, 0)
    zero = np.int32(step.x_zero)
    for p in range(max(0, -top), min(step.kh, step.height - top)):
        for q in range(max(0, -left), min(step.kw, step.width - left)):
            pixel = octets(corner + (top + p) * step.x_row + (left + q) * sums.size, sums.size)
            for c in range(sums.size):
                sums[c] += np.int32(pixel[c]) - zero


class Add(NamedTuple):
    """Two images row by row; scales: address of the three scales, those of a, b and the result."""

    a: int
    a_image: int
    a_row: int
    b: int
    b_image: int
    b_row: int
    y: int
    y_image: int
    y_row: int
    height: int
    row_bytes: int
    scales: int
    a_zero: int
    b_zero: int
    low: int
    high: int
    zero: int


@kernel(fastmath=_EXACT)
def add(step, scratch, count):
    """y = limited(rint(((a - a_zero) a_scale + (b - b_zero) b_scale) / y_scale)) + zero."""
    scales = floats(step.scales, 3)
    low, high = np.float32(step.low), np.float32(step.high)
    for image in range(count):
        for i in range(step.height):
            _add_row(
                octets(scratch + step.y + image * step.y_image + i * step.y_row, step.row_bytes),
                octets(scratch + step.a + image * step.a_image + i * step.a_row, step.row_bytes),
                octets(scratch + step.b + image * step.b_image + i * step.b_row, step.row_bytes),
                scales[0], scales[1], scales[2], np.int32(step.a_zero), np.int32(step.b_zero), low, high,
                np.int32(step.zero),
            )  # fmt: skip


@kernel(fastmath=_EXACT)
def _add_row(y, a, b, a_scale, b_scale, y_scale, a_zero, b_zero, low, high, zero):
    for i in range(y.size):
        first = np.float32(np.int32(a[i]) - a_zero) * a_scale
        second = np.float32(np.int32(b[i]) - b_zero) * b_scale
        value = np.rint((first + second) / y_scale)
        value = low if value < low else value
        value = high if value > high else value
        y[i] = np.int32(value) + zero


class Lookup(NamedTuple):
    """A table's entry for each byte; table: address of 256 bytes, or floats."""

    x: int
    x_image: int
    x_row: int
    y: int
    y_image: int
    y_row: int
    height: int
    row_bytes: int
    table: int
    to_float: int


@kernel
def lookup(step, scratch, count):
    """y = table[x]."""
    for image in range(count):
        for i in range(step.height):
            x = octets(scratch + step.x + image * step.x_image + i * step.x_row, step.row_bytes)
            place = scratch + step.y + image * step.y_image + i * step.y_row
            if step.to_float:
                _take(floats(place, x.size), x, floats(step.table, 256))
            else:
                _take(octets(place, x.size), x, octets(step.table, 256))


@kernel
def _take(y, x, table):
    for i in range(x.size):
        y[i] = table[x[i]]


class Place(NamedTuple):
    """The channels of x become channels of y, out_channels a pixel: a part of a concatenation."""

    x: int
    x_image: int
    x_row: int
    y: int
    y_image: int
    y_row: int
    height: int
    width: int
    channels: int
    out_channels: int


@kernel
def place(step, scratch, count):
    """Pixel by pixel."""
    for image in range(count):
        for i in range(step.height):
            source = scratch + step.x + image * step.x_image + i * step.x_row
            target = scratch + step.y + image * step.y_image + i * step.y_row
            for _ in range(step.width):
                pixel, copy = octets(source, step.channels), octets(target, step.channels)
                for c in range(step.channels):
                    copy[c] = pixel[c]
                source += step.channels
                target += step.out_channels

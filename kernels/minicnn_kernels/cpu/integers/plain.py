"""Products of integers as ordinary Numba loops, and what follows a sum: for machines without AVX512-VNNI.

`multiply_plain` does what `multiply.py` does with the tiles of `tile.py`, from the same tables and packed
weights. LLVM vectorizes the inner loop over columns; sums live in memory.
"""

from __future__ import annotations

import numpy as np

from minicnn_kernels.cpu.compiler import kernel
from minicnn_kernels.cpu.pointers import FLOAT_BYTES, INT_BYTES, floats, load_int, octets

NARROW, WIDE = 16, 32  # columns of the two kinds of panels of weights
QUAD = 4
INT32_BYTES = 4


@kernel
def multiply_plain(step, scratch, count, part, parts):
    """y = requantized(bias + x * weight), for `count` images; the units of one of `parts`."""
    window = 4 if step.pool else 1
    sums, best = np.empty(step.padded, np.int32), np.empty(step.padded, np.int32)
    low, high = np.float32(step.low), np.float32(step.high)
    for first in range(0, count, step.images):
        units = min(step.images, count - first) * step.units
        for g in range(step.groups):
            start = counts(step.bias + INT32_BYTES * g * step.padded, step.padded)
            factors = floats(step.factor + FLOAT_BYTES * g * step.padded, step.padded)
            x = scratch + step.x + first * step.x_image + g * step.in_group
            y = scratch + step.y + first * step.y_image
            y += g * step.out_group * (FLOAT_BYTES if step.to_float else 1)
            for unit in range(units * part // parts, units * (part + 1) // parts):
                for r in range(window):
                    for j in range(sums.size):
                        sums[j] = start[j]
                    row = x + load_int(step.x_offsets + INT_BYTES * (unit * window + r))
                    _add_row(step, sums, row, step.weight + g * step.weight_group)
                    for j in range(sums.size):
                        best[j] = sums[j] if r == 0 else max(best[j], sums[j])
                place = y + load_int(step.y_offsets + INT_BYTES * unit)
                if step.to_float:
                    scale(floats(place, step.out_group), best, factors)
                else:
                    requantize(octets(place, step.out_group), best, factors, low, high, step.zero)


@kernel
def _add_row(step, sums, x, weight):
    """sums += one row of x, cut into runs by the taps, times the weights, panel after panel."""
    column = 0
    while column < sums.size:
        width = WIDE if not step.to_float and step.out_group - column > NARROW else NARROW
        panel = sums[column : column + width]
        for t in range(step.tap_count):
            place = x + load_int(step.taps + INT_BYTES * t)
            for _ in range(step.steps):
                quad, weights = octets(place, QUAD), octets(weight, QUAD * width).view(np.int8)
                for q in range(QUAD):
                    factor = np.int32(quad[q])
                    for j in range(width):
                        panel[j] += factor * np.int32(weights[QUAD * j + q])
                place += QUAD
                weight += QUAD * width
        column += width


@kernel
def scale(y, sums, factors):
    """y = float32(sums) * factors, for y.size columns."""
    for j in range(y.size):
        y[j] = np.float32(sums[j]) * factors[j]


@kernel
def requantize(y, sums, factors, low, high, zero):
    """y = limited(rint(float32(sums) * factors)) + zero, for y.size columns."""
    for j in range(y.size):
        scaled = np.float32(sums[j]) * factors[j]
        scaled = low if scaled < low else scaled
        scaled = high if scaled > high else scaled
        y[j] = np.int32(np.rint(scaled)) + np.int32(zero)


@kernel
def counts(address, count):
    """`count` int32 at an address, as an array."""
    return octets(address, INT32_BYTES * count).view(np.int32)

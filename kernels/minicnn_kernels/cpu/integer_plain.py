"""What `integer_tile.py` offers, as ordinary Numba loops: for machines without AVX512-VNNI, and to check it.

The same name, arguments and meaning. `integer_routes.py` chooses between the two.
"""

from __future__ import annotations

import numpy as np

from minicnn_kernels.cpu.compiler import kernel
from minicnn_kernels.cpu.pointers import INT_BYTES, floats, load_int, octets

LANES, QUAD = 16, 4
_INT32_BYTES = 4


def make_tile(rows: int, vectors: int, window: int, to_float: bool):
    """As `integer_tile.make_tile`; units may be any number."""
    width = vectors * LANES

    @kernel
    def tile(
        x, x_offsets, taps, tap_count, steps, weight, bias, factor, y, y_offsets, units, columns, low, high,
        zero,
    ):  # fmt: skip
        any_tile(
            x, x_offsets, taps, tap_count, steps, weight, bias, factor, y, y_offsets, units, columns, low,
            high, zero, width, window, to_float,
        )  # fmt: skip

    return tile


@kernel
def any_tile(
    x, x_offsets, taps, tap_count, steps, weight, bias, factor, y, y_offsets, units, columns, low, high, zero,
    width, window, to_float,
):  # fmt: skip
    """The tile of these sizes."""
    start, factors = counts(bias, width), floats(factor, width)
    sums, best = np.empty(width, np.int32), np.empty(width, np.int32)
    for i in range(units):
        for r in range(i * window, (i + 1) * window):
            sums[:] = start
            _add_row(sums, x + load_int(x_offsets + INT_BYTES * r), taps, tap_count, steps, weight)
            for j in range(width):
                best[j] = sums[j] if r == i * window else max(best[j], sums[j])
        place = y + load_int(y_offsets + INT_BYTES * i)
        if to_float:
            scale(floats(place, columns), best, factors)
        else:
            requantize(octets(place, columns), best, factors, low, high, zero)


@kernel
def _add_row(sums, x, taps, tap_count, steps, weight):
    """sums += one row of x, cut into runs by the taps, times the weights."""
    width = sums.size
    for t in range(tap_count):
        place = x + load_int(taps + INT_BYTES * t)
        for _ in range(steps):
            quad, columns = octets(place, QUAD), octets(weight, QUAD * width).view(np.int8)
            for q in range(QUAD):
                factor = np.int32(quad[q])
                for j in range(width):
                    sums[j] += factor * np.int32(columns[QUAD * j + q])
            place += QUAD
            weight += QUAD * width


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
    return octets(address, _INT32_BYTES * count).view(np.int32)

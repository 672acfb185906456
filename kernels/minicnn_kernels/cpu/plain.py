"""What `vectors.py` offers, as ordinary Numba loops: for machines whose vectors we do not know.

The same names, signatures and meanings, without a line of LLVM; `microkernel.py` chooses. LLVM vectorizes the
inner loops for whatever it finds, but sums live in memory, not in registers: on AVX-512 a matrix product runs
at a third of the speed of `vectors.py`.
"""

from __future__ import annotations

import numpy as np

from minicnn_kernels.cpu.compiler import kernel
from minicnn_kernels.cpu.lanes import LANES
from minicnn_kernels.cpu.pointers import FLOAT_BYTES, INT_BYTES, floats, load_int


def make_tile(rows: int, vectors: int, lanes: int):
    """As `vectors.make_tile`; the size of the tile is that of its arguments."""
    return _tile


def make_pixels(pixels: int):
    """As `depthwise.make_pixels`."""

    @kernel
    def tile(x, step, taps, weight, bias, y, y_step, columns):
        width = min(columns, LANES)
        for i in range(pixels):
            sums = floats(y + FLOAT_BYTES * i * y_step, width)
            sums[:] = floats(bias, width)
            for n in range(load_int(taps)):
                entry = taps + INT_BYTES * (1 + 2 * n)
                place = x + FLOAT_BYTES * (i * step + load_int(entry))
                factors = floats(weight + FLOAT_BYTES * load_int(entry + INT_BYTES), width)
                _add_products(sums, floats(place, width), factors)

    return tile


def make_transpose(lanes: int):
    """As `vectors.make_transpose`."""

    @kernel
    def transpose_block(source, source_stride, target, target_stride):
        for i in range(lanes):
            row = floats(source + FLOAT_BYTES * i * source_stride, lanes)
            for j in range(lanes):
                floats(target + FLOAT_BYTES * (j * target_stride + i), 1)[0] = row[j]

    return transpose_block


@kernel
def load_float(address):
    """The float32 at an address."""
    return floats(address, 1)[0]


@kernel
def store_float(address, value):
    """Write a float32 to an address."""
    floats(address, 1)[0] = value


@kernel
def copy_floats(target, source, count):
    """Copy `count` floats between addresses; the two places do not overlap."""
    floats(target, count)[:] = floats(source, count)


@kernel
def zero_floats(target, count):
    """Write `count` zeros from an address on."""
    floats(target, count)[:] = np.float32(0)


@kernel
def add_products(
    grad_a, grad_b, grad_c, sum_a, sum_b, sum_c, x, step, grad_step, count, second, third, second_sum,
    third_sum,
):  # fmt: skip
    """As the intrinsic of `depthwise.py`: nine taps, each once, though their places may repeat."""
    _add_taps(grad_a, sum_a, x, step, grad_step, count, second, third, second_sum, third_sum)
    if sum_b != sum_a:
        _add_taps(grad_b, sum_b, x, step, grad_step, count, second, third, second_sum, third_sum)
    if sum_c != sum_b:
        _add_taps(grad_c, sum_c, x, step, grad_step, count, second, third, second_sum, third_sum)


@kernel
def _add_taps(grad, sums, x, step, grad_step, count, second, third, second_sum, third_sum):
    first, middle = floats(sums, LANES), floats(sums + FLOAT_BYTES * second_sum, LANES)
    last = floats(sums + FLOAT_BYTES * third_sum, LANES)
    for j in range(count):
        factor = floats(grad + FLOAT_BYTES * j * grad_step, LANES)
        place = x + FLOAT_BYTES * j * step
        _add_products(first, floats(place, LANES), factor)
        if second_sum != 0:
            _add_products(middle, floats(place + FLOAT_BYTES * second, LANES), factor)
        if third_sum != second_sum:
            _add_products(last, floats(place + FLOAT_BYTES * third, LANES), factor)


@kernel
def _tile(
    a, row_offsets, taps, tap_count, run, step, b, b_stride, init, init_stride, c, c_stride,
    valid_rows, valid_columns,
):  # fmt: skip
    """Row by row; four steps of k together, so that a sum is loaded and stored once for four."""
    pace = FLOAT_BYTES * step
    for i in range(valid_rows):
        sums = floats(c + FLOAT_BYTES * i * c_stride, valid_columns)
        if init != c:
            sums[:] = floats(init + FLOAT_BYTES * i * init_stride, valid_columns)
        row = b
        for t in range(tap_count):
            place = a + FLOAT_BYTES * (load_int(row_offsets + INT_BYTES * i) + load_int(taps + INT_BYTES * t))
            for _ in range(run // 4):
                _add_four(
                    sums, load_float(place), load_float(place + pace), load_float(place + 2 * pace),
                    load_float(place + 3 * pace), row, b_stride,
                )  # fmt: skip
                place += 4 * pace
                row += 4 * FLOAT_BYTES * b_stride
            for _ in range(run % 4):
                _add_one(sums, load_float(place), floats(row, sums.size))
                place += pace
                row += FLOAT_BYTES * b_stride


@kernel
def _add_four(sums, a0, a1, a2, a3, b, stride):
    b0, b1 = floats(b, sums.size), floats(b + FLOAT_BYTES * stride, sums.size)
    b2, b3 = floats(b + 2 * FLOAT_BYTES * stride, sums.size), floats(b + 3 * FLOAT_BYTES * stride, sums.size)
    for j in range(sums.size):
        sums[j] = sums[j] + a0 * b0[j] + a1 * b1[j] + a2 * b2[j] + a3 * b3[j]


@kernel
def _add_one(sums, factor, b):
    for j in range(sums.size):
        sums[j] += factor * b[j]


@kernel
def _add_products(sums, a, b):
    for j in range(sums.size):
        sums[j] += a[j] * b[j]

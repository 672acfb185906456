"""A block of rows times a block of columns: the loop over micro-kernels, and the packing of their operand B.

`multiply` is what convolution and linear layers call inside their parallel loops. Which tile of registers it
uses depends on the machine's vectors. B comes either as plain rows or packed into panels: the columns of one
tile side by side for all of k, so that the micro-kernel reads memory in a straight line.
"""

from __future__ import annotations

import numpy as np

from minicnn_kernels import memory
from minicnn_kernels.cpu.compiler import kernel
from minicnn_kernels.cpu.lanes import LANES, TILES
from minicnn_kernels.cpu.microkernel import (
    FLOAT_BYTES,
    INT_BYTES,
    copy_floats,
    load_float,
    make_tile,
    make_transpose,
    store_float,
)

# (rows, vectors) of the two tiles, by lanes. The wide tile does most of the work; the narrow one takes the
# last columns, so that 16 output channels do not cost as much as 32. Expected: a tile with more sums in
# registers is faster until they are used up. Seen on 3x3 convolutions of 32 to 128 channels, one core:
#   16 lanes: 8x2 reaches 0.9 of the peak, and so do 12x2, 14x2 and 6x4; it wastes the fewest rows on small
#             images. At 16 columns 14x1 is 1.5 times as fast as a half-empty 8x2.
#    8 lanes: 6x2 is 1.17 times as fast as 4x2 and 1.1 times as 4x3 (16 registers: 12 sums, 2 of B, 1 of A).
#    4 lanes: 3x4 is 1.1 times as fast as 6x2 and 4x2, and 1.35 times as 8x1.
# Plain loops hold no sums in registers: long rows suit them. 64 columns are 1.3 times as fast as 32.
_TILES = {
    "16": ((8, 2), (14, 1)),
    "8": ((6, 2), (12, 1)),
    "4": ((3, 4), (6, 2)),
    "plain": ((8, 4), (8, 1)),
}
(WIDE_ROWS, _wide_vectors), (NARROW_ROWS, _narrow_vectors) = _TILES[TILES]
WIDE = _wide_vectors * LANES
NARROW = _narrow_vectors * LANES
_wide_tile = make_tile(WIDE_ROWS, _wide_vectors, LANES)
_narrow_tile = make_tile(NARROW_ROWS, _narrow_vectors, LANES)
_transpose_block = make_transpose(LANES)
PACKED = 0  # as b_stride: B lies in panels


@kernel
def padded_columns(columns):
    """Columns that `multiply` may read of B: `columns` rounded up to whole narrow tiles."""
    return -(-columns // NARROW) * NARROW


@kernel
def multiply(
    a, row_offsets, rows, taps, tap_count, run, step, b, b_stride, columns, init, init_stride, c, c_stride
):
    """C = init + A B for `rows` x `columns`, tile by tile; `make_tile` says how A is addressed.

    All arguments are integers; a, row_offsets, taps, b, init and c are addresses. b_stride is PACKED or the
    distance of B's rows in floats; either way `padded_columns(columns)` of each row must be readable.
    """
    depth = tap_count * run
    j = 0
    while j < columns:
        wide = columns - j > WIDE - NARROW
        width = WIDE if wide else NARROW
        valid = min(width, columns - j)
        if b_stride == PACKED:
            panel, stride = b + FLOAT_BYTES * j * depth, width
        else:
            panel, stride = b + FLOAT_BYTES * j, b_stride
        start, target = init + FLOAT_BYTES * j, c + FLOAT_BYTES * j
        if wide:
            for i in range(0, rows, WIDE_ROWS):
                _wide_tile(
                    a, row_offsets + INT_BYTES * i, taps, tap_count, run, step, panel, stride,
                    start + FLOAT_BYTES * i * init_stride, init_stride,
                    target + FLOAT_BYTES * i * c_stride, c_stride, min(WIDE_ROWS, rows - i), valid,
                )  # fmt: skip
        else:
            for i in range(0, rows, NARROW_ROWS):
                _narrow_tile(
                    a, row_offsets + INT_BYTES * i, taps, tap_count, run, step, panel, stride,
                    start + FLOAT_BYTES * i * init_stride, init_stride,
                    target + FLOAT_BYTES * i * c_stride, c_stride, min(NARROW_ROWS, rows - i), valid,
                )  # fmt: skip
        j += width


@kernel
def transpose(source, source_stride, rows, columns, target, target_stride):
    """target[j, i] = source[i, j] for `rows` x `columns` floats; strides count floats."""
    whole_rows, whole_columns = rows // LANES * LANES, columns // LANES * LANES
    for i in range(0, whole_rows, LANES):
        for j in range(0, whole_columns, LANES):
            _transpose_block(
                source + FLOAT_BYTES * (i * source_stride + j), source_stride,
                target + FLOAT_BYTES * (j * target_stride + i), target_stride,
            )  # fmt: skip
    for i in range(rows):
        for j in range(whole_columns if i < whole_rows else 0, columns):
            value = load_float(source + FLOAT_BYTES * (i * source_stride + j))
            store_float(target + FLOAT_BYTES * (j * target_stride + i), value)


@kernel
def pack(source, row_stride, column_stride, rows, columns, packed, first_row, depth):
    """Lay `rows` x `columns` floats into panels of a matrix of `depth` rows, from `first_row` on.

    source and packed are addresses. The columns up to `padded_columns` become zero.
    """
    j = 0
    while j < columns:
        width = WIDE if columns - j > WIDE - NARROW else NARROW
        valid = min(width, columns - j)
        panel = packed + FLOAT_BYTES * (j * depth + first_row * width)
        start = source + FLOAT_BYTES * j * column_stride
        if column_stride == 1:
            for k in range(rows):
                origin, target = start + FLOAT_BYTES * k * row_stride, panel + FLOAT_BYTES * k * width
                if valid == WIDE:  # a constant: vector moves instead of a call, a quarter of the time
                    copy_floats(target, origin, WIDE)
                else:
                    copy_floats(target, origin, valid)
        elif row_stride == 1:
            transpose(start, column_stride, valid, rows, panel, width)
        else:
            for i in range(valid):
                origin, target = start + FLOAT_BYTES * i * column_stride, panel + FLOAT_BYTES * i
                for k in range(rows):
                    value = load_float(origin + FLOAT_BYTES * k * row_stride)
                    store_float(target + FLOAT_BYTES * k * width, value)
        for i in range(valid, width):
            for k in range(rows):
                store_float(panel + FLOAT_BYTES * (k * width + i), np.float32(0))
        j += width


def pack_weights(taps, groups, transposed):
    """Convolution weights (kh, kw, C/groups, O) as the operand B of `multiply`, in panels, group after group.

    Rows of B are (tap, input channel), columns output channels. transposed: rows are (tap, output channel)
    with the taps in reverse order, columns input channels, as the gradient of the input needs them.
    """
    kh, kw, in_group, outputs = taps.shape
    out_group = outputs // groups
    rows, columns = (out_group, in_group) if transposed else (in_group, out_group)
    packed = memory.empty(groups * kh * kw * rows * padded_columns(columns))
    _pack_weights(taps.ctypes.data, packed.ctypes.data, kh * kw, in_group, outputs, groups, transposed)
    return packed


@kernel
def _pack_weights(source, packed, taps, in_group, outputs, groups, transposed):
    out_group = outputs // groups
    rows, columns = (out_group, in_group) if transposed else (in_group, out_group)
    size = rows * padded_columns(columns)
    for g in range(groups):
        for tap in range(taps):
            origin = source + FLOAT_BYTES * (tap * in_group * outputs + g * out_group)
            row_stride, column_stride = (1, outputs) if transposed else (outputs, 1)
            place = taps - 1 - tap if transposed else tap
            target = packed + FLOAT_BYTES * g * taps * size
            pack(origin, row_stride, column_stride, rows, columns, target, place * rows, taps * rows)

"""A dense layer made ready, its weights in the order in which they are read. Eager ones are in `linear.py`.

With a few rows of x the product is as fast as the weights come out of the cache: they are read once, row
after row, where they lie. With more rows it is `blocks.multiply`'s, on panels that were packed beforehand.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numba import prange

from minicnn_kernels import memory
from minicnn_kernels.cpu.blocks import INT_BYTES, LANES, PACKED, WIDE, multiply, pack, padded_columns
from minicnn_kernels.cpu.calls import Call
from minicnn_kernels.cpu.compiler import kernel
from minicnn_kernels.cpu.finish import relu_pixels
from minicnn_kernels.cpu.layout import address, contiguous
from minicnn_kernels.cpu.microkernel import FLOAT_BYTES, make_tile

# Rows up to which weights are read once per row: a tile of 8 rows costs as much for 1 as for 8.
_FEW = 2
_VECTORS = 4  # sums side by side, as many as a fused multiply-add takes cycles
_STRIP = _VECTORS * LANES
_ROWS_PER_TASK = 256
_one_row = make_tile(1, _VECTORS, LANES)


def prepare(x_shape, weight, bias, relu) -> Call:
    """x weight^T + bias for x (N, in), weight (out, in), bias (out,) or None; relu: negatives become 0.

    x_shape (N, C, H, W) says that x has images as they lie in memory, (N, H, W, C), where the weights are for
    flattened ones: then the rows of the weights are exchanged, which costs less than to exchange pixels.
    """
    rows, depth, columns = x_shape[0], math.prod(x_shape[1:]), weight.shape[0]
    if len(x_shape) == 4:
        weight = weight.reshape(columns, *x_shape[1:]).transpose(0, 2, 3, 1).reshape(columns, depth)
    if rows <= _FEW:
        padded = -(-columns // _STRIP) * _STRIP
        matrix = contiguous(weight.T)
        if padded != columns:
            matrix, values = memory.zeros((depth, padded)), matrix
            matrix[:, :columns] = values
    else:
        padded = int(padded_columns(columns))
        matrix, values = memory.empty(depth * padded), contiguous(weight.T)
        _pack(address(values), address(matrix), depth, columns)
    offsets = np.zeros(padded, np.float32)
    if bias is not None:
        offsets[:columns] = bias
    row_offsets = _row_offsets(rows, depth)
    constants = (
        address(matrix), address(offsets), address(row_offsets), address(_ZERO_TAP),
        rows, depth, columns, padded, rows <= _FEW, relu,
    )  # fmt: skip
    return Call(_multiply, constants, 0, (matrix, offsets, row_offsets))


_ZERO_TAP = np.zeros(1, np.int64)


@functools.lru_cache(maxsize=64)
def _row_offsets(rows: int, depth: int) -> np.ndarray:
    return np.arange(rows, dtype=np.int64) * depth


@kernel
def _pack(matrix, packed, depth, columns):
    pack(matrix, columns, 1, depth, columns, packed, 0, depth)


@kernel(parallel=True)
def _multiply(
    x, y, winners, scratch, weight, bias, row_offsets, zero_tap, rows, depth, columns, padded, few, relu
):
    """A task is a block of columns, and of rows where there are many."""
    width = _STRIP if few else WIDE
    column_blocks = (columns + width - 1) // width
    row_blocks = (rows + _ROWS_PER_TASK - 1) // _ROWS_PER_TASK
    for task in prange(row_blocks * column_blocks):
        i = np.intp(task) // column_blocks * _ROWS_PER_TASK
        j = np.intp(task) % column_blocks * width
        count, valid = min(_ROWS_PER_TASK, rows - i), min(width, columns - j)
        start, target = bias + FLOAT_BYTES * j, y + FLOAT_BYTES * (i * columns + j)
        if few:
            for r in range(count):
                _one_row(
                    x + FLOAT_BYTES * r * depth, zero_tap, zero_tap, 1, depth, 1,
                    weight + FLOAT_BYTES * j, padded, start, 0, target + FLOAT_BYTES * r * columns, columns,
                    1, valid,
                )  # fmt: skip
        else:
            multiply(
                x, row_offsets + INT_BYTES * i, count, zero_tap, 1, depth, 1,
                weight + FLOAT_BYTES * j * depth, PACKED, valid, start, 0, target, columns,
            )  # fmt: skip
        if relu:
            relu_pixels(target, count, columns, valid)

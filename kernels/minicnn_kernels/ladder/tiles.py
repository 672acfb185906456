"""What the upper rungs of both ladders share: one tile of registers, and matrices packed into panels for it.

The micro-kernel itself is written in `cpu/microkernel.py`; `cpu/blocks.py` is this file in production.
"""

from __future__ import annotations

import numpy as np

from minicnn_kernels import memory
from minicnn_kernels.cpu.blocks import LANES, WIDE, WIDE_ROWS
from minicnn_kernels.cpu.compiler import kernel
from minicnn_kernels.cpu.microkernel import make_tile

ROWS, COLUMNS = WIDE_ROWS, WIDE  # of a tile: as many sums as fit into the vector registers
_tile = make_tile(ROWS, COLUMNS // LANES, LANES)


def empty_panels(depth: int, columns: int) -> np.ndarray:
    """Memory for a (depth, columns) matrix in panels: (number of panels, depth, COLUMNS)."""
    return memory.empty((-(-columns // COLUMNS), depth, COLUMNS))


@kernel
def pack(matrix, first_row, panels, panel):
    """Copy one panel: COLUMNS columns of `matrix`, from `first_row` on, side by side; zeros past its edge.

    The micro-kernel then reads memory in one straight line, and every fetched cache line is used whole.
    """
    _, depth, width = panels.shape
    first = panel * width
    valid = min(width, matrix.shape[1] - first)
    for k in range(depth):
        source, target = matrix[first_row + k], panels[panel, k]
        for j in range(valid):
            target[j] = source[first + j]
        for j in range(valid, width):
            target[j] = 0


@kernel
def multiply(a, row_offsets, taps, panels, bias, accumulate, c):
    """c = A B + bias, or c += A B if `accumulate`, tile by tile; B lies in panels of `depth` rows.

    A[i, t * run + k] = a[row_offsets[i] + taps[t] + k], counted in floats from the start of `a`, with run =
    depth / len(taps): a plain matrix has one tap, an image one tap per kernel row. c: (rows, columns).
    """
    rows, columns = c.shape
    count, depth, width = panels.shape
    a_start, c_start = np.int64(a.ctypes.data), np.int64(c.ctypes.data)
    init_start = c_start if accumulate else np.int64(bias.ctypes.data)
    init_stride = columns if accumulate else 0  # a bias is the same for every row
    for panel in range(count):
        column = panel * width
        for i in range(0, rows, ROWS):
            _tile(
                a_start,
                np.int64(row_offsets.ctypes.data) + 8 * i,
                np.int64(taps.ctypes.data),
                taps.size,
                depth // taps.size,
                1,
                np.int64(panels.ctypes.data) + 4 * column * depth,
                width,
                init_start + 4 * (i * init_stride + column),
                init_stride,
                c_start + 4 * (i * columns + column),
                columns,
                min(ROWS, rows - i),
                min(width, columns - column),
            )

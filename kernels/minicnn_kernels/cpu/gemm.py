"""The product of two matrices of any strides, and sums over columns; no BLAS.

The split into tasks depends on shapes alone and no sum is split, so results are bit-identical for any number
of threads. A task computes a block of C, `_DEPTH` steps of k at a time: B is packed into panels that fit the
first-level cache, A is read where it lies if its rows are dense, else copied. When B is the larger one and
lies the wrong way round, as the weight of a dense layer does for the gradient of its input, the transposed
product is computed, block by block, and turned while in cache.
"""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
from numba import get_num_threads, get_thread_id, prange

from minicnn_kernels import memory
from minicnn_kernels.cpu.blocks import (
    LANES,
    PACKED,
    WIDE,
    WIDE_ROWS,
    multiply,
    pack,
    transpose,
)
from minicnn_kernels.cpu.calls import aligned
from minicnn_kernels.cpu.compiler import THREAD_SLOTS, kernel
from minicnn_kernels.cpu.finish import relu_pixels
from minicnn_kernels.cpu.layout import address, contiguous
from minicnn_kernels.cpu.microkernel import (
    FLOAT_BYTES,
    INT_BYTES,
    copy_floats,
    load_float,
    store_float,
    zero_floats,
)
from minicnn_kernels.cpu.pointers import floats, integers

_WORTH_A_TASK = 1 << 17  # multiplications: 2 us; waking a thread costs as much
# A task's block: what it packs of B, _DEPTH steps of k at a time, stays in the second-level cache.
_BLOCK_ROWS, _BLOCK_COLUMNS = 1024, 1024
_DEPTH = 256  # a panel of 32 columns has 32 KiB
_STRIP = 4 * WIDE_ROWS  # rows of A that are copied at once
# With few rows B is not packed: that costs as much as three strips of rows, 0.7 cycles for each float that
# comes from beyond the second-level cache, which are hidden when the first strip reads them.
_FEW_ROWS, _DIRECT_DEPTH = 256, 96
_TURNED = 32  # rows of a transposed product that are turned at once
_PARTS = 16  # of a sum over rows


def multiply_matrices(
    a: np.ndarray, b: np.ndarray, out: np.ndarray, bias: np.ndarray | None = None, *, relu: bool = False
) -> np.ndarray:
    """out = a @ b + bias: a (M, K) and b (K, N) of any strides, bias (N,), out (M, N) with dense rows.

    relu: out = max(out, 0).
    """
    rows, depth = a.shape
    columns = b.shape[1]
    if out.size == 0:
        return out
    if depth == 0:
        out[...] = 0 if bias is None else bias
        return np.maximum(out, 0, out=out) if relu else out
    a, a_row, a_column = _strides(a)
    b, b_row, b_column = _strides(b)
    if bias is not None:
        bias = np.ascontiguousarray(bias, np.float32)
    # Turned around is either B, while it is packed, or the result.
    swapped = b_row == 1 and b_column != 1 and rows < depth
    if swapped:
        a = contiguous(a.T)
        left, right = (address(b), b_column, b_row), (address(a), rows, 1)
        rows, columns = columns, rows
    else:
        left, right = (address(a), a_row, a_column), (address(b), b_row, b_column)
    block_rows, block_columns = _split(rows, columns, depth, get_num_threads())
    size = 2 * block_rows + block_columns + _DEPTH * (_STRIP + block_columns)
    size += _TURNED * block_columns if swapped else 0
    scratch = memory.empty(THREAD_SLOTS * size + memory.ALIGNMENT // FLOAT_BYTES)
    _multiply_blocks(
        *left, *right, 0 if bias is None else address(bias), address(out), out.strides[0] // FLOAT_BYTES,
        rows, columns, depth, block_rows, block_columns, swapped, relu, aligned(address(scratch)), size,
    )  # fmt: skip
    return out


def _strides(matrix: np.ndarray) -> tuple[np.ndarray, int, int]:
    """`matrix` with its strides in floats; a copy if its elements do not lie whole floats apart.

    The stride over a single row or column, which nobody goes, is called 1.
    """
    row, column = matrix.strides
    if matrix.dtype != np.float32 or row % FLOAT_BYTES or column % FLOAT_BYTES:
        matrix = np.ascontiguousarray(matrix, np.float32)
        row, column = matrix.strides
    rows, columns = matrix.shape
    return matrix, row // FLOAT_BYTES if rows > 1 else 1, column // FLOAT_BYTES if columns > 1 else 1


@functools.lru_cache(maxsize=512)
def _split(rows: int, columns: int, depth: int, threads: int) -> tuple[int, int]:
    """Rows and columns of a task's block: the split that is done first, by an estimate of its time.

    It is for this number of threads; as no sum is split, the result has the same bits for every other.
    """
    threads = max(1, min(threads, rows * columns * depth // _WORTH_A_TASK))
    strips, panels = -(-rows // _STRIP), -(-columns // WIDE)
    least_rows, least_columns = -(-rows // _BLOCK_ROWS), -(-columns // _BLOCK_COLUMNS)

    def block(blocks: tuple[int, int]) -> tuple[int, int]:
        return -(-strips // blocks[0]) * _STRIP, -(-panels // blocks[1]) * WIDE

    def price(blocks: tuple[int, int]) -> float:
        """In multiplications: those of the busiest thread; B is read once for each block of rows, A once for
        each block of columns, which takes 20 for a float that is packed, 5 for another."""
        busiest = -(-blocks[0] * blocks[1] // threads) * math.prod(block(blocks))
        return busiest + (20 * blocks[0] * columns + 5 * blocks[1] * rows) / threads

    choices = itertools.product(
        range(least_rows, min(least_rows + threads, strips + 1)),
        range(least_columns, min(least_columns + threads, panels + 1)),
    )
    return block(min(choices, key=price))


@kernel(parallel=True)
def _multiply_blocks(
    a, a_row, a_column, b, b_row, b_column, bias, c, c_stride, rows, columns, depth,
    block_rows, block_columns, swapped, relu, scratch, scratch_size,
):  # fmt: skip
    """A task is a block of rows times a block of columns. bias: 0 if there is none.

    swapped: c is to be the transposed product, and bias has an element for each row.
    """
    row_blocks = (rows + block_rows - 1) // block_rows
    column_blocks = (columns + block_columns - 1) // block_columns
    for task in prange(row_blocks * column_blocks):
        index = np.intp(task)
        i, j = index % row_blocks * block_rows, index // row_blocks * block_columns
        height, width = min(block_rows, rows - i), min(block_columns, columns - j)
        mine = scratch + FLOAT_BYTES * np.intp(get_thread_id()) * scratch_size
        _multiply_task(
            a + FLOAT_BYTES * i * a_row, a_row, a_column, b + FLOAT_BYTES * j * b_column, b_row, b_column,
            bias + FLOAT_BYTES * (i if swapped else j) if bias else 0,
            c + FLOAT_BYTES * (j * c_stride + i if swapped else i * c_stride + j), c_stride,
            height, width, depth, swapped, relu, mine,
        )  # fmt: skip


@kernel
def _multiply_task(
    a, a_row, a_column, b, b_row, b_column, bias, c, c_stride, rows, columns, depth, swapped, relu, scratch
):
    """One block of C. A transposed one is computed _TURNED rows of A at a time, and turned while in cache."""
    at_once = min(rows, _TURNED) if swapped else rows
    if not swapped:
        zero_floats(scratch, columns)
    for i in range(0, rows, at_once):
        height = min(at_once, rows - i)
        init, init_stride, result, stride = bias if bias else scratch, 0, c, c_stride
        if swapped:
            init, init_stride, result, stride = scratch, columns, scratch, columns
            for r in range(height):
                start = load_float(bias + FLOAT_BYTES * (i + r)) if bias else np.float32(0)
                floats(result + FLOAT_BYTES * r * stride, columns)[:] = start
        _multiply_block(
            a + FLOAT_BYTES * i * a_row, a_row, a_column, b, b_row, b_column, init, init_stride,
            result, stride, height, columns, depth, relu,
            scratch + FLOAT_BYTES * columns * (at_once if swapped else 1),
        )  # fmt: skip
        if swapped:
            for j in range(0, columns, LANES):  # so that LANES rows of c are written from end to end
                transpose(
                    result + FLOAT_BYTES * j, stride, height, min(LANES, columns - j),
                    c + FLOAT_BYTES * (j * c_stride + i), c_stride,
                )  # fmt: skip


@kernel
def _multiply_block(
    a, a_row, a_column, b, b_row, b_column, init, init_stride, c, c_stride, rows, columns, depth, relu,
    scratch,
):  # fmt: skip
    """C = init + A B for one task; C is the init from the second part of k on."""
    few = rows <= _FEW_ROWS
    copied = a_column != 1 or (depth > _DEPTH and not few)
    most_rows, most_steps = rows, _DEPTH
    if copied:
        most_rows = min(rows, _STRIP)
    direct = 0  # columns of B that are read where they lie
    if few and b_column == 1:
        direct, most_steps = columns // WIDE * WIDE, _DIRECT_DEPTH
    strip = scratch + INT_BYTES * most_rows
    panels = strip + FLOAT_BYTES * _STRIP * _DEPTH
    offsets = integers(scratch, most_rows)
    for r in range(most_rows):
        offsets[r] = r if a_column != 1 else r * (_DEPTH if copied else a_row)
    for k in range(0, depth, most_steps):
        steps = min(most_steps, depth - k)
        right = b + FLOAT_BYTES * k * b_row
        rest = right + FLOAT_BYTES * direct * b_column
        pack(rest, b_row, b_column, steps, columns - direct, panels, 0, steps)
        for r in range(0, rows, most_rows):
            height = min(most_rows, rows - r)
            left, step = a + FLOAT_BYTES * (r * a_row + k * a_column), 1
            if copied:
                _copy_strip(left, a_row, a_column, height, steps, strip)
                left, step = strip, 1 if a_column == 1 else _STRIP
            start, result = init + FLOAT_BYTES * r * init_stride, c + FLOAT_BYTES * r * c_stride
            for packed in range(2):
                j, width = (direct, columns - direct) if packed else (0, direct)
                # The table's first offset is 0: it is the only tap too.
                multiply(
                    left, scratch, height, scratch, 1, steps, step,
                    panels if packed else right, PACKED if packed else b_row, width,
                    start + FLOAT_BYTES * j, init_stride, result + FLOAT_BYTES * j, c_stride,
                )  # fmt: skip
        init, init_stride = c, c_stride
    if relu:
        relu_pixels(c, rows, c_stride, columns)


@kernel
def _copy_strip(a, a_row, a_column, rows, steps, strip):
    """A block of A to rows of _DEPTH floats if its rows are dense, else its transpose to rows of _STRIP."""
    if a_column == 1:
        for r in range(rows):
            copy_floats(strip + FLOAT_BYTES * r * _DEPTH, a + FLOAT_BYTES * r * a_row, steps)
        return
    for k in range(steps):
        source, target = a + FLOAT_BYTES * k * a_column, strip + FLOAT_BYTES * k * _STRIP
        if a_row != 1:
            for r in range(rows):
                store_float(target + FLOAT_BYTES * r, load_float(source + FLOAT_BYTES * r * a_row))
        elif rows == _STRIP:  # a constant: vector moves instead of a call
            copy_floats(target, source, _STRIP)
        else:
            copy_floats(target, source, rows)


def column_sums(matrix: np.ndarray) -> np.ndarray:
    """Sums over the rows of a C-contiguous float32 matrix (M, N) -> (N,)."""
    rows, columns = matrix.shape
    parts = max(1, min(_PARTS, rows // 256))
    partial = np.empty((parts, columns), np.float32)
    _column_sums(address(matrix), rows, columns, parts, address(partial))
    return partial[0] if parts == 1 else partial.sum(axis=0)


@kernel(parallel=True)
def _column_sums(matrix, rows, columns, parts, partial):
    for task in prange(parts):
        part = np.intp(task)
        sums = partial + FLOAT_BYTES * part * columns
        zero_floats(sums, columns)
        first, stop = rows * part // parts, rows * (part + 1) // parts
        whole = first + (stop - first) // 4 * 4
        total = floats(sums, columns)
        for i in range(first, whole, 4):
            row, step = matrix + FLOAT_BYTES * i * columns, FLOAT_BYTES * columns
            _add_rows(
                total, floats(row, columns), floats(row + step, columns),
                floats(row + 2 * step, columns), floats(row + 3 * step, columns),
            )  # fmt: skip
        for i in range(whole, stop):
            row = floats(matrix + FLOAT_BYTES * i * columns, columns)
            for j in range(columns):
                total[j] += row[j]


@kernel
def _add_rows(total, a, b, c, d):
    """Four rows at a time: 64 images of 32x32x32 in 0.4 ms, one by one in 1.3."""
    for j in range(total.size):
        total[j] += (a[j] + b[j]) + (c[j] + d[j])

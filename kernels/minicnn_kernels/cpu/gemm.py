"""The product of two matrices of any strides, and sums over columns; no BLAS.

The split into tasks depends on shapes alone and no sum is split, so results are bit-identical for any number
of threads. A is read where it lies, whatever its strides; B is packed, panel by panel. When B is the larger
one and lies the wrong way round, as the weight of a dense layer does, the transposed product is computed.
"""

from __future__ import annotations

import functools

import numpy as np
from numba import get_thread_id, prange

from minicnn_kernels import memory
from minicnn_kernels.cpu.blocks import PACKED, WIDE, multiply, pack, transpose
from minicnn_kernels.cpu.compiler import THREAD_SLOTS, kernel
from minicnn_kernels.cpu.finish import relu_pixels
from minicnn_kernels.cpu.layout import address
from minicnn_kernels.cpu.microkernel import FLOAT_BYTES, load_float, store_float, zero_floats

_TASKS = 16
_BLOCK_ROWS = 1024  # enough to pay for packing the panels of B once more
_ZERO_TAP = np.zeros(1, np.int64)


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
    a, b = _whole_strides(a), _whole_strides(b)
    a_row, a_column = _strides(a)
    b_row, b_column = _strides(b)
    out_row = out.strides[0] // FLOAT_BYTES
    if b_column != 1 and rows < columns:
        swapped = multiply_matrices(b.T, a.T, memory.empty((columns, rows)))
        transpose(address(swapped), rows, columns, rows, address(out), out_row)
        if bias is not None:
            np.add(out, bias, out=out)
        return np.maximum(out, 0, out=out) if relu else out
    bias = np.zeros(columns, np.float32) if bias is None else np.ascontiguousarray(bias, np.float32)
    row_blocks = -(-rows // _BLOCK_ROWS)
    block_rows = -(-rows // row_blocks)
    column_blocks = max(1, min(-(-columns // WIDE), _TASKS // row_blocks))
    block_columns = -(-columns // (WIDE * column_blocks)) * WIDE
    panels = memory.empty((THREAD_SLOTS, depth * WIDE))
    _multiply_blocks(
        address(a), a_row, a_column, address(_offsets(block_rows, a_row)), address(_ZERO_TAP),
        address(b), b_row, b_column, address(panels), address(bias), address(out), out_row,
        rows, columns, depth, block_rows, block_columns, relu,
    )  # fmt: skip
    return out


def _strides(matrix: np.ndarray) -> tuple[int, int]:
    """Strides in floats; a stride over a single column is called 1."""
    row, column = matrix.strides
    return row // FLOAT_BYTES, 1 if matrix.shape[1] == 1 else column // FLOAT_BYTES


def _whole_strides(matrix: np.ndarray) -> np.ndarray:
    """`matrix`, or a copy if its elements do not lie whole floats apart (a field of a record array)."""
    whole = matrix.dtype == np.float32 and all(stride % FLOAT_BYTES == 0 for stride in matrix.strides)
    return matrix if whole else np.ascontiguousarray(matrix, np.float32)


@functools.lru_cache(maxsize=512)
def _offsets(rows: int, stride: int) -> np.ndarray:
    return np.arange(rows, dtype=np.int64) * stride


@kernel(parallel=True)
def _multiply_blocks(
    a, a_row, a_column, row_offsets, zero_tap, b, b_row, b_column, panels, bias, c, c_stride,
    rows, columns, depth, block_rows, block_columns, relu,
):  # fmt: skip
    """A task is a block of rows times a block of columns; it packs one panel of B at a time and uses it."""
    row_blocks = (rows + block_rows - 1) // block_rows
    column_blocks = (columns + block_columns - 1) // block_columns
    for task in prange(row_blocks * column_blocks):
        index = np.intp(task)
        i, first = index % row_blocks * block_rows, index // row_blocks * block_columns
        panel = panels + FLOAT_BYTES * np.intp(get_thread_id()) * depth * WIDE
        for j in range(first, min(first + block_columns, columns), WIDE):
            width = min(WIDE, columns - j)
            pack(b + FLOAT_BYTES * j * b_column, b_row, b_column, depth, width, panel, 0, depth)
            multiply(
                a + FLOAT_BYTES * i * a_row, row_offsets, min(block_rows, rows - i), zero_tap, 1, depth,
                a_column, panel, PACKED, width, bias + FLOAT_BYTES * j, 0,
                c + FLOAT_BYTES * (i * c_stride + j), c_stride,
            )  # fmt: skip
            if relu:
                target = c + FLOAT_BYTES * (i * c_stride + j)
                relu_pixels(target, min(block_rows, rows - i), c_stride, width)


def column_sums(matrix: np.ndarray) -> np.ndarray:
    """Sums over the rows of a C-contiguous float32 matrix (M, N) -> (N,)."""
    rows, columns = matrix.shape
    parts = max(1, min(_TASKS, rows // 256))
    partial = np.empty((parts, columns), np.float32)
    _column_sums(address(matrix), rows, columns, parts, address(partial))
    return partial[0] if parts == 1 else partial.sum(axis=0)


@kernel(parallel=True)
def _column_sums(matrix, rows, columns, parts, partial):
    for task in prange(parts):
        part = np.intp(task)
        sums = partial + FLOAT_BYTES * part * columns
        zero_floats(sums, columns)
        for i in range(rows * part // parts, rows * (part + 1) // parts):
            row = matrix + FLOAT_BYTES * i * columns
            for j in range(columns):
                total = load_float(sums + FLOAT_BYTES * j) + load_float(row + FLOAT_BYTES * j)
                store_float(sums + FLOAT_BYTES * j, total)

"""The matrix product under dense layers and convolutions: tiles in shared memory, many results per thread.

C[m, n] = sum over k of A[m, k] B[k, n], for a two-level batch, with any strides: a transposed operand is one
with its strides exchanged, and nothing is copied. Every block of threads computes a square tile of C, a few
terms of k at a time: both operands' strips are brought to shared memory together, then each thread multiplies
a column of A with a row of B in registers, 8 + 8 loads for 64 products. Sums run over k in order, so results
repeat bit for bit (Volkov and Demmel 2008).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minicnn_kernels.cuda import simulator
from minicnn_kernels.cuda.driver import SIMULATED, Kernel, cuda, kernel, launch_blocks

__all__ = ["gemm"]

_MOST_BATCHES = 65535  # blocks along z of a grid
_REGISTERS = 65536  # of a multiprocessor
_ZERO = np.float32(0)


class Tiled(NamedTuple):
    """A kernel whose blocks of `threads` threads each compute tile x tile results."""

    kernel: Kernel
    tile: int
    threads: int


def _tiled(across: int, per_thread: int, depth: int, blocks: int) -> Tiled:
    """The kernel for square tiles of across x per_thread results, by across x across threads.

    blocks: how many of them shall fit on a multiprocessor at once, which bounds the registers of a thread.
    """
    tile, threads = across * per_thread, across * across
    strip = tile * depth
    operand = "float32[::1], UniTuple(int64, 4)"

    @kernel(
        f"{operand}, {operand}, {operand}, float32[::1], UniTuple(int64, 2), UniTuple(int64, 5)",
        name=f"gemm {tile}x{tile}",
        registers=_REGISTERS // (blocks * threads),
        launch_bounds=(threads, blocks),
    )
    def run(c, c_strides, a, a_strides, b, b_strides, bias, bias_strides, sizes):
        """Strides: (outer batch, inner batch, rows, columns). sizes: (m, n, k, inner batches, all
        batches)."""
        strip_a = cuda.shared.array((depth, tile), np.float32)
        strip_b = cuda.shared.array((depth, tile), np.float32)
        sums = cuda.local.array((per_thread, per_thread), np.float32)
        of_a = cuda.local.array(per_thread, np.float32)
        of_b = cuda.local.array(per_thread, np.float32)
        thread = cuda.threadIdx.x
        row, column = thread // across, thread % across
        first_row, first_column = cuda.blockIdx.y * tile, cuda.blockIdx.x * tile
        m, n, k = sizes[0], sizes[1], sizes[2]
        for batch in range(cuda.blockIdx.z, sizes[4], cuda.gridDim.z):
            outer, inner = batch // sizes[3], batch % sizes[3]
            a_start = outer * a_strides[0] + inner * a_strides[1]
            b_start = outer * b_strides[0] + inner * b_strides[1]
            for i in range(per_thread):
                for j in range(per_thread):
                    sums[i, j] = _ZERO
            for k0 in range(0, k, depth):
                # Neighbouring threads read neighbouring elements, whichever way the operand lies.
                for e in range(thread, strip, threads):
                    i, kk = (e // depth, e % depth) if a_strides[3] == 1 else (e % tile, e // tile)
                    inside = first_row + i < m and k0 + kk < k
                    place = a_start + (first_row + i) * a_strides[2] + (k0 + kk) * a_strides[3]
                    strip_a[kk, i] = a[place] if inside else _ZERO
                for e in range(thread, strip, threads):
                    j, kk = (e % tile, e // tile) if b_strides[3] == 1 else (e // depth, e % depth)
                    inside = first_column + j < n and k0 + kk < k
                    place = b_start + (k0 + kk) * b_strides[2] + (first_column + j) * b_strides[3]
                    strip_b[kk, j] = b[place] if inside else _ZERO
                cuda.syncthreads()
                for kk in range(depth):
                    for i in range(per_thread):
                        of_a[i] = strip_a[kk, i * across + row]
                        of_b[i] = strip_b[kk, i * across + column]
                    for i in range(per_thread):
                        for j in range(per_thread):
                            sums[i, j] += of_a[i] * of_b[j]
                cuda.syncthreads()
            c_start = outer * c_strides[0] + inner * c_strides[1]
            bias_start = inner * m * bias_strides[0]
            for i in range(per_thread):
                for j in range(per_thread):
                    y, x = first_row + i * across + row, first_column + j * across + column
                    if y < m and x < n:
                        total = sums[i, j]
                        if bias_strides[0] + bias_strides[1] > 0:
                            total += bias[bias_start + y * bias_strides[0] + x * bias_strides[1]]
                        c[c_start + y * c_strides[2] + x * c_strides[3]] = total

    return Tiled(run, tile, threads)


# A small product gets small tiles: with large ones there would be too few blocks to fill the device. In the
# simulator large ones are one thread's work.
if SIMULATED:
    _LARGE, _SMALL, _ENOUGH_BLOCKS = _tiled(1, 8, 4, 1), _tiled(simulator.THREADS, 2, 4, 1), 2
else:
    _LARGE, _SMALL, _ENOUGH_BLOCKS = _tiled(16, 8, 8, 1), _tiled(16, 4, 8, 2), 132


def gemm(
    c: Any,
    c_strides: Any,
    a: Any,
    a_strides: Any,
    b: Any,
    b_strides: Any,
    sizes: Any,
    batches: Any = (1, 1),
    bias: Any = None,
    bias_strides: tuple[int, int] = (0, 0),
) -> None:
    """Write A B + bias into `c`; all flat arrays.

    strides: (outer batch, inner batch, rows, columns). sizes: (m, n, k). batches: (outer, inner).
    bias_strides: steps of the bias per row (from one inner batch to the next it goes on) and per column of c.
    """
    m, n, k = sizes
    outer, inner = batches
    blocks = -(-m // _LARGE.tile) * -(-n // _LARGE.tile) * outer * inner
    run = _LARGE if blocks >= _ENOUGH_BLOCKS else _SMALL
    grid = (-(-n // run.tile), -(-m // run.tile), min(outer * inner, _MOST_BATCHES))
    launch_blocks(
        run.kernel,
        grid,
        run.threads,
        c,
        tuple(c_strides),
        a,
        tuple(a_strides),
        b,
        tuple(b_strides),
        c if bias is None else bias,
        bias_strides if bias is not None else (0, 0),
        (m, n, k, inner, outer * inner),
    )

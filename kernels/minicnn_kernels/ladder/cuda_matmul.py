"""The ladder of C = A B on a GPU: from one thread for each result to tensor cores.

Every rung has the signature (a, b, c): a (M, K), b (K, N) and c (M, N), arrays on the device in C order; c is
overwritten and returned. Each changes one thing against the rung before, and its docstring says what and why
it pays. The figures in them are those of an H100: 132 multiprocessors, each with 128 float32 multiply-adds
and 128 bytes of shared memory a cycle; 3.35 TB/s from memory. Nothing here is imported by the ladders of the
cpu: it needs numba-cuda, or Numba's simulator, where tiles are as small as its blocks.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minicnn_kernels.algorithms import using
from minicnn_kernels.cuda import simulator
from minicnn_kernels.cuda.driver import SIMULATED, cuda, kernel, launch_blocks
from minicnn_kernels.cuda.gemm import gemm
from minicnn_kernels.cuda.storage import empty, flat
from minicnn_kernels.device_array import DeviceArray
from minicnn_kernels.ladder.rung import rung

__all__ = ["RUNGS", "arguments"]

_ZERO = np.float32(0)
# Blocks are squares of threads: SIDE x SIDE with one result each, or ACROSS x ACROSS with EACH x EACH.
SIDE, ACROSS, EACH = (*[math.isqrt(simulator.THREADS)] * 2, 2) if SIMULATED else (32, 16, 8)
TILE = ACROSS * EACH  # of the latter
DEPTH = 8  # terms of the sum that a strip holds
PITCH = TILE + 4  # from one term of a strip of a to the next; `_register_tiles` says why

_MATRICES = "float32[::1], float32[::1], float32[::1], int64, int64, int64"


def arguments(rung: Any, a: DeviceArray, b: DeviceArray) -> tuple[DeviceArray, ...]:
    """The arguments of `rung.function` for a (M, K) and b (K, N) on the device."""
    return a, b, empty((a.shape[0], b.shape[1]))


def one_thread(a, b, c):
    """One thread for each result, as one would write it: the thread's number counts down the rows.

    All results are computed at once, by as many threads. But the 32 threads of a warp stand in 32 rows: what
    they read of a, and what they write, lies a whole row apart, so each number travels in a sector of 32
    bytes of its own, of which 28 are thrown away.
    """
    return _squares(_one_thread, a, b, c)


@kernel(_MATRICES, registers=48)
def _one_thread(c, a, b, m, n, k):
    thread = cuda.threadIdx.x
    row = cuda.blockIdx.y * SIDE + thread % SIDE
    column = cuda.blockIdx.x * SIDE + thread // SIDE
    if row < m and column < n:
        total = _ZERO
        for i in range(k):
            total += a[row * k + i] * b[i * n + column]
        c[row * n + column] = total


def coalesced(a, b, c):
    """The same with rows and columns exchanged: neighbouring threads compute neighbouring columns.

    A warp now reads 32 neighbours of b, four full sectors, and one number of a that all its threads share.
    Still each multiply-add reads two numbers through the first-level cache, which gives a multiprocessor 32
    of them a cycle, where its arithmetic would take 256.
    """
    return _squares(_coalesced, a, b, c)


@kernel(_MATRICES, registers=48)
def _coalesced(c, a, b, m, n, k):
    thread = cuda.threadIdx.x
    row = cuda.blockIdx.y * SIDE + thread // SIDE
    column = cuda.blockIdx.x * SIDE + thread % SIDE
    if row < m and column < n:
        total = _ZERO
        for i in range(k):
            total += a[row * k + i] * b[i * n + column]
        c[row * n + column] = total


def shared_tiles(a, b, c):
    """Tiles in shared memory: the block brings 32 x 32 numbers of a and of b there, and all its threads use
    them.

    Each number comes from memory once for 32 multiply-adds: 32 times fewer bytes. What a thread multiplies
    it reads from shared memory, two numbers for one multiply-add, which is no fewer than before: the
    arithmetic waits for shared memory now.
    """
    return _squares(_shared_tiles, a, b, c)


@kernel(_MATRICES, registers=48)
def _shared_tiles(c, a, b, m, n, k):
    tile_a = cuda.shared.array((SIDE, SIDE), np.float32)
    tile_b = cuda.shared.array((SIDE, SIDE), np.float32)
    i, j = cuda.threadIdx.x // SIDE, cuda.threadIdx.x % SIDE
    row, column = cuda.blockIdx.y * SIDE + i, cuda.blockIdx.x * SIDE + j
    total = _ZERO
    for start in range(0, k, SIDE):
        tile_a[i, j] = a[row * k + start + j] if row < m and start + j < k else _ZERO
        tile_b[i, j] = b[(start + i) * n + column] if start + i < k and column < n else _ZERO
        cuda.syncthreads()  # the tiles are full
        for term in range(SIDE):
            total += tile_a[i, term] * tile_b[term, j]
        cuda.syncthreads()  # and have been read: the next ones may come
    if row < m and column < n:
        c[row * n + column] = total


def register_tiles(a, b, c):
    """Tiles in registers: each thread computes 8 x 8 results, the block 128 x 128.

    A thread reads 8 + 8 numbers of the strips for 64 multiply-adds, a quarter of a number for each where it
    was two, and 64 sums that do not depend on each other hide the four cycles that one takes. (Volkov and
    Demmel 2008.) A thread's results lie 16 apart, so that neighbouring threads read neighbouring numbers.
    """
    m, k = a.shape
    n = b.shape[1]
    grid = (-(-n // TILE), -(-m // TILE))
    launch_blocks(_register_tiles, grid, ACROSS * ACROSS, flat(c), flat(a), flat(b), m, n, k)
    return c


@kernel(_MATRICES, registers=184, launch_bounds=(ACROSS * ACROSS, 1))
def _register_tiles(c, a, b, m, n, k):
    strip_a = cuda.shared.array((DEPTH, PITCH), np.float32)  # a warp's 8 terms x 4 rows: in 32 banks
    strip_b = cuda.shared.array((DEPTH, TILE), np.float32)
    sums = cuda.local.array((EACH, EACH), np.float32)
    of_a = cuda.local.array(EACH, np.float32)
    of_b = cuda.local.array(EACH, np.float32)
    thread = cuda.threadIdx.x
    i, j = thread // ACROSS, thread % ACROSS
    top, left = cuda.blockIdx.y * TILE, cuda.blockIdx.x * TILE
    for p in range(EACH):
        for q in range(EACH):
            sums[p, q] = _ZERO
    for start in range(0, k, DEPTH):
        for e in range(thread, TILE * DEPTH, ACROSS * ACROSS):
            row, term = e // DEPTH, e % DEPTH  # neighbours in a row of a
            inside = top + row < m and start + term < k
            strip_a[term, row] = a[(top + row) * k + start + term] if inside else _ZERO
        for e in range(thread, TILE * DEPTH, ACROSS * ACROSS):
            term, column = e // TILE, e % TILE
            inside = start + term < k and left + column < n
            strip_b[term, column] = b[(start + term) * n + left + column] if inside else _ZERO
        cuda.syncthreads()
        for term in range(DEPTH):
            for p in range(EACH):
                of_a[p] = strip_a[term, p * ACROSS + i]
                of_b[p] = strip_b[term, p * ACROSS + j]
            for p in range(EACH):
                for q in range(EACH):
                    sums[p, q] += of_a[p] * of_b[q]
        cuda.syncthreads()
    for p in range(EACH):
        for q in range(EACH):
            row, column = top + p * ACROSS + i, left + q * ACROSS + j
            if row < m and column < n:
                c[row * n + column] = sums[p, q]


def pipelined(a, b, c):
    """The engine's kernel: vector loads, and strips that are brought in the background.

    Four numbers travel by one instruction, so the loads of a step are 4 beside 64 multiply-adds, not 16.
    While one strip is multiplied, the next two are on their way to shared memory past the registers
    (`cp.async`): the way from memory, some 500 cycles, is not waited for. With indices of 32 bits, 128
    registers are enough, and two blocks share a multiprocessor: one computes while the other waits. A sum
    too long for its few tiles is split, so that all multiprocessors have work.
    """
    with using("matmul", "float32"):
        return _by_gemm(a, b, c)


def tensor_cores(a, b, c):
    """The same strips, multiplied by the tensor cores: factors rounded to TF32, 10 bits after the first.

    One instruction of a warp multiplies 16 x 8 by 8 x 8 numbers, 32 multiply-adds for each thread. The
    rounding costs up to 2**-11 of each factor, so 1e-3 of a product, where float32 loses 6e-8.
    """
    with using("matmul", "tf32"):
        return _by_gemm(a, b, c)


def _squares(run: Any, a: DeviceArray, b: DeviceArray, c: DeviceArray) -> DeviceArray:
    """Launch a kernel whose blocks compute SIDE x SIDE results with a thread for each."""
    (m, k), n = a.shape, b.shape[1]
    launch_blocks(run, (-(-n // SIDE), -(-m // SIDE)), SIDE * SIDE, flat(c), flat(a), flat(b), m, n, k)
    return c


def _by_gemm(a: DeviceArray, b: DeviceArray, c: DeviceArray) -> DeviceArray:
    (m, k), n = a.shape, b.shape[1]
    gemm(flat(c), (0, 0, n, 1), flat(a), (0, 0, k, 1), flat(b), (0, 0, n, 1), (m, n, k))
    return c


RUNGS = (
    rung("one thread a result", one_thread),
    rung("coalesced", coalesced),
    rung("tiles in shared memory", shared_tiles),
    rung("tiles in registers", register_tiles),
    rung("vector loads, pipelined", pipelined),
    rung("tensor cores, TF32", tensor_cores),
)

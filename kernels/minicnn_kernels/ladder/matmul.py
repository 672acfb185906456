"""The ladder of C = A B in float32: from three loops in Python to what BLAS libraries do.

Every rung has the signature (a, b, c): a (M, K), b (K, N) and c (M, N) are C-contiguous; c is overwritten
and returned. Each changes one thing against the rung before, and its docstring says what and why it pays.
Convolution is the ladder beside this one; `bench/ladder.py` measures both.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from minicnn_kernels import memory
from minicnn_kernels.cpu.compiler import kernel
from minicnn_kernels.ladder.rung import rung
from minicnn_kernels.ladder.tiles import empty_panels, multiply, pack

BLOCK_DEPTH, BLOCK_COLUMNS = 64, 512  # of B: 128 KiB, a part of the second-level cache
STRIP_ROWS = 64  # of A and C: one task of a thread
SLAB_DEPTH = 256  # of B in panels: a panel of 32 columns has 32 KiB


def arguments(rung, a, b):
    """The arguments of `rung.function` for a (M, K) and b (K, N)."""
    return a, b, memory.empty((a.shape[0], b.shape[1]))


def python_loops(a, b, c):
    """The definition, in the interpreter.

    Each of the M N K steps boxes two floats, looks up three methods and checks types: some hundred
    instructions around the one that is wanted.
    """
    for i in range(c.shape[0]):
        for j in range(c.shape[1]):
            total = np.float32(0)
            for k in range(b.shape[0]):
                total += a[i, k] * b[k, j]
            c[i, j] = total
    return c


@kernel
def naive(a, b, c):
    """The same loops, compiled.

    Only arithmetic and addresses are left. But b is read down a column: every step fetches a new cache
    line of 64 bytes and uses 4 of them; and each sum is one chain of additions that wait for each other.
    """
    for i in range(c.shape[0]):
        for j in range(c.shape[1]):
            total = np.float32(0)
            for k in range(b.shape[0]):
                total += a[i, k] * b[k, j]
            c[i, j] = total
    return c


@kernel
def reordered(a, b, c):
    """Loops i, k, j instead of i, j, k: the innermost walks along rows of b and c.

    Whole cache lines are used, the prefetcher sees a straight line, and as the sums of neighbouring j do
    not depend on each other, LLVM computes a vector of them at once.
    """
    c[:] = 0
    for i in range(c.shape[0]):
        for k in range(b.shape[0]):
            factor = a[i, k]
            for j in range(c.shape[1]):
                c[i, j] += factor * b[k, j]
    return c


@kernel
def tiled(a, b, c):
    """Cache tiling: all rows of a meet one block of b before the next block is touched.

    Before, every row of c streamed all of b through the caches. A block of b that fits into the second-level
    cache is fetched from beyond it once and used M times.
    """
    c[:] = 0
    for k0 in range(0, b.shape[0], BLOCK_DEPTH):
        for j0 in range(0, b.shape[1], BLOCK_COLUMNS):
            for i in range(c.shape[0]):
                target = c[i, j0 : j0 + BLOCK_COLUMNS]
                for k in range(k0, min(k0 + BLOCK_DEPTH, b.shape[0])):
                    factor, row = a[i, k], b[k, j0 : j0 + BLOCK_COLUMNS]
                    for j in range(target.size):
                        target[j] += factor * row[j]
    return c


@kernel
def unrolled(a, b, c):
    """Four steps of k at once in the vectorized inner loop.

    Each vector of c is loaded and stored once for four multiply-adds instead of once for each: memory
    ports, of which a core has as many as FMA units, stop being the limit.
    """
    _unrolled_strip(a, b, c)
    return c


@kernel
def _unrolled_strip(a, b, c):
    c[:] = 0
    depth = b.shape[0]
    for k0 in range(0, depth, BLOCK_DEPTH):
        last = min(k0 + BLOCK_DEPTH, depth)
        for j0 in range(0, b.shape[1], BLOCK_COLUMNS):
            for i in range(c.shape[0]):
                target = c[i, j0 : j0 + BLOCK_COLUMNS]
                for k in range(k0, last - 3, 4):
                    f0, f1, f2, f3 = a[i, k], a[i, k + 1], a[i, k + 2], a[i, k + 3]
                    b0, b1 = b[k, j0 : j0 + BLOCK_COLUMNS], b[k + 1, j0 : j0 + BLOCK_COLUMNS]
                    b2, b3 = b[k + 2, j0 : j0 + BLOCK_COLUMNS], b[k + 3, j0 : j0 + BLOCK_COLUMNS]
                    for j in range(target.size):
                        target[j] = target[j] + f0 * b0[j] + f1 * b1[j] + f2 * b2[j] + f3 * b3[j]
                for k in range(last - (last - k0) % 4, last):
                    factor, row = a[i, k], b[k, j0 : j0 + BLOCK_COLUMNS]
                    for j in range(target.size):
                        target[j] += factor * row[j]


@kernel(parallel=True)
def threaded(a, b, c):
    """Strips of rows on all cores.

    Rows of c do not depend on each other. The strips have a fixed size, so the result does not depend on
    the number of threads.
    """
    for strip in prange((c.shape[0] + STRIP_ROWS - 1) // STRIP_ROWS):
        rows = slice(np.int64(strip) * STRIP_ROWS, np.int64(strip + 1) * STRIP_ROWS)
        _unrolled_strip(a[rows], b, c[rows])
    return c


def packed(a, b, c):
    """Register blocking: a micro-kernel holds a tile of c in vector registers, and b is packed for it.

    A vector of b that was loaded serves every row of the tile, and an element of c goes to memory once per
    256 steps of k: with a tile of 8 rows x 2 vectors, 16 multiply-adds need 10 loads and no store, and 16
    independent sums keep both FMA units busy over their latency. Packed panels put what one tile reads
    of b into consecutive cache lines: no line is fetched in part, no two compete for a place in the cache.
    """
    return _packed(a, b, c, *_workspace(a, b))


@kernel
def _packed(a, b, c, panels, row_offsets, slab_starts, zeros):
    for s in range(slab_starts.size):
        slab = _slab(panels, b, slab_starts[s])
        for panel in range(slab.shape[0]):
            pack(b, slab_starts[s], slab, panel)
        for i in range(0, c.shape[0], STRIP_ROWS):
            rows = slice(i, i + STRIP_ROWS)
            multiply(a, row_offsets[rows], slab_starts[s : s + 1], slab, zeros, s > 0, c[rows])
    return c


def packed_threaded(a, b, c):
    """The packed product on all cores: they pack panels together, then share the strips of rows.

    All cores read the same panels; each keeps its strip of a in its own second-level cache.
    """
    return _packed_threaded(a, b, c, *_workspace(a, b))


@kernel(parallel=True)
def _packed_threaded(a, b, c, panels, row_offsets, slab_starts, zeros):
    for s in range(slab_starts.size):
        slab = _slab(panels, b, slab_starts[s])
        for panel in prange(slab.shape[0]):
            pack(b, slab_starts[s], slab, np.int64(panel))
        for strip in prange((c.shape[0] + STRIP_ROWS - 1) // STRIP_ROWS):
            rows = slice(np.int64(strip) * STRIP_ROWS, np.int64(strip + 1) * STRIP_ROWS)
            multiply(a, row_offsets[rows], slab_starts[s : s + 1], slab, zeros, s > 0, c[rows])
    return c


@kernel
def _slab(panels, b, start):
    """The panels for one slab of b; the last slab may have fewer rows."""
    count, _, width = panels.shape
    depth = min(SLAB_DEPTH, b.shape[0] - start)
    return panels.reshape(-1)[: count * depth * width].reshape(count, depth, width)


def _workspace(a, b):
    """Panels for one slab of b, where the rows of a begin, where the slabs begin, and a bias of zeros."""
    rows, depth = a.shape
    panels = empty_panels(min(SLAB_DEPTH, depth), b.shape[1])
    slab_starts = np.arange(0, max(depth, 1), SLAB_DEPTH)  # an empty product still has to write zeros
    return panels, np.arange(rows) * depth, slab_starts, np.zeros(b.shape[1], np.float32)


def blas(a, b, c):
    """The mark: NumPy's BLAS.

    OpenBLAS packs both operands and runs a micro-kernel in hand-written assembly for each CPU model.
    """
    return np.matmul(a, b, out=c)


RUNGS = (
    rung("Python loops", python_loops, interpreted=True),
    rung("naive, compiled", naive),
    rung("loops reordered", reordered),
    rung("cache tiles", tiled),
    rung("unrolled vectors", unrolled),
    rung("unrolled, threads", threaded, parallel=True),
    rung("packed, register tiles", packed),
    rung("packed, threads", packed_threaded, parallel=True),
    rung("BLAS", blas),
    rung("BLAS, threads", blas, parallel=True),
)

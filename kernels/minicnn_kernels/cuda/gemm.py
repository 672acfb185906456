"""The matrix product under dense layers: strips of both operands, brought to shared memory in the background.

C[m, n] = sum over k of A[m, k] B[k, n], for a two-level batch, with any strides: a transposed operand is one
with its strides exchanged, and nothing is copied. What a tile does is told in `tiles.py`; here is how
matrices become strips, which tile a shape gets, and how a sum too long for few tiles is split. Sums run
over k in a fixed order, so results repeat bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minicnn_kernels.algorithms import algorithm
from minicnn_kernels.cuda import simulator
from minicnn_kernels.cuda.driver import SIMULATED, Kernel, cuda, kernel, launch, launch_blocks
from minicnn_kernels.cuda.epilogue import NOTHING, Epilogue, at_least, writer
from minicnn_kernels.cuda.storage import empty, flat
from minicnn_kernels.cuda.strips import STAGES, accumulation, strip_along_rows, strip_along_terms
from minicnn_kernels.cuda.tiles import Tile, choose, float32_tile, tf32_tile

__all__ = ["FLOAT32_TILES", "TF32_TILES", "add_parts", "gemm"]

_MOST_BATCHES = 65535  # blocks along z of a grid
LONGEST = 2**31 - 1  # elements that an index of 32 bits can count


_STRIPS = {True: strip_along_terms, False: strip_along_rows}


def _product(tile: Tile, a_along_terms: bool, b_along_terms: bool) -> Kernel:
    """The kernel for one tile and one order of each operand in memory."""
    rows, columns, threads, depth = tile.rows, tile.columns, tile.threads, tile.depth
    room_a, room_b = STAGES * depth * tile.pitch_a, STAGES * depth * tile.pitch_b
    count, held_count, held_type = tile.sums, tile.held, tile.held_type
    accumulate = accumulation(
        tile,
        _STRIPS[a_along_terms](rows, tile.pitch_a, depth, threads),
        _STRIPS[b_along_terms](columns, tile.pitch_b, depth, threads),
    )
    write = writer(tile)
    operand = "float32[::1], UniTuple(int64, 2), UniTuple(int32, 3)"
    order = ("n" if a_along_terms else "t") + ("t" if b_along_terms else "n")

    @kernel(
        f"{operand}, {operand}, {operand}, float32[::1], float32[::1], UniTuple(int32, 3), float32, "
        "UniTuple(int64, 8)",
        name=f"gemm {tile.name} {order}",
        registers=tile.registers,
        launch_bounds=(threads, tile.blocks),
    )
    def run(
        c, c_batch, c_steps, a, a_batch, a_steps, b, b_batch, b_steps, bias, onto, epilogue, floor, sizes
    ):
        """..._batch: steps of the outer and inner batch. ..._steps: of rows and columns, and whether four
        neighbours are moved at once. epilogue: steps of the bias by rows and columns, whether `onto` is
        added. sizes: (m, n, k, terms of a split, splits, step of c by splits, inner batches, the first z)."""
        strips_a = cuda.shared.array(room_a, np.float32, alignment=16)
        strips_b = cuda.shared.array(room_b, np.float32, alignment=16)
        sums = cuda.local.array(count, np.float32)
        held = cuda.local.array(held_count, held_type)
        thread = np.int32(cuda.threadIdx.x)
        first_row, first_column = np.int32(cuda.blockIdx.y * rows), np.int32(cuda.blockIdx.x * columns)
        m, n, k, splits = np.int32(sizes[0]), np.int32(sizes[1]), np.int32(sizes[2]), sizes[4]
        z = sizes[7] + cuda.blockIdx.z
        batch, split = z // splits, z % splits
        outer, inner = batch // sizes[6], batch % sizes[6]
        of_a = a[outer * a_batch[0] + inner * a_batch[1] :]
        of_b = b[outer * b_batch[0] + inner * b_batch[1] :]
        start = outer * c_batch[0] + inner * c_batch[1] + split * sizes[5]
        term = np.int32(split * sizes[3])
        accumulate(
            sums, held, strips_a, strips_b,
            (of_a, a_steps[0], a_steps[1], a_steps[2], first_row, m),
            (of_b, b_steps[1], b_steps[0], b_steps[2], first_column, n),
            term, np.int32(min(term + sizes[3], k)), thread,
        )  # fmt: skip
        bias_start = np.int32(inner * m * epilogue[0])
        write(
            sums, c[start:], c_steps[0], c_steps[1], c_steps[2], bias[bias_start:], onto[start:], epilogue,
            floor, m, n, first_row, first_column, thread,
        )  # fmt: skip

    return run


@kernel(
    "float32[::1], float32[::1], int64, int64, float32[::1], float32[::1], UniTuple(int32, 3), float32, "
    "int64, int64"
)
def add_parts(c, parts, splits, n, bias, onto, epilogue, floor, period, size):
    """c: (size,). parts: (splits, size), added up in their order. n: columns. period: rows that the bias
    has."""
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        total = parts[e]
        for split in range(1, splits):
            total += parts[split * size + e]
        if epilogue[0] + epilogue[1] > 0:
            total += bias[e // n % period * epilogue[0] + e % n * epilogue[1]]
        if epilogue[2]:
            total += onto[e]
        c[e] = at_least(floor, total)


if SIMULATED:  # the tile is as large as there are threads
    _down = 1 << (simulator.THREADS.bit_length() - 1) // 2
    _across = simulator.THREADS // _down
    FLOAT32_TILES: tuple[Tile, ...] = (float32_tile(8 * _down, 8 * _across, blocks=1),)
    TF32_TILES: tuple[Tile, ...] = (tf32_tile(16, 16, 16, 16, blocks=1),)
else:
    FLOAT32_TILES = (
        float32_tile(128, 128, blocks=2),
        float32_tile(64, 64, blocks=6, efficiency=0.8),
        float32_tile(128, 32, blocks=6, efficiency=0.7),
        float32_tile(32, 128, blocks=6, efficiency=0.7),
    )
    TF32_TILES = (
        tf32_tile(128, 128, 64, 32, blocks=1, efficiency=3.0),
        tf32_tile(64, 64, 32, 32, blocks=4, efficiency=2.0),
    )
_KERNELS = {
    (tile, a, b): _product(tile, a, b)
    for tile in (*FLOAT32_TILES, *TF32_TILES)
    for a in (True, False)
    for b in (True, False)
}


def gemm(
    c: Any,
    c_strides: Any,
    a: Any,
    a_strides: Any,
    b: Any,
    b_strides: Any,
    sizes: Any,
    batches: Any = (1, 1),
    epilogue: Epilogue = NOTHING,
) -> None:
    """Write A B into `c`, with what the epilogue does to it; all flat arrays.

    strides: (outer batch, inner batch, rows, columns). sizes: (m, n, k). batches: (outer, inner).
    """
    m, n, k = sizes
    outer, inner = batches
    if not m * n * outer * inner:
        return
    if _too_long(c_strides, (m, n)) or _too_long(a_strides, (m, k)) or _too_long(b_strides, (k, n)):
        _by_halves(c, c_strides, a, a_strides, b, b_strides, sizes, batches, epilogue)
        return
    tiles = TF32_TILES if algorithm("matmul") == "tf32" else FLOAT32_TILES
    tile, splits = choose(tiles, m, n, k, outer * inner)
    dense = tuple(c_strides[2:]) == (n, 1) and (inner == 1 or c_strides[1] == m * n)
    dense = dense and (outer == 1 or c_strides[0] == inner * m * n)
    splits = splits if dense else 1
    terms = -(-k // (splits * tile.depth)) * tile.depth  # of a split: whole strips
    splits = max(-(-k // terms), 1) if terms else 1
    a_along_terms, b_along_terms = a_strides[2] != 1 or a_strides[3] == 1, b_strides[3] != 1
    size = outer * inner * m * n
    target = c if splits == 1 else flat(empty((splits * size,)))
    blocks = outer * inner * splits
    for first in range(0, blocks, _MOST_BATCHES):
        launch_blocks(
            _KERNELS[tile, a_along_terms, b_along_terms],
            (-(-n // tile.columns), -(-m // tile.rows), min(blocks - first, _MOST_BATCHES)),
            tile.threads,
            target,
            *_steps(target, c_strides, c_strides[2], c_strides[3] == 1 and n % 4 == 0),
            a,
            *_steps(a, a_strides, a_strides[3], a_strides[2] == 1),
            b,
            *_steps(b, b_strides, b_strides[2], b_strides[3] == 1),
            *(epilogue if splits == 1 else NOTHING).arguments(c),
            (m, n, k, terms, splits, size, inner, first),
        )
    if splits > 1:
        launch(add_parts, size, c, target, splits, n, *epilogue.arguments(c), m * inner, size)


def _steps(x: Any, strides: Any, across: int, neighbours: bool) -> tuple[tuple[int, ...], tuple[Any, ...]]:
    """(batch steps, (rows, columns, whether four neighbours may be moved at once)); across: the step from one
    line of neighbours to the next."""
    lines = (strides[0], strides[1], across)
    four = neighbours and all(step % 4 == 0 for step in lines) and x.is_aligned
    return (strides[0], strides[1]), (np.int32(strides[2]), np.int32(strides[3]), np.int32(four))


def _too_long(strides: Any, shape: tuple[int, int]) -> bool:
    """Whether a matrix stretches over more elements than an int32 counts."""
    return sum((size - 1) * step for size, step in zip(shape, strides[2:], strict=True)) > LONGEST


def _by_halves(
    c: Any, c_strides: Any, a: Any, a_strides: Any, b: Any, b_strides: Any, sizes: Any, batches: Any,
    epilogue: Epilogue,
) -> None:  # fmt: skip
    """`gemm` as two of half the size, one after the other, along the dimension that stretches most."""
    m, n, k = sizes
    stretch = (
        m * max(c_strides[2], a_strides[2]),
        n * max(c_strides[3], b_strides[3]),
        k * max(a_strides[3], b_strides[2]),
    )
    axis = stretch.index(max(stretch))
    half = sizes[axis] // 2
    first, second = list(sizes), list(sizes)
    first[axis], second[axis] = half, sizes[axis] - half
    if axis == 2:  # the second half of the sums is added to the first
        gemm(c, c_strides, a, a_strides, b, b_strides, first, batches, epilogue._replace(relu=False))
        a, b = a.after(half * a_strides[3]), b.after(half * b_strides[2])
        epilogue = Epilogue(onto=c, relu=epilogue.relu)
    else:
        gemm(c, c_strides, a, a_strides, b, b_strides, first, batches, epilogue)
        step = half * c_strides[2 + axis]
        bias, steps, onto, relu = epilogue
        bias = None if bias is None else bias.after(half * steps[axis])
        epilogue = Epilogue(bias, steps, None if onto is None else onto.after(step), relu)
        c = c.after(step)
        a, b = (a.after(half * a_strides[2]), b) if axis == 0 else (a, b.after(half * b_strides[3]))
    gemm(c, c_strides, a, a_strides, b, b_strides, second, batches, epilogue)

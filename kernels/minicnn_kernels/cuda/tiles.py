"""How a block of threads multiplies two strips that lie in shared memory: the heart of every product here.

A tile of C = A B grows by `depth` terms of the sum at a time: a strip of A, (depth, rows), and one of B,
(depth, columns), are in shared memory, and each thread adds its share of their product to sums in
registers. How the strips get there is the kernels' part: `gemm.py` for matrices, `implicit.py` for
convolutions.

Why these sizes, for a float32 product on an H100 (132 multiprocessors, each 4 schedulers that start one
instruction of 32 threads a cycle, 128 multiply-adds a cycle, 128 bytes a cycle from shared memory, 65536
registers). A thread with 8 x 8 sums reads 8 + 8 numbers for 64 multiply-adds: four 128-bit loads for 64 FFMA,
so at most 6% of the instructions are loads, and 0.25 numbers are read for each multiply-add; most threads
of a warp read the same ones, which costs nothing. With one sum per thread it would be 2. 64 sums, 16
operands and addresses fit into 128 registers, so two blocks of 256 threads share a multiprocessor: 4 warps
per scheduler hide the latency of shared memory (some 30 cycles), and one block computes while the other
waits at a barrier. A tile of 128 x 128 reads 256 numbers for 16384 multiply-adds: 32 operations for a byte.
The full speed of 67 TFLOP/s would take 2.1 TB/s from the second-level cache, which gives more than twice
that. Three stages of strips hide the way from memory: while one is multiplied, two are being filled.
(Volkov and Demmel 2008; Nath, Tomov and Dongarra 2010; CUTLASS.)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from minicnn_kernels.cuda.driver import inline_function, unrolled
from minicnn_kernels.cuda.instructions import load, load4, multiply_tile_tf32, tf32

__all__ = ["Tile", "choose", "float32_tile", "tf32_tile"]

MULTIPROCESSORS = 132
_REGISTERS = 65536  # of a multiprocessor
_SIDE = 8  # a thread's sums in float32: 8 x 8


class Tile(NamedTuple):
    """A tile of rows x columns results, computed by `threads` threads.

    blocks: how many of them shall fit on a multiprocessor at once, which bounds the registers of a thread.
    pitch_a, pitch_b: numbers from one row of a strip to the next. sums: of a thread. multiply(sums, held,
    strips_a, strips_b, at_a, at_b, thread) adds the product of the strips that begin at at_a and at_b;
    held: room for `held` operands of type held_type. Sums come in groups of `width` neighbours in a row of
    C; place(thread, group) is the (row, column) of a group's first one. efficiency: expected share of the
    machine's multiply-adds, where the tile is full and the machine too.
    """

    name: str
    rows: int
    columns: int
    threads: int
    blocks: int
    depth: int
    pitch_a: int
    pitch_b: int
    sums: int
    held: int
    held_type: type
    width: int
    multiply: Callable
    place: Callable
    efficiency: float

    @property
    def registers(self) -> int:
        """How many a thread may have so that `blocks` blocks fit."""
        return min(_REGISTERS // (self.blocks * self.threads) // 8 * 8, 255)


def float32_tile(rows: int, columns: int, *, blocks: int, depth: int = 8, efficiency: float = 1.0) -> Tile:
    """Tiles in float32: each thread has 8 x 8 sums, in four squares of 4 x 4.

    A thread reads four neighbours of a strip by one instruction, in both halves of the tile: the threads of
    a warp, 4 x 8 of them, read 64 neighbouring bytes of A and 128 of B, so no two meet in a bank. The pitch
    is 4 more than the tile is wide: a warp that fills a strip by 8 terms x 4 rows then meets all 32 banks, as
    4 x term + row takes 32 values modulo 32; and rows still begin at multiples of 16 bytes.
    """
    down, across = rows // _SIDE, columns // _SIDE
    lanes_across = min(8, across)
    lanes_down = min(max(32 // lanes_across, 1), down)
    lanes, warps_across = lanes_across * lanes_down, across // lanes_across
    pitch_a, pitch_b = rows + 4, columns + 4
    half_down, half_across = rows // 2, columns // 2

    @inline_function
    def corner(thread):
        """(row, column) of the thread's first square."""
        warp, lane = thread // lanes, thread % lanes
        row = warp // warps_across * lanes_down + lane // lanes_across
        column = warp % warps_across * lanes_across + lane % lanes_across
        return np.int32(row * 4), np.int32(column * 4)

    @inline_function
    def multiply_term(term, state):
        sums, held, strips_a, strips_b, start_a, start_b = state
        at_a, at_b = start_a + term * pitch_a, start_b + term * pitch_b
        held[0], held[1], held[2], held[3] = load4(strips_a, at_a)
        held[4], held[5], held[6], held[7] = load4(strips_a, at_a + half_down)
        held[8], held[9], held[10], held[11] = load4(strips_b, at_b)
        held[12], held[13], held[14], held[15] = load4(strips_b, at_b + half_across)
        for i in range(8):
            for j in range(8):
                sums[i * 8 + j] += held[i] * held[8 + j]

    multiply_all = unrolled(multiply_term, depth)

    @inline_function
    def multiply(sums, held, strips_a, strips_b, at_a, at_b, thread):
        row, column = corner(thread)
        multiply_all(0, (sums, held, strips_a, strips_b, np.int32(at_a + row), np.int32(at_b + column)))

    @inline_function
    def place(thread, group):
        row, column = corner(thread)
        i, half = group // 2, group % 2
        return np.int32(row + i // 4 * half_down + i % 4), np.int32(column + half * half_across)

    return Tile(
        f"{rows}x{columns}", rows, columns, down * across, blocks, depth, pitch_a, pitch_b,
        _SIDE * _SIDE, 2 * _SIDE, np.float32, 4, multiply, place, efficiency,
    )  # fmt: skip


def tf32_tile(
    rows: int, columns: int, warp_rows: int, warp_columns: int, *, blocks: int, efficiency: float = 1.0
) -> Tile:
    """Tiles on the tensor cores: each warp has warp_rows x warp_columns results, in pieces of 16 x 8.

    Operands are rounded to TF32 on their way to the registers, sums stay float32. A warp reads
    warp_rows + warp_columns numbers for each term, and pieces share them: with 64 x 64, one number a thread
    for each instruction of 1024 multiply-adds. The pitch is 8 more than the tile is wide: the 4 terms x 8
    rows that a warp reads at once then meet all 32 banks. (Filling a strip, two threads meet in each: the
    rarer case.)
    """
    depth, warps_across = 8, columns // warp_columns
    pieces_down, pieces_across = warp_rows // 16, warp_columns // 8
    pitch_a, pitch_b = rows + 8, columns + 8

    @inline_function
    def corner(thread):
        """(row, column) of the warp's first piece."""
        warp = thread // 32
        return np.int32(warp // warps_across * warp_rows), np.int32(warp % warps_across * warp_columns)

    @inline_function
    def multiply_row(m, state):
        sums, held, strips_a, at = state
        a0 = tf32(load(strips_a, at + 16 * m))
        a1 = tf32(load(strips_a, at + 16 * m + 8))
        a2 = tf32(load(strips_a, at + 4 * pitch_a + 16 * m))
        a3 = tf32(load(strips_a, at + 4 * pitch_a + 16 * m + 8))
        for n in range(pieces_across):
            s = 4 * (m * pieces_across + n)
            sums[s], sums[s + 1], sums[s + 2], sums[s + 3] = multiply_tile_tf32(
                a0, a1, a2, a3, held[2 * n], held[2 * n + 1], sums[s], sums[s + 1], sums[s + 2], sums[s + 3]
            )

    multiply_rows = unrolled(multiply_row, pieces_down)

    @inline_function
    def multiply(sums, held, strips_a, strips_b, at_a, at_b, thread):
        row, column = corner(thread)
        g, t = thread % 32 // 4, thread % 4
        at = np.int32(at_b + t * pitch_b + column + g)
        for n in range(pieces_across):
            held[2 * n] = tf32(load(strips_b, at + 8 * n))
            held[2 * n + 1] = tf32(load(strips_b, at + 4 * pitch_b + 8 * n))
        multiply_rows(0, (sums, held, strips_a, np.int32(at_a + t * pitch_a + row + g)))

    @inline_function
    def place(thread, group):
        row, column = corner(thread)
        lane, piece = thread % 32, group // 2
        row += piece // pieces_across * 16 + group % 2 * 8 + lane // 4
        return np.int32(row), np.int32(column + piece % pieces_across * 8 + lane % 4 * 2)

    threads = rows // warp_rows * warps_across * 32
    return Tile(
        f"{rows}x{columns} tf32", rows, columns, threads, blocks, depth, pitch_a, pitch_b,
        warp_rows * warp_columns // 32, 2 * pieces_across, np.int32, 2, multiply, place, efficiency,
    )  # fmt: skip


_RATE = 128  # multiply-adds of a multiprocessor in a cycle
_BUSY_WARPS = 8  # of a multiprocessor, below which its schedulers have gaps
_LEAST_TERMS = 128  # of a split
_LAUNCH = 5000  # cycles that one more kernel costs
_BYTES = 1500  # to and from memory in a cycle
_LATENCY = 100  # cycles that a thread waits for one of many parts that it adds up


@functools.lru_cache(maxsize=4096)
def choose(tiles: tuple[Tile, ...], m: int, n: int, k: int, batches: int) -> tuple[Tile, int]:
    """The tile for `batches` products of (m, k) and (k, n), and into how many parts to split the sum over k.

    By a guess of the cycles: a large tile reads less, but it may stick out or leave multiprocessors idle. A
    split fills them where there are many terms for few results, as in the gradient of a weight; it costs a
    second pass that adds up the parts in order.
    """
    guesses: list[tuple[float, int, Tile, int]] = []
    for tile in tiles:
        blocks = -(-m // tile.rows) * -(-n // tile.columns) * batches
        splits = 1
        while splits == 1 or (k // splits >= _LEAST_TERMS and blocks * splits <= 4 * MULTIPROCESSORS):
            mine = -(-blocks * splits // MULTIPROCESSORS)
            warps = min(mine, tile.blocks) * tile.threads / 32
            rate = _RATE * tile.efficiency * min(1, warps / _BUSY_WARPS)
            cycles = mine * tile.rows * tile.columns * -(-k // splits) / rate
            if splits > 1:
                cycles += _LAUNCH + _LATENCY * splits + (2 * splits + 1) * 4 * m * n * batches / _BYTES
            guesses.append((cycles, len(guesses), tile, splits))
            splits += 1
    return min(guesses)[2:]  # no two have the same number

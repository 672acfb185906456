"""How strips of matrices come to shared memory, and the loop that multiplies them while the next ones come.

A kernel hands `accumulation` two functions that bring strips, each with what it knows of its operand in a
tuple. Those for matrices are here; those that gather the windows of a convolution are in `implicit.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from minicnn_kernels.cuda.driver import inline_function
from minicnn_kernels.cuda.instructions import (
    barrier,
    commit_copies,
    copy4,
    copy16,
    wait_for_copies,
    wait_for_older_copies,
)
from minicnn_kernels.cuda.tiles import Tile

__all__ = ["STAGES", "accumulation", "strip_along_rows", "strip_along_terms"]

STAGES = 3  # strips of each operand: one is multiplied while two are on their way
_ZERO = np.float32(0)


def accumulation(tile: Tile, bring_a: Callable, bring_b: Callable) -> Callable:
    """accumulate(sums, held, strips_a, strips_b, a, b, term, last, thread): the sums over terms from `term`
    to `last` - 1.

    bring_a and bring_b, (strips, at, operand, term, last, thread), begin to copy the strip that starts with
    `term`, zeros from `last` on, to strips[at:]; each is called for one strip after the other.

    One barrier a strip is enough. After it every thread's copies of this stage are visible, as each thread
    has waited for its own before. And every thread has multiplied the stage before, which is the one that is
    filled next. Groups are closed where nothing was copied, too: their number tells which stage has arrived.
    """
    count, depth, multiply = tile.sums, tile.depth, tile.multiply
    size_a, size_b = depth * tile.pitch_a, depth * tile.pitch_b

    @inline_function
    def accumulate(sums, held, strips_a, strips_b, a, b, term, last, thread):
        for s in range(count):
            sums[s] = _ZERO
        for stage in range(2):
            bring_a(strips_a, np.int32(stage * size_a), a, np.int32(term + stage * depth), last, thread)
            bring_b(strips_b, np.int32(stage * size_b), b, np.int32(term + stage * depth), last, thread)
            commit_copies()
        now, ahead = np.int32(0), np.int32(2)
        while term < last:
            wait_for_older_copies()
            barrier()
            bring_a(strips_a, np.int32(ahead * size_a), a, np.int32(term + 2 * depth), last, thread)
            bring_b(strips_b, np.int32(ahead * size_b), b, np.int32(term + 2 * depth), last, thread)
            commit_copies()
            multiply(sums, held, strips_a, strips_b, np.int32(now * size_a), np.int32(now * size_b), thread)
            term = np.int32(term + depth)
            now = np.int32(now + 1) if now < 2 else np.int32(0)
            ahead = np.int32(ahead + 1) if ahead < 2 else np.int32(0)
        wait_for_copies()

    return accumulate


@functools.cache
def strip_along_terms(width: int, pitch: int, depth: int, threads: int) -> Callable:
    """Brings strips of a matrix whose terms are neighbours in memory.

    operand: (x, step, term_step, four, first, end). Element (kk, i) of the strip, at strips[at + kk * pitch
    + i], is x[(first + i) * step + (term + kk) * term_step], and zero from row `end` and term `last` on. A
    warp copies 8 terms of 4 rows at a time.
    """

    lanes = min(depth, threads)  # of one row; the simulator may have fewer threads than a row has terms
    at_once = threads // lanes

    @inline_function
    def bring(strips, at, operand, term, last, thread):
        x, step, term_step, _, first, end = operand
        i = np.int32(thread // lanes)
        for start in range(0, depth, lanes):
            kk = np.int32(start + thread % lanes)
            place = np.int32((first + i) * step + (term + kk) * term_step)
            left = np.int32(end - first - i) if np.int32(term + kk) < last else np.int32(0)
            to = np.int32(at + kk * pitch + i)
            for r in range(0, width, at_once):
                copy4(strips, to + r, x, place, np.int32(r) < left)
                place = np.int32(place + at_once * step)

    return bring


@functools.cache
def strip_along_rows(width: int, pitch: int, depth: int, threads: int) -> Callable:
    """As `strip_along_terms`, for a matrix whose rows are neighbours, so that step is 1.

    four: each four of them lie at a multiple of 16 bytes, and one copy takes them.
    """

    vectors = width // 4  # in a row of the strip
    lanes = min(vectors, threads)
    at_once = threads // lanes

    @inline_function
    def bring(strips, at, operand, term, last, thread):
        x, _, term_step, four, first, end = operand
        for start in range(0, vectors, lanes):
            i = np.int32((start + thread % lanes) * 4)
            kk = np.int32(thread // lanes)
            place = np.int32(first + i + (term + kk) * term_step)
            to = np.int32(at + kk * pitch + i)
            for k in range(0, depth, at_once):
                left = np.int32(end - first - i) if np.int32(term + kk + k) < last else np.int32(0)
                here = to + k * pitch
                if four:
                    copy16(strips, here, x, place, np.int32(max(min(left, 4), 0)))
                else:
                    for j in range(4):
                        copy4(strips, here + j, x, np.int32(place + j), np.int32(j) < left)
                place = np.int32(place + at_once * term_step)

    return bring

"""A program at work: groups of images, each taken through all steps in scratch that stays in the cache.

The program is one table of int64, a line per step: its kind, then the fields of its tuple. Groups are the
tasks of one parallel loop; a single group runs without threads being woken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import get_thread_id, prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from minicnn_kernels.cpu import integer_steps as steps
from minicnn_kernels.cpu.compiler import kernel
from minicnn_kernels.cpu.integer_multiply import Multiply, MultiplyChannels, multiply, multiply_channels
from minicnn_kernels.cpu.integer_steps import Add, Border, Load, Lookup, Place, Pool, Quantize, Store
from minicnn_kernels.cpu.pointers import INT_BYTES, integers

WORDS = 32  # of a line
OUTSIDE = 5  # words for an array from outside: address, then bytes between images, channels, rows, columns
_KINDS = (Quantize, Load, Store, Border, Multiply, MultiplyChannels, Pool, Add, Lookup, Place)
(QUANTIZE, LOAD, STORE, BORDER, MULTIPLY, MULTIPLY_CHANNELS, POOL, ADD, LOOKUP, PLACE) = range(len(_KINDS))
_SIZES = tuple(len(kind._fields) for kind in _KINDS)
_QUANTIZE, _LOAD, _STORE, _BORDER, _MULTIPLY, _CHANNELS, _POOL, _ADD, _LOOKUP, _PLACE = _SIZES


def table(program: Sequence[tuple[Any, int]]) -> np.ndarray:
    """(steps, WORDS) int64 for (step, number of the array from outside that it uses, or 0)."""
    lines = np.zeros((len(program), WORDS), np.int64)
    for line, (step, array) in zip(lines, program, strict=True):
        line[:2] = _KINDS.index(type(step)), array
        line[2 : 2 + len(step)] = step
    return lines


@kernel
def run_group(program, length, arrays, scratch, first, count):
    """All steps for `count` images from `first` on. program, arrays, scratch: addresses."""
    for i in range(length):
        line = integers(program + INT_BYTES * WORDS * i, WORDS)
        kind, words = line[0], line[2:]
        outside = integers(arrays + INT_BYTES * OUTSIDE * line[1], OUTSIDE)
        start = outside[0] + first * outside[1]
        strides = outside[1], outside[2], outside[3], outside[4]
        if kind == MULTIPLY:
            multiply(Multiply(*to_fixed_tuple(words, _MULTIPLY)), scratch, count)
        elif kind == BORDER:
            steps.border(Border(*to_fixed_tuple(words, _BORDER)), scratch, count)
        elif kind == QUANTIZE:
            steps.quantize(Quantize(*to_fixed_tuple(words, _QUANTIZE)), scratch, count, start, strides)
        elif kind == LOAD:
            steps.load(Load(*to_fixed_tuple(words, _LOAD)), scratch, count, start, strides)
        elif kind == STORE:
            steps.store(Store(*to_fixed_tuple(words, _STORE)), scratch, count, start)
        elif kind == MULTIPLY_CHANNELS:
            multiply_channels(MultiplyChannels(*to_fixed_tuple(words, _CHANNELS)), scratch, count)
        elif kind == POOL:
            steps.pool(Pool(*to_fixed_tuple(words, _POOL)), scratch, count)
        elif kind == ADD:
            steps.add(Add(*to_fixed_tuple(words, _ADD)), scratch, count)
        elif kind == LOOKUP:
            steps.lookup(Lookup(*to_fixed_tuple(words, _LOOKUP)), scratch, count)
        elif kind == PLACE:
            steps.place(Place(*to_fixed_tuple(words, _PLACE)), scratch, count)


@kernel(parallel=True)
def run_groups(program, length, arrays, scratch, scratch_bytes, images, group):
    """All steps for all images, `group` of them in a task; every thread has its own scratch."""
    for task in prange((images + group - 1) // group):
        first = np.intp(task) * group
        place = scratch + np.intp(get_thread_id()) * scratch_bytes
        run_group(program, length, arrays, place, first, min(group, images - first))

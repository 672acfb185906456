"""A program at work: groups of images, each taken through all steps in scratch that stays in the cache.

The program is one table of int64, a line per step: its kind, the array from outside that it uses, then the
fields of its tuple. Groups are the tasks of one parallel loop. Where there are fewer images than threads, the
threads share the products of one group; where no thread is to be woken, a group runs by itself.

Expected for the net W1 (3x3 convolutions from 3 to 32 and on to 64 channels, dense 4,096 to 128): 6.4 million
products an image, with those that fill up runs, 64 of them a cycle at 3.7 GHz: 27 us. Seen on one core of a
Zen 4, batch 64: 31 us, of which 20.9, 5.5 and 2.3 are the three layers, 0.9 quantizes the image and 0.2 fills
borders. One image alone takes 43: its dense layer waits for weights from the second-level cache (3 more), and
Python needs 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import get_thread_id, prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from minicnn_kernels.cpu.compiler import kernel
from minicnn_kernels.cpu.integers import steps
from minicnn_kernels.cpu.integers.multiply import Multiply, MultiplyChannels, multiply, multiply_channels
from minicnn_kernels.cpu.integers.plain import multiply_plain
from minicnn_kernels.cpu.integers.steps import Add, Border, Load, Lookup, Place, Pool, Quantize, Store
from minicnn_kernels.cpu.pointers import INT_BYTES, integers

WORDS = 32  # of a line
OUTSIDE = 5  # words for an array from outside: address, then bytes between images, channels, rows, columns
_KINDS = (Quantize, Load, Store, Border, Multiply, MultiplyChannels, Pool, Add, Lookup, Place)
(QUANTIZE, LOAD, STORE, BORDER, MULTIPLY, MULTIPLY_CHANNELS, POOL, ADD, LOOKUP, PLACE) = range(len(_KINDS))
_SIZES = tuple(len(kind._fields) for kind in _KINDS)
_QUANTIZE, _LOAD, _STORE, _BORDER, _MULTIPLY, _CHANNELS, _POOL, _ADD, _LOOKUP, _PLACE = _SIZES

_FIRST, _ALONE = np.intp(0), np.intp(1)  # a literal would be a type of its own, and compiled once more


def table(program: Sequence[tuple[Any, int]]) -> np.ndarray:
    """(steps, WORDS) int64 for (step, number of the array from outside that it uses, or 0)."""
    lines = np.zeros((len(program), WORDS), np.int64)
    for line, (step, array) in zip(lines, program, strict=True):
        line[:2] = _KINDS.index(type(step)), array
        line[2 : 2 + len(step)] = step
    return lines


@kernel
def first_byte(array):
    """The address of an array's first element, five times as fast as NumPy tells it."""
    return array.ctypes.data


@kernel
def run_steps(program, length, arrays, scratch, first, count):
    """So many steps for `count` images from `first` on. program, arrays, scratch: addresses."""
    for i in range(length):
        _run_step(program + INT_BYTES * WORDS * i, arrays, scratch, first, count)


@kernel(parallel=True)
def run_groups(program, length, arrays, scratch, scratch_bytes, images, group):
    """All steps for all images, `group` of them in a task; every thread has scratch_bytes of its own."""
    for task in prange((images + group - 1) // group):
        first = np.intp(task) * group
        place = scratch + np.intp(get_thread_id()) * scratch_bytes
        run_steps(program, length, arrays, place, first, min(group, images - first))


@kernel(parallel=True)
def share_product(line, scratch, count, parts):
    """One large product for one group of images, which so many threads share."""
    for part in prange(parts):
        words = integers(line, WORDS)[2:]
        multiply(Multiply(*to_fixed_tuple(words, _MULTIPLY)), scratch, count, np.intp(part), parts)


@kernel
def multiply_plainly(line, scratch, count):
    """A product in ordinary loops, whatever the machine has."""
    words = integers(line, WORDS)[2:]
    multiply_plain(Multiply(*to_fixed_tuple(words, _MULTIPLY)), scratch, count, _FIRST, _ALONE)


@kernel
def _run_step(program_line, arrays, scratch, first, count):
    """One step for `count` images from `first` on."""
    line = integers(program_line, WORDS)
    kind, words = line[0], line[2:]
    array = integers(arrays + INT_BYTES * OUTSIDE * line[1], OUTSIDE)
    start = array[0] + first * array[1]
    strides = array[1], array[2], array[3], array[4]
    if kind == MULTIPLY:
        multiply(Multiply(*to_fixed_tuple(words, _MULTIPLY)), scratch, count, _FIRST, _ALONE)
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

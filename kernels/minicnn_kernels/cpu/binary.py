"""Products of signs: bits are packed from floats, and what differs is counted, 512 products an instruction.

Meaning, layouts and formulas are in `reference/binary.py`. The convolution reads bits of a padded image as
the float one reads floats (`implicit.py`): rows of words at offsets, im2col stays implicit. A padded word is
0, all signs -1; what it adds to a sum is taken out again where the sum starts.

Expected: of a row and eight outputs a word costs xor, popcount and addition, 512 products in 1.5 cycles on
Zen 4, where a fused multiply-add takes 16 floats a cycle: 21 times, less what packing x and finishing costs.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numba import get_thread_id, prange

from minicnn_kernels import memory
from minicnn_kernels.cpu.bits import TILE_ROWS, make_count_tile, make_sign_bits
from minicnn_kernels.cpu.compiler import THREAD_SLOTS, kernel
from minicnn_kernels.cpu.layout import address, channels_last, contiguous
from minicnn_kernels.cpu.microkernel import copy_floats, zero_floats
from minicnn_kernels.cpu.pointers import FLOAT_BYTES, INT_BYTES, floats, integers
from minicnn_kernels.reference import binary as reference
from minicnn_kernels.reference.binary import PANEL, WORD
from minicnn_kernels.windows import conv_output_size

__all__ = [
    "binary_conv2d_forward",
    "binary_linear_forward",
    "pack_signs",
    "ternary_conv2d_forward",
    "ternary_linear_forward",
]

_ROWS_PER_TASK, _ROWS_PER_PACKING = 64, 8
_word_of_64, _word_of_16 = make_sign_bits(64), make_sign_bits(16)
_binary_tile, _binary_row = make_count_tile(TILE_ROWS, 1), make_count_tile(1, 1)
_ternary_tile, _ternary_row = make_count_tile(TILE_ROWS, 2), make_count_tile(1, 2)
_ZERO_TAP = np.zeros(1, np.int64)


def pack_signs(x):
    """The signs of the last dimension as bits: (..., K) -> (..., ceil(K / 64)) uint64."""
    if x.dtype != np.float32:
        return reference.pack_signs(x)
    bits = memory.empty((*x.shape[:-1], -(-x.shape[-1] // WORD)), np.uint64)
    rows = math.prod(x.shape[:-1])
    if bits.size:
        x = contiguous(x)
        _pack_rows(address(x), address(bits), rows, x.shape[-1])
    return bits


def binary_linear_forward(x, weight_bits, start, factor):
    """The signs of x times binary weights: (start - 2 * how many signs differ) * factor.

    Measured on one core of Zen 4 against OpenBLAS through NumPy, packing of x included: 64 x 784 x 300 8
    times as fast, 64 x 1024 x 1024 18 times, 64 x 4096 x 4096 25 times; of one row of 784 as fast as it, for
    starting threads twice takes longer than the product.
    """
    return _linear(x, weight_bits, start, factor, ternary=False)


def ternary_linear_forward(x, weight_bits, start, factor):
    """The same for ternary weights: one more `and` for every word."""
    return _linear(x, weight_bits, start, factor, ternary=True)


def _linear(x, weight_bits, start, factor, *, ternary):
    rows, depth, outputs = math.prod(x.shape[:-1]), x.shape[-1], len(factor)
    y = memory.empty((*x.shape[:-1], outputs))
    if y.size:
        words = -(-depth // WORD)
        bits, scratch, x = memory.empty((rows, words), np.uint64), _scratch(), contiguous(x)
        start, factor = _padded(start, np.int32), _padded(factor, np.float32)
        offsets = _row_offsets(rows, words)
        _multiply_rows(
            address(x), address(bits), address(offsets), address(_ZERO_TAP), address(weight_bits),
            weight_bits[0].nbytes, address(start), address(factor), address(y), address(scratch), rows, depth,
            outputs, ternary,
        )  # fmt: skip
    return y


def binary_conv2d_forward(x, weight_bits, start, factor, kernel_size, stride, padding, dilation):
    """The signs of x convolved with binary weights; padding is 0, no sign: it adds nothing.

    Measured as above against sgemm of the im2col matrix alone: 64 images of 64 x 14 x 14 15 times as fast, of
    128 x 8 x 8 17 times.
    """
    return _conv2d(x, weight_bits, start, factor, (kernel_size, stride, padding, dilation), ternary=False)


def ternary_conv2d_forward(x, weight_bits, start, factor, kernel_size, stride, padding, dilation):
    """The same for ternary weights."""
    return _conv2d(x, weight_bits, start, factor, (kernel_size, stride, padding, dilation), ternary=True)


def _conv2d(x, weight_bits, start, factor, window, *, ternary):
    images, channels, *size = x.shape
    words = -(-channels // WORD)
    geometry = _geometry(tuple(size), *(tuple(pair) for pair in window), words)
    out_height, out_width = geometry.output_size
    y = memory.empty_images(images, len(factor), out_height, out_width)
    if y.size:
        start, factor = _padded(start, np.int32), _padded(factor, np.float32)
        starts = np.ascontiguousarray(start + _repairs(weight_bits, geometry, channels, ternary))
        height, width = (count + 2 * around for count, around in zip(size, window[2], strict=True))
        bits, scratch = memory.empty((images, height, width, words), np.uint64), _scratch()
        x = channels_last(x)
        _convolve(
            address(x), address(bits), x.shape, tuple(window[2]), address(geometry.pixels),
            len(geometry.pixels), address(geometry.taps), len(geometry.taps), address(weight_bits),
            weight_bits[0].nbytes, address(starts), len(start), address(geometry.classes), address(factor),
            address(y), address(scratch), y.shape[1], ternary,
        )  # fmt: skip
    return y


class _Geometry:
    """Where the words of a window lie. pixels, taps: offsets of output pixels and of taps, in words.

    classes: for each output pixel the row of `outside` that says which taps of its window are padding.
    """

    def __init__(self, size, kernel_size, stride, padding, dilation, words):
        self.output_size = conv_output_size(size, kernel_size, stride, padding, dilation)
        width = size[1] + 2 * padding[1]
        rows, columns = (
            np.arange(count) * step for count, step in zip(self.output_size, stride, strict=True)
        )
        down, right = (np.arange(count) * step for count, step in zip(kernel_size, dilation, strict=True))
        self.pixels = (rows[:, None] * width + columns).reshape(-1) * words
        self.taps = (down[:, None] * width + right).reshape(-1) * words
        beyond = [
            (first[:, None] + taps < pad) | (first[:, None] + taps >= pad + count)
            for first, taps, pad, count in zip((rows, columns), (down, right), padding, size, strict=True)
        ]
        outside = beyond[0][:, None, :, None] | beyond[1][None, :, None, :]
        self.outside, classes = np.unique(
            outside.reshape(len(self.pixels), len(self.taps)), axis=0, return_inverse=True
        )
        self.classes = classes.reshape(-1).astype(np.int64)


_geometry = functools.lru_cache(maxsize=64)(_Geometry)


def _repairs(weight_bits, geometry, channels, ternary):
    """(classes, outputs of all panels) int32: what padding, as signs of -1, took from the sums of a class."""
    taps, words = len(geometry.taps), weight_bits.shape[1] // len(geometry.taps)
    if not geometry.outside.any():
        return np.zeros((len(geometry.outside), len(weight_bits) * PANEL), np.int32)
    planes = [weight_bits[:, :, plane] for plane in (0, 1)] if ternary else [weight_bits]
    set_bits = [
        np.bitwise_count(plane).reshape(-1, taps, words, PANEL).sum(axis=2, dtype=np.int32)
        for plane in planes
    ]
    added = (set_bits[1] if ternary else channels) - 2 * set_bits[0]
    return -(geometry.outside.astype(np.int32) @ added.transpose(1, 0, 2).reshape(taps, -1).astype(np.int32))


def _padded(values, dtype):
    """(O,) with zeros up to whole panels: a tile reads them all."""
    padded = np.zeros(-(-len(values) // PANEL) * PANEL, dtype)
    padded[: len(values)] = values
    return padded


def _scratch():
    """A tile of floats for each thread."""
    return np.empty(THREAD_SLOTS * TILE_ROWS * PANEL, np.float32)


@functools.lru_cache(maxsize=64)
def _row_offsets(rows, words):
    return np.arange(rows, dtype=np.int64) * words


@kernel
def _pack_row(x, bits, depth):
    """The signs of `depth` float32 at an address, as words at another."""
    words = (depth + WORD - 1) // WORD
    row = integers(bits, words)
    for w in range(words):
        left, here = depth - w * WORD, x + FLOAT_BYTES * w * WORD
        if left >= WORD:
            row[w] = np.int64(_word_of_64(here))
            continue
        word = np.uint64(0)
        for block in range(left // 16):
            word |= _word_of_16(here + FLOAT_BYTES * 16 * block) << np.uint64(16 * block)
        values = floats(here, left)
        for i in range(left // 16 * 16, left):
            word |= np.uint64(values[i] >= 0) << np.uint64(i)
        row[w] = np.int64(word)


@kernel
def _tile(
    valid_rows, x, row_offsets, taps, tap_count, run, weight, starts, start_rows, start_stride, factor, y,
    y_stride, ternary,
):  # fmt: skip
    """A tile of results, see `bits.make_count_tile`."""
    if ternary and valid_rows > 1:
        _ternary_tile(
            x, row_offsets, valid_rows, taps, tap_count, run, weight, starts, start_rows, start_stride,
            factor, y, y_stride,
        )  # fmt: skip
    elif ternary:
        _ternary_row(
            x, row_offsets, 1, taps, tap_count, run, weight, starts, start_rows, start_stride, factor, y,
            y_stride,
        )  # fmt: skip
    elif valid_rows > 1:
        _binary_tile(
            x, row_offsets, valid_rows, taps, tap_count, run, weight, starts, start_rows, start_stride,
            factor, y, y_stride,
        )  # fmt: skip
    else:
        _binary_row(
            x, row_offsets, 1, taps, tap_count, run, weight, starts, start_rows, start_stride, factor, y,
            y_stride,
        )  # fmt: skip


@kernel
def _block(
    first, last, x, row_offsets, taps, tap_count, run, weight, starts, start_rows, start_stride, factor, y,
    outputs, j, scratch, ternary,
):  # fmt: skip
    """Rows from `first` to `last` of the panel whose first output is j. y: of row 0 and output 0.

    A panel that is not full goes through scratch, TILE_ROWS x PANEL floats.
    """
    whole = j + PANEL <= outputs
    for i in range(first, last, TILE_ROWS):
        valid = min(TILE_ROWS, last - i)
        here = y + FLOAT_BYTES * (i * outputs + j)
        _tile(
            valid, x, row_offsets + INT_BYTES * i, taps, tap_count, run, weight, starts + 4 * j,
            start_rows + INT_BYTES * i, start_stride, factor + FLOAT_BYTES * j, here if whole else scratch,
            outputs if whole else PANEL, ternary,
        )  # fmt: skip
        if not whole:
            for r in range(valid):
                copy_floats(here + FLOAT_BYTES * r * outputs, scratch + FLOAT_BYTES * r * PANEL, outputs - j)


@kernel(parallel=True)
def _pack_rows(x, bits, rows, depth):
    words = (depth + WORD - 1) // WORD
    for task in prange((rows + _ROWS_PER_TASK - 1) // _ROWS_PER_TASK):
        first = np.intp(task) * _ROWS_PER_TASK
        for row in range(first, min(first + _ROWS_PER_TASK, rows)):
            _pack_row(x + FLOAT_BYTES * row * depth, bits + INT_BYTES * row * words, depth)


@kernel(parallel=True)
def _multiply_rows(
    x, bits, row_offsets, zero_tap, weight, panel_bytes, starts, factor, y, scratch, rows, depth, outputs,
    ternary,
):  # fmt: skip
    """All arrays by address. A task packs a few rows, then one makes a block of rows of a panel."""
    words = (depth + WORD - 1) // WORD
    for task in prange((rows + _ROWS_PER_PACKING - 1) // _ROWS_PER_PACKING):
        first = np.intp(task) * _ROWS_PER_PACKING
        for row in range(first, min(first + _ROWS_PER_PACKING, rows)):
            _pack_row(x + FLOAT_BYTES * row * depth, bits + INT_BYTES * row * words, depth)
    blocks = (rows + _ROWS_PER_TASK - 1) // _ROWS_PER_TASK
    for task in prange(blocks * ((outputs + PANEL - 1) // PANEL)):
        panel, first = np.intp(task) // blocks, np.intp(task) % blocks * _ROWS_PER_TASK
        mine = scratch + FLOAT_BYTES * np.intp(get_thread_id()) * TILE_ROWS * PANEL
        _block(
            first, min(first + _ROWS_PER_TASK, rows), bits, row_offsets, zero_tap, 1, words,
            weight + panel_bytes * panel, starts, row_offsets, 0, factor, y, outputs, panel * PANEL, mine,
            ternary,
        )  # fmt: skip


@kernel(parallel=True)
def _convolve(
    x, bits, size, padding, pixel_offsets, pixels, taps, tap_count, weight, panel_bytes, starts, start_stride,
    classes, factor, y, scratch, outputs, ternary,
):  # fmt: skip
    """x: (N, H, W, C), all other arrays by address; bits: of (N, padded H, padded W, words).

    A task packs a row of an image, with what is padding beside it, then one makes a block of pixels.
    """
    images, height, width, channels = size
    words, wide = (channels + WORD - 1) // WORD, width + 2 * padding[1]
    tall = height + 2 * padding[0]
    for task in prange(images * tall):
        image, i = np.intp(task) // tall, np.intp(task) % tall - padding[0]
        row = bits + INT_BYTES * np.intp(task) * wide * words
        if 0 <= i < height:
            zero_floats(row, 2 * padding[1] * words)
            inside = row + INT_BYTES * padding[1] * words
            place = x + FLOAT_BYTES * (image * height + i) * width * channels
            for j in range(width):
                _pack_row(place + FLOAT_BYTES * j * channels, inside + INT_BYTES * j * words, channels)
            zero_floats(inside + INT_BYTES * width * words, 2 * padding[1] * words)
        else:
            zero_floats(row, 2 * wide * words)
    blocks = (pixels + _ROWS_PER_TASK - 1) // _ROWS_PER_TASK
    for task in prange(images * blocks):
        image, first = np.intp(task) // blocks, np.intp(task) % blocks * _ROWS_PER_TASK
        mine = scratch + FLOAT_BYTES * np.intp(get_thread_id()) * TILE_ROWS * PANEL
        for panel in range((outputs + PANEL - 1) // PANEL):
            _block(
                first, min(first + _ROWS_PER_TASK, pixels), bits + INT_BYTES * image * tall * wide * words,
                pixel_offsets, taps, tap_count, words, weight + panel_bytes * panel, starts, classes,
                start_stride, factor, y + FLOAT_BYTES * image * pixels * outputs, outputs, panel * PANEL,
                mine, ternary,
            )  # fmt: skip

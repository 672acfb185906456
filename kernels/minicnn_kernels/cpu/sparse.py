"""Sparse layers, vectorized over what all weights share: images of a batch, pixels of an image.

Meaning and layout of rows are in `reference/sparse.py`. x is turned so that 64 images, or 64 pixels of a
channel, are neighbours; a weight that is not 0 then costs a multiply-add of four vectors, whose sums stay in
registers for the whole row, and one that is 0 costs nothing. Pixels of a padded image are walked through as
one line, so that a tap is a fixed distance; sums that straddle two lines are computed and thrown away.

Expected: 64 products a weight in 6 to 8 cycles, for most loads straddle cache lines, where the dense tiles
take 4, and Winograd saves them half of the products. Measured on one core of Zen 4, without 90% of the
weights: dense layers of 64 images 1.7 to 2.1 times as fast as with all of them, one image 0.5 to 1; the 3x3
convolutions of W2 and W3, 64 images, 0.7 to 1.5 times, one image 0.5 to 0.9. The stopwatch of
`minicnn.deploy` measures, and decides.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from llvmlite import ir
from numba import get_thread_id, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from minicnn_kernels import memory
from minicnn_kernels.cpu.blocks import transpose
from minicnn_kernels.cpu.compiler import REDUCTION, THREAD_SLOTS, kernel
from minicnn_kernels.cpu.lanes import LANES, PLAIN
from minicnn_kernels.cpu.layout import address, channels_last, contiguous, copy_into
from minicnn_kernels.cpu.microkernel import copy_floats
from minicnn_kernels.cpu.pointers import FLOAT_BYTES, INT_BYTES, floats, load_int
from minicnn_kernels.reference import sparse as reference
from minicnn_kernels.windows import conv_output_size

__all__ = ["sparse_conv2d_forward", "sparse_linear_forward"]

_WIDE = 64  # images or pixels side by side
_VECTORS = _WIDE // LANES
_FEW = 8  # rows of x up to which each is multiplied by itself
_OUTPUTS_PER_TASK = 32


def sparse_linear_forward(x, values, columns, starts, bias):
    """x weight^T + bias. x (..., in), the weight as rows, bias (out,) or None -> (..., out)."""
    outputs, depth, rows = len(starts) - 1, x.shape[-1], math.prod(x.shape[:-1])
    bias = _bias(bias, outputs)
    y = memory.empty((*x.shape[:-1], outputs))
    if not y.size:
        return y
    flat = contiguous(x).reshape(rows, depth)
    if rows <= _FEW:
        _multiply_few(flat, values, columns, starts, bias, y.reshape(rows, outputs))
        return y
    padded = -(-rows // _WIDE) * _WIDE
    turned, result = memory.empty((depth, padded)), memory.empty((outputs, padded))
    copy_into(turned[:, :rows], flat.T)
    turned[:, rows:] = 0
    offsets = columns.astype(np.int64) * padded
    _multiply_rows(address(turned), address(offsets), address(values), starts, bias, address(result), padded)
    copy_into(y.reshape(rows, outputs), result[:, :rows].T)
    return y


def sparse_conv2d_forward(x, values, columns, starts, bias, kernel_size, stride, padding, dilation, groups):
    """Convolution of x (N, C, H, W) with a weight as rows. Strides of more than 1 are the reference's."""
    options = kernel_size, stride, padding, dilation, groups
    if tuple(stride) != (1, 1):
        return np.asarray(
            reference.sparse_conv2d_forward(x, values, columns, starts, bias, *options), np.float32
        )
    images, channels, height, width = x.shape
    outputs = len(starts) - 1
    out_height, out_width = conv_output_size((height, width), kernel_size, stride, padding, dilation)
    y = memory.empty_images(images, outputs, out_height, out_width)
    if not y.size:
        return y
    tall, wide = height + 2 * padding[0], width + 2 * padding[1]
    pixels = -(-out_height * wide // _WIDE) * _WIDE
    table = _tap_offsets(channels // groups, tuple(kernel_size), tuple(dilation), wide, tall * wide)
    offsets = table[columns]
    if groups > 1:
        group = np.repeat(np.arange(outputs) // (outputs // groups), np.diff(starts))
        offsets = offsets + group * (channels // groups * tall * wide)
    # A line of sums may read past the last plane, by less than a line and the farthest tap.
    planes = memory.zeros(images * channels * tall * wide + _WIDE + int(table.max(initial=0)))
    room = max(channels * height * width, 2 * _OUTPUTS_PER_TASK * pixels)
    scratch = memory.empty(THREAD_SLOTS * room)
    x = channels_last(x)
    _convolve(
        address(x), address(planes), x.shape, tuple(padding), (tall, wide), address(offsets), address(values),
        starts, _bias(bias, outputs), address(y), (out_height, out_width), pixels, address(scratch),
        room,
    )  # fmt: skip
    return y


@functools.lru_cache(maxsize=64)
def _tap_offsets(channels, kernel_size, dilation, wide, plane):
    """How far from the first pixel of a window each column of a row lies, in floats."""
    down, right = (np.arange(count) * step for count, step in zip(kernel_size, dilation, strict=True))
    taps = down[:, None] * wide + right
    return (taps[:, :, None] + np.arange(channels) * plane).reshape(-1).astype(np.int64)


def _bias(bias, outputs):
    return np.zeros(outputs, np.float32) if bias is None else np.ascontiguousarray(bias, np.float32)


@intrinsic
def _vector_row(typingctx, x, offsets, values, count, start, y):
    """y[:64] = start + sum of values[i] * x[offsets[i] : offsets[i] + 64]; all but start by address."""

    def codegen(context, builder, signature, args):
        x, offsets, values, count, start, y = args
        integer, single = ir.IntType(64), ir.FloatType()
        vector = ir.VectorType(single, LANES)

        def loaded(base, index, kind, size):
            place = builder.add(base, builder.mul(index, ir.Constant(integer, size)))
            return builder.load(builder.inttoptr(place, kind.as_pointer()), align=size)

        def splat(scalar):
            undefined = ir.Constant(vector, ir.Undefined)
            lanes = ir.VectorType(ir.IntType(32), LANES)
            one = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
            return builder.shuffle_vector(one, undefined, ir.Constant(lanes, [0] * LANES))

        multiply_add = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.v{LANES}f32"
        )
        sums = [cgutils.alloca_once_value(builder, splat(start)) for _ in range(_VECTORS)]
        with cgutils.for_range(builder, count) as loop:
            factor = splat(loaded(values, loop.index, single, FLOAT_BYTES))
            offset = loaded(offsets, loop.index, integer, INT_BYTES)
            for v, total in enumerate(sums):
                place = builder.add(offset, ir.Constant(integer, v * LANES))
                part = loaded(x, place, vector, FLOAT_BYTES)
                builder.store(builder.call(multiply_add, [factor, part, builder.load(total)]), total)
        for v, total in enumerate(sums):
            place = builder.add(y, ir.Constant(integer, v * LANES * FLOAT_BYTES))
            builder.store(
                builder.load(total), builder.inttoptr(place, vector.as_pointer()), align=FLOAT_BYTES
            )
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4, types.float32, types.intp), codegen


@kernel
def _plain_row(x, offsets, values, count, start, y):
    """The same in ordinary loops."""
    sums = floats(y, _WIDE)
    for j in range(_WIDE):
        sums[j] = start
    factors = floats(values, count)
    for i in range(count):
        part = floats(x + FLOAT_BYTES * load_int(offsets + INT_BYTES * i), _WIDE)
        for j in range(_WIDE):
            sums[j] += factors[i] * part[j]


_row = _plain_row if PLAIN else _vector_row


@kernel(parallel=True, fastmath=REDUCTION)
def _multiply_few(x, values, columns, starts, bias, y):
    for o in prange(len(bias)):
        for image in range(len(x)):
            total = np.float32(0)
            for i in range(starts[o], starts[o + 1]):
                total += values[i] * x[image, columns[i]]
            y[image, o] = total + bias[o]


@kernel(parallel=True)
def _multiply_rows(x, offsets, values, starts, bias, y, padded):
    """x (in, padded), y (out, padded). A task is a few outputs of 64 images."""
    chunks = (len(bias) + _OUTPUTS_PER_TASK - 1) // _OUTPUTS_PER_TASK
    for task in prange(chunks * (padded // _WIDE)):
        first = np.intp(task) % chunks * _OUTPUTS_PER_TASK
        block = FLOAT_BYTES * (np.intp(task) // chunks * _WIDE)
        for o in range(first, min(first + _OUTPUTS_PER_TASK, len(bias))):
            _row(
                x + block, offsets + INT_BYTES * starts[o], values + FLOAT_BYTES * starts[o],
                starts[o + 1] - starts[o], bias[o], y + block + FLOAT_BYTES * o * padded,
            )  # fmt: skip


@kernel(parallel=True)
def _convolve(
    x, planes, size, padding, padded_size, offsets, values, starts, bias, y, out_size, pixels, scratch, room
):  # fmt: skip
    """A task turns an image into planes, then one makes a few channels of an image, line after line."""
    images, height, width, channels = size
    tall, wide = padded_size
    plane = tall * wide
    out_height, out_width = out_size
    outputs = len(bias)
    for task in prange(images):
        turned = scratch + FLOAT_BYTES * np.intp(get_thread_id()) * room
        image = np.intp(task)
        here, target = (
            x + FLOAT_BYTES * image * height * width * channels,
            planes + FLOAT_BYTES * (image * channels * plane + padding[0] * wide + padding[1]),
        )
        transpose(here, channels, height * width, channels, turned, height * width)
        for c in range(channels):
            for i in range(height):
                copy_floats(
                    target + FLOAT_BYTES * (c * plane + i * wide),
                    turned + FLOAT_BYTES * (c * height + i) * width, width,
                )  # fmt: skip
    chunks = (outputs + _OUTPUTS_PER_TASK - 1) // _OUTPUTS_PER_TASK
    for task in prange(images * chunks):
        image, first = np.intp(task) // chunks, np.intp(task) % chunks * _OUTPUTS_PER_TASK
        count = min(_OUTPUTS_PER_TASK, outputs - first)
        sums = scratch + FLOAT_BYTES * np.intp(get_thread_id()) * room
        turned = sums + FLOAT_BYTES * _OUTPUTS_PER_TASK * pixels
        here = planes + FLOAT_BYTES * image * channels * plane
        for block in range(0, pixels, _WIDE):
            for r in range(count):
                start = starts[first + r]
                _row(
                    here + FLOAT_BYTES * block, offsets + INT_BYTES * start, values + FLOAT_BYTES * start,
                    starts[first + r + 1] - start, bias[first + r], sums + FLOAT_BYTES * (r * pixels + block),
                )  # fmt: skip
        transpose(sums, pixels, count, pixels, turned, count)
        for i in range(out_height):
            for j in range(out_width):
                copy_floats(
                    y + FLOAT_BYTES * (((image * out_height + i) * out_width + j) * outputs + first),
                    turned + FLOAT_BYTES * (i * wide + j) * count, count,
                )  # fmt: skip

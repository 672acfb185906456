"""The gradient by the input of a convolution with a stride above 1, gathered.

The textbook adds the gradient of each output to the pixels of its window: memory is read and written once per
tap. Seen from a pixel it is a convolution without stride: with a stride of 2, pixels of even and odd rows and
columns have met different taps, but all pixels of one such kind the same ones. So each kind is computed as in
`implicit.py`, from the gradient padded with zeros and its own taps, and then laid between the others. The
work is that of the forward pass. Seen against adding up tap by tap, batch 64: 3x3 1.0 to 2 times as fast.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from numba import get_thread_id, prange

from minicnn_kernels import memory
from minicnn_kernels.cpu.blocks import INT_BYTES, LANES, PACKED, WIDE, multiply, pack, padded_columns
from minicnn_kernels.cpu.compiler import THREAD_SLOTS, kernel
from minicnn_kernels.cpu.implicit import pad_rows
from minicnn_kernels.cpu.layout import address
from minicnn_kernels.cpu.microkernel import FLOAT_BYTES, copy_floats, zero_floats
from minicnn_kernels.cpu.pointers import load_int

_TASKS = 16
_PIXELS_PER_TASK = 128  # of one kind
_SCRATCH_BYTES = 1 << 20  # half of a 2 MiB second-level cache; weights and results need the rest


def windows(kernel, stride, padding, dilation) -> tuple[list[list[tuple[int, int]]], int]:
    """What each pixel has met along one axis: a list of (place, tap) for each remainder of its position.

    Pixel w met tap q at the output (w + padding - q dilation) / stride, if that is whole. Pixel w + stride
    met the same taps one output further on. Places count from the first of all; the second result is the
    number of zeros before the outputs that this needs, negative if the first outputs are not needed.
    """
    met = [
        [
            ((w + padding - q * dilation) // stride, q)
            for q in range(kernel)
            if (w + padding - q * dilation) % stride == 0
        ]
        for w in range(stride)
    ]
    first = min(place for window in met for place, _ in window)
    return [[(place - first, q) for place, q in window] for window in met], -first


class _Plan(NamedTuple):
    """Sizes of the padded gradient for a kind of pixels; where the windows and their taps lie in it."""

    rows: int
    columns: int
    span: int  # rows of the gradient that a row of pixels needs
    top: int
    left: int
    pitch: int
    pixels: np.ndarray  # offsets of the windows of pixels
    taps: np.ndarray  # for each kind: how many taps, how many in kinds before, and their offsets
    order: (
        np.ndarray
    )  # for each tap of the kernel: which one in its kind, of how many, how many in kinds before


@functools.lru_cache(maxsize=256)
def _plan(size, kernel, stride, padding, dilation, channels) -> _Plan:
    (row_windows, top), (column_windows, left) = (
        windows(*axis) for axis in zip(kernel, stride, padding, dilation, strict=True)
    )
    rows, columns = (-(-length // step) for length, step in zip(size, stride, strict=True))
    span, across = (
        1 + max(place for window in axis for place, _ in window) for axis in (row_windows, column_windows)
    )
    pitch = columns - 1 + across
    pixels = (np.arange(rows).reshape(-1, 1) * pitch + np.arange(columns)) * channels
    kinds = [
        [((r * pitch + c) * channels, p * kernel[1] + q) for r, p in row for c, q in column]
        for row in row_windows
        for column in column_windows
    ]
    taps = np.zeros((len(kinds), 2 + kernel[0] * kernel[1]), np.int64)
    order = np.zeros((kernel[0] * kernel[1], 3), np.int64)
    before = 0
    for kind, met in zip(taps, kinds, strict=True):
        kind[:2] = len(met), before
        for i, (place, tap) in enumerate(met):
            kind[2 + i], order[tap] = place, (i, len(met), before)
        before += len(met)
    return _Plan(rows, columns, span, top, left, pitch, pixels.reshape(-1).astype(np.int64), taps, order)


def backward_input(grad, taps, dx, stride, padding, dilation, groups) -> None:
    """dx (N, C, H, W) from grad (N, H', W', O) and taps (kh, kw, C/groups, O)."""
    n, out_height, out_width, outputs = grad.shape
    kh, kw, in_group, _ = taps.shape
    _, channels, height, width = dx.shape
    plan = _plan((height, width), (kh, kw), tuple(stride), tuple(padding), tuple(dilation), outputs)

    images = max(1, min(_PIXELS_PER_TASK // (plan.rows * plan.columns), n * 2 // _TASKS))
    row_bytes = FLOAT_BYTES * plan.pitch * (outputs + channels)
    bands = 1 if images > 1 else max(1, min(plan.rows * row_bytes // _SCRATCH_BYTES, plan.rows))
    blocks = -(-n // images) * bands
    column_blocks = 1
    if blocks < _TASKS // 2 and groups == 1:
        column_blocks = min(-(-in_group // WIDE), _TASKS // 2 // blocks)
    block_columns = -(-in_group // (WIDE * column_blocks)) * WIDE if column_blocks > 1 else in_group
    column_blocks = -(-in_group // block_columns)

    weight = memory.empty(kh * kw * groups * outputs // groups * int(padded_columns(in_group)))
    _pack(address(taps), address(weight), address(plan.order), kh * kw, in_group, outputs, groups)
    band_rows = -(-plan.rows // bands)
    padded = images * (band_rows - 1 + plan.span) * plan.pitch * outputs
    size = -(-(padded + LANES) // 16) * 16 + images * band_rows * plan.columns * channels
    scratch = memory.empty((THREAD_SLOTS, size))
    pixels = plan.pixels
    if images > 1:
        image = np.arange(images).reshape(-1, 1) * (band_rows - 1 + plan.span) * plan.pitch * outputs
        pixels = (image + pixels).reshape(-1)
    zeros = np.zeros(channels, np.float32)
    _gather(
        address(grad), address(weight), address(zeros), address(dx), address(scratch), size,
        size - images * band_rows * plan.columns * channels,
        address(pixels), address(plan.taps), plan.taps.shape[1],
        n, height, width, channels, out_height, out_width, outputs, groups, *stride,
        plan.rows, plan.columns, plan.span, plan.top, plan.left, plan.pitch,
        images, bands, column_blocks, block_columns,
    )  # fmt: skip


@kernel(parallel=True)
def _pack(source, packed, order, taps, in_group, outputs, groups):
    """For each kind of pixels and group the operand B of `multiply`: (taps, O / groups) x C / groups."""
    out_group = outputs // groups
    size = out_group * padded_columns(in_group)
    for task in prange(taps * groups):
        tap, g = np.intp(task) // groups, np.intp(task) % groups
        entry = order + 3 * INT_BYTES * tap
        place, count, before = load_int(entry), load_int(entry + INT_BYTES), load_int(entry + 2 * INT_BYTES)
        origin = source + FLOAT_BYTES * (tap * in_group * outputs + g * out_group)
        target = packed + FLOAT_BYTES * (before * groups + g * count) * size
        pack(origin, 1, outputs, out_group, in_group, target, place * out_group, count * out_group)


@kernel(parallel=True)
def _gather(
    grad, weight, zeros, dx, scratch, scratch_size, product_offset, pixel_offsets, taps, taps_row,
    images, height, width, channels, out_height, out_width, outputs, groups, sh, sw,
    rows, columns, span, top, left, pitch, images_per_task, bands, column_blocks, block_columns,
):  # fmt: skip
    """A task: a few images, or a band of rows of one, times a block of channels; all kinds of pixels."""
    in_group, out_group = channels // groups, outputs // groups
    panel_size = out_group * padded_columns(in_group)
    for task in prange((images + images_per_task - 1) // images_per_task * bands * column_blocks):
        index = np.intp(task)
        column = index % column_blocks * block_columns
        band = index // column_blocks % bands
        first = index // column_blocks // bands * images_per_task
        count = min(images_per_task, images - first)
        begin, end = rows * band // bands, rows * (band + 1) // bands
        padded = scratch + FLOAT_BYTES * np.intp(get_thread_id()) * scratch_size
        product = padded + FLOAT_BYTES * product_offset
        padded_image = (end - begin - 1 + span) * pitch * outputs
        for i in range(count):
            pad_rows(
                grad + FLOAT_BYTES * (first + i) * out_height * out_width * outputs, out_height, out_width,
                outputs, begin, end - begin - 1 + span, top, left, pitch,
                padded + FLOAT_BYTES * i * padded_image,
            )  # fmt: skip
        pixels = (count * (end - begin)) * columns
        valid = min(block_columns, in_group - column) if groups == 1 else channels
        for kind in range(sh * sw):
            table = taps + INT_BYTES * kind * taps_row
            tap_count, before = load_int(table), load_int(table + INT_BYTES)
            if tap_count == 0:
                zero_floats(product, pixels * channels)
            else:
                for g in range(groups):
                    depth = tap_count * out_group
                    multiply(
                        padded + FLOAT_BYTES * g * out_group, pixel_offsets, pixels,
                        table + 2 * INT_BYTES, tap_count, out_group, 1,
                        weight + FLOAT_BYTES * (
                            (before * groups + g * tap_count) * panel_size + column * depth
                        ),
                        PACKED, min(block_columns, in_group - column), zeros, 0,
                        product + FLOAT_BYTES * (g * in_group + column), channels,
                    )  # fmt: skip
            a, b = kind // sw, kind % sw
            for i in range(count):
                for m in range(begin, min(end, (height - a + sh - 1) // sh)):
                    line = product + FLOAT_BYTES * (
                        (i * (end - begin) + m - begin) * columns * channels + column
                    )
                    pixel = ((first + i) * height + m * sh + a) * width + b
                    _copy_pixels(
                        line, channels, dx + FLOAT_BYTES * (pixel * channels + column), sw * channels,
                        (width - b + sw - 1) // sw, valid,
                    )  # fmt: skip


@kernel
def _copy_pixels(source, step, target, target_step, pixels, channels):
    """`pixels` pixels of `channels` floats. The last vector starts early enough to be whole."""
    for i in range(pixels):
        a, b = source + FLOAT_BYTES * i * step, target + FLOAT_BYTES * i * target_step
        if channels < LANES:
            copy_floats(b, a, channels)
        else:
            for c in range(0, channels, LANES):
                place = FLOAT_BYTES * min(c, channels - LANES)
                copy_floats(b + place, a + place, LANES)  # a constant: one move

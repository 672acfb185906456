"""Convolution and its gradients: which algorithm, how the work is cut into tasks, how weights are laid out.

`implicit` never writes an im2col matrix, see `implicit.py`; `explicit` writes it and calls the matrix product
of `gemm.py`; `winograd` multiplies transformed tiles, see `winograd.py`, which also says where auto takes it
instead of `implicit`. Depthwise convolutions have loops of their own, `depthwise.py`, and so have gradients
by the input with a stride, `strided.py`. All else is `implicit`: 1x1, 5x5, 7x7 and dilated kernels, and
groups, whose products are too narrow for a tile's best speed (0.5 to 0.9 of PyTorch's). Tasks depend on
shapes alone and sums over tasks have a fixed order, so results are bit-identical for any number of threads.
Signatures and formulas: `reference/conv.py`.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np

from minicnn_kernels import memory
from minicnn_kernels.algorithms import algorithm
from minicnn_kernels.cpu import depthwise, explicit, implicit, strided, winograd
from minicnn_kernels.cpu.blocks import LANES, WIDE, WIDE_ROWS, pack_weights, padded_columns
from minicnn_kernels.cpu.calls import Call
from minicnn_kernels.cpu.compiler import THREAD_SLOTS
from minicnn_kernels.cpu.elementwise import add
from minicnn_kernels.cpu.explicit import col2im, im2col
from minicnn_kernels.cpu.gemm import column_sums
from minicnn_kernels.cpu.layout import address, channels_last, contiguous
from minicnn_kernels.windows import conv_output_size

__all__ = [
    "col2im",
    "conv2d_backward_bias",
    "conv2d_backward_input",
    "conv2d_backward_weight",
    "conv2d_forward",
    "im2col",
]

Pair = tuple[int, int]

# Enough tasks for 16 cores to share, and few enough that one is worth handing out.
_TASKS = 16
_PIXELS_PER_TASK = 256
_PIXELS_PER_PART = 512
PIXELS_PER_BLOCK = 128  # of the weight's gradient: 64 and 256 are 1.1 times as slow
_PIXELS_PER_STRIP = 128  # that are convolved before they are pooled
_SCRATCH_BYTES = 1 << 20  # half of a 2 MiB second-level cache; weights and results need the rest


def conv2d_forward(x, weight, bias, stride, padding, dilation, groups):
    """weight * x + bias: x (N, C, H, W), weight (O, C/groups, kh, kw), bias (O,)|None -> (N, O, H', W')."""
    out_size = conv_output_size(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    y = memory.empty_images(x.shape[0], weight.shape[0], *out_size)
    if y.size == 0:
        return y
    outputs = weight.shape[0]
    bias = np.zeros(outputs, np.float32) if bias is None else contiguous(bias)
    images, taps = channels_last(x), taps_first(weight)
    if algorithm("conv2d") == "explicit":
        explicit.forward(images, taps, bias, y, stride, padding, dilation, groups)
    else:
        convolve(images, taps, bias, y, stride, padding, dilation, groups)
    return y


def conv2d_backward_input(grad, weight, input_shape, stride, padding, dilation, groups, onto=None):
    """Gradient by the input: grad (N, O, H', W'), weight (O, C/groups, kh, kw) -> input_shape.

    onto: an array of input_shape that it is added to, and that may be overwritten by the sum.
    """
    if onto is not None:
        return _add_input_gradient(grad, weight, onto, stride, padding, dilation, groups)
    dx = memory.empty_images(*input_shape)
    if dx.size == 0:
        return dx
    if grad.size == 0:
        dx.fill(0)
        return dx
    grad, taps = channels_last(grad), taps_first(weight)
    if algorithm("conv2d") == "explicit":
        explicit.backward_input(grad, taps, dx, stride, padding, dilation, groups)
    elif _is_depthwise(taps, groups):
        depthwise.backward_input(grad, taps, dx, stride, padding, dilation)
    elif tuple(stride) == (1, 1):
        # Each pixel gathers from the windows it was in: a convolution with the kernel turned around.
        margin = tuple(d * (k - 1) - p for d, k, p in zip(dilation, taps.shape[:2], padding, strict=True))
        nothing = np.zeros(input_shape[1], np.float32)
        convolve(grad, taps, nothing, dx, stride, margin, dilation, groups, transposed=True)
    else:
        strided.backward_input(grad, taps, dx, stride, padding, dilation, groups)
    return dx


def _add_input_gradient(grad, weight, onto, stride, padding, dilation, groups):
    taps = taps_first(weight)
    edge = winograd.tile_edge(grad.shape[1], taps, onto.shape, stride, dilation, groups, False)
    if not edge or grad.size == 0 or not onto.transpose(0, 2, 3, 1).flags.c_contiguous:
        return add(conv2d_backward_input(grad, weight, onto.shape, stride, padding, dilation, groups), onto)
    images, margin = channels_last(grad), (2 - padding[0], 2 - padding[1])
    nothing = np.zeros(onto.shape[1], np.float32)
    options = {"transposed": True, "added": True, "edge": edge}
    winograd.prepare(images.shape, taps, nothing, onto.shape, margin, **options).run(images, onto)
    return onto


def conv2d_backward_weight(grad, x, weight_shape, stride, padding, dilation, groups):
    """Gradient by the weight: grad (N, O, H', W'), x (N, C, H, W) -> weight_shape (O, C/groups, kh, kw).

    The result lies in memory as (kh, kw, C/groups, O), the order in which the kernels read weights.
    """
    outputs, in_group, kh, kw = weight_shape
    dw = memory.empty((kh, kw, in_group, outputs))
    if grad.size == 0 or dw.size == 0:
        dw.fill(0)
    else:
        grad, images = channels_last(grad), channels_last(x)
        if algorithm("conv2d") == "explicit":
            explicit.backward_weight(grad, images, dw, stride, padding, dilation, groups)
        elif _is_depthwise(dw, groups):
            depthwise.weight_gradient(grad, images, dw, stride, padding, dilation)
        else:
            _weight_gradient(grad, images, dw, stride, padding, dilation, groups)
    return dw.transpose(3, 2, 0, 1)


def conv2d_backward_bias(grad):
    """Gradient by the bias: the sum over images and pixels. (N, O, H', W') -> (O,)."""
    outputs = grad.shape[1]
    return column_sums(channels_last(grad).reshape(math.prod(grad.shape) // max(outputs, 1), outputs))


def taps_first(weight: np.ndarray) -> np.ndarray:
    """Weights (O, C, kh, kw) as (kh, kw, C, O), C-contiguous: a view for weights that live in that order."""
    return contiguous(weight.transpose(2, 3, 1, 0))


def _is_depthwise(taps: np.ndarray, groups: int) -> bool:
    """Whether taps (kh, kw, C/groups, O) lead each channel to one of its own."""
    return taps.shape[2] == 1 and taps.shape[3] == groups > 1


class _Windows(NamedTuple):
    """Where the windows of a convolution lie in a padded image of `padded_height` rows of `pitch` pixels."""

    padded_height: int
    pitch: int
    direct: bool  # no padding: the image itself is read
    pixel_offsets: np.ndarray  # of the windows, for as many images as lie behind each other
    tap_offsets: np.ndarray  # of the contiguous runs inside a window
    run: int  # floats in such a run


@functools.lru_cache(maxsize=512)
def find_windows(
    size, out_size, channels, kernel, stride, margin, dilation, groups, images, copied
) -> _Windows:
    (kh, kw), (sh, sw), (dh, dw) = kernel, stride, dilation
    direct = margin == (0, 0) and not copied
    if direct:
        padded_height, pitch = size
    else:
        padded_height, pitch = (
            (o - 1) * s + (k - 1) * d + 1
            for o, s, k, d in zip(out_size, stride, kernel, dilation, strict=True)
        )
    image = np.arange(images).reshape(-1, 1, 1) * padded_height
    row = np.arange(out_size[0]).reshape(-1, 1) * sh
    pixels = ((image + row) * pitch + np.arange(out_size[1]) * sw) * channels
    if groups == 1 and dw == 1:  # a row of the window is contiguous
        taps, run = np.arange(kh) * dh * pitch * channels, kw * channels
    else:
        taps = (np.arange(kh).reshape(-1, 1) * dh * pitch + np.arange(kw) * dw) * channels
        run = channels // groups
    return _Windows(padded_height, pitch, direct, _table(pixels), _table(taps), run)


def _table(offsets: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(offsets.reshape(-1), np.int64)


def convolve(
    x, taps, bias, y, stride, margin, dilation, groups, *, transposed=False, relu=False, winners=None
) -> None:
    """y = bias + x * taps for images x (N, H, W, C); y (N, O, H', W'). Options as in `prepare`.

    winners (N, H' // 2, W' // 2, O): y is 2x2 max pooled, and this says which pixels won.
    """
    options = {"transposed": transposed, "relu": relu, "pool": winners is not None}
    call = prepare(x.shape, taps, bias, y.shape, stride, margin, dilation, groups, **options)
    call.run(x, y, winners)


def prepare(
    x_shape, taps, bias, y_shape, stride, margin, dilation, groups,
    *, transposed=False, relu=False, pool=False, kept=False,
) -> Call:  # fmt: skip
    """The convolution of images of x_shape (N, H, W, C), with `margin` zeros, to y_shape (N, O, H', W').

    transposed: taps (kh, kw, C, O) are turned around and O becomes the input's channels. relu: negative
    results become 0. pool: they are 2x2 max pooled at last, and the call wants winners. kept: it will be run
    more than once.
    """
    channels = x_shape[3]
    edge = winograd.tile_edge(channels, taps, y_shape, stride, dilation, groups, pool, kept)
    if edge:
        options = {"transposed": transposed, "relu": relu, "pool": pool, "edge": edge}
        return winograd.prepare(x_shape, taps, bias, y_shape, margin, **options)
    if _is_depthwise(taps, groups):
        return depthwise.prepare(x_shape, taps, bias, y_shape, stride, margin, dilation, relu=relu, pool=pool)
    n, height, width, _ = x_shape
    kh, kw = taps.shape[:2]
    _, out_channels, out_height, out_width = y_shape
    if pool:
        out_height, out_width = conv_output_size((height, width), (kh, kw), stride, margin, dilation)
    out_group = out_channels // groups
    row_step = stride[0]
    step_rows = 2 if pool else 1  # rows that stay together
    window_rows = (kh - 1) * dilation[0] + 1
    out_pixels = out_height * out_width

    images = 1
    if out_pixels < _PIXELS_PER_TASK:
        images = max(1, min(_PIXELS_PER_TASK // out_pixels, n * 2 // _TASKS))
    blocks = -(-n // images)
    bands = column_blocks = 1
    if images == 1:
        row_bytes = 4 * channels * (width + 2 * max(margin[1], 0)) * row_step
        bands = max(
            min(_TASKS // blocks, out_pixels // _PIXELS_PER_TASK), row_bytes * out_height // _SCRATCH_BYTES
        )
        bands = min(max(bands, 1), out_height // step_rows)
    if blocks * bands < _TASKS // 2 and groups == 1:
        column_blocks = min(-(-out_group // WIDE), _TASKS // 2 // (blocks * bands))
    block_columns, column_blocks = _split(out_group, column_blocks)

    windows = find_windows(
        (height, width), (out_height, out_width), channels, (kh, kw), tuple(stride), tuple(margin),
        tuple(dilation), groups, images, False,
    )  # fmt: skip
    weight = pack_weights(taps, groups, transposed)
    band_rows = windows.padded_height
    if bands > 1:
        band_rows = (-(-(out_height // step_rows) // bands) * step_rows - 1) * row_step + window_rows
    copied = 0 if windows.direct else images * band_rows * windows.pitch * channels
    strip_rows = out_height
    if pool and images == 1:
        strip_rows = max(1, _PIXELS_PER_STRIP // (2 * out_width)) * 2
    pooled = images * min(strip_rows, out_height) * out_width * out_channels if pool else 0
    size = _scratch_size(copied + pooled)
    constants = (
        address(weight), address(bias), size,
        address(windows.pixel_offsets), address(windows.tap_offsets), windows.tap_offsets.size, windows.run,
        n, height, width, channels, out_height, out_width, out_channels, groups,
        margin[0], margin[1], windows.padded_height, windows.pitch, row_step, window_rows, windows.direct,
        images, bands, strip_rows, column_blocks, block_columns, relu, pool, copied,
    )  # fmt: skip
    tables = windows.pixel_offsets, windows.tap_offsets
    return Call(implicit.convolve, constants, THREAD_SLOTS * size, (weight, bias, *tables))


def _weight_gradient(grad, x, dw, stride, padding, dilation, groups) -> None:
    if winograd.takes_weight_gradient(x.shape[3], dw, grad.shape, stride, dilation, groups):
        winograd.weight_gradient(grad, x, dw, padding)
        return
    n, height, width, channels = x.shape
    kh, kw, in_group, out_channels = dw.shape
    out_height, out_width = grad.shape[1:3]
    out_group = out_channels // groups
    out_pixels = out_height * out_width

    tasks = max(1, min(n, _TASKS // 2, n * out_pixels // _PIXELS_PER_PART))
    column_blocks = 1
    if groups == 1:
        column_blocks = min(-(-out_group // WIDE), max(1, _TASKS // 2 // tasks))
    block_columns, column_blocks = _split(out_group, column_blocks)
    images = max(1, min(_PIXELS_PER_TASK // out_pixels, n // tasks))
    rows_per_block = max(1, PIXELS_PER_BLOCK // out_width)

    windows = find_windows(
        (height, width), (out_height, out_width), channels, (kh, kw), tuple(stride), tuple(padding),
        tuple(dilation), groups, images, False,
    )  # fmt: skip
    row_offsets, row_starts = transposed_tables(
        windows.padded_height, windows.pitch, channels, in_group, (kh, kw), tuple(dilation),
        stride[0], out_height, images,
    )  # fmt: skip
    copied = 0 if windows.direct else images * windows.padded_height * windows.pitch * channels
    few = kh * kw * in_group <= 2 * WIDE_ROWS and out_group == padded_columns(out_group)
    if not few:
        copied += rows_per_block * out_width * padded_columns(block_columns)
    scratch = scratch_buffers(copied)
    partial = memory.empty((tasks, dw.size)) if tasks > 1 else dw
    implicit.weight_gradient(
        address(grad), address(x), address(partial), address(scratch), scratch.shape[1],
        address(row_offsets), address(row_starts), stride[1] * channels,
        n, height, width, channels, out_height, out_width, out_channels, groups,
        padding[0], padding[1], windows.padded_height, windows.pitch, windows.direct,
        tasks, images, rows_per_block, column_blocks, block_columns, not few, dw.size,
    )  # fmt: skip
    if tasks > 1:
        implicit.add_parts(address(partial), tasks, dw.size, address(dw))


@functools.lru_cache(maxsize=512)
def transposed_tables(
    padded_height, pitch, channels, in_group, kernel, dilation, row_step, out_height, images
) -> tuple[np.ndarray, np.ndarray]:
    """For the transposed im2col matrix: offsets of its rows (tap, channel), and of the pixel rows in k."""
    (kh, kw), (dh, dw) = kernel, dilation
    taps = (np.arange(kh).reshape(-1, 1, 1) * dh * pitch + np.arange(kw).reshape(-1, 1) * dw) * channels
    rows = taps + np.arange(in_group)
    image = np.arange(images).reshape(-1, 1) * padded_height
    starts = (image + np.arange(out_height) * row_step) * pitch * channels
    return _table(rows), _table(starts)


def _split(columns: int, blocks: int) -> tuple[int, int]:
    """Columns per block, whole wide tiles unless there is but one block, and the number of blocks."""
    if blocks <= 1:
        return columns, 1
    per_block = -(-columns // (WIDE * blocks)) * WIDE
    return per_block, -(-columns // per_block)


def scratch_buffers(floats: int) -> np.ndarray:
    """A buffer of at least `floats` for each thread, with room to read one vector past the end."""
    return memory.empty((THREAD_SLOTS, _scratch_size(floats)))


def _scratch_size(floats: int) -> int:
    return -(-(floats + LANES) // 16) * 16 if floats else 0

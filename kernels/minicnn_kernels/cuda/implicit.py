"""Convolution as a matrix product whose matrix of windows is never in memory: implicit GEMM.

The tiles and the loop are those of the matrix product; only how a strip is brought differs. A strip of the
matrix of windows is gathered from the image itself while the one before is multiplied: 4 bytes a copy,
zeros where the window sticks out. So the matrix of im2col, kh kw times the image, is neither written nor
read, and neighbouring windows find their pixels in the caches.

What a term of the sum reads is told by a table, made once for each geometry: four numbers a term. So one
kernel serves every kernel size, stride, padding and dilation, forward and for the gradient of the input; no
division is left in its loop. Sums run in a fixed order. (Chetlur et al. 2014, "cuDNN"; CUTLASS' implicit
GEMM.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minicnn_kernels.algorithms import algorithm
from minicnn_kernels.cuda.driver import (
    SIMULATED,
    Elements,
    Kernel,
    cuda,
    inline_function,
    kernel,
    launch,
    launch_blocks,
)
from minicnn_kernels.cuda.epilogue import NOTHING, Epilogue, writer
from minicnn_kernels.cuda.gemm import FLOAT32_TILES, TF32_TILES, add_parts
from minicnn_kernels.cuda.instructions import copy4, load, load4
from minicnn_kernels.cuda.storage import empty, flat
from minicnn_kernels.cuda.strips import STAGES, accumulation
from minicnn_kernels.cuda.taps import NOWHERE, Geometry, Pixels, backward_pixels, forward_pixels
from minicnn_kernels.cuda.tiles import Tile, choose, float32_tile

__all__ = ["backward_input", "divided", "forward", "int32_numbers", "tiles"]


def _bring_weights(tile: Tile) -> Callable:
    """operand: (weight, table, first row, end, step). Neighbouring threads take neighbouring terms."""
    lanes = min(tile.depth, tile.threads)
    at_once, rows, depth, pitch = tile.threads // lanes, tile.rows, tile.depth, tile.pitch_a

    @inline_function
    def bring(strips, at, operand, term, last, thread):
        weight, table, first, end, step = operand
        i = np.int32(thread // lanes)
        for start in range(0, depth, lanes):
            kk = np.int32(start + thread % lanes)
            tap = load(table, np.int32((term + kk) * 4 + 3))
            left = np.int32(end - first - i) if tap >= 0 else np.int32(0)
            place, to = np.int32((first + i) * step + tap), np.int32(at + kk * pitch + i)
            for r in range(0, rows, at_once):
                copy4(strips, to + r, weight, place, np.int32(r) < left)
                place = np.int32(place + at_once * step)

    return bring


def _bring_windows(tile: Tile) -> Callable:
    """operand: (image, table, corners, height, width). corners: for each of the thread's pixels the window's
    row and column and where it begins. Neighbouring threads take neighbouring pixels, which lie side by
    side."""
    lanes = min(tile.columns, tile.threads)
    at_once, pixels, depth, pitch = tile.threads // lanes, tile.columns // lanes, tile.depth, tile.pitch_b

    @inline_function
    def bring(strips, at, operand, term, last, thread):
        image, table, corners, height, width = operand
        for start in range(0, depth, at_once):
            kk = np.int32(start + thread // lanes)
            step, down, right, _ = load4(table, np.int32((term + kk) * 4))
            to = np.int32(at + kk * pitch + thread % lanes)
            for p in range(pixels):
                row, column = np.int32(corners[3 * p] + down), np.int32(corners[3 * p + 1] + right)
                inside = row >= 0 and row < height and column >= 0 and column < width
                copy4(strips, to + p * lanes, image, np.int32(corners[3 * p + 2] + step), inside)

    return bring


@inline_function
def divided(a, b):
    """(a // b, a % b) of two int32 that are not negative; Numba would take 64 bits, some 100 instructions."""
    quotient = np.int32(np.uint32(a) // np.uint32(b))
    return quotient, np.int32(a - quotient * b)


@inline_function
def _pixel_start(pixel, where):
    """Where pixel number `pixel`, counted through all images, lies in a channel of the result."""
    pixels, columns, image_step, row_step, column_step, first = where
    image, rest = divided(pixel, pixels)
    row, column = divided(rest, columns)
    return np.int32(image * image_step + first + row * row_step + column * column_step)


def _gathered_product(tile: Tile) -> Kernel:
    """The kernel for results and for gradients of inputs."""
    rows, columns, threads, depth = tile.rows, tile.columns, tile.threads, tile.depth
    room_a, room_b = STAGES * depth * tile.pitch_a, STAGES * depth * tile.pitch_b
    count, held_count, held_type = tile.sums, tile.held, tile.held_type
    accumulate = accumulation(tile, _bring_weights(tile), _bring_windows(tile))
    write = writer(tile, _pixel_start)
    lanes = min(columns, threads)
    mine = columns // lanes  # pixels of a thread
    corner_numbers = 3 * mine

    @kernel(
        "float32[::1], float32[::1], float32[::1], int32[::1], float32[::1], float32[::1], "
        "UniTuple(int32, 3), float32, UniTuple(int32, 6), UniTuple(int32, 7), UniTuple(int32, 8), "
        "UniTuple(int64, 5)",
        name=f"convolution {tile.name}",
        registers=tile.registers,
        launch_bounds=(threads, tile.blocks),
    )
    def run(y, x, weight, table, bias, onto, flags, floor, where, source, sizes, steps):
        """where: as in `_pixel_start`. source: (height, width, image step, steps of rows and columns, the
        first corner's). sizes: (m, pixels of all images, whether four neighbours may be written, step of y
        and of the weight by channels, terms, terms of a split, splits). steps: of y, x, weight and bias by
        groups, of y by splits."""
        strips_a = cuda.shared.array(room_a, np.float32, alignment=16)
        strips_b = cuda.shared.array(room_b, np.float32, alignment=16)
        sums = cuda.local.array(count, np.float32)
        held = cuda.local.array(held_count, held_type)
        corners = cuda.local.array(corner_numbers, np.int32)
        thread = np.int32(cuda.threadIdx.x)
        first_row, first_column = np.int32(cuda.blockIdx.y * rows), np.int32(cuda.blockIdx.x * columns)
        height, width, image_step, row_step, column_step, row_first, column_first = source
        m, n, four, y_step, weight_step, terms, per_split, splits = sizes
        group, split = np.int32(cuda.blockIdx.z // splits), np.int32(cuda.blockIdx.z % splits)
        for p in range(mine):
            pixel = np.int32(first_column + thread % lanes + p * lanes)
            image, rest = divided(pixel, where[0])
            row, column = divided(rest, where[1])
            row = np.int32(row * row_step + row_first)
            column = np.int32(column * column_step + column_first)
            corners[3 * p] = row if pixel < n else np.int32(NOWHERE)
            corners[3 * p + 1] = column
            corners[3 * p + 2] = np.int32(image * image_step + row * width + column)
        term = np.int32(split * per_split)
        accumulate(
            sums, held, strips_a, strips_b,
            (weight[group * steps[2] :], table, first_row, m, weight_step),
            (x[group * steps[1] :], table, corners, height, width),
            term, np.int32(min(term + per_split, terms)), thread,
        )  # fmt: skip
        start = group * steps[0]
        write(
            sums, y[start + split * steps[4] :], y_step, where, four, bias[group * steps[3] :],
            onto[start:], flags, floor, m, n, first_row, first_column, thread,
        )  # fmt: skip

    return run


def _tiles() -> tuple[tuple[Tile, ...], tuple[Tile, ...]]:
    """Tiles of float32 and of TF32: some are not as high as those of the product, for layers of few
    channels."""
    if SIMULATED:
        return FLOAT32_TILES, TF32_TILES
    large, small, _, flat_tile = FLOAT32_TILES
    return (large, small, flat_tile, float32_tile(64, 128, blocks=3, efficiency=0.9)), TF32_TILES


tiles: tuple[tuple[Tile, ...], tuple[Tile, ...]] = _tiles()
_KERNELS = {tile: _gathered_product(tile) for kind in tiles for tile in kind}


def forward(y: Elements, x: Elements, weight: Elements, g: Geometry, epilogue: Epilogue = NOTHING) -> None:
    """Write the convolution into y (N, O, H', W'), with what the epilogue does to it; its bias is by
    channels."""
    channels = (g.outputs // g.groups, g.terms, g.channels, g.outputs)
    _gather(y, x, weight, forward_pixels(g._replace(n=0)), g.image, g.out, channels, g, epilogue)


def backward_input(
    dx: Elements, grad: Elements, weight: Elements, g: Geometry, epilogue: Epilogue = NOTHING
) -> None:
    """Write the gradient by the input into dx (N, C, H, W): a convolution of `grad` for each rest by the
    strides."""
    channels = (g.channels // g.groups, math.prod(g.kernel_size), g.outputs, g.channels)
    for pixels in backward_pixels(g._replace(n=0)):
        _gather(dx, grad, weight, pixels, g.out, g.image, channels, g, epilogue)


def _gather(
    y: Elements, x: Elements, weight: Elements, pixels: Pixels, image: tuple[int, int],
    out: tuple[int, int], channels: tuple[int, int, int, int], g: Geometry, epilogue: Epilogue,
) -> None:  # fmt: skip
    """One lattice of pixels of y. image, out: (H, W) of x and y. channels: (results of a group, step of the
    weight by them, channels of x, channels of y)."""
    (rows, columns), plane, n, groups = pixels.shape, math.prod(out), g.n, g.groups
    m, weight_step, x_channels, y_channels = channels
    per_image, size = rows * columns, n * y_channels * plane
    if not per_image * n * m:
        return
    is_whole = pixels.step == (1, 1)
    kind = tiles[algorithm("matmul") == "tf32"]
    tile, splits = choose(kind, m, n * per_image, pixels.terms, groups)
    splits = splits if is_whole else 1
    per_split = max(-(-pixels.terms // (splits * tile.depth)), 1) * tile.depth
    splits = max(-(-pixels.terms // per_split), 1)
    target = y if splits == 1 else flat(empty((splits * size,)))
    four = is_whole and per_image % 4 == 0 and target.is_aligned
    bias, onto, flags, floor = (epilogue if splits == 1 else NOTHING).arguments(y)
    first = pixels.first[0] * out[1] + pixels.first[1]
    where = (per_image, columns, y_channels * plane, pixels.step[0] * out[1], pixels.step[1], first)
    source = (*image, x_channels * math.prod(image), *pixels.source_step, *pixels.source_first)
    sizes = (m, n * per_image, four, plane, weight_step, pixels.terms, per_split, splits)
    launch_blocks(
        _KERNELS[tile],
        (-(-n * per_image // tile.columns), -(-m // tile.rows), groups * splits),
        tile.threads,
        target, x, weight, pixels.table, bias, onto, flags, floor,
        int32_numbers(where), int32_numbers(source), int32_numbers(sizes),
        (m * plane, x_channels // groups * math.prod(image), g.outputs // groups * g.terms, m, size),
    )  # fmt: skip
    if splits > 1:
        launch(add_parts, size, y, target, splits, plane, *epilogue.arguments(y), y_channels, size)


def int32_numbers(numbers: Any) -> tuple[np.int32, ...]:
    return tuple(np.int32(number) for number in numbers)

"""The gradient of a convolution's weight as a product whose matrix of windows is never in memory.

dweight[o, t] = sum over all images and pixels of grad[o, pixel] window[pixel, t]: few results, and sums as
long as a batch has pixels. So both strips run along pixels, of which a thread keeps count without dividing,
and the sums are split over many blocks, whose parts are added in order. `implicit.py` has the other two
products.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from minicnn_kernels.algorithms import algorithm
from minicnn_kernels.cuda.driver import Elements, Kernel, cuda, inline_function, kernel, launch, launch_blocks
from minicnn_kernels.cuda.epilogue import NOTHING, Epilogue, writer
from minicnn_kernels.cuda.gemm import FLOAT32_TILES, TF32_TILES, add_parts
from minicnn_kernels.cuda.implicit import divided, int32_numbers
from minicnn_kernels.cuda.instructions import copy4, load4
from minicnn_kernels.cuda.storage import empty, flat
from minicnn_kernels.cuda.strips import STAGES, accumulation
from minicnn_kernels.cuda.taps import Geometry, forward_pixels
from minicnn_kernels.cuda.tiles import Tile, choose

__all__ = ["backward_weight"]

_MOST_SPLITS = 65535


def _bring_gradient(tile: Tile) -> Callable:
    """operand: (grad, at, first channel, end, pixels of an image, step of images). at: for each of the
    thread's terms the image and the row and column of its pixel; rows have `columns` pixels."""
    lanes = min(tile.depth, tile.threads)
    at_once, rows, depth, pitch = tile.threads // lanes, tile.rows, tile.depth, tile.pitch_a

    @inline_function
    def bring(strips, start, operand, term, last, thread):
        grad, at, first, end, pixels, columns, image_step = operand
        i = np.int32(thread // lanes)
        for s in range(depth // lanes):
            kk = np.int32(s * lanes + thread % lanes)
            left = np.int32(end - first - i) if np.int32(term + kk) < last else np.int32(0)
            pixel = np.int32(at[3 * s] * image_step + at[3 * s + 1] * columns + at[3 * s + 2])
            place, to = np.int32(pixel + (first + i) * pixels), np.int32(start + kk * pitch + i)
            for r in range(0, rows, at_once):
                copy4(strips, to + r, grad, place, np.int32(r) < left)
                place = np.int32(place + at_once * pixels)

    return bring


def _bring_windows(tile: Tile) -> Callable:
    """operand: (x, table, at, first tap, source, rows and columns of windows). It also moves `at` on by a
    strip, so it has to be brought after the gradient's."""
    lanes = min(tile.depth, tile.threads)
    at_once, taps, depth, pitch = tile.threads // lanes, tile.columns, tile.depth, tile.pitch_b

    @inline_function
    def bring(strips, start, operand, term, last, thread):
        x, table, at, first, source, out_rows, out_columns = operand
        height, width, image_step, row_step, column_step, row_first, column_first = source
        i = np.int32(thread // lanes)
        for s in range(depth // lanes):
            kk = np.int32(s * lanes + thread % lanes)
            is_term = np.int32(term + kk) < last
            row = np.int32(at[3 * s + 1] * row_step + row_first)
            column = np.int32(at[3 * s + 2] * column_step + column_first)
            corner = np.int32(at[3 * s] * image_step + row * width + column)
            to = np.int32(start + kk * pitch + i)
            for r in range(0, taps, at_once):
                step, down, right, _ = load4(table, np.int32((first + i + r) * 4))
                y, z = np.int32(row + down), np.int32(column + right)
                inside = is_term and y >= 0 and y < height and z >= 0 and z < width
                copy4(strips, to + r, x, np.int32(corner + step), inside)
            at[3 * s + 2] += depth
            while at[3 * s + 2] >= out_columns:
                at[3 * s + 2] -= out_columns
                at[3 * s + 1] += 1
            while at[3 * s + 1] >= out_rows:
                at[3 * s + 1] -= out_rows
                at[3 * s] += 1

    return bring


def _weight_product(tile: Tile) -> Kernel:
    rows, columns, threads, depth = tile.rows, tile.columns, tile.threads, tile.depth
    room_a, room_b = STAGES * depth * tile.pitch_a, STAGES * depth * tile.pitch_b
    count, held_count, held_type = tile.sums, tile.held, tile.held_type
    accumulate = accumulation(tile, _bring_gradient(tile), _bring_windows(tile))
    write = writer(tile)
    lanes = min(depth, threads)
    passes = depth // lanes
    counters = 3 * passes

    @kernel(
        "float32[::1], float32[::1], float32[::1], int32[::1], float32[::1], float32[::1], "
        "UniTuple(int32, 3), float32, UniTuple(int32, 7), UniTuple(int32, 9), UniTuple(int64, 4)",
        name=f"gradient of weight {tile.name}",
        registers=tile.registers,
        launch_bounds=(threads, tile.blocks),
    )
    def run(dweight, grad, x, table, bias, onto, flags, floor, source, sizes, steps):
        """source: (height, width, image step, steps of rows and columns, the first corner's). sizes: (m, n,
        whether four neighbours may be written, all pixels, pixels of a split, splits, step of grad by images,
        rows and columns of windows). steps: of dweight, grad and x by groups, of dweight by splits."""
        strips_a = cuda.shared.array(room_a, np.float32, alignment=16)
        strips_b = cuda.shared.array(room_b, np.float32, alignment=16)
        sums = cuda.local.array(count, np.float32)
        held = cuda.local.array(held_count, held_type)
        at = cuda.local.array(counters, np.int32)
        thread = np.int32(cuda.threadIdx.x)
        first_row, first_column = np.int32(cuda.blockIdx.y * rows), np.int32(cuda.blockIdx.x * columns)
        m, n, four, terms, per_split, splits, image_step, out_rows, out_columns = sizes
        group, split = np.int32(cuda.blockIdx.z // splits), np.int32(cuda.blockIdx.z % splits)
        term = np.int32(split * per_split)
        pixels = np.int32(out_rows * out_columns)
        for s in range(passes):
            image, rest = divided(np.int32(term + s * lanes + thread % lanes), pixels)
            row, column = divided(rest, out_columns)
            at[3 * s], at[3 * s + 1], at[3 * s + 2] = image, row, column
        accumulate(
            sums, held, strips_a, strips_b,
            (grad[group * steps[1] :], at, first_row, m, pixels, out_columns, image_step),
            (x[group * steps[2] :], table, at, first_column, source, out_rows, out_columns),
            term, np.int32(min(term + per_split, terms)), thread,
        )  # fmt: skip
        start = group * steps[0]
        write(
            sums, dweight[start + split * steps[3] :], n, np.int32(1), four, bias, onto[start:], flags, floor,
            m, n, first_row, first_column, thread,
        )  # fmt: skip

    return run


_KERNELS = {tile: _weight_product(tile) for tile in (*FLOAT32_TILES, *TF32_TILES)}


def backward_weight(
    dweight: Elements, grad: Elements, x: Elements, g: Geometry, onto: Elements | None = None
) -> None:
    """Write the gradient by the weight into dweight (O, C/groups, kh, kw); onto: what it is added to, as
    dense."""
    pixels, m, n, size = math.prod(g.out), g.outputs // g.groups, g.terms, g.outputs * g.terms
    epilogue = Epilogue(onto=onto)
    if not size:
        return
    kind = TF32_TILES if algorithm("matmul") == "tf32" else FLOAT32_TILES
    tile, splits = choose(kind, m, n, g.n * pixels, g.groups)
    splits = min(splits, _MOST_SPLITS // g.groups)
    per_split = max(-(-g.n * pixels // (splits * tile.depth)), 1) * tile.depth
    splits = max(-(-g.n * pixels // per_split), 1)
    target = dweight if splits == 1 else flat(empty((splits * size,)))
    table = forward_pixels(g._replace(n=0))
    source = (*g.image, g.channels * math.prod(g.image), *table.source_step, *table.source_first)
    four = n % 4 == 0 and target.is_aligned
    launch_blocks(
        _KERNELS[tile],
        (-(-n // tile.columns), -(-m // tile.rows), g.groups * splits),
        tile.threads,
        target, grad, x, table.table, *(epilogue if splits == 1 else NOTHING).arguments(dweight),
        int32_numbers(source),
        int32_numbers((m, n, four, g.n * pixels, per_split, splits, g.outputs * pixels, *g.out)),
        (m * n, m * pixels, g.channels // g.groups * math.prod(g.image), size),
    )  # fmt: skip
    if splits > 1:
        launch(add_parts, size, dweight, target, splits, n, *epilogue.arguments(dweight), g.outputs, size)

"""Winograd's convolution for 3x3 kernels of stride 1: fewer multiplications through transformed tiles.

F(m x m, 3 x 3) computes a tile of m x m outputs from a tile of (m+2) x (m+2) inputs d and the kernel g as
A^T [(G g G^T) * (B^T d B)] A, where * is element by element: summed over input channels it is one matrix
product (tiles x C) (C x O) for each of the (m+2)^2 positions in a tile. F(2x2) multiplies 16 times where the
direct kernel does 36 times, F(4x4) 36 for 144. `conv.py` asks here first; the products are `multiply`'s.

F(2x2) makes those outputs NaN or infinite whose windows contain such a pixel, as the direct kernel does, but
an infinity may become NaN there: it meets itself with both signs. F(4x4) spreads both over its whole tile.

Source: Lavin and Gray 2016, Fast Algorithms for Convolutional Neural Networks, arXiv:1509.09308.
"""

from __future__ import annotations

import functools

import numpy as np
from llvmlite import ir
from numba import get_thread_id, prange, types
from numba.extending import intrinsic

from minicnn_kernels import memory
from minicnn_kernels.algorithms import algorithm
from minicnn_kernels.cpu.blocks import (
    LANES,
    NARROW,
    NARROW_ROWS,
    PACKED,
    WIDE,
    WIDE_ROWS,
    multiply,
    padded_columns,
)
from minicnn_kernels.cpu.compiler import THREAD_SLOTS, kernel
from minicnn_kernels.cpu.finish import pool_rows
from minicnn_kernels.cpu.layout import address, contiguous
from minicnn_kernels.cpu.microkernel import FLOAT_BYTES, copy_floats, zero_floats

# Between planes of scratch: a power of two apart, they would share the sets of the first-level cache.
_GAP = 16
_ROWS_OF_TILES = 8  # micro-kernels' rows in a task, at most: 4 and 16 gain nothing
_TASKS = 8  # wanted; with fewer tiles the output channels are split too
_SCRATCH_BYTES = 1 << 20  # half of a 2 MiB second-level cache; weights and results need the rest


def make_transform(matrix):
    """target = matrix @ source @ matrix^T for a square of vectors, as a Numba intrinsic:

    transform(source, source_row, source_column, target, target_row, target_column, relu)

    source and target are addresses of float32, the rest distances of rows and columns in floats. Each element
    of the squares is a vector of LANES floats (channels). Zeros in the matrix cost nothing. relu: 1 if
    negative results shall become 0, NaN staying NaN.
    """
    matrix = np.asarray(matrix, np.float64)
    vector = ir.VectorType(ir.FloatType(), LANES)
    pointer = vector.as_pointer()

    @intrinsic
    def transform(typingctx, source, source_row, source_column, target, target_row, target_column, relu):
        def codegen(context, builder, signature, args):
            def place(start, row, column, i, j):
                floats = builder.add(builder.mul(row, row.type(i)), builder.mul(column, column.type(j)))
                offset = builder.mul(floats, row.type(FLOAT_BYTES))
                return builder.inttoptr(builder.add(start, offset), pointer)

            def combine(coefficients, vectors):
                """The sum of coefficient * vector; it starts with a term that needs no negation."""
                terms = [pair for pair in zip(coefficients, vectors, strict=True) if pair[0] != 0]
                terms.sort(key=lambda pair: pair[0] != 1)
                (factor, total), *terms = terms
                if factor != 1:
                    total = builder.fmul(total, constant(factor))
                for factor, term in terms:
                    if factor == 1:
                        total = builder.fadd(total, term)
                    elif factor == -1:
                        total = builder.fsub(total, term)
                    else:
                        product = builder.fmul(term, constant(factor), flags=("contract",))
                        total = builder.fadd(product, total, flags=("contract",))
                return total

            def constant(value):
                return ir.Constant(vector, [float(np.float32(value))] * LANES)

            def at_least(lowest, value):
                return builder.select(builder.fcmp_ordered("<", value, lowest), lowest, value)

            size = matrix.shape[1]
            lowest = builder.select(builder.trunc(args[6], ir.IntType(1)), constant(0), constant(-np.inf))
            square = [
                [builder.load(place(*args[:3], i, j), align=FLOAT_BYTES) for j in range(size)]
                for i in range(size)
            ]
            columns = [[combine(row, column) for row in matrix] for column in zip(*square, strict=True)]
            for i, row in enumerate(zip(*columns, strict=True)):
                for j, coefficients in enumerate(matrix):
                    value = combine(coefficients, row)
                    builder.store(at_least(lowest, value), place(*args[3:6], i, j), align=FLOAT_BYTES)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 7), codegen

    return transform


# B^T, G and A^T of the paper's section 4.1 (outputs 2 x 2) and 4.3 (4 x 4).
_input_2 = make_transform([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
_weight_2 = make_transform([[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]])
_output_2 = make_transform([[1, 1, 1, 0], [0, 1, -1, -1]])
_input_4 = make_transform(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_weight_4 = make_transform(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
_output_4 = make_transform(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
)


def tile_edge(x, taps, y, stride, dilation, groups, pool) -> int:
    """Height and width of the tiles of outputs to convolve by, 2 or 4; 0 where the direct kernel is to do it.

    x (N, H, W, C), taps (kh, kw, ...), y (N, O, H', W'), after 2x2 pooling if `pool`. Depends on shapes and
    `algorithm("conv2d")` alone.
    """
    if taps.shape[:2] != (3, 3) or tuple(stride) != (1, 1) or tuple(dilation) != (1, 1) or groups != 1:
        return 0
    chosen = algorithm("conv2d")
    if chosen == "auto":
        images, outputs, height, width = y.shape
        window = 2 if pool else 1
        return 2 if _pays(x.shape[3], images, outputs, window * height, window * width) else 0
    if chosen.startswith("winograd") and pool:
        return 2
    return {"winograd": 2, "winograd4": 4}.get(chosen, 0)


def _pays(channels, images, outputs, height, width) -> bool:
    """Whether F(2x2) is faster than the direct kernel. Its error is smaller everywhere, see the tests.

    Measured on one core of 16 lanes, forward and input's gradient, in times the speed of the direct kernel
    (8 lanes gain 0.1 more, and so does fused ReLU and pool):
    batch 64: 32 -> 64 channels of 16x16 1.4 and 1.5, 64 -> 128 of 8x8 1.7, 128 -> 256 of 4x4 1.5, 16 -> 16 of
    32x32 1.1, 8 -> 16 of 16x16 0.7; 64 of 5x5, whose last tiles are half empty, 1.05, of 3x3 0.8.
    Batch 1, where the weight's transform is a large part: 14x14 1.05 and 0.8, 8x8 0.9, 256 of 7x7 0.7.
    """
    tiles = images * -(-height // 2) * -(-width // 2)
    # Multiplications of both, the weight's transform taken as 32 tiles; they must be 1.5 times fewer.
    fewer = 9 * images * height * width >= 1.5 * 16 * (tiles + 32)
    return fewer and min(channels, outputs) >= 16


def convolve(x, taps, bias, y, margin, *, transposed=False, relu=False, winners=None, edge=2) -> None:
    """y = bias + x * taps for images (N, H, W, C), `margin` zeros around them; y (N, O, H', W').

    taps (3, 3, C, O), bias (O,); transposed, relu and winners as in `conv.convolve`. edge: the height and
    width of a tile of outputs, 2 or 4; it must be 2, the pool's window, if there are winners.
    """
    n, height, width, channels = x.shape
    _, outputs, out_height, out_width = y.shape
    pool = winners is not None
    if pool:
        out_height, out_width = 2 * out_height, 2 * out_width
    down, across = -(-out_height // edge), -(-out_width // edge)
    total = n * down * across
    planes = (edge + 2) ** 2

    # The rows of V are whole vectors. At least two tasks, so that one small image keeps two cores busy.
    row = -(-channels // LANES) * LANES
    rows = NARROW_ROWS if outputs <= NARROW else WIDE_ROWS
    fitting = min(_SCRATCH_BYTES // (FLOAT_BYTES * planes * (row + WIDE)), -(-total // 2))
    tiles = min(max(1, fitting // rows), _ROWS_OF_TILES) * rows
    blocks = -(-total // tiles)
    wide_blocks = -(-outputs // WIDE)
    block_columns = -(-wide_blocks // max(1, min(wide_blocks, _TASKS // blocks))) * WIDE
    column_blocks = -(-outputs // block_columns)

    weight = _transformed(taps, transposed, edge)
    row_offsets, zero_tap, zeros = _tables(tiles, row)
    plane, product = tiles * row + _GAP, tiles * WIDE + _GAP
    scratch = memory.empty((THREAD_SLOTS, planes * (plane + product + max(row, WIDE)) + LANES))
    _convolve(
        address(x), address(weight), weight.shape[1], address(bias), address(zeros), address(y),
        address(winners) if pool else 0, address(scratch), scratch.shape[1], plane, product,
        address(row_offsets), address(zero_tap), edge, height, width, channels, row, out_height, out_width,
        outputs, *margin, int(relu), pool, down, across, total, tiles, column_blocks, block_columns,
    )  # fmt: skip


@functools.lru_cache(maxsize=64)
def _tables(tiles: int, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Offsets of the rows of V, of its one tap, and a bias of zeros."""
    return np.arange(tiles) * row, np.zeros(1, np.int64), np.zeros(WIDE, np.float32)


def _transformed(taps: np.ndarray, transposed: bool, edge: int) -> np.ndarray:
    """G g G^T for taps (3, 3, C, O): one plane, packed as operand B, per position in a tile."""
    if transposed:
        taps = contiguous(taps.transpose(0, 1, 3, 2))
    rows, columns = taps.shape[2:]
    if columns % LANES:  # room to read whole vectors
        roomy = memory.empty(taps.size + LANES)
        roomy[: taps.size] = taps.reshape(-1)
        taps = roomy
    distance = rows * columns
    first = address(taps)
    if transposed:  # backwards from the last
        first, distance = first + FLOAT_BYTES * 8 * distance, -distance
    weight = memory.empty(((edge + 2) ** 2, rows * int(padded_columns(columns)) + _GAP))
    _transform_weight(first, distance, rows, columns, address(weight), weight.shape[1], edge)
    return weight


@kernel(parallel=True)
def _transform_weight(taps, distance, rows, columns, weight, plane, edge):
    """`distance`: floats from one tap, `rows` x `columns` of them, to the next; `plane`: between results."""
    tasks = (rows + 7) // 8
    for task in prange(tasks):
        for i in range(rows * np.intp(task) // tasks, rows * (np.intp(task) + 1) // tasks):
            for j in range(0, columns, LANES):
                panel = j // WIDE * WIDE
                panel_width = WIDE
                if columns - panel <= WIDE - NARROW:
                    panel += (j - panel) // NARROW * NARROW
                    panel_width = NARROW
                source = taps + FLOAT_BYTES * (i * columns + j)
                target = weight + FLOAT_BYTES * (panel * rows + i * panel_width + j - panel)
                if edge == 2:
                    _weight_2(source, 3 * distance, distance, target, 4 * plane, plane, 0)
                else:
                    _weight_4(source, 3 * distance, distance, target, 6 * plane, plane, 0)


@kernel(parallel=True)
def _convolve(
    x, weight, weight_plane, bias, zeros, y, winners, scratch, scratch_size, plane, product,
    row_offsets, zero_tap, edge, height, width, channels, row, out_height, out_width,
    outputs, top, left, relu, pool, down, across, total, tiles, column_blocks, block_columns,
):  # fmt: skip
    """A task: `tiles` tiles, numbered through all images, times a block of output channels."""
    size = edge + 2
    blocks = (total + tiles - 1) // tiles
    for task in prange(blocks * column_blocks):
        index = np.intp(task)
        first, column = index // column_blocks * tiles, index % column_blocks * block_columns
        count = min(tiles, total - first)
        inputs = scratch + FLOAT_BYTES * np.intp(get_thread_id()) * scratch_size
        products = inputs + FLOAT_BYTES * size * size * plane
        patch = products + FLOAT_BYTES * size * size * product

        for i in range(count):
            image, tile = (first + i) // (down * across), (first + i) % (down * across)
            i0, j0 = tile // across * edge - top, tile % across * edge - left
            source = x + FLOAT_BYTES * ((image * height + i0) * width + j0) * channels
            pitch = width * channels
            inside = i0 >= 0 and j0 >= 0 and i0 + size <= height and j0 + size <= width
            if not inside or channels != row:  # past the edge, or past the last vector
                _copy_patch(source, height - i0, width - j0, -i0, -j0, pitch, channels, size, patch)
                source, pitch = patch, size * channels
            target = inputs + FLOAT_BYTES * i * row
            for c in range(0, FLOAT_BYTES * row, FLOAT_BYTES * LANES):
                if edge == 2:
                    _input_2(source + c, pitch, channels, target + c, 4 * plane, plane, 0)
                else:
                    _input_4(source + c, pitch, channels, target + c, 6 * plane, plane, 0)

        for j in range(column, min(column + block_columns, outputs), WIDE):
            columns = min(WIDE, outputs - j)
            for p in range(size * size):
                # A number added at position (1, 1) reaches every output of the tile once: the bias.
                multiply(
                    inputs + FLOAT_BYTES * p * plane, row_offsets, count, zero_tap, 1, channels, 1,
                    weight + FLOAT_BYTES * (p * weight_plane + j * channels), PACKED, columns,
                    bias + FLOAT_BYTES * j if p == size + 1 else zeros, 0,
                    products + FLOAT_BYTES * p * product, WIDE,
                )  # fmt: skip
            for i in range(count):
                image, tile = (first + i) // (down * across), (first + i) % (down * across)
                i0, j0 = tile // across * edge, tile % across * edge
                valid_rows, valid_columns = min(edge, out_height - i0), min(edge, out_width - j0)
                pixel = y + FLOAT_BYTES * (((image * out_height + i0) * out_width + j0) * outputs + j)
                target, pitch, step = pixel, out_width * outputs, outputs
                whole = valid_rows == edge and valid_columns == edge and columns % LANES == 0
                if pool or not whole:
                    target, pitch, step = patch, edge * WIDE, WIDE
                for c in range(0, columns, LANES):
                    source, place = products + FLOAT_BYTES * (i * WIDE + c), target + FLOAT_BYTES * c
                    if edge == 2:
                        _output_2(source, 4 * product, product, place, pitch, step, relu)
                    else:
                        _output_4(source, 6 * product, product, place, pitch, step, relu)
                if pool:  # a tile is a window
                    window = (first + i) * outputs + j
                    pool_rows(
                        patch, 1, 2, WIDE, columns, relu != 0, y + FLOAT_BYTES * window, winners + window
                    )
                elif not whole:
                    for r in range(valid_rows):
                        for q in range(valid_columns):
                            copy_floats(
                                pixel + FLOAT_BYTES * (r * out_width + q) * outputs,
                                patch + FLOAT_BYTES * (r * edge + q) * WIDE, columns,
                            )  # fmt: skip


@kernel
def _copy_patch(source, end_row, end_column, first_row, first_column, pitch, channels, size, patch):
    """A tile of `size` x `size` pixels with zeros outside rows and columns [first, end) of it."""
    first = min(max(first_column, 0), size)
    stop = max(min(end_column, size), first)
    for i in range(size):
        line = patch + FLOAT_BYTES * i * size * channels
        if i < first_row or i >= end_row:
            zero_floats(line, size * channels)
        else:
            zero_floats(line, first * channels)
            start = FLOAT_BYTES * first * channels
            copy_floats(line + start, source + FLOAT_BYTES * i * pitch + start, (stop - first) * channels)
            zero_floats(line + FLOAT_BYTES * stop * channels, (size - stop) * channels)

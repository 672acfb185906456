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

from minicnn_kernels import memory
from minicnn_kernels.algorithms import algorithm
from minicnn_kernels.cpu import winograd_loops as loops
from minicnn_kernels.cpu.blocks import LANES, NARROW, WIDE, padded_columns
from minicnn_kernels.cpu.calls import Call
from minicnn_kernels.cpu.compiler import THREAD_SLOTS
from minicnn_kernels.cpu.implicit import add_parts
from minicnn_kernels.cpu.lanes import PLAIN
from minicnn_kernels.cpu.layout import address, contiguous
from minicnn_kernels.cpu.microkernel import FLOAT_BYTES
from minicnn_kernels.cpu.winograd_products import NARROW_TILES, WIDE_TILES

# Between planes of scratch: a power of two apart, they would share the sets of the first-level cache.
_GAP = 16
_ROWS_OF_TILES = 8  # register tiles' rows in a task, at most: 2 and 4 gain nothing
_TASKS = 8  # wanted; with fewer tiles the output channels are split too
_SCRATCH_BYTES = 1 << 20  # half of a 2 MiB second-level cache; weights and results need the rest
_TILES_PER_BLOCK = 64  # of the weight's gradient: 16 to 128 are within 5%
_TILES_PER_PART = 128  # or its sums, 16 numbers for 9, cost more than their products


def tile_edge(channels, taps, y_shape, stride, dilation, groups, pool, kept=False) -> int:
    """Height and width of the tiles of outputs to convolve by, 2 or 4; 0 where the direct kernel is to do it.

    Of `channels`, with taps (kh, kw, ...), to (N, O, H', W'), after 2x2 pooling if `pool`. kept: transformed
    weights are used again and again. Depends on shapes and `algorithm("conv2d")` alone.
    """
    if not _fits(taps, stride, dilation, groups):
        return 0
    chosen = algorithm("conv2d")
    if chosen == "auto":
        images, outputs, height, width = y_shape
        window = 2 if pool else 1
        return 2 if _pays(channels, images, outputs, window * height, window * width, kept) else 0
    if chosen.startswith("winograd") and pool:
        return 2
    return {"winograd": 2, "winograd4": 4}.get(chosen, 0)


def _pays(channels, images, outputs, height, width, kept=False) -> bool:
    """Whether F(2x2) is faster than the direct kernel. Its error is smaller everywhere, see the tests.

    Measured on one core of 16 lanes, forward and input's gradient, in times the speed of the direct kernel
    (8 lanes gain 0.1 more, and so does fused ReLU and pool):
    batch 64: 32 -> 64 channels of 16x16 1.4 and 1.5, 64 -> 128 of 8x8 1.7, 128 -> 256 of 4x4 1.5, 16 -> 16 of
    32x32 1.5, 8 -> 16 of 16x16 0.7; 64 of 5x5, whose last tiles are half empty, 1.05, of 3x3 0.8.
    Batch 1, where the weight's transform is a large part: 14x14 1.05 and 0.8, 8x8 0.9, 256 of 7x7 0.7; with
    the transform kept 14x14 1.3, 16x16 1.3, 8x8 1.4, but 4x4, half of a register tile, 0.8.
    """
    tiles = images * -(-height // 2) * -(-width // 2)
    # Multiplications of both, in whole register tiles, or with the weight's transform taken as 32 tiles: they
    # must be 1.5 times fewer.
    tiles = -(-tiles // WIDE_TILES) * WIDE_TILES if kept else tiles + 32
    fewer = 9 * images * height * width >= 1.5 * 16 * tiles
    return fewer and min(channels, outputs) >= 16


def takes_weight_gradient(channels, taps, grad_shape, stride, dilation, groups) -> bool:
    """Whether `weight_gradient` is to compute that of taps (kh, kw, ...); grad_shape is (N, H', W', O).

    Measured on one core of 16 lanes, batch 64, in times the speed of the direct kernel: 16 -> 16 channels of
    32x32 1.4, 32 -> 32 of 16x16 1.45, 64 -> 64 of 8x8 1.7, 32 -> 64 of 16x16 1.6, 128 -> 256 of 4x4 1.9.
    """
    if not _fits(taps, stride, dilation, groups):
        return False
    chosen = algorithm("conv2d")
    images, height, width, outputs = grad_shape
    pays = chosen == "auto" and _pays(channels, images, outputs, height, width)
    return pays or chosen.startswith("winograd")


def _fits(taps, stride, dilation, groups) -> bool:
    """Without vectors the transforms cost more than they save."""
    geometry = taps.shape[:2] == (3, 3) and tuple(stride) == (1, 1) == tuple(dilation) and groups == 1
    return geometry and not PLAIN


def prepare(
    x_shape, taps, bias, y_shape, margin, *, transposed=False, relu=False, added=False, pool=False, edge=2
) -> Call:
    """y = bias + x * taps for images (N, H, W, C), `margin` zeros around them; y (N, O, H', W').

    taps (3, 3, C, O), bias (O,); transposed, relu and pool as in `conv.prepare`. edge: the height and width
    of a tile of outputs, 2 or 4; it must be 2, the pool's window, for a pool. added: to y, without a pool.
    """
    n, height, width, channels = x_shape
    _, outputs, out_height, out_width = y_shape
    if pool:
        out_height, out_width = 2 * out_height, 2 * out_width
    down, across = -(-out_height // edge), -(-out_width // edge)
    total = n * down * across
    planes = (edge + 2) ** 2

    # The rows of V are whole vectors. At least two tasks, so that one small image keeps two cores busy.
    row = -(-channels // LANES) * LANES
    rows = NARROW_TILES if outputs <= NARROW else WIDE_TILES
    fitting = min(_SCRATCH_BYTES // (FLOAT_BYTES * planes * (row + WIDE)), -(-total // 2))
    tiles = min(max(1, fitting // rows), _ROWS_OF_TILES) * rows
    blocks = -(-total // tiles)
    wide_blocks = -(-outputs // WIDE)
    block_columns = -(-wide_blocks // max(1, min(wide_blocks, _TASKS // blocks))) * WIDE
    column_blocks = -(-outputs // block_columns)

    weight = _transformed(taps, transposed, edge)
    room = -(-tiles // NARROW_TILES) * NARROW_TILES  # the last output channels may take narrow tiles
    plane, product = room * row + _GAP, room * min(WIDE, int(padded_columns(outputs))) + _GAP
    size = _scratch_size(planes * (plane + product + max(row, WIDE)))
    constants = (
        address(weight), weight.shape[1], address(bias), address(_zeros()), size,
        room * LANES, plane, product, (0,) * edge, height, width, channels, out_height, out_width,
        outputs, *margin, int(relu), added, pool, down, across, total, tiles, column_blocks, block_columns,
    )  # fmt: skip
    return Call(loops.convolve, constants, THREAD_SLOTS * size, (weight, bias))


def weight_gradient(grad, x, dw, padding) -> None:
    """dw (3, 3, C, O) of a convolution of x (N, H, W, C) with gradient grad (N, H', W', O), by F(3x3, 2x2).

    The gradient of A^T [(G g G^T) * (B^T d B)] A by g is G^T [(A dY A^T) * (B^T d B)] G, where the square
    brackets are summed over all tiles: 16 multiplications where the direct kernel does 36.
    """
    n, height, width, channels = x.shape
    _, out_height, out_width, outputs = grad.shape
    columns = int(padded_columns(outputs))
    down, across = -(-out_height // 2), -(-out_width // 2)
    total = n * down * across
    parts = max(1, min(_TASKS, total // _TILES_PER_PART))

    # So many output channels at a time that their sums fit in cache, and that there are tasks enough.
    row = -(-channels // LANES) * LANES
    wide_blocks = -(-outputs // WIDE)
    fitting = max(1, _SCRATCH_BYTES // 2 // (FLOAT_BYTES * 16 * row * WIDE))
    block_columns = min(fitting, -(-wide_blocks // max(1, _TASKS // parts))) * WIDE
    column_blocks = -(-outputs // block_columns)

    tiles = _TILES_PER_BLOCK
    plane, grad_plane = tiles * row + _GAP, tiles * min(WIDE, columns) + _GAP
    sums_plane = row * min(block_columns, columns) + _GAP
    size = _scratch_size(16 * (plane + grad_plane + sums_plane + max(row, WIDE)))
    scratch = memory.empty((THREAD_SLOTS, size))
    partial = memory.empty((parts, dw.size)) if parts > 1 else dw
    loops.weight_gradient(
        address(grad), address(x), address(_zeros()), address(partial), address(scratch), size,
        tiles * LANES, plane, grad_plane, sums_plane, height, width, channels, out_height, out_width, outputs,
        *padding, down, across, total, parts, tiles, column_blocks, block_columns,
    )  # fmt: skip
    if parts > 1:
        add_parts(address(partial), parts, dw.size, address(dw))


def _scratch_size(floats: int) -> int:
    """For each thread, with room to read a vector past the end."""
    return -(-(floats + LANES) // _GAP) * _GAP


@functools.cache
def _zeros() -> np.ndarray:
    """What stands for a bias, and for a pixel beyond the edge."""
    return np.zeros(WIDE, np.float32)


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
    loops.transform_weight(first, distance, rows, columns, address(weight), weight.shape[1], edge)
    return weight

"""Weights and tables of a program's products, in the order in which the tiles read them.

A panel of weights has the columns of one tile, for all of k: four neighbouring k of one column side by side,
as vpdpbusd wants them, then the next column. A run of bytes is filled up to a multiple of four with weights
of 0, so that it doesn't matter what lies behind it in the image. All of this happens once, in NumPy.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minicnn_kernels import memory
from minicnn_kernels.cpu.integers.plain import NARROW, QUAD, WIDE


class Panels(NamedTuple):
    """Weights (groups, weight_group bytes) int8 in panels; bias int32 and factor float32 (groups, padded)."""

    weight: np.ndarray
    bias: np.ndarray
    factor: np.ndarray
    steps: int
    padded: int


def pack(weight, bias, factor, x_zero, groups, wide) -> Panels:
    """For weight (O, taps, run) int8, the rows of an im2col matrix in runs. wide: panels of two vectors.

    x_zero is taken into the bias: sum((x - x_zero) w) = sum(x w) - x_zero sum(w). What leaves int32 on the
    way comes back, for the sums themselves fit.
    """
    outputs, taps, run = weight.shape
    steps = -(-run // QUAD)
    of_group = outputs // groups
    widths = _widths(of_group, wide)
    padded = sum(widths)
    filled = np.zeros((groups, padded, taps, steps * QUAD), np.int8)
    filled[:, :of_group, :, :run] = weight.reshape(groups, of_group, taps, run)
    quads = filled.reshape(groups, padded, taps * steps, QUAD)
    panels, column = [], 0
    for width in widths:
        panel = quads[:, column : column + width].transpose(0, 2, 1, 3)
        panels.append(panel.reshape(groups, -1))
        column += width
    offsets = -int(x_zero) * weight.reshape(outputs, -1).sum(axis=1, dtype=np.int64)
    if bias is not None:
        offsets += bias
    return Panels(
        aligned(np.concatenate(panels, axis=1)),
        aligned(_by_group(offsets.astype(np.int32), groups, padded)),  # modulo 2^32
        aligned(_by_group(np.broadcast_to(factor, (outputs,)).astype(np.float32), groups, padded)),
        steps,
        padded,
    )


def runs(weight, x_row, x_pixel, dilation, groups):
    """Windows as few long runs of bytes: (weight (O, taps, run), offsets of taps) of weight (O, C/groups,
    kh, kw).

    A run is one pixel's channels; all pixels of a window's row, if they are neighbours; or the whole window,
    if its rows lie behind each other.
    """
    outputs, channels, kh, kw = weight.shape
    down, right = dilation
    taps = [i * down * x_row + j * right * x_pixel for i in range(kh) for j in range(kw)]
    run = channels
    if groups == 1 and (right == 1 or kw == 1):
        taps, run = taps[::kw], run * kw
        if kh == 1 or (down == 1 and run == x_row):
            taps, run = taps[:1], run * kh
    return weight.transpose(0, 2, 3, 1).reshape(outputs, len(taps), run), np.array(taps, np.int64)


def _widths(columns: int, wide: bool) -> list[int]:
    widths = []
    while columns > 0:
        widths.append(WIDE if wide and columns > NARROW else NARROW)
        columns -= widths[-1]
    return widths


def _by_group(values, groups, padded):
    filled = np.zeros((groups, padded), values.dtype)
    filled[:, : len(values) // groups] = values.reshape(groups, -1)
    return filled


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy that begins at a cache line, with a vector's room behind it."""
    room = memory.ALIGNMENT // array.itemsize
    raw = np.zeros(array.size + 2 * room, array.dtype)
    start = -raw.ctypes.data % memory.ALIGNMENT // array.itemsize
    copy = raw[start : start + array.size].reshape(array.shape)
    copy[...] = array
    return copy


def windows(size, start, x_row, x_pixel, stride, y_row, y_pixel, pool):
    """(x_offsets, y_offsets) of the windows of one image, int64, in bytes.

    size: (H', W') of the windows; the first begins at `start`, the others stride (h, w) pixels further. pool:
    a unit is the four windows of a 2x2 pool, whose rows follow each other; else it is one window.
    """
    rows, columns = np.arange(size[0]) * stride[0] * x_row, np.arange(size[1]) * stride[1] * x_pixel
    x_offsets = start + rows[:, None] + columns
    height, width = size
    if pool:
        height, width = height // 2, width // 2
        squares = x_offsets[: 2 * height, : 2 * width].reshape(height, 2, width, 2)
        x_offsets = squares.transpose(0, 2, 1, 3)
    y_offsets = np.arange(height)[:, None] * y_row + np.arange(width) * y_pixel
    return x_offsets.reshape(-1).astype(np.int64), y_offsets.reshape(-1).astype(np.int64)


def repeated(offsets: np.ndarray, images: int, of_image: int) -> np.ndarray:
    """The table of one image for several, `of_image` bytes from one to the next."""
    return aligned((np.arange(images)[:, None] * of_image + offsets).astype(np.int64).reshape(-1))

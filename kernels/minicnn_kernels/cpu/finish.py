"""What follows a convolution while its result lies in cache: ReLU and 2x2 max pooling, and the way back.

Loops over a pixel's channels, called inside the tasks of `implicit.py` and `block_loops.py`. Pixels are rows
of `stride` floats, of which `columns` are treated. All arguments are integers: sizes, or addresses of float32
and, for winners, of uint8. What winners are is said in `reference/block.py`.
"""

from __future__ import annotations

import numpy as np

from minicnn_kernels.cpu.compiler import kernel
from minicnn_kernels.cpu.microkernel import FLOAT_BYTES, zero_floats
from minicnn_kernels.cpu.pointers import floats, octets
from minicnn_kernels.reference.block import DEAD

_DEAD = np.uint8(DEAD)


@kernel
def relu_pixels(pixels, count, stride, columns):
    """max(x, 0) in place; NaN stays NaN."""
    if columns == stride:  # one long row
        count, columns = 1, count * columns
    for p in range(count):
        values = floats(pixels + FLOAT_BYTES * p * stride, columns)
        for c in range(columns):
            value = values[c]
            values[c] = np.float32(0) if value <= 0 else value


@kernel
def pool_rows(pixels, rows, width, stride, columns, relu, y, winners):
    """2 `rows` rows of `width` pixels -> `rows` rows of `width` // 2 maxima in y, and who won, in winners."""
    pairs = width // 2
    for i in range(rows):
        for j in range(pairs):
            first = pixels + FLOAT_BYTES * (2 * i * width + 2 * j) * stride
            below = first + FLOAT_BYTES * width * stride
            place = (i * pairs + j) * stride
            _pool_window(
                floats(first, columns), floats(first + FLOAT_BYTES * stride, columns),
                floats(below, columns), floats(below + FLOAT_BYTES * stride, columns), relu,
                floats(y + FLOAT_BYTES * place, columns), octets(winners + place, columns),
            )  # fmt: skip


@kernel
def _pool_window(a, b, c, d, relu, y, winners):
    for i in range(y.size):
        y[i], winners[i] = best_of_four(a[i], b[i], c[i], d[i], relu)


@kernel
def best_of_four(a, b, c, d, relu):
    """(maximum, which), the latter `DEAD` if relu stops it. NaN beats every number, and nothing beats NaN."""
    top, winner = a, np.uint8(0)
    wins = (not b <= top) & (top == top)  # unordered comparisons
    top, winner = b if wins else top, np.uint8(1) if wins else winner
    wins = (not c <= top) & (top == top)
    top, winner = c if wins else top, np.uint8(2) if wins else winner
    wins = (not d <= top) & (top == top)
    top, winner = d if wins else top, np.uint8(3) if wins else winner
    dead = relu & (top <= 0)
    return np.float32(0) if dead else top, _DEAD if dead else winner


@kernel
def unpool_rows(grad, winners, rows, height, width, stride, pixels, pitch, sums):
    """Gradient of `pool_rows`: `rows` rows of grad -> `height` rows of `width` pixels, `pitch` pixels apart.

    Every pixel is written. sums gets the sum over all pixels, for each channel.
    """
    pairs = width // 2
    total = floats(sums, stride)
    total[:] = 0
    for i in range(rows):
        for j in range(pairs):
            first = pixels + FLOAT_BYTES * (2 * i * pitch + 2 * j) * stride
            below = first + FLOAT_BYTES * pitch * stride
            place = (i * pairs + j) * stride
            _unpool_window(
                floats(grad + FLOAT_BYTES * place, stride), octets(winners + place, stride),
                floats(first, stride), floats(first + FLOAT_BYTES * stride, stride),
                floats(below, stride), floats(below + FLOAT_BYTES * stride, stride), total,
            )  # fmt: skip
    for i in range(height):
        covered = 2 * pairs if i < 2 * rows else 0
        zero_floats(pixels + FLOAT_BYTES * (i * pitch + covered) * stride, (width - covered) * stride)


@kernel
def _unpool_window(grad, winners, a, b, c, d, total):
    zero = np.float32(0)
    for i in range(grad.size):
        share, winner = grad[i], winners[i]
        a[i] = share if winner == 0 else zero
        b[i] = share if winner == 1 else zero
        c[i] = share if winner == 2 else zero
        d[i] = share if winner == 3 else zero
        total[i] += zero if winner == _DEAD else share


@kernel
def mask_rows(grad, y, relu, rows, width, stride, pixels, pitch, sums):
    """grad where relu let y pass -> `rows` rows of `width` pixels, `pitch` pixels apart; sums as above."""
    total = floats(sums, stride)
    total[:] = 0
    for i in range(rows):
        for j in range(width):
            place = FLOAT_BYTES * (i * width + j) * stride
            _mask_pixel(
                floats(grad + place, stride), floats(y + place, stride), relu,
                floats(pixels + FLOAT_BYTES * (i * pitch + j) * stride, stride), total,
            )  # fmt: skip


@kernel
def _mask_pixel(grad, y, relu, result, total):
    for i in range(grad.size):
        share = np.float32(0) if relu & (y[i] <= 0) else grad[i]
        result[i] = share
        total[i] += share

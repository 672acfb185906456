"""Sums of products of whole numbers, exact: the tiles of `gemm.py` with both operands lying along k.

acc[o, p] = sum over k of weight[o, k] rows[p, k], for images and groups as batches. Numbers of 8 bits are
multiplied four at a time (dp4a) into int32, where the caller sees to it that they fit; longer ones as int32
into int64, which holds every sum that the reference's doubles hold. Convolutions bring their windows into
rows first, channels and taps in the order of the weight.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from minicnn_kernels.cuda import simulator
from minicnn_kernels.cuda.driver import (
    SIMULATED,
    Kernel,
    cuda,
    device_function,
    kernel,
    launch,
    launch_blocks,
)
from minicnn_kernels.cuda.instructions import dot4_unsigned
from minicnn_kernels.cuda.storage import dense, empty, flat
from minicnn_kernels.device_array import DeviceArray
from minicnn_kernels.windows import conv_output_size

__all__ = ["FOUR", "Rows", "multiply_bytes", "multiply_steps", "padded_rows", "window_rows", "window_sums"]

FOUR = 4  # bytes in a word
_MOST_BATCHES = 65535  # blocks along z of a grid
_PER_THREAD = 2 if SIMULATED else 4
_ACROSS = simulator.THREADS if SIMULATED else 16  # threads along an edge of a tile
_DEPTH = 2 if SIMULATED else 8  # words of k that are in shared memory at a time
_GEOMETRY = "UniTuple(int64, 13)"


class Rows(NamedTuple):
    """Operands of a product: elements (images, pixels, groups, depth) in C order.

    out: (H', W') for windows, else ().
    """

    elements: DeviceArray
    out: tuple[int, ...]


def window_rows(
    x: DeviceArray, weight_shape: Any, stride: Any, padding: Any, dilation: Any, groups: int, fill: int
) -> Rows:
    """The windows of x (N, C, H, W) that a weight of this shape meets, padded with `fill`.

    Their depth C/groups kh kw is rounded up to whole words of four.
    """
    n, c, *size = x.shape
    kernel_size = tuple(weight_shape[2:])
    out = conv_output_size(size, kernel_size, stride, padding, dilation)
    depth = math.prod(weight_shape[1:])
    rows = empty((n, math.prod(out), groups, _rounded(depth)), x.dtype)
    geometry = (c, *size, *out, *kernel_size, *stride, *padding, *dilation)
    sizes = groups, depth, rows.shape[3]
    launch(_windows, rows.size, flat(rows), flat(dense(x)), geometry, sizes, fill, rows.size)
    return Rows(rows, out)


def padded_rows(x: DeviceArray) -> Rows:
    """x (rows, depth) with zeros behind each row up to whole words of four."""
    count, depth = x.shape
    width, x = _rounded(depth), dense(x)
    if width == depth and x.offset % FOUR == 0:  # words of four bytes begin at multiples of four
        return Rows(x.view((count, 1, 1, depth), None), ())
    rows = empty((count, 1, 1, width), x.dtype)
    launch(_widen_rows, rows.size, flat(rows), flat(x), depth, width, rows.size)
    return Rows(rows, ())


def multiply_bytes(rows: DeviceArray, weight: DeviceArray) -> DeviceArray:
    """acc (images, outputs, pixels) int32 of rows uint8 (images, pixels, groups, depth) and weight int8.

    weight: (outputs, depth), depth a multiple of four. Sums wrap around where they leave int32.
    """
    return _multiply(_bytes, rows, weight, np.int32, FOUR)


def multiply_steps(rows: DeviceArray, weight: DeviceArray) -> DeviceArray:
    """The same for int32, the sums in int64."""
    return _multiply(_steps, rows, weight, np.int64, 1)


def window_sums(q: DeviceArray, zero: int, kernel_size: Any, stride: Any, padding: Any) -> DeviceArray:
    """Sums of q - zero over the windows of q (N, C, H, W), padding adding nothing: (N, C, H', W') int64."""
    out = conv_output_size(q.shape[2:], kernel_size, stride, padding, (1, 1))
    acc = empty((*q.shape[:2], *out), np.int64)
    geometry = (*q.shape[2:], *out, *kernel_size, *stride, *padding)
    launch(_sum_windows, acc.size, flat(acc), flat(dense(q)), zero, geometry, acc.size)
    return acc


def _multiply(run: Kernel, rows: DeviceArray, weight: DeviceArray, dtype: Any, per_word: int) -> DeviceArray:
    images, pixels, groups, depth = rows.shape
    outputs = weight.shape[0]
    acc = empty((images, outputs, pixels), dtype)
    m, words, tile = outputs // groups, depth // per_word, _ACROSS * _PER_THREAD
    grid = -(-pixels // tile), -(-m // tile), min(images * groups, _MOST_BATCHES)
    operands = (flat(array).view(np.int32) for array in (weight, rows))
    launch_blocks(
        run, grid, _ACROSS * _ACROSS, flat(acc), *operands, (m, pixels, words, groups, images * groups)
    )
    return acc


def _rounded(depth: int) -> int:
    return -(-depth // FOUR) * FOUR


@device_function
def _multiply_int32(a, b, total):
    return total + np.int64(a) * np.int64(b)


def _tiled(name: str, multiply: Any, whole: Any) -> Kernel:
    """The kernel for one way to multiply two words of 32 bits and add the product to a sum of `whole`."""
    across, per_thread, depth = _ACROSS, _PER_THREAD, _DEPTH
    tile, threads = across * per_thread, across * across
    strip, stride = tile * depth, tile + 4  # 4 more: threads that store a strip meet 32 different banks

    @kernel(
        f"{whole.__name__}[::1], int32[::1], int32[::1], UniTuple(int64, 5)",
        name=name,
        registers=128,
        launch_bounds=(threads, 2),
    )
    def run(acc, weight, rows, sizes):
        """sizes: (outputs of a group, pixels, words of k, groups, images times groups)."""
        strip_a = cuda.shared.array((depth, stride), np.int32)
        strip_b = cuda.shared.array((depth, stride), np.int32)
        sums = cuda.local.array((per_thread, per_thread), whole)
        of_a = cuda.local.array(per_thread, np.int32)
        of_b = cuda.local.array(per_thread, np.int32)
        thread = cuda.threadIdx.x
        row, column = thread // across, thread % across
        first_row, first_column = cuda.blockIdx.y * tile, cuda.blockIdx.x * tile
        m, n, k, groups = sizes[0], sizes[1], sizes[2], sizes[3]
        for batch in range(cuda.blockIdx.z, sizes[4], cuda.gridDim.z):
            image, group = batch // groups, batch % groups
            for i in range(per_thread):
                for j in range(per_thread):
                    sums[i, j] = 0
            for k0 in range(0, k, depth):
                for e in range(thread, strip, threads):
                    i, kk = e // depth, e % depth
                    inside = first_row + i < m and k0 + kk < k
                    place = (group * m + first_row + i) * k + k0 + kk
                    strip_a[kk, i] = weight[place] if inside else np.int32(0)
                    inside = first_column + i < n and k0 + kk < k
                    place = ((image * n + first_column + i) * groups + group) * k + k0 + kk
                    strip_b[kk, i] = rows[place] if inside else np.int32(0)
                cuda.syncthreads()  # the strips are whole before they are read
                for kk in range(depth):
                    for i in range(per_thread):
                        of_a[i] = strip_a[kk, i * across + row]
                        of_b[i] = strip_b[kk, i * across + column]
                    for i in range(per_thread):
                        for j in range(per_thread):
                            sums[i, j] = multiply(of_b[j], of_a[i], sums[i, j])
                cuda.syncthreads()  # and read before the next ones overwrite them
            for i in range(per_thread):
                for j in range(per_thread):
                    y, x = first_row + i * across + row, first_column + j * across + column
                    if y < m and x < n:
                        acc[((image * groups + group) * m + y) * n + x] = sums[i, j]

    return run


_bytes = _tiled("products of bytes", dot4_unsigned, np.int32)
_steps = _tiled("products of steps", _multiply_int32, np.int64)


@kernel(f"uint8[::1], uint8[::1], {_GEOMETRY}, UniTuple(int64, 3), int64, int64", registers=64)
def _windows(rows, x, geometry, sizes, fill, size):
    """One thread an element; behind the last tap stands `fill`, which meets zeros of the weight."""
    channels, h, w, out_h, out_w, kh, kw, sh, sw, ph, pw, dh, dw = geometry
    groups, depth, width = sizes
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        k, group, pixel = e % width, e // width % groups, e // (width * groups)
        column, row, image = pixel % out_w, pixel // out_w % out_h, pixel // (out_w * out_h)
        channel = group * (channels // groups) + k // (kh * kw)
        i = row * sh - ph + k // kw % kh * dh
        j = column * sw - pw + k % kw * dw
        value = fill
        if k < depth and 0 <= i < h and 0 <= j < w:
            value = np.int64(x[((image * channels + channel) * h + i) * w + j])
        rows[e] = value


@kernel("int8[::1], int8[::1], int64, int64, int64", registers=40)
def _widen_rows(rows, x, depth, width, size):
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        value = np.int64(0)
        if e % width < depth:
            value = np.int64(x[e // width * depth + e % width])
        rows[e] = value


@kernel("int64[::1], int32[::1], int64, UniTuple(int64, 10), int64", registers=64)
def _sum_windows(acc, q, zero, geometry, size):
    h, w, out_h, out_w, kh, kw, sh, sw, ph, pw = geometry
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        top, left = e // out_w % out_h * sh - ph, e % out_w * sw - pw
        image = e // (out_w * out_h) * h * w
        total = np.int64(0)
        for i in range(max(top, 0), min(top + kh, h)):
            for j in range(max(left, 0), min(left + kw, w)):
                total += np.int64(q[image + i * w + j]) - zero
        acc[e] = total

"""Convolution with few channels in a group, depthwise above all: one thread a result, no tiles.

A group of one channel multiplies each pixel with a handful of numbers: there is nothing that threads could
share but the caches, and a tile of 32 channels would be filled to a thirty-second. The gradient of the
weight is a sum over all pixels for each of few numbers: a block of threads each, who add up in a fixed
order.
"""

from __future__ import annotations

import math

import numpy as np

from minicnn_kernels.cuda.driver import Elements, cuda, kernel, launch, launch_blocks
from minicnn_kernels.cuda.epilogue import NOTHING, Epilogue, at_least
from minicnn_kernels.cuda.implicit import divided, int32_numbers
from minicnn_kernels.cuda.taps import Geometry
from minicnn_kernels.cuda.trees import THREADS, block_sum

__all__ = ["backward_input", "backward_weight", "forward"]

_ZERO = np.float32(0)
_SIZES = "UniTuple(int32, 16)"


def _sizes(g: Geometry) -> tuple[np.int32, ...]:
    channels, outputs = g.channels // g.groups, g.outputs // g.groups
    taps = (*g.kernel_size, *g.stride, *g.padding, *g.dilation)
    return int32_numbers((g.n, channels, *g.image, outputs, *g.out, g.groups, *taps))


def forward(y: Elements, x: Elements, weight: Elements, g: Geometry, epilogue: Epilogue = NOTHING) -> None:
    """Write the convolution into y (N, O, H', W'), with what the epilogue does to it; its bias is by
    channels."""
    size = g.n * g.outputs * math.prod(g.out)
    launch(_forward, size, y, x, weight, *epilogue.arguments(y), _sizes(g), size)


def backward_input(
    dx: Elements, grad: Elements, weight: Elements, g: Geometry, epilogue: Epilogue = NOTHING
) -> None:
    """Write the gradient by the input into dx (N, C, H, W)."""
    _, onto, flags, _ = epilogue.arguments(dx)
    size = g.n * g.channels * math.prod(g.image)
    launch(_backward_input, size, dx, grad, weight, onto, flags[2], _sizes(g), size)


def backward_weight(
    dweight: Elements, grad: Elements, x: Elements, g: Geometry, onto: Elements | None = None
) -> None:
    """Write the gradient by the weight into dweight (O, C/groups, kh, kw); onto: its addend."""
    size = g.outputs * g.terms
    of_onto = dweight if onto is None else onto
    is_added = np.int32(onto is not None)
    launch_blocks(_backward_weight, (size,), THREADS, dweight, grad, x, of_onto, is_added, _sizes(g))


@kernel(
    f"float32[::1], float32[::1], float32[::1], float32[::1], float32[::1], UniTuple(int32, 3), float32, "
    f"{_SIZES}, int64",
    name="direct convolution",
)
def _forward(y, x, weight, bias, onto, flags, floor, sizes, size):
    """One thread a result; neighbours in a warp are neighbours in a row of pixels."""
    _, channels, h, w, outputs, out_h, out_w, groups, kh, kw, sh, sw, ph, pw, dh, dw = sizes
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        rest, j = divided(np.int32(e), out_w)
        rest, i = divided(rest, out_h)
        image, o = divided(rest, np.int32(outputs * groups))
        first = (image * groups + divided(o, outputs)[0]) * channels
        total = _ZERO
        for c in range(channels):
            for p in range(kh):
                row = i * sh - ph + p * dh
                if row >= 0 and row < h:
                    for q in range(kw):
                        column = j * sw - pw + q * dw
                        if column >= 0 and column < w:
                            factor = weight[((o * channels + c) * kh + p) * kw + q]
                            total += x[((first + c) * h + row) * w + column] * factor
        if flags[0] > 0:
            total += bias[o * flags[0]]
        if flags[2]:
            total += onto[e]
        y[e] = at_least(floor, total)


@kernel(
    f"float32[::1], float32[::1], float32[::1], float32[::1], int32, {_SIZES}, int64",
    name="gradient of direct convolution's input",
    registers=96,
)
def _backward_input(dx, grad, weight, onto, is_added, sizes, size):
    """One thread a pixel: it collects from every window that covers it."""
    _, channels, h, w, outputs, out_h, out_w, groups, kh, kw, sh, sw, ph, pw, dh, dw = sizes
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        rest, column = divided(np.int32(e), w)
        rest, row = divided(rest, h)
        image, c = divided(rest, np.int32(channels * groups))
        group, channel = divided(c, channels)
        total = _ZERO
        for p in range(kh):
            down = row + ph - p * dh
            i, beside = divided(np.int32(max(down, 0)), sh)
            if down >= 0 and beside == 0 and i < out_h:
                for q in range(kw):
                    right = column + pw - q * dw
                    j, beside = divided(np.int32(max(right, 0)), sw)
                    if right >= 0 and beside == 0 and j < out_w:
                        for o in range(group * outputs, (group + 1) * outputs):
                            factor = weight[((o * channels + channel) * kh + p) * kw + q]
                            total += grad[((image * groups * outputs + o) * out_h + i) * out_w + j] * factor
        dx[e] = total + onto[e] if is_added else total


@kernel(
    f"float32[::1], float32[::1], float32[::1], float32[::1], int32, {_SIZES}",
    name="gradient of direct convolution's weight",
)
def _backward_weight(dweight, grad, x, onto, is_added, sizes):
    """One block a number of the weight; its threads take every THREADS-th pixel of all images."""
    shared = cuda.shared.array(THREADS, np.float32)
    n, channels, h, w, outputs, out_h, out_w, groups, kh, kw, sh, sw, ph, pw, dh, dw = sizes
    thread, e = cuda.threadIdx.x, cuda.blockIdx.x
    q, p, c, o = e % kw, e // kw % kh, e // (kw * kh) % channels, e // (kw * kh * channels)
    total = _ZERO
    for pixel in range(thread, n * out_h * out_w, THREADS):
        rest, j = divided(np.int32(pixel), out_w)
        image, i = divided(rest, out_h)
        row, column = i * sh - ph + p * dh, j * sw - pw + q * dw
        if row >= 0 and row < h and column >= 0 and column < w:
            place = (image * groups + o // outputs) * channels + c
            factor = grad[((image * groups * outputs + o) * out_h + i) * out_w + j]
            total += x[(place * h + row) * w + column] * factor
    shared[thread] = total
    total = block_sum(shared, thread)
    if thread == 0:
        dweight[e] = total + onto[e] if is_added else total

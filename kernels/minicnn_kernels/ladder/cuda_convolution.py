"""The ladder of the convolution on a GPU, stride 1, "same" padding: from one thread a pixel to tensor cores.

Every rung has the signature (x, weight, bias, y): x (N, C, H, W), weight (O, C, kh, kw) of odd size, bias
(O,) and y (N, O, H, W), arrays on the device in C order; y is overwritten and returned. Each docstring says
what changed against the rung before and why it pays; machine and figures are those of `cuda_matmul.py`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minicnn_kernels.algorithms import using
from minicnn_kernels.cuda.conv import im2col
from minicnn_kernels.cuda.driver import cuda, kernel, launch
from minicnn_kernels.cuda.epilogue import Epilogue
from minicnn_kernels.cuda.gemm import gemm
from minicnn_kernels.cuda.implicit import forward
from minicnn_kernels.cuda.storage import empty, flat
from minicnn_kernels.cuda.taps import Geometry
from minicnn_kernels.device_array import DeviceArray
from minicnn_kernels.ladder.rung import rung

__all__ = ["RUNGS", "arguments"]

MANY = 4  # output channels that a thread computes at once

_OPERANDS = "float32[::1], float32[::1], float32[::1], float32[::1], UniTuple(int64, 6), int64"


def arguments(rung: Any, x: DeviceArray, weight: DeviceArray, bias: DeviceArray) -> tuple[DeviceArray, ...]:
    """The arguments of `rung.function` for images, weights and biases on the device."""
    return x, weight, bias, empty((x.shape[0], weight.shape[0], *x.shape[2:]))


def one_thread(x, weight, bias, y):
    """One thread for each output, which adds up its window.

    Neighbouring threads are neighbouring pixels, so what a warp reads of x lies side by side, and all of
    its threads share one weight. But for each multiply-add a thread reads two numbers and computes an address
    in three dimensions, which takes longer than the arithmetic.
    """
    sizes = (*x.shape[1:], weight.shape[0], *weight.shape[2:])
    launch(_one_thread, y.size, flat(y), flat(x), flat(weight), flat(bias), sizes, y.size)
    return y


@kernel(_OPERANDS, registers=64)
def _one_thread(y, x, weight, bias, sizes, size):
    channels, height, width, outputs, kh, kw = sizes
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        j, i, o = e % width, e // width % height, e // (width * height) % outputs
        image = e // (width * height * outputs)
        total = bias[o]
        for c in range(channels):
            for p in range(kh):
                row = i + p - kh // 2
                for q in range(kw):
                    column = j + q - kw // 2
                    if 0 <= row < height and 0 <= column < width:
                        pixel = x[((image * channels + c) * height + row) * width + column]
                        total += pixel * weight[((o * channels + c) * kh + p) * kw + q]
        y[e] = total


def many_channels(x, weight, bias, y):
    """One thread for a pixel of four output channels: each number of x that it reads serves all four.

    Five numbers for four multiply-adds, where it was eight, and one address of x instead of four. Weights are
    still read one by one, and a pixel is still read by each of the windows that it is in.
    """
    sizes = (*x.shape[1:], weight.shape[0], *weight.shape[2:])
    count = x.shape[0] * math.prod(x.shape[2:]) * -(-weight.shape[0] // MANY)
    launch(_many_channels, count, flat(y), flat(x), flat(weight), flat(bias), sizes, count)
    return y


@kernel(_OPERANDS, registers=96)
def _many_channels(y, x, weight, bias, sizes, size):
    channels, height, width, outputs, kh, kw = sizes
    pixels, groups = width * height, (outputs + MANY - 1) // MANY
    filter_size = channels * kh * kw
    sums = cuda.local.array(MANY, np.float32)
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        j, i, first = e % width, e // width % height, e // pixels % groups * MANY
        image = e // (pixels * groups)
        for o in range(MANY):
            sums[o] = bias[min(first + o, outputs - 1)]  # channels past the last are computed for nothing
        for c in range(channels):
            for p in range(kh):
                row = i + p - kh // 2
                for q in range(kw):
                    column = j + q - kw // 2
                    if 0 <= row < height and 0 <= column < width:
                        pixel = x[((image * channels + c) * height + row) * width + column]
                        tap = (c * kh + p) * kw + q
                        for o in range(MANY):
                            sums[o] += pixel * weight[min(first + o, outputs - 1) * filter_size + tap]
        for o in range(MANY):
            if first + o < outputs:
                y[(image * outputs + first + o) * pixels + i * width + j] = sums[o]


def explicit(x, weight, bias, y):
    """im2col: windows are written into a matrix, and the matrix product does the rest.

    The product has all that its own ladder has won: tiles in registers, 64 multiply-adds for 16 numbers. But
    the matrix is kh kw times as large as the image, and is written to memory and read again.
    """
    (n, _, *size), (outputs, *_) = x.shape, weight.shape
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    columns = im2col(x, weight.shape[2:], (1, 1), padding, (1, 1))
    terms, pixels = math.prod(weight.shape[1:]), math.prod(size)
    with using("matmul", "float32"):
        gemm(
            flat(y), (outputs * pixels, 0, pixels, 1), flat(weight), (0, 0, terms, 1),
            flat(columns), (terms * pixels, 0, pixels, 1), (outputs, pixels, terms), (n, 1),
            Epilogue(flat(bias), (1, 0)),
        )  # fmt: skip
    return y


def implicit(x, weight, bias, y):
    """The engine's kernel: the matrix of windows is never in memory, its strips are gathered from the image.

    While one strip is multiplied, the next two are on their way to shared memory, each number from where it
    lies in the image; where a window sticks out, the copy writes zero. What was kh kw images written and
    read again is one image read, whose neighbouring windows meet in the caches. Which pixel a term reads
    stands in a table, so finding it takes some ten instructions beside 64 multiply-adds, and no division.
    """
    return _engine(x, weight, bias, y, "float32")


def tensor_cores(x, weight, bias, y):
    """The same strips, multiplied by the tensor cores: factors rounded to TF32, 10 bits after the first.

    One instruction of a warp does 1024 multiply-adds, where it was 32. Now bringing the strips is what takes
    time: the arithmetic of a strip has shrunk, the copies and their addresses have not.
    """
    return _engine(x, weight, bias, y, "tf32")


def _engine(x, weight, bias, y, arithmetic):
    n, channels, *image = x.shape
    outputs, _, *kernel_size = weight.shape
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    size, taps = tuple(image), tuple(kernel_size)
    g = Geometry(n, channels, size, outputs, size, taps, (1, 1), padding, (1, 1), 1)
    with using("matmul", arithmetic):
        forward(flat(y), flat(x), flat(weight), g, Epilogue(flat(bias), (1, 0)))
    return y


RUNGS = (
    rung("one thread an output", one_thread),
    rung("four channels a thread", many_channels),
    rung("im2col and a product", explicit),
    rung("implicit im2col", implicit),
    rung("implicit, TF32", tensor_cores),
)

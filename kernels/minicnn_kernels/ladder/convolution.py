"""The ladder of the float32 convolution, stride 1, "same" padding: from seven loops to the fused block.

Every rung has the signature (x, weight, bias, y), overwrites y and returns it. Kernels have an odd size and
zeros surround the image, so that y is as large as x. The lower rungs read x (N, C, H, W) and weight
(O, C, kh, kw); the upper ones, marked `channels_last`, x (N, H, W, C) and weight (kh, kw, C, O), and write
y (N, H, W, O). All arrays are C-contiguous. Rungs marked `pooled` compute max_pool2d(relu(convolution), 2).
The matrix product has its own ladder beside this one; `bench/ladder.py` measures both.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import prange

from minicnn_kernels import memory
from minicnn_kernels.cpu.compiler import kernel
from minicnn_kernels.cpu.layout import contiguous
from minicnn_kernels.ladder import matmul
from minicnn_kernels.ladder.rung import rung
from minicnn_kernels.ladder.tiles import empty_panels, multiply, pack


def arguments(rung, x, weight, bias):
    """The arguments of `rung.function` in its layout: x (N, C, H, W), weight (O, C, kh, kw), bias (O,)."""
    n, _, height, width = x.shape
    out_channels = weight.shape[0]
    if rung.pooled:
        height, width = height // 2, width // 2
    if not rung.channels_last:
        y = memory.empty((n, out_channels, height, width))
        return contiguous(x), contiguous(weight), bias, y
    y = memory.empty((n, height, width, out_channels))
    return contiguous(x.transpose(0, 2, 3, 1)), contiguous(weight.transpose(2, 3, 1, 0)), bias, y


def as_images(rung, y):
    """What `rung.function` returned, as images (N, O, H, W)."""
    return y.transpose(0, 3, 1, 2) if rung.channels_last else y


@kernel
def naive(x, weight, bias, y):
    """The definition, compiled: seven loops, one dot product per output.

    Each sum is one chain of additions that wait for each other, 4 cycles each, and jumps from channel to
    channel: a whole image plane lies between two addends.
    """
    _, _, height, width = x.shape
    _, channels, kh, kw = weight.shape
    for n in range(y.shape[0]):
        for o in range(y.shape[1]):
            for i in range(height):
                for j in range(width):
                    total = bias[o]
                    for p in range(kh):
                        for q in range(kw):
                            row, column = i + p - kh // 2, j + q - kw // 2
                            if 0 <= row < height and 0 <= column < width:
                                for c in range(channels):
                                    total += x[n, c, row, column] * weight[o, c, p, q]
                    y[n, o, i, j] = total
    return y


@kernel
def reordered(x, weight, bias, y):
    """The loops over pixels innermost: a plane of y += one weight times a shifted plane of x.

    Rows are contiguous and the sums of neighbouring pixels independent, so LLVM vectorizes. The test for the
    border has moved into the loops' bounds. Yet a row is short, and every product loads and stores y.
    """
    _, channels, height, width = x.shape
    out_channels, _, kh, kw = weight.shape
    for n in range(y.shape[0]):
        for o in range(out_channels):
            y[n, o] = bias[o]
            for c in range(channels):
                for p in range(kh):
                    for q in range(kw):
                        down, right = p - kh // 2, q - kw // 2
                        factor = weight[o, c, p, q]
                        for i in range(max(0, -down), min(height, height - down)):
                            target = y[n, o, i, max(0, -right) : max(0, width - max(0, right))]
                            source = x[n, c, i + down, max(0, right) :]
                            for j in range(target.size):
                                target[j] += factor * source[j]
    return y


@kernel
def channels_last(x, weight, bias, y):
    """Channels last in memory, output channels in the innermost loop.

    All output channels of a pixel lie side by side, there are many of them, and no border cuts the loop:
    every vector is full. The pixel's sums stay in the first-level cache until it is done.
    """
    _, height, width, channels = x.shape
    kh, kw, _, out_channels = weight.shape
    for n in range(y.shape[0]):
        for i in range(height):
            for j in range(width):
                sums = y[n, i, j]
                for o in range(out_channels):
                    sums[o] = bias[o]
                for p in range(max(0, kh // 2 - i), min(kh, height + kh // 2 - i)):
                    for q in range(max(0, kw // 2 - j), min(kw, width + kw // 2 - j)):
                        pixel = x[n, i + p - kh // 2, j + q - kw // 2]
                        for c in range(channels):
                            factor, row = pixel[c], weight[p, q, c]
                            for o in range(out_channels):
                                sums[o] += factor * row[o]
    return y


def im2col_blas(x, weight, bias, y):
    """Explicit im2col: the patch under every output becomes a row of a matrix, and BLAS multiplies it.

    All the tuning of a matrix product for a copy. The price is memory: kh kw times the size of x, written
    and read again. Taken from the pool, for fresh memory would add a page fault for every 4 KiB.
    """
    np.matmul(_im2col(x, weight), weight.reshape(-1, y.shape[3]), out=y.reshape(-1, y.shape[3]))
    y += bias
    return y


def im2col_packed(x, weight, bias, y):
    """The same matrix, multiplied by the top of our own ladder.

    Nothing should change, and that is the point: from here on the product is ours to open up.
    """
    matmul.packed(_im2col(x, weight), weight.reshape(-1, y.shape[3]), y.reshape(-1, y.shape[3]))
    y += bias
    return y


def _im2col(x, weight):
    """The matrix (N H W, kh kw C) of patches."""
    kh, kw, channels, _ = weight.shape
    columns = memory.empty((x.size // channels, kh * kw * channels))
    _copy_patches(x, columns.reshape(*x.shape[:3], kh, kw, channels))
    return columns


@kernel
def _copy_patches(x, patches):
    images, height, width, kh, kw, channels = patches.shape
    for n in range(images):
        for i in range(height):
            for j in range(width):
                for p in range(kh):
                    for q in range(kw):
                        patch = patches[n, i, j, p, q]
                        row, column = i + p - kh // 2, j + q - kw // 2
                        if 0 <= row < height and 0 <= column < width:
                            pixel = x[n, row, column]
                            for c in range(channels):
                                patch[c] = pixel[c]
                        else:
                            patch[:] = 0


def implicit(x, weight, bias, y):
    """Implicit im2col: the micro-kernel reads the patches where they are, in the image with a halo of zeros.

    Channels last, one kernel row of a patch is kw C contiguous floats, so a patch is kh runs at fixed
    distances, and the matrix need not exist. One padded image lives in the second-level cache instead of
    kh kw images in memory. The sums start as the bias: that pass is gone too.
    """
    return _implicit(x, bias, y, *_workspace(x, weight, threads=1))


@kernel
def _implicit(x, bias, y, panels, halos, row_offsets, taps):
    for n in range(x.shape[0]):
        _convolve(x[n], bias, y[n], panels, halos[0], row_offsets, taps)
    return y


def implicit_threaded(x, weight, bias, y):
    """Images on all cores.

    Images do not depend on each other: no core waits for another, and which core takes which image does not
    change the result. Every core has its own padded image.
    """
    return _implicit_threaded(x, bias, y, *_workspace(x, weight))


@kernel(parallel=True)
def _implicit_threaded(x, bias, y, panels, halos, row_offsets, taps):
    for n in prange(x.shape[0]):
        _convolve(x[n], bias, y[n], panels, halos[numba.get_thread_id()], row_offsets, taps)
    return y


@kernel
def _convolve(image, bias, y, panels, halo, row_offsets, taps):
    """One image (H, W, C): into the middle of `halo`, whose border is zero, then tile by tile into y."""
    height, width, channels = image.shape
    top, left = (halo.shape[0] - height) // 2, (halo.shape[1] - width) // 2
    for i in range(height):
        for j in range(width):
            source, target = image[i, j], halo[top + i, left + j]
            for c in range(channels):
                target[c] = source[c]
    multiply(halo, row_offsets, taps, panels, bias, False, y.reshape(height * width, y.shape[2]))


def _workspace(x, weight, threads=None):
    """Packed weights, a padded image per thread, where in it each pixel's patch begins, and its rows."""
    _, height, width, channels = x.shape
    kh, kw, _, out_channels = weight.shape
    panels = empty_panels(kh * kw * channels, out_channels)
    for panel in range(len(panels)):
        pack(weight.reshape(-1, out_channels), 0, panels, panel)
    row_length = (width + kw - 1) * channels
    halos = memory.zeros((threads or numba.get_num_threads(), height + kh - 1, width + kw - 1, channels))
    row_offsets = np.arange(height)[:, None] * row_length + np.arange(width) * channels
    return panels, halos, row_offsets.reshape(-1), np.arange(kh) * row_length


def separate_passes(x, weight, bias, y):
    """The whole block in three passes over memory: convolution, ReLU, 2 x 2 max-pooling.

    The mark for the next rung: each pass has its own parallel loop, and between two of them the
    whole batch goes out to memory and comes back.
    """
    n, height, width, _ = x.shape
    full = memory.empty((n, height, width, y.shape[3]))
    implicit_threaded(x, weight, bias, full)
    _relu(full)
    return _max_pool(full, y)


@kernel(parallel=True)
def _relu(x):
    for n in prange(x.shape[0]):
        image = x[n].reshape(-1)
        for i in range(image.size):
            image[i] = max(image[i], np.float32(0))


@kernel(parallel=True)
def _max_pool(x, y):
    for n in prange(x.shape[0]):
        _max_pool_image(x[n], y[n])
    return y


@kernel
def _max_pool_image(x, y):
    """Channels innermost: a vector of maxima at a time."""
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            a, b = x[2 * i, 2 * j], x[2 * i, 2 * j + 1]
            c, d = x[2 * i + 1, 2 * j], x[2 * i + 1, 2 * j + 1]
            best = y[i, j]
            for o in range(best.size):
                best[o] = max(max(a[o], b[o]), max(c[o], d[o]))


def fused(x, weight, bias, y):
    """Convolution, bias, ReLU and max-pooling in one pass: an image never leaves its core until it is pooled.

    The full-size result lives in the second-level cache, is reduced while it is warm, and only a quarter of
    it goes to memory. ReLU and maximum commute, so ReLU runs on that quarter. One start of threads for three.
    """
    _, height, width, _ = x.shape
    full = memory.empty((numba.get_num_threads(), height, width, y.shape[3]))
    return _fused(x, bias, y, full, *_workspace(x, weight))


@kernel(parallel=True)
def _fused(x, bias, y, full, panels, halos, row_offsets, taps):
    for n in prange(x.shape[0]):
        mine = full[numba.get_thread_id()]
        _convolve(x[n], bias, mine, panels, halos[numba.get_thread_id()], row_offsets, taps)
        _max_pool_image(mine, y[n])
        pooled = y[n].reshape(-1)
        for i in range(pooled.size):
            pooled[i] = max(pooled[i], np.float32(0))
    return y


def production(x, weight, bias, y):
    """What `conv2d` of the engine calls: any stride, padding, dilation and groups.

    `cpu/conv.py` chooses the algorithm by shape; where that is not a direct one, it needs fewer
    multiplications than are counted here.
    """
    from minicnn_kernels import cpu

    kh, kw = weight.shape[:2]
    x, weight = x.transpose(0, 3, 1, 2), weight.transpose(3, 2, 0, 1)
    result = cpu.conv2d_forward(x, weight, bias, (1, 1), (kh // 2, kw // 2), (1, 1), 1)
    return result.transpose(0, 2, 3, 1)


RUNGS = (
    rung("naive, compiled", naive),
    rung("loops reordered", reordered),
    rung("channels last", channels_last, channels_last=True),
    rung("im2col, BLAS", im2col_blas, channels_last=True),
    rung("im2col, our product", im2col_packed, channels_last=True),
    rung("implicit im2col", implicit, channels_last=True),
    rung("implicit, threads", implicit_threaded, parallel=True, channels_last=True),
    rung("block, three passes", separate_passes, parallel=True, channels_last=True, pooled=True),
    rung("block, fused", fused, parallel=True, channels_last=True, pooled=True),
    rung("production", production, channels_last=True),
    rung("production, threads", production, parallel=True, channels_last=True),
)

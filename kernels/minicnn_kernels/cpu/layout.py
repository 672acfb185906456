"""Which memory order an array has, and the one place that changes it.

Images have the shape (N, C, H, W) and, in this back end, the memory of (N, H, W, C): a pixel's
channels lie side by side. An array that comes in another order is copied once, by these functions;
kernels then see plain C-contiguous arrays and are compiled for no other layout.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from minicnn_kernels import memory
from minicnn_kernels.cpu.compiler import kernel

__all__ = ["channels_last", "contiguous", "float32"]


def channels_last(x: np.ndarray) -> np.ndarray:
    """The (N, H, W, C) C-contiguous array of images (N, C, H, W): a view if memory allows, else a copy."""
    images = x.transpose(0, 2, 3, 1)
    if images.flags.c_contiguous and x.dtype == np.float32:
        return images
    n, height, width, channels = images.shape
    if channels == 1 and x.flags.c_contiguous and x.dtype == np.float32:
        return x.reshape(n, height, width, 1)
    out = memory.empty(images.shape)
    if x.size == 0:
        return out
    _channels_last(np.ascontiguousarray(x, np.float32), out)
    return out


@kernel(parallel=True)
def _channels_last(x, out):
    """Transpose tiles of 16 pixels: reads run along pixels, writes stay in a few cache lines."""
    images, channels, height, width = x.shape
    pixels = height * width
    source = x.reshape(images, channels, pixels)
    target = out.reshape(images, pixels, channels)
    for image in prange(images):
        for start in range(0, pixels, 16):
            stop = min(start + 16, pixels)
            for c in range(channels):
                row = source[image, c]
                for p in range(start, stop):
                    target[image, p, c] = row[p]


def contiguous(x: np.ndarray) -> np.ndarray:
    """`x` in C order and float32: itself if it is so already, else a copy."""
    if x.flags.c_contiguous and x.dtype == np.float32:
        return x
    out = memory.empty(x.shape)
    np.copyto(out, x, casting="same_kind")
    return out


def float32(x: np.ndarray) -> np.ndarray:
    """`x` as float32, in the memory order it has."""
    return x if x.dtype == np.float32 else x.astype(np.float32)

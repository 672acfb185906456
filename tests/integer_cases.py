"""Drawn arguments of the integer kernels, for the tests of each of them and of whole programs."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

ZEROS = st.sampled_from([0, 0, 1, 128, 255])


@st.composite
def lattices(draw: Any) -> tuple[int | None, int, int]:
    """(y_zero, qmin, qmax): float results, all 8 bits, fewer, and a ReLU."""
    if draw(st.integers(0, 4)) == 0:
        return None, 0, 0
    y_zero = draw(ZEROS)
    qmin = draw(st.sampled_from([0, y_zero, max(0, y_zero - 7)]))
    return y_zero, qmin, draw(st.sampled_from([255, min(255, y_zero + 8)]))


def sums(rng: np.random.Generator, x: np.ndarray, weight: np.ndarray, large: bool) -> tuple[Any, Any]:
    """(bias, factor) that spread the sums over a lattice of 8 bits, or with `large` beyond its ends."""
    outputs = len(weight)
    spread = 255 * np.abs(weight.astype(np.int64)).reshape(outputs, -1).sum(axis=1) + 1
    if large:
        bias = rng.integers(-(2**30), 2**30, outputs, endpoint=True).astype(np.int32)
        spread = 2**30
    else:
        bias = rng.integers(-spread, spread + 1).astype(np.int32) // 4
    return bias, (rng.uniform(100, 900, outputs) / spread).astype(np.float32)


@st.composite
def convolutions(draw: Any) -> list[Any]:
    """Arguments of `integer_conv2d_forward`."""
    groups = draw(st.sampled_from([1, 1, 1, 1, 2, 3]))
    in_group = draw(st.sampled_from([1, 2, 3, 4, 5, 16, 33]))
    out_group = draw(st.sampled_from([1, 2, 5, 16, 17, 32, 40]))
    if draw(st.integers(0, 3)) == 0:  # depthwise
        groups, in_group, out_group = draw(st.sampled_from([2, 16, 19, 64])), 1, draw(st.sampled_from([1, 2]))
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (3, 3), (5, 5), (2, 3), (1, 4)]))
    stride = draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (1, 3)]))
    padding = draw(st.sampled_from([(0, 0), (1, 1), (2, 2), (0, 3)]))
    dilation = draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (2, 2)]))
    pool = draw(st.sampled_from([None, ((2, 2), (2, 2)), ((2, 2), (2, 2)), ((3, 3), (2, 2))]))
    window = pool[0] if pool else (1, 1)
    lowest = [
        max(1, d * (k - 1) + 1 - 2 * p + s * (w - 1))
        for d, k, p, s, w in zip(dilation, kernel, padding, stride, window, strict=True)
    ]
    size = [draw(st.integers(low, low + 12)) for low in lowest]
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    images = draw(st.sampled_from([0, 1, 2, 5]))
    x = rng.integers(0, 256, (images, groups * in_group, *size), np.uint8)
    weight = rng.integers(-128, 128, (groups * out_group, in_group, *kernel), np.int8)
    if draw(st.integers(0, 3)) == 0:  # the ends of what VNNI multiplies
        x[...], weight[...] = 255, draw(st.sampled_from([-128, 127]))
    if draw(st.booleans()):  # channels-last memory
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    bias, factor = sums(rng, x, weight, draw(st.integers(0, 3)) == 0)
    bias = draw(st.sampled_from([bias, bias, bias, None]))
    y_zero, qmin, qmax = draw(lattices())
    return [
        x, weight, bias, factor, draw(ZEROS), y_zero, qmin, qmax, stride, padding, dilation, groups, pool,
    ]  # fmt: skip


@st.composite
def linears(draw: Any) -> list[Any]:
    """Arguments of `integer_linear_forward`; some have sums beyond 2^24, where float32 rounds."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    depth = draw(st.sampled_from([1, 3, 4, 31, 64, 130, 514, 515, 1030, 5000]))
    outputs = draw(st.sampled_from([1, 10, 16, 17, 64, 100]))
    rows = draw(st.sampled_from([0, 1, 2, 3, 9, 20, 40]))
    x = rng.integers(0, 256, (rows, depth), np.uint8)
    weight = rng.integers(-128, 128, (outputs, depth), np.int8)
    if draw(st.integers(0, 2)) == 0:
        x[...], weight[...] = 255, draw(st.sampled_from([-128, 127]))
    bias, factor = sums(rng, x, weight, draw(st.integers(0, 3)) == 0)
    return [x, weight, draw(st.sampled_from([bias, bias, None])), factor, draw(ZEROS), *draw(lattices())]

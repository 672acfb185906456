"""Drawn arguments of the integer kernels, and whole nets of them, for the tests."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from minicnn_kernels.integer_calls import IntegerCall, Slot

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


@st.composite
def pools(draw: Any, average: bool) -> list[Any]:
    """Arguments of `integer_avg_pool2d_forward`, or of `integer_max_pool2d_forward`."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kernel = draw(st.sampled_from([(2, 2), (3, 3), (1, 4), (7, 7)]))
    stride = draw(st.sampled_from([(1, 1), (2, 2), (3, 1)]))
    padding = draw(st.sampled_from([(0, 0), (1, 1), (3, 2)]))
    padding = tuple(min(p, k // 2) for p, k in zip(padding, kernel, strict=True))
    dilation = (1, 1) if average else draw(st.sampled_from([(1, 1), (2, 1)]))
    lowest = [max(1, d * (k - 1) + 1 - 2 * p) for k, p, d in zip(kernel, padding, dilation, strict=True)]
    size = [draw(st.integers(low, low + 8)) for low in lowest]
    channels = draw(st.sampled_from([1, 3, 16, 40]))
    x = rng.integers(0, 256, (draw(st.sampled_from([1, 3])), channels, *size), np.uint8)
    if average:
        factor = np.asarray(1 / (kernel[0] * kernel[1]), np.float32)
        return [x, factor, draw(ZEROS), *draw(lattices()), kernel, stride, padding]
    return [x, kernel, stride, padding, dilation, draw(st.booleans())]


@st.composite
def additions(draw: Any) -> list[Any]:
    """Arguments of `integer_add_forward`."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = draw(st.sampled_from([(2, 3, 4, 5), (1, 64, 7, 7), (3, 70)]))
    a, b = (rng.integers(0, 256, shape, np.uint8) for _ in range(2))
    scales = [np.asarray(scale, np.float32) for scale in rng.uniform(0.01, 0.2, 3)]
    y_zero = draw(ZEROS)
    lattice = y_zero, draw(st.sampled_from([0, y_zero])), 255
    return [a, b, scales[0], draw(ZEROS), scales[1], draw(ZEROS), scales[2], *lattice]


class Net:
    """A program that grows call by call, with random weights; `value` is the last one's number."""

    def __init__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> None:
        self.rng, self.calls, self.shape = rng, [], shape
        self.value, self.count = 0, 1

    def call(self, kernel: str, *arguments: Any) -> int:
        self.calls.append(IntegerCall(kernel, arguments, self.count))
        self.value, self.count = self.count, self.count + 1
        return self.value

    def quantize(self) -> None:
        self.call("quantize", Slot(self.value), np.float32(0.03), np.int32(121), 0, 255, None, np.uint8)

    def conv(self, channels: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1,
             pool: Any = None) -> int:  # fmt: skip
        weight = self.rng.integers(-127, 128, (outputs, channels // groups, kernel, kernel)).astype(np.int8)
        bias, factor = self._sums(weight)
        geometry = (stride, stride), (kernel // 2, kernel // 2), (1, 1), groups, pool
        return self.call(
            "integer_conv2d_forward", Slot(self.value), weight, bias, factor, 121, 121, 121, 255, *geometry
        )

    def linear(self, depth: int, outputs: int, to_float: bool = False) -> int:
        weight = self.rng.integers(-127, 128, (outputs, depth)).astype(np.int8)
        bias, factor = self._sums(weight)
        lattice = (None, 0, 0) if to_float else (121, 0, 255)
        return self.call("integer_linear_forward", Slot(self.value), weight, bias, factor, 121, *lattice)

    def _sums(self, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        spread = 70 * np.sqrt(np.square(weight.astype(np.float64)).reshape(len(weight), -1).sum(axis=1))
        bias = (self.rng.uniform(-1, 1, len(weight)) * spread).astype(np.int32)
        return bias, (60 / spread).astype(np.float32)


def residual_net(rng: np.random.Generator) -> tuple[Net, list[int]]:
    """Every kind of call, and outputs of every kind, for images (N, 3, 12, 16) float32."""
    net = Net(rng, (3, 12, 16))
    net.quantize()
    stem = net.conv(3, 20, pool=((2, 2), (2, 2)))
    net.conv(20, 20)
    net.conv(20, 20, groups=20)
    branch = net.conv(20, 20, kernel=1, groups=2)
    scale = np.float32(0.03)
    net.call(
        "integer_add_forward", Slot(stem), Slot(branch), scale, 121, scale * 2, 121, scale * 2, 121, 0, 255
    )
    total = net.value
    net.conv(20, 12, stride=2)
    narrow = net.value
    net.value = total
    net.conv(20, 18, kernel=5, pool=((3, 3), (1, 1)))
    window = (2, 1), (2, 1), (0, 0)
    net.call("integer_max_pool2d_forward", Slot(net.value), (2, 2), (2, 2), (1, 1), (1, 1), False)
    wide = net.value
    net.call("concatenate", [Slot(narrow), Slot(wide)], 1)
    both = net.value
    table = np.minimum(255, np.arange(256) + 9).astype(np.uint8)
    net.call("integer_lookup", Slot(both), table)
    net.call(
        "integer_avg_pool2d_forward", Slot(net.value), np.asarray(0.5, np.float32), 121, 121, 0, 255, *window
    )
    pooled = net.value
    net.call("flatten", Slot(pooled))
    flat = net.value
    net.linear(30 * 1 * 4, 50)
    net.linear(50, 10, to_float=True)
    logits = net.value
    net.call("dequantize", Slot(both), scale, np.int32(121), None)
    return net, [logits, total, flat, net.value]

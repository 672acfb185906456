"""Signs and ternary values on the device: their scales, their gradients, and products that count bits.

Formulas and the layout of the bits are in `reference/binary.py`. A word of 64 signs is compared by one XOR
and one popc; sums are whole numbers, so results are those of the reference to the bit. Scales are means,
collected in two floats where the reference has doubles.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minicnn_kernels.cuda.driver import cuda, device_function, kernel, launch, launch_blocks
from minicnn_kernels.cuda.elementwise import ne, where
from minicnn_kernels.cuda.maps import with_numbers
from minicnn_kernels.cuda.pairs import block_pair_sum, divide, halves, plus, times
from minicnn_kernels.cuda.shape import permute, reshape
from minicnn_kernels.cuda.storage import dense, empty, flat, on_device
from minicnn_kernels.cuda.trees import THREADS, block_sum
from minicnn_kernels.device_array import DeviceArray
from minicnn_kernels.reference import binary as reference
from minicnn_kernels.reference.binary import PANEL, SMALLEST_SCALE, WORD
from minicnn_kernels.windows import conv_output_size

__all__ = [
    "binarize_backward",
    "binarize_forward",
    "binary_conv2d_forward",
    "binary_linear_forward",
    "mean_magnitude",
    "pack_binary_weight",
    "pack_signs",
    "pack_ternary_weight",
    "ternarize_forward",
    "ternary_conv2d_forward",
    "ternary_linear_forward",
    "ternary_scale",
]

_ZERO, _SMALLEST = np.float32(0), np.float32(SMALLEST_SCALE)


def mean_magnitude(x: Any, axis: int | None) -> DeviceArray:
    """Mean of |x|, 0-d or per index of `axis` (C,), and never 0: the scale of signs that fits x best."""
    on_device("mean_magnitude", x)
    return _fitted(x, 0.0, axis, False)[1]


def ternary_scale(x: Any, factor: float, axis: int | None) -> tuple[DeviceArray, DeviceArray]:
    """(threshold, scale) of ternary values for x, both 0-d or per index of `axis` (C,).

    threshold = factor * mean |x|; scale is the mean of |x| above it.
    """
    on_device("ternary_scale", x)
    return _fitted(x, factor, axis, True)


def binarize_forward(x: Any, scale: Any, axis: int | None) -> DeviceArray:
    """scale where x >= 0, else -scale. scale: 0-d, or (C,) along `axis`."""
    on_device("binarize", x, scale)
    y = empty(x.shape)
    sizes = scale.size, _after(x.shape, axis), y.size
    launch(_binarize, y.size, flat(y), flat(dense(x)), flat(dense(scale)), *sizes)
    return y


binarize_backward = with_numbers(
    reference.binarize_backward, lambda grad, x, limit, _: grad if -limit <= x <= limit else _ZERO
)


def ternarize_forward(x: Any, threshold: Any, scale: Any, axis: int | None) -> DeviceArray:
    """scale where x > threshold, -scale where x < -threshold, else 0. Both 0-d, or (C,) along `axis`."""
    on_device("ternarize", x, threshold, scale)
    y = empty(x.shape)
    parts = flat(dense(threshold)), flat(dense(scale)), scale.size, _after(x.shape, axis)
    launch(_ternarize, y.size, flat(y), flat(dense(x)), *parts, y.size)
    return y


def pack_signs(x: Any) -> DeviceArray:
    """The signs of the last dimension as bits: (..., K) -> (..., ceil(K / 64)) uint64, lowest bit first."""
    on_device("pack_signs", x)
    depth = x.shape[-1]
    words = empty((*x.shape[:-1], -(-depth // WORD)), np.uint64)
    launch(_pack, words.size, flat(words), flat(dense(x)), depth, max(words.shape[-1], 1), words.size)
    return words


def pack_binary_weight(weight: Any) -> DeviceArray:
    """Signs of (O, K), or of (O, C, kh, kw) tap after tap, in panels: (panels, words, PANEL) uint64."""
    panels = _panels([_words(weight)])
    return panels.view((panels.shape[0], panels.shape[1], PANEL), None)


def pack_ternary_weight(weight: Any) -> DeviceArray:
    """Signs and places of what is not 0, as in `pack_binary_weight`: (panels, words, 2, PANEL) uint64."""
    return _panels([_words(weight), _words(where(ne(weight, 0), 1, -1))])


def binary_linear_forward(x: Any, weight_bits: Any, start: Any, factor: Any) -> DeviceArray:
    """The signs of x times binary weights: (start - 2 * how many signs differ) * factor.

    x (..., K); weight_bits: of (O, K), see `pack_binary_weight`; start (O,) int32; factor (O,) float32.
    """
    return _linear("binary_linear", x, weight_bits, start, factor, 1)


def ternary_linear_forward(x: Any, weight_bits: Any, start: Any, factor: Any) -> DeviceArray:
    """The same for ternary weights; start: how many weights of the output are not 0, and its bias."""
    return _linear("ternary_linear", x, weight_bits, start, factor, 2)


def binary_conv2d_forward(
    x: Any,
    weight_bits: Any,
    start: Any,
    factor: Any,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
) -> DeviceArray:
    """The signs of x (N, C, H, W) convolved with binary weights; padding is 0, no sign: it adds nothing.

    weight_bits: of (O, C, kh, kw); start (O,) int32: C kh kw, and a bias in whole steps; factor (O,) float32.
    """
    window = kernel_size, stride, padding, dilation
    return _convolved("binary_conv2d", x, weight_bits, start, factor, window, 1)


def ternary_conv2d_forward(
    x: Any,
    weight_bits: Any,
    start: Any,
    factor: Any,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
) -> DeviceArray:
    """The same for ternary weights; start: how many weights of the output are not 0, and its bias."""
    window = kernel_size, stride, padding, dilation
    return _convolved("ternary_conv2d", x, weight_bits, start, factor, window, 2)


def _after(shape: tuple[int, ...], axis: int | None) -> int:
    """How many elements lie between neighbours along `axis`."""
    return max(math.prod(shape[axis % len(shape) + 1 :]), 1) if axis is not None else 1


def _fitted(
    x: DeviceArray, factor: float, axis: int | None, ternary: bool
) -> tuple[DeviceArray, DeviceArray]:
    shape = () if axis is None else (x.shape[axis],)
    sizes = 1, 1, x.size
    if axis is not None:
        axis %= x.ndim
        sizes = math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])
    threshold, scale = empty(shape), empty(shape)
    options = *halves(factor), ternary, *sizes
    launch_blocks(_fit, (scale.size, 1), THREADS, flat(threshold), flat(scale), flat(dense(x)), *options)
    return threshold, scale


def _words(weight: DeviceArray) -> DeviceArray:
    """(O, words): of a convolution tap after tap."""
    if weight.ndim == 2:
        return pack_signs(weight)
    return reshape(pack_signs(permute(weight, (0, 2, 3, 1))), (weight.shape[0], -1))


def _panels(planes: list[DeviceArray]) -> DeviceArray:
    """(O, words) each -> (panels, words, planes, PANEL); signs count where a second plane has a 1."""
    outputs, words = planes[0].shape
    panels = empty((-(-outputs // PANEL), words, len(planes), PANEL), np.uint64)
    sizes = outputs, words, len(planes), panels.size
    launch(_fill_panels, panels.size, flat(panels), flat(planes[0]), flat(planes[-1]), *sizes)
    return panels


def _linear(op: str, x: Any, weight_bits: Any, start: Any, factor: Any, planes: int) -> DeviceArray:
    on_device(op, x, weight_bits, start, factor)
    bits, outputs = pack_signs(x), factor.size
    y = empty((*x.shape[:-1], outputs))
    arrays = (flat(dense(array)) for array in (bits, weight_bits, start, factor))
    launch(_count_rows, y.size, flat(y), *arrays, outputs, bits.shape[-1], planes, y.size)
    return y


def _convolved(
    op: str, x: Any, weight_bits: Any, start: Any, factor: Any, window: tuple, planes: int
) -> DeviceArray:
    on_device(op, x, weight_bits, start, factor)
    n, channels, *size = x.shape
    out = conv_output_size(size, *window)
    bits, outputs = pack_signs(permute(x, (0, 2, 3, 1))), factor.size
    y = empty((n, outputs, *out))
    geometry = (channels, *size, *out, *(number for pair in window for number in pair))
    arrays = (flat(dense(array)) for array in (bits, weight_bits, start, factor))
    launch(_count_windows, y.size, flat(y), *arrays, geometry, outputs, bits.shape[-1], planes, y.size)
    return y


@device_function
def _pair_of(count):
    """A whole number as a pair of floats."""
    high = np.float32(count)
    return high, np.float32(count - np.int64(high))


@kernel("float32[::1], float32[::1], float32[::1], int64, int64, int64", registers=40)
def _binarize(y, x, scale, scales, after, size):
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        step = scale[i // after % scales]
        y[i] = step if x[i] >= _ZERO else -step


@kernel("float32[::1], float32[::1], float32[::1], float32[::1], int64, int64, int64", registers=40)
def _ternarize(y, x, threshold, scale, scales, after, size):
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        channel, value = i // after % scales, x[i]
        below = -scale[channel] if value < -threshold[channel] else _ZERO
        y[i] = scale[channel] if value > threshold[channel] else below


@kernel(
    "float32[::1], float32[::1], float32[::1], float32, float32, boolean, int64, int64, int64", registers=64
)
def _fit(threshold, scale, x, factor, factor_low, ternary, before, kept, after):
    """Block j: the mean of |x| over channel j; then, if ternary, the mean of what is above the threshold.

    The first pass counts all as above it: the threshold is negative then.
    """
    shared_high = cuda.shared.array(THREADS, np.float32)
    shared_low = cuda.shared.array(THREADS, np.float32)
    shared_count = cuda.shared.array(THREADS, np.int64)
    thread, target = cuda.threadIdx.x, cuda.blockIdx.x
    limit, limit_low = np.float32(-1), _ZERO
    for last in range(2 if ternary else 1):
        total, lost, count = _ZERO, _ZERO, np.int64(0)
        for i in range(thread, before * after, THREADS):
            value = x[(i // after * kept + target) * after + i % after]
            value = -value if value < _ZERO else value
            if value > limit or (value == limit and limit_low < _ZERO):
                total, lost = plus(total, lost, value)
                count += 1
        shared_high[thread], shared_low[thread], shared_count[thread] = total, lost, count
        total, lost = block_pair_sum(shared_high, shared_low, thread)
        count = block_sum(shared_count, thread)
        divisor, divisor_low = _pair_of(max(count, np.int64(1)))
        mean, mean_low = divide(total, lost, divisor, divisor_low)
        if last == 0:
            limit, limit_low = times(mean, mean_low, factor, factor_low)
    if thread == 0:
        threshold[target] = limit
        scale[target] = mean if mean > _SMALLEST else _SMALLEST


@kernel("uint64[::1], float32[::1], int64, int64, int64", registers=40)
def _pack(words, x, depth, count, size):
    """One thread a word; bits behind the last sign are 0."""
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        first, word = e % count * 64, np.uint64(0)
        row = e // count * depth
        for k in range(first, min(first + 64, depth)):
            if x[row + k] >= 0:
                word |= np.uint64(1) << np.uint64(k - first)
        words[e] = word


@kernel("uint64[::1], uint64[::1], uint64[::1], int64, int64, int64, int64", registers=40)
def _fill_panels(panels, signs, counted, outputs, words, planes, size):
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        lane, plane = e % PANEL, e // PANEL % planes
        word, output = e // (PANEL * planes) % words, e // (PANEL * planes * words) * PANEL + lane
        value = np.uint64(0)
        if output < outputs:
            place = output * words + word
            value = counted[place] if plane == 1 else signs[place] & counted[place]
        panels[e] = value


@device_function
def _differing(a, panels, place, planes):
    """How many signs of word a differ from the weights', of those that count."""
    differ = a ^ panels[place]
    if planes == 2:
        differ &= panels[place + PANEL]
    return np.int64(cuda.popc(differ))


@kernel(
    "float32[::1], uint64[::1], uint64[::1], int32[::1], float32[::1], int64, int64, int64, int64",
    registers=48,
)
def _count_rows(y, bits, panels, start, factor, outputs, words, planes, size):
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        output, row, differ = e % outputs, e // outputs, np.int64(0)
        first = output // PANEL * words * planes * PANEL + output % PANEL
        for word in range(words):
            differ += _differing(bits[row * words + word], panels, first + word * planes * PANEL, planes)
        y[e] = np.float32(np.int64(start[output]) - 2 * differ) * factor[output]


@kernel(
    "float32[::1], uint64[::1], uint64[::1], int32[::1], float32[::1], UniTuple(int64, 13), int64, int64, "
    "int64, int64",
    registers=64,
)
def _count_windows(y, bits, panels, start, factor, geometry, outputs, words, planes, size):
    """bits (N, H, W, words). What lies on padding is taken off the start, where it was counted as equal."""
    channels, h, w, out_h, out_w, kh, kw, sh, sw, ph, pw, dh, dw = geometry
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        column, row, output = e % out_w, e // out_w % out_h, e // (out_w * out_h) % outputs
        image, total = e // (out_w * out_h * outputs), np.int64(start[output])
        first = output // PANEL * kh * kw * words * planes * PANEL + output % PANEL
        for tap in range(kh * kw):
            i, j = row * sh - ph + tap // kw * dh, column * sw - pw + tap % kw * dw
            place = first + tap * words * planes * PANEL
            if 0 <= i < h and 0 <= j < w:
                pixel = ((image * h + i) * w + j) * words
                for word in range(words):
                    total -= 2 * _differing(bits[pixel + word], panels, place, planes)
                    place += planes * PANEL
            elif planes == 1:
                total -= channels
            else:
                for _ in range(words):
                    total -= np.int64(cuda.popc(panels[place + PANEL]))
                    place += planes * PANEL
        y[e] = np.float32(total) * factor[output]

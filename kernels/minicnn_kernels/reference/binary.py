"""Binary and ternary values in plain NumPy: signs, their gradients, and products that count bits.

A sign is +1 where x >= 0, else -1 (NaN too), and one bit, set for +1. Of two rows of signs the product is
depth - 2 popcount(a xor b) (Rastegari et al. 2016, XNOR-Net; Courbariaux et al. 2016); a ternary weight has a
second bit that says whether it counts. Sums are whole numbers, so every back end gives the same.

Bits lie in words of 64. Weights lie in panels of PANEL outputs, (panels, words, PANEL), so that a register
holds one word of several outputs; ternary ones have a word of signs and one that says which weights are not
0: (panels, words, 2, PANEL). Of a convolution every tap (kernel row and column) begins with a new word.
"""

from __future__ import annotations

import numpy as np

from minicnn_kernels.reference.conv import conv2d_forward
from minicnn_kernels.reference.quantization import along

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

PANEL = 32
WORD = 64
SMALLEST_SCALE = 2.0**-60  # as that of a lattice: the product of two is still a normal float32


def mean_magnitude(x, axis):
    """Mean of |x|, 0-d or per index of `axis` (C,), and never 0: the scale of signs that fits x best.

    Rastegari et al. 2016, eq. 6.
    """
    mean = np.abs(x).mean(axis=_others(x, axis), dtype=np.float64)
    return np.asarray(np.maximum(mean, SMALLEST_SCALE), x.dtype)


def ternary_scale(x, factor, axis):
    """(threshold, scale) of ternary values for x, both 0-d or per index of `axis` (C,).

    threshold = factor * mean |x|; scale is the mean of |x| above it (Li et al. 2016, eq. 6 and 7).
    """
    size = np.abs(x).astype(np.float64)
    others = _others(x, axis)
    threshold = factor * size.mean(axis=others, keepdims=True)
    kept = size > threshold
    scale = (size * kept).sum(axis=others) / np.maximum(kept.sum(axis=others), 1)
    shape = scale.shape
    return (
        np.asarray(threshold.reshape(shape), x.dtype),
        np.asarray(np.maximum(scale, SMALLEST_SCALE), x.dtype),
    )


def binarize_forward(x, scale, axis):
    """scale where x >= 0, else -scale. scale: 0-d, or (C,) along `axis`."""
    scale = along(scale, x, axis)
    return np.where(x >= 0, scale, -scale)


def binarize_backward(grad, x, limit):
    """Gradient of a sign, straight through: grad where |x| <= limit, else 0.

    Courbariaux et al. 2016, eq. 4.
    """
    return np.where(np.abs(x) <= limit, grad, np.zeros((), grad.dtype))


def ternarize_forward(x, threshold, scale, axis):
    """scale where x > threshold, -scale where x < -threshold, else 0. Both 0-d, or (C,) along `axis`."""
    threshold, scale = along(threshold, x, axis), along(scale, x, axis)
    return np.where(x > threshold, scale, np.where(x < -threshold, -scale, np.zeros((), x.dtype)))


def pack_signs(x):
    """The signs of the last dimension as bits: (..., K) -> (..., ceil(K / 64)) uint64, lowest bit first.

    Bits behind the last sign are 0.
    """
    bits = np.packbits(x >= 0, axis=-1, bitorder="little")
    missing = -bits.shape[-1] % 8
    bits = np.pad(bits, [(0, 0)] * (x.ndim - 1) + [(0, missing)])
    return np.ascontiguousarray(bits).view("<u8").astype(np.uint64)


def pack_binary_weight(weight):
    """Signs of (O, K), or of (O, C, kh, kw) tap after tap, in panels: (panels, words, PANEL) uint64."""
    return _panels(_words(weight))


def pack_ternary_weight(weight):
    """Signs and places of what is not 0, as in `pack_binary_weight`: (panels, words, 2, PANEL) uint64."""
    counted = _words(np.where(weight != 0, 1, -1))
    signs = _words(weight) & counted
    return np.stack([_panels(signs), _panels(counted)], axis=2)


def binary_linear_forward(x, weight_bits, start, factor):
    """The signs of x times binary weights: (start - 2 * how many signs differ) * factor.

    x (..., K); weight_bits: of (O, K), see `pack_binary_weight`; start (O,) int32: K, and a bias in whole
    steps; factor (O,): the type of the result (..., O).
    """
    bits = pack_signs(x)
    differ = np.bitwise_count(bits[..., None, :] ^ _rows(weight_bits, len(factor))).sum(
        axis=-1, dtype=np.int32
    )
    return (start - 2 * differ).astype(factor.dtype) * factor


def ternary_linear_forward(x, weight_bits, start, factor):
    """The same for ternary weights; start: how many weights of the output are not 0, and its bias."""
    bits = pack_signs(x)[..., None, :]
    signs, counted = (_rows(weight_bits[:, :, plane], len(factor)) for plane in (0, 1))
    differ = np.bitwise_count((bits ^ signs) & counted).sum(axis=-1, dtype=np.int32)
    return (start - 2 * differ).astype(factor.dtype) * factor


def binary_conv2d_forward(x, weight_bits, start, factor, kernel_size, stride, padding, dilation):
    """The signs of x convolved with binary weights; padding is 0, no sign: it adds nothing.

    x (N, C, H, W); weight_bits: of (O, C, kh, kw), see `pack_binary_weight`; start (O,) int32: C kh kw, and a
    bias in whole steps; factor (O,). Result (N, O, H', W') in the type of factor.
    """
    ones = np.full(len(factor), x.shape[1] * kernel_size[0] * kernel_size[1])
    weight = _unpacked(weight_bits, x.shape[1], kernel_size, len(factor))
    return _convolved(x, weight, start - ones, factor, stride, padding, dilation)


def ternary_conv2d_forward(x, weight_bits, start, factor, kernel_size, stride, padding, dilation):
    """The same for ternary weights; start: how many weights of the output are not 0, and its bias."""
    signs, counted = (
        _unpacked(weight_bits[:, :, plane], x.shape[1], kernel_size, len(factor)) for plane in (0, 1)
    )
    weight = np.where(counted > 0, signs, 0)
    bias = start - (weight != 0).sum(axis=(1, 2, 3))
    return _convolved(x, weight, bias, factor, stride, padding, dilation)


def _convolved(x, weight, bias, factor, stride, padding, dilation):
    signs = np.where(x >= 0, 1.0, -1.0)  # in float64: whole numbers, exact
    acc = conv2d_forward(signs, weight.astype(np.float64), bias, stride, padding, dilation, 1)
    return acc.astype(factor.dtype) * factor[:, None, None]


def _words(weight):
    """(O, words): of a convolution tap after tap."""
    if weight.ndim == 2:
        return pack_signs(weight)
    return pack_signs(weight.transpose(0, 2, 3, 1)).reshape(len(weight), -1)


def _panels(words):
    """(O, words) -> (panels, words, PANEL), zeros behind the last output."""
    padded = np.pad(words, ((0, -len(words) % PANEL), (0, 0)))
    return np.ascontiguousarray(padded.reshape(-1, PANEL, words.shape[1]).transpose(0, 2, 1))


def _rows(panels, outputs):
    """(panels, words, PANEL) -> (O, words)."""
    return panels.transpose(0, 2, 1).reshape(-1, panels.shape[1])[:outputs]


def _unpacked(panels, channels, kernel_size, outputs):
    """Signs (O, C, kh, kw) as +1 and -1."""
    words = _rows(panels, outputs).reshape(outputs, *kernel_size, -1)
    octets = np.ascontiguousarray(words.astype("<u8")).view(np.uint8)
    bits = np.unpackbits(octets, axis=-1, bitorder="little")[..., :channels]
    return np.where(bits == 1, 1, -1).transpose(0, 3, 1, 2)


def _others(x, axis):
    """All dimensions but `axis`; all if it is None."""
    return None if axis is None else tuple(i for i in range(x.ndim) if i != axis)

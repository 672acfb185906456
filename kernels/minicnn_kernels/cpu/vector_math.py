"""Transcendental functions of float32 without branches or calls, so that loops over them vectorize.

Numba calls the C library's scalar exp, about 4 ns; these cost about 1 ns and less, as NumPy's do.
"""

from __future__ import annotations

import numpy as np

from minicnn_kernels.cpu.compiler import kernel

_f32, _i32 = np.float32, np.int32


@kernel
def exp(x):
    """e to the power x, relative error below 1e-7.

    Cephes' expf: x = n log 2 + r, a polynomial in r, times 2^n. Overflows to infinity, underflows
    through the denormal numbers to 0, keeps NaN.
    """
    x = _f32(-104) if x < _f32(-104) else x
    x = _f32(89) if x > _f32(89) else x
    # Adding 1.5 * 2^23 rounds to a whole number and leaves that number in the low bits: no float-to-int
    # conversion, which has no defined result for NaN.
    shifted = _f32(x * _f32(1.44269504) + _f32(12582912))
    n = shifted - _f32(12582912)
    r = x - n * _f32(0.693359375) - n * _f32(-2.12194440e-4)
    y = _f32(1.9875691500e-4)
    y = y * r + _f32(1.3981999507e-3)
    y = y * r + _f32(8.3334519073e-3)
    y = y * r + _f32(4.1665795894e-2)
    y = y * r + _f32(1.6666665459e-1)
    y = y * r + _f32(5.0000001201e-1)
    y = y * (r * r) + r + _f32(1)
    power = _i32(shifted.view(np.int32) - _i32(0x4B400000))
    half = _i32(power >> _i32(1))  # 2^n in two steps: 2^128 and 2^-150 are no float32
    return y * _two_to_the(half) * _two_to_the(_i32(power - half))


@kernel
def _two_to_the(n):
    return _i32((n + _i32(127)) << _i32(23)).view(np.float32)


@kernel
def sigmoid(x):
    """1 / (1 + exp(-x))."""
    return _f32(1) / (_f32(1) + exp(-x))


@kernel
def tanh(x):
    """1 - 2 / (1 + exp(2 x)), absolute error below 1e-7."""
    return _f32(1) - _f32(2) / (_f32(1) + exp(_f32(2) * x))


@kernel
def normal(x):
    """(Phi(x), exp(-x^2 / 2)): the normal distribution to 1e-7 (Abramowitz and Stegun 1964, 7.1.26)."""
    bell = exp(_f32(-0.5) * x * x)
    distance = -x if x < 0 else x
    t = _f32(1) / (_f32(1) + _f32(0.3275911 * 0.5**0.5) * distance)
    tail = _f32(1.061405429)
    tail = tail * t + _f32(-1.453152027)
    tail = tail * t + _f32(1.421413741)
    tail = tail * t + _f32(-0.284496736)
    tail = _f32(0.5) * (tail * t + _f32(0.254829592)) * t * bell
    return (tail if x < 0 else _f32(1) - tail), bell


@kernel
def largest(x):
    """Maximum of a contiguous row, -inf if it is empty; NaN if it holds one (unless its sign bit is set).

    Compared as whole numbers, whose order is that of floats once the negative ones are reversed: a
    maximum of floats vectorizes only if NaN may be ignored.
    """
    bits = x.view(np.int32)
    top = _i32(-2139095041)  # -inf
    for i in range(bits.size):
        value = bits[i]
        key = _i32(value ^ _i32(_i32(value >> _i32(31)) & _i32(0x7FFFFFFF)))
        top = key if key > top else top
    return _i32(top ^ _i32(_i32(top >> _i32(31)) & _i32(0x7FFFFFFF))).view(np.float32)

"""Integer kernels: the reference against sums in int64, the cpu against the reference, bit for bit."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from hypothesis import given
from integer_cases import convolutions, linears

import minicnn_kernels as kernels
from minicnn_kernels.integer_calls import PROGRAM_KERNELS, IntegerCall, Slot

cpu, reference = kernels.backend("cpu"), kernels.backend("reference")
every_backend = pytest.mark.parametrize("backend", [reference, cpu], ids=["reference", "cpu"])


@pytest.fixture(autouse=True)
def _poisoned_pool():
    previous = kernels.memory.poison(True)
    yield
    kernels.memory.poison(previous)


def assert_equal(actual, expected):
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    np.testing.assert_array_equal(actual, expected)


def requantized(acc, factor, y_zero, qmin, qmax):
    """Of sums (..., O) in int64."""
    y = acc.astype(np.float32) * factor
    return (
        y if y_zero is None else np.clip(np.rint(y).astype(np.float64) + y_zero, qmin, qmax).astype(np.uint8)
    )


@given(arguments=linears())
def test_linear_is_requantized_sums_of_int64(arguments):
    x, weight, bias, factor, x_zero, *lattice = arguments
    acc = (x.astype(np.int64) - x_zero) @ weight.astype(np.int64).T + (0 if bias is None else bias)
    assert_equal(reference.integer_linear_forward(*arguments), requantized(acc, factor, *lattice))


@given(arguments=convolutions())
def test_convolution_is_requantized_sums_of_int64(arguments):
    x, weight, bias, factor, x_zero, *lattice, stride, padding, dilation, groups, pool = arguments
    steps = x.astype(np.int64) - x_zero
    padded = np.pad(steps, ((0, 0), (0, 0), *((p, p) for p in padding)))
    (kh, kw), (sh, sw), (dh, dw) = weight.shape[2:], stride, dilation
    out_h, out_w = (
        (n - d * (k - 1) - 1) // s + 1
        for n, k, s, d in zip(padded.shape[2:], (kh, kw), stride, dilation, strict=True)
    )
    acc = np.zeros((len(x), out_h, out_w, len(weight)), np.int64)
    for o in range(len(weight)):
        start = o // (len(weight) // groups) * weight.shape[1]
        for c in range(weight.shape[1]):
            for i in range(kh):
                for j in range(kw):
                    plane = padded[:, start + c, i * dh :: sh, j * dw :: sw][:, :out_h, :out_w]
                    acc[..., o] += plane * int(weight[o, c, i, j])
    y = requantized(acc + (0 if bias is None else bias), factor, *lattice).transpose(0, 3, 1, 2)
    if pool is not None:
        windows = np.lib.stride_tricks.sliding_window_view(y, pool[0], axis=(2, 3))
        y = windows[:, :, :: pool[1][0], :: pool[1][1]].max(axis=(4, 5))
    assert_equal(reference.integer_conv2d_forward(*arguments), y)


def test_program_kernels_are_kernels_of_every_back_end():
    for name in set(PROGRAM_KERNELS) - {"concatenate"}:
        for backend in (reference, cpu):
            assert inspect.isfunction(getattr(backend, name)), name


X = np.arange(24, dtype=np.uint8).reshape(1, 2, 3, 4)
TABLE = np.arange(255, -1, -1).astype(np.uint8)


@every_backend
def test_a_program_is_its_calls_one_by_one(backend):
    half = np.float32(0.5)
    calls = [
        IntegerCall("quantize", (Slot(0), half, np.int32(3), 0, 255, None, np.uint8), 1),
        IntegerCall("integer_lookup", (Slot(1), TABLE), 2),
        IntegerCall("concatenate", ([Slot(1), Slot(2)], 1), 3),
        IntegerCall("flatten", (Slot(3),), 4),
        IntegerCall("dequantize", (Slot(4), half, np.int32(3), None), 5),
    ]
    x = X.astype(np.float32)
    y, middle = backend.IntegerProgram(calls, [0], [5, 2])(x)
    q = np.clip(2 * X.astype(int) + 3, 0, 255)
    assert_equal(middle, (255 - q).astype(np.uint8))
    assert_equal(y, ((np.concatenate([q, 255 - q], 1) - 3) * half).reshape(1, -1).astype(np.float32))


@every_backend
@pytest.mark.parametrize(
    ("call", "outputs", "message"),
    [
        (IntegerCall("conv", (), 1), [1], "call 0: no kernel 'conv' for a program: expected one of concat"),
        (
            IntegerCall("flatten", (Slot(7),), 1),
            [1],
            "call 0, flatten: value 7 is read before it is computed",
        ),
        (IntegerCall("concatenate", ([Slot(0), Slot(7)], 1), 1), [1], "value 7 is read before"),
        (IntegerCall("flatten", (Slot(0),), 0), [0], "call 0, flatten: value 0 is there already"),
        (IntegerCall("flatten", (Slot(0),), 1), [2], "output 2 is no value of the program"),
    ],
)
def test_calls_that_are_no_program_are_refused(backend, call, outputs, message):
    with pytest.raises(ValueError, match=message):
        backend.IntegerProgram([call], [0], outputs)


@every_backend
def test_a_program_says_how_many_arrays_it_takes(backend):
    with pytest.raises(ValueError, match="the program takes 1 arrays, got 2"):
        backend.IntegerProgram([IntegerCall("flatten", (Slot(0),), 1)], [0], [1])(X, X)

"""Products of signs, binary and ternary: the reference against plain sums, the cpu against the reference."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from minicnn_kernels import cpu, reference, set_threads

BACKENDS = [reference, cpu]
LINEAR = [(1, 5, 3), (3, 64, 32), (7, 200, 33), (66, 130, 70)]  # rows, depth, outputs
CONV = [  # images, channels, outputs, height, width, kernel, stride, padding, dilation
    (2, 3, 5, 7, 8, (3, 3), (1, 1), (1, 1), (1, 1)),
    (1, 70, 40, 9, 6, (3, 2), (2, 1), (1, 0), (1, 1)),
    (3, 64, 32, 8, 8, (5, 5), (1, 1), (2, 2), (1, 1)),
    (2, 33, 33, 8, 9, (3, 3), (1, 2), (2, 3), (2, 1)),
    (1, 128, 64, 6, 6, (1, 1), (1, 1), (0, 0), (1, 1)),
]


def signs(x):
    return np.where(x >= 0, 1.0, -1.0)


def ternary(weight):
    return np.where(np.abs(weight) > 0.5, np.sign(weight), 0).astype(np.float32)


def images(rng, *shape):
    """Channels-last, as the back end holds them; some of them 0, -0 and NaN."""
    n, c, h, w = shape
    x = rng.standard_normal((n, h, w, c)).astype(np.float32).transpose(0, 3, 1, 2)
    x.reshape(-1)[:3] = 0.0, -0.0, np.nan
    return x


def bound(kernel, bits, start, factor, *rest):
    return lambda x: kernel(x, bits, start, factor, *rest)


@pytest.mark.parametrize("backend", BACKENDS, ids=["reference", "cpu"])
@pytest.mark.parametrize(("rows", "depth", "outputs"), LINEAR)
@pytest.mark.parametrize("kind", ["binary", "ternary"])
def test_dense_products_count_what_sums_say(backend, kind, rows, depth, outputs, rng):
    x = rng.standard_normal((rows, depth)).astype(np.float32)
    x[0, :3] = 0.0, -0.0, np.nan
    weight = rng.standard_normal((outputs, depth)).astype(np.float32)
    weight = ternary(weight) if kind == "ternary" else weight
    bias = rng.integers(-9, 9, outputs).astype(np.int32)
    factor = rng.random(outputs).astype(np.float32)
    exact = weight if kind == "ternary" else signs(weight)
    start = ((weight != 0).sum(axis=1) if kind == "ternary" else depth) + bias
    bits = getattr(backend, f"pack_{kind}_weight")(weight)
    y = getattr(backend, f"{kind}_linear_forward")(x, bits, start.astype(np.int32), factor)
    expected = (signs(x) @ exact.T.astype(np.float64) + bias).astype(np.float32) * factor
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("backend", BACKENDS, ids=["reference", "cpu"])
@pytest.mark.parametrize("case", CONV, ids=str)
@pytest.mark.parametrize("kind", ["binary", "ternary"])
def test_convolutions_count_what_sums_say_and_padding_adds_nothing(backend, kind, case, rng):
    n, channels, outputs, height, width, kernel_size, stride, padding, dilation = case
    x = images(rng, n, channels, height, width)
    weight = rng.standard_normal((outputs, channels, *kernel_size)).astype(np.float32)
    weight = ternary(weight) if kind == "ternary" else weight
    bias = rng.integers(-9, 9, outputs).astype(np.int32)
    factor = rng.random(outputs).astype(np.float32)
    exact = (weight if kind == "ternary" else signs(weight)).astype(np.float64)
    count = (exact != 0).sum(axis=(1, 2, 3)).astype(np.int32)
    bits = getattr(backend, f"pack_{kind}_weight")(weight)
    run = getattr(backend, f"{kind}_conv2d_forward")
    y = run(x, bits, count + bias, factor, kernel_size, stride, padding, dilation)
    acc = reference.conv2d_forward(signs(x), exact, bias, stride, padding, dilation, 1)
    np.testing.assert_array_equal(y, acc.astype(np.float32) * factor[:, None, None])


def test_packed_signs_are_bits_from_the_lowest_on(rng):
    x = np.array([[1, -1, 0, np.nan] + [-1] * 60 + [2, -2]], np.float32)
    for backend in BACKENDS:
        np.testing.assert_array_equal(backend.pack_signs(x), [[0b101, 0b1]])
    x = rng.standard_normal((70, 3, 83)).astype(np.float32)
    np.testing.assert_array_equal(cpu.pack_signs(x), reference.pack_signs(x))


def test_leading_dimensions_and_other_layouts_are_served(rng):
    x = rng.standard_normal((4, 70, 3)).astype(np.float32).transpose(0, 2, 1)
    weight = rng.standard_normal((9, 70)).astype(np.float32)
    rest = reference.pack_binary_weight(weight), np.full(9, 70, np.int32), np.ones(9, np.float32)
    y = cpu.binary_linear_forward(x, *rest)
    np.testing.assert_array_equal(y, reference.binary_linear_forward(np.ascontiguousarray(x), *rest))
    assert cpu.binary_linear_forward(x[:0], *rest).shape == (0, 3, 9)


def test_bits_do_not_depend_on_threads(rng):
    x, weight = rng.standard_normal((130, 100)).astype(np.float32), rng.standard_normal((70, 100))
    rest = reference.pack_binary_weight(weight), np.full(70, 100, np.int32), np.ones(70, np.float32)
    set_threads(1)
    alone = cpu.binary_linear_forward(x, *rest)
    set_threads(2)
    np.testing.assert_array_equal(cpu.binary_linear_forward(x, *rest), alone)


@pytest.mark.parametrize("axis", [0, 1, None])
@pytest.mark.parametrize("memory", ["C", "channel innermost"])
def test_signs_and_scales_equal_the_reference(axis, memory, rng):
    x = rng.standard_normal((37, 50)).astype(np.float32)
    x[0, :3] = 0.0, -0.0, np.nan
    if memory == "channel innermost":
        x = np.ascontiguousarray(x.T).T
    clean = np.nan_to_num(x)
    scale = cpu.mean_magnitude(clean, axis)
    np.testing.assert_allclose(scale, reference.mean_magnitude(clean, axis), rtol=1e-6)
    threshold, kept = cpu.ternary_scale(clean, 0.7, axis)
    expected = reference.ternary_scale(clean, 0.7, axis)
    np.testing.assert_allclose((threshold, kept), expected, rtol=1e-6)
    assert scale.dtype == threshold.dtype == kept.dtype == np.float32
    np.testing.assert_array_equal(
        cpu.binarize_forward(x, scale, axis), reference.binarize_forward(x, scale, axis)
    )
    values = cpu.ternarize_forward(x, threshold, kept, axis)
    np.testing.assert_array_equal(values, reference.ternarize_forward(x, threshold, kept, axis))
    assert not np.signbit(values[values == 0]).any()
    grad = rng.standard_normal(x.shape).astype(np.float32)
    np.testing.assert_array_equal(
        cpu.binarize_backward(grad, x, 0.5), reference.binarize_backward(grad, x, 0.5)
    )


def test_scales_are_those_of_the_articles():
    x = np.array([[1.0, -2.0, 3.0, -0.1], [0.0, 0.0, 0.0, 0.0]])
    np.testing.assert_allclose(reference.mean_magnitude(x, 0), [1.525, 2.0**-60])
    threshold, scale = reference.ternary_scale(x, 0.7, 0)
    np.testing.assert_allclose(threshold, [0.7 * 1.525, 0])
    np.testing.assert_allclose(scale, [2.5, 2.0**-60])
    np.testing.assert_array_equal(
        reference.ternarize_forward(x[0], np.array(1.1), np.array(2.5), None), [0, -2.5, 2.5, 0]
    )


PROGRAM = """
import numpy as np
from minicnn_kernels import cpu, reference
rng = np.random.default_rng(0)
x, w = rng.standard_normal((6, 83), np.float32), rng.standard_normal((37, 83), np.float32)
for kind in ("binary", "ternary"):
    w = np.where(np.abs(w) > 0.5, w, 0) if kind == "ternary" else w
    start = np.full(37, 83, np.int32) if kind == "binary" else (w != 0).sum(axis=1).astype(np.int32)
    rest = getattr(reference, f"pack_{kind}_weight")(w), start, np.ones(37, np.float32)
    name = f"{kind}_linear_forward"
    np.testing.assert_array_equal(getattr(cpu, name)(x, *rest), getattr(reference, name)(x, *rest))
images, taps = rng.standard_normal((2, 5, 6, 7), np.float32), rng.standard_normal((33, 5, 3, 3), np.float32)
window = (3, 3), (1, 1), (1, 1), (1, 1)
rest = reference.pack_binary_weight(taps), np.full(33, 45, np.int32), np.ones(33, np.float32), *window
y, expected = (k.binary_conv2d_forward(images, *rest) for k in (cpu, reference))
np.testing.assert_array_equal(y, expected)
rows = reference.to_sparse_rows(np.where(np.abs(taps) > 1, taps, 0))
y, expected = (k.sparse_conv2d_forward(images, *rows, None, *window, 1) for k in (cpu, reference))
np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)
"""


@pytest.mark.slow  # both compile everything anew
@pytest.mark.parametrize("tiles", ["plain", "8"])
def test_other_machines_compute_the_same(tiles):
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "MINICNN_TILES": tiles},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr

"""Sparse layers: rows of what is not 0 give what dense weights give."""

from __future__ import annotations

import numpy as np
import pytest

from minicnn_kernels import cpu, reference, set_threads

LINEAR = [(1, 5, 3), (9, 70, 33), (70, 130, 40)]  # rows, depth, outputs
CONV = [  # images, channels, outputs, height, width, kernel, stride, padding, dilation, groups
    (2, 3, 5, 7, 8, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    (1, 16, 40, 14, 14, (3, 3), (1, 1), (1, 1), (1, 1), 2),
    (2, 20, 64, 9, 9, (5, 3), (1, 1), (2, 0), (1, 1), 1),
    (1, 4, 4, 8, 6, (3, 3), (1, 1), (0, 0), (2, 1), 1),
    (1, 4, 6, 8, 7, (3, 3), (2, 1), (1, 1), (1, 1), 1),
]


def mostly_zeros(rng, *shape):
    weight = rng.standard_normal(shape).astype(np.float32)
    weight[rng.random(shape) < 0.8] = 0
    weight[0] = 0  # a row without anything
    return weight


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert actual.dtype == np.float32


@pytest.mark.parametrize("backend", [reference, cpu], ids=["reference", "cpu"])
@pytest.mark.parametrize(("rows", "depth", "outputs"), LINEAR)
def test_a_dense_layer_by_rows(backend, rows, depth, outputs, rng):
    x, weight = rng.standard_normal((rows, depth)).astype(np.float32), mostly_zeros(rng, outputs, depth)
    bias = rng.standard_normal(outputs).astype(np.float32)
    sparse = backend.to_sparse_rows(weight)
    close(backend.sparse_linear_forward(x, *sparse, bias), x @ weight.T + bias)
    close(backend.sparse_linear_forward(x[None], *sparse, None), (x @ weight.T)[None])


@pytest.mark.parametrize("backend", [reference, cpu], ids=["reference", "cpu"])
@pytest.mark.parametrize("case", CONV, ids=str)
def test_a_convolution_by_rows(backend, case, rng):
    n, channels, outputs, height, width, kernel_size, *geometry = case
    x = rng.standard_normal((n, height, width, channels)).astype(np.float32).transpose(0, 3, 1, 2)
    weight = mostly_zeros(rng, outputs, channels // geometry[-1], *kernel_size)
    bias = rng.standard_normal(outputs).astype(np.float32)
    expected = reference.conv2d_forward(x, weight, bias, *geometry)
    sparse = backend.to_sparse_rows(weight)
    close(backend.sparse_conv2d_forward(x, *sparse, bias, kernel_size, *geometry), expected)


def test_rows_hold_what_is_not_zero_and_nothing_else():
    weight = np.array([[0, 2, -0.0, 3], [0, 0, 0, 0], [5, 0, 0, 0]], np.float32)
    values, columns, starts = reference.to_sparse_rows(weight)
    assert values.tolist() == [2, 3, 5]
    assert columns.tolist() == [1, 3, 0]
    assert starts.tolist() == [0, 2, 2, 3]


def test_empty_batches_and_weights_of_zeros_are_served():
    sparse = reference.to_sparse_rows(np.zeros((3, 4), np.float32))
    bias = np.arange(3, dtype=np.float32)
    assert cpu.sparse_linear_forward(np.zeros((0, 4), np.float32), *sparse, bias).shape == (0, 3)
    np.testing.assert_array_equal(
        cpu.sparse_linear_forward(np.ones((9, 4), np.float32), *sparse, bias)[8], bias
    )


def test_bits_do_not_depend_on_threads(rng):
    x, weight = rng.standard_normal((130, 60)).astype(np.float32), mostly_zeros(rng, 70, 60)
    sparse = reference.to_sparse_rows(weight)
    set_threads(1)
    alone = cpu.sparse_linear_forward(x, *sparse, None)
    set_threads(2)
    np.testing.assert_array_equal(cpu.sparse_linear_forward(x, *sparse, None), alone)

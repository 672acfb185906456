"""The compiled matrix products against the reference, over drawn shapes, strides and thread counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minicnn_kernels as kernels
from minicnn_kernels.algorithms import using

cpu, reference = kernels.backend("cpu"), kernels.backend("reference")
SIZES = st.one_of(st.integers(0, 5), st.sampled_from([7, 10, 16, 17, 31, 33, 48, 64, 100, 130]))


@pytest.fixture(autouse=True)
def _poisoned_pool():
    previous = kernels.memory.poison(True)
    yield
    kernels.memory.poison(previous)


@st.composite
def matrices(draw, rows, columns):
    """A float32 matrix (rows, columns) in one of the memory orders that views have."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    order = draw(st.sampled_from(["rows", "columns", "reversed", "strided"]))
    if order == "columns":
        return rng.standard_normal((columns, rows), np.float32).T
    if order == "reversed":
        return rng.standard_normal((rows, columns), np.float32)[::-1, ::-1]
    if order == "strided":
        return rng.standard_normal((2 * rows, 3 * columns), np.float32)[::2, ::3]
    return rng.standard_normal((rows, columns), np.float32)


def assert_product(actual, expected):
    assert actual.dtype == np.float32
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max(initial=1))


def on_any_thread_count(function):
    """What `function` returns, after asserting that one thread, two, and a second call give the same bits."""
    threads = kernels.get_threads()
    try:
        kernels.set_threads(1)
        single = function()
        kernels.set_threads(min(2, kernels.threads.available_cores()))
        for _ in range(2):
            np.testing.assert_array_equal(function(), single)
    finally:
        kernels.set_threads(threads)
    return single


@given(data=st.data(), rows=SIZES, depth=SIZES, columns=SIZES)
@settings(max_examples=150, deadline=None)
def test_products_of_any_shape_and_stride_equal_the_reference(data, rows, depth, columns):
    a, b = data.draw(matrices(rows, depth)), data.draw(matrices(depth, columns))
    expected = reference.matmul(a.astype(np.float64), b.astype(np.float64))
    assert_product(on_any_thread_count(lambda: cpu.matmul(a, b)), expected)


@given(data=st.data(), rows=SIZES, inputs=SIZES, outputs=SIZES)
@settings(max_examples=100, deadline=None)
def test_the_dense_layer_and_its_gradients_equal_the_reference(data, rows, inputs, outputs):
    x, weight = data.draw(matrices(rows, inputs)), data.draw(matrices(outputs, inputs))
    grad, bias = data.draw(matrices(rows, outputs)), np.arange(outputs, dtype=np.float32)
    arrays = {"x": x, "weight": weight, "grad": grad, "bias": bias}
    for kernel, names in {
        "linear_forward": ("x", "weight", "bias"),
        "linear_backward_input": ("grad", "weight"),
        "linear_backward_weight": ("grad", "x"),
        "linear_backward_bias": ("grad",),
    }.items():
        arguments = [arrays[name] for name in names]
        expected = getattr(reference, kernel)(*(array.astype(np.float64) for array in arguments))
        actual = on_any_thread_count(lambda k=kernel, a=arguments: getattr(cpu, k)(*a))
        assert_product(actual, expected)


@pytest.mark.parametrize("shape", [(3000, 70, 40), (40, 3000, 70), (64, 3136, 128), (64, 128, 3136)])
def test_large_products_are_split_without_a_trace(shape):
    rows, depth, columns = shape
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((rows, depth), np.float32), rng.standard_normal((depth, columns), np.float32)
    expected = a.astype(np.float64) @ b
    assert_product(on_any_thread_count(lambda: cpu.matmul(a, b)), expected)
    transposed = np.ascontiguousarray(b.T).T
    assert_product(on_any_thread_count(lambda: cpu.matmul(a, transposed)), expected)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((4,), (4,)),
        ((4,), (4, 3)),
        ((2, 4), (4,)),
        ((5, 2, 4), (4, 3)),
        ((5, 2, 4), (5, 4, 3)),
        ((5, 1, 2, 4), (6, 4, 3)),
        ((2, 4), (5, 4, 3)),
        ((0, 2, 4), (4, 3)),
        ((5, 2, 4), (4,)),
    ],
)
def test_matmul_follows_numpys_rules_for_vectors_and_batches(left, right):
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal(left, np.float32), rng.standard_normal(right, np.float32)
    product = cpu.matmul(a, b)
    assert isinstance(product, np.ndarray)
    assert_product(product, np.asarray(np.matmul(a, b)))


def test_shapes_that_do_not_fit_are_numpys_error():
    with pytest.raises(ValueError, match="mismatch"):
        cpu.matmul(np.ones((2, 3), np.float32), np.ones((2, 3), np.float32))


def test_leading_dimensions_of_the_dense_layer_are_kept():
    x, weight = np.ones((2, 5, 3), np.float32), np.ones((4, 3), np.float32)
    assert cpu.linear_forward(x, weight, None).shape == (2, 5, 4)
    assert cpu.linear_forward(x[0, 0], weight, None).shape == (4,)


def test_not_a_number_and_infinity_pass_through():
    a, b = np.ones((3, 40), np.float32), np.ones((40, 5), np.float32)
    a[1, 7], b[3, 2] = np.nan, np.inf
    expected = np.full((3, 5), 40, np.float32)
    expected[:, 2], expected[1] = np.inf, np.nan
    np.testing.assert_array_equal(cpu.matmul(a, b), expected)


def test_tf32_is_a_choice_of_gpus_and_changes_nothing_here(rng):
    a, b = rng.standard_normal((17, 33), np.float32), rng.standard_normal((33, 16), np.float32)
    expected = cpu.matmul(a, b)
    with using("matmul", "tf32"):
        np.testing.assert_array_equal(cpu.matmul(a, b), expected)

"""Fused blocks against the separate kernels they replace: values, winners, gradients, threads, layouts."""

from __future__ import annotations

import numpy as np
import pytest

import minicnn_kernels as kernels

cpu, reference = kernels.backend("cpu"), kernels.backend("reference")
HALVING = ((2, 2), (2, 2))
ALL = (True, True, True)
DEAD = 255


@pytest.fixture(autouse=True)
def _poisoned_pool():
    """Buffers come back full of NaN, so that reading what nobody wrote shows."""
    previous = kernels.memory.poison(True)
    yield
    kernels.memory.poison(previous)


@pytest.fixture(autouse=True)
def _direct_convolution():
    """The algorithm of the fused block, so that values are the same to the last bit."""
    previous = kernels.set_algorithm("conv2d", "implicit")
    yield
    kernels.set_algorithm("conv2d", previous)


def channels_last(x):
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def finished(y, relu, pool):
    """ReLU and pool by the separate kernels -> (y, winners)."""
    y = cpu.relu_forward(y) if relu else y
    if pool is None:
        return y, None
    y, winners = cpu.max_pool2d_forward(y, *pool, (0, 0), (1, 1), False)
    return y, np.where(y <= 0, DEAD, winners) if relu else winners


def unfinished(grad, y, winners, shape, relu, pool):
    """The gradient before pool and ReLU by the separate kernels."""
    if pool is not None:
        return cpu.max_pool2d_backward(grad, winners, shape, *pool, (0, 0), (1, 1))
    return cpu.relu_backward(grad, y) if relu else grad


def assert_gradients_close(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        assert a.shape == b.shape
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max(initial=1e-3))


# images, channels, outputs, groups, size, kernel, stride, padding, dilation
CONVOLUTIONS = {
    "first layer": (64, 1, 32, 1, (28, 28), (3, 3), (1, 1), (1, 1), (1, 1)),
    "second layer": (64, 32, 64, 1, (14, 14), (3, 3), (1, 1), (1, 1), (1, 1)),
    "colours": (9, 3, 32, 1, (32, 32), (3, 3), (1, 1), (1, 1), (1, 1)),
    "odd height and width": (67, 5, 19, 1, (9, 7), (3, 3), (1, 1), (1, 1), (1, 1)),
    "odd width, wide kernel": (41, 4, 6, 1, (10, 13), (5, 3), (1, 1), (2, 0), (1, 1)),
    "tiny maps": (210, 16, 40, 1, (4, 5), (3, 3), (1, 1), (1, 1), (1, 1)),
    "no padding": (65, 8, 16, 1, (12, 12), (5, 5), (1, 1), (0, 0), (1, 1)),
    "padding beyond the kernel": (65, 8, 16, 1, (6, 6), (3, 3), (1, 1), (3, 3), (1, 1)),
    "one by one": (115, 24, 8, 1, (6, 6), (1, 1), (1, 1), (0, 0), (1, 1)),
    "strides": (65, 6, 16, 1, (17, 15), (3, 3), (2, 2), (1, 1), (1, 1)),
    "dilation": (33, 6, 16, 1, (14, 14), (3, 3), (1, 1), (2, 2), (2, 2)),
    "groups": (64, 6, 20, 2, (8, 9), (3, 3), (1, 1), (1, 1), (1, 1)),
    "depthwise": (9, 19, 19, 19, (8, 8), (3, 3), (1, 1), (1, 1), (1, 1)),
    "few pixels": (12, 8, 16, 1, (6, 6), (3, 3), (1, 1), (1, 1), (1, 1)),
    "one image": (1, 8, 70, 1, (11, 12), (3, 3), (1, 1), (1, 1), (1, 1)),
    "one large image": (1, 3, 16, 1, (75, 66), (3, 3), (1, 1), (1, 1), (1, 1)),
    "three images": (3, 8, 16, 1, (6, 6), (3, 3), (1, 1), (1, 1), (1, 1)),
    "no image": (0, 8, 16, 1, (6, 6), (3, 3), (1, 1), (1, 1), (1, 1)),
}
FINISHES = [(True, HALVING), (False, HALVING), (True, None), (False, None), (True, ((3, 2), (2, 1)))]


@pytest.mark.parametrize(("relu", "pool"), FINISHES)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_block_equals_its_layers_and_so_does_its_gradient(name, relu, pool):
    images, channels, outputs, groups, size, kernel, *geometry = CONVOLUTIONS[name]
    geometry = (*geometry, groups)
    x = channels_last(normal(images, channels, *size))
    weight, bias = normal(outputs, channels // groups, *kernel, seed=1), normal(outputs, seed=2)
    y, winners = cpu.conv2d_block_forward(x, weight, bias, *geometry, relu, pool)
    before = cpu.conv2d_forward(x, weight, bias, *geometry)
    expected, expected_winners = finished(before, relu, pool)
    np.testing.assert_array_equal(y, expected)
    if pool is None:
        assert winners is None
    else:
        assert winners.dtype == np.uint8
        np.testing.assert_array_equal(winners, expected_winners)

    grad = channels_last(normal(*y.shape, seed=3))
    gradients = cpu.conv2d_block_backward(grad, y, winners, x, weight, *geometry, relu, pool, ALL)
    whole = unfinished(grad, y, winners, before.shape, relu, pool)
    assert_gradients_close(
        gradients,
        (
            cpu.conv2d_backward_input(whole, weight, x.shape, *geometry),
            cpu.conv2d_backward_weight(whole, x, weight.shape, *geometry),
            cpu.conv2d_backward_bias(whole),
        ),
    )


@pytest.mark.parametrize("pool", [HALVING, None])
def test_the_convolution_block_agrees_with_the_reference(pool):
    geometry = ((1, 1), (1, 1), (1, 1), 1)
    x, weight, bias = normal(60, 4, 8, 9), normal(6, 4, 3, 3, seed=1), normal(6, seed=2)
    actual = cpu.conv2d_block_forward(x, weight, bias, *geometry, True, pool)
    expected = reference.conv2d_block_forward(x, weight, bias, *geometry, True, pool)
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-5, atol=1e-5)
    grad = normal(*expected[0].shape, seed=3)
    arguments = (grad, *expected, x, weight, *geometry, True, pool, ALL)
    assert_gradients_close(cpu.conv2d_block_backward(*arguments), reference.conv2d_block_backward(*arguments))


@pytest.mark.parametrize(
    "needs", [(False, True, True), (True, False, False), (True, True, False), (False,) * 3]
)
def test_gradients_that_nobody_needs_are_none(needs):
    geometry = ((1, 1), (1, 1), (1, 1), 1)
    x, weight = normal(65, 4, 8, 8), normal(16, 4, 3, 3, seed=1)
    y, winners = cpu.conv2d_block_forward(x, weight, None, *geometry, True, HALVING)
    everything = cpu.conv2d_block_backward(y, y, winners, x, weight, *geometry, True, HALVING, ALL)
    some = cpu.conv2d_block_backward(y, y, winners, x, weight, *geometry, True, HALVING, needs)
    assert [gradient is not None for gradient in some] == list(needs)
    assert_gradients_close(
        [gradient for gradient in some if gradient is not None],
        [gradient for gradient, need in zip(everything, needs, strict=True) if need],
    )


@pytest.mark.parametrize("position", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_nan_wins_its_window_and_stays(position):
    x = normal(2, 1, 4, 4)
    x[0, 0, 2 + position[0], position[1]] = np.nan
    unit = np.ones((1, 1, 1, 1), np.float32)
    y, winners = cpu.conv2d_block_forward(x, unit, None, (1, 1), (0, 0), (1, 1), 1, True, HALVING)
    assert np.isnan(y[0, 0, 1, 0])
    assert winners[0, 0, 1, 0] == 2 * position[0] + position[1]
    assert np.isnan(y).sum() == 1


def test_the_first_of_equal_pixels_wins_and_zero_is_dead():
    x = np.array([[5, 5, -1, 0], [5, 5, -2, -3]], np.float32).reshape(1, 1, 2, 4)
    unit = np.ones((1, 1, 1, 1), np.float32)
    y, winners = cpu.conv2d_block_forward(x, unit, None, (1, 1), (0, 0), (1, 1), 1, True, HALVING)
    assert y.tolist() == [[[[5, 0]]]]
    assert winners.tolist() == [[[[0, DEAD]]]]


def test_any_memory_layout_gives_the_same_block():
    geometry = ((1, 1), (1, 1), (1, 1), 1)
    x, weight, bias = normal(60, 4, 8, 9), normal(6, 4, 3, 3, seed=1), normal(6, seed=2)
    y, winners = cpu.conv2d_block_forward(x, weight, bias, *geometry, True, HALVING)
    grad = normal(*y.shape, seed=3)
    plain = cpu.conv2d_block_backward(grad, y, winners, x, weight, *geometry, True, HALVING, ALL)
    spread = np.repeat(x, 2, axis=-1)[..., ::2]
    weight_view = np.ascontiguousarray(weight.transpose(2, 3, 1, 0)).transpose(3, 2, 0, 1)
    again = cpu.conv2d_block_forward(spread, weight_view, bias, *geometry, True, HALVING)
    np.testing.assert_array_equal(again[0], y)
    saved = np.ascontiguousarray(y), np.ascontiguousarray(winners)
    views = np.repeat(grad, 2, axis=1)[:, ::2], *saved, spread, weight_view
    for a, b in zip(cpu.conv2d_block_backward(*views, *geometry, True, HALVING, ALL), plain, strict=True):
        np.testing.assert_array_equal(a, b)


def conv_block(pool):
    geometry = ((1, 1), (1, 1), (1, 1), 1)
    x, weight, bias = normal(23, 5, 15, 13), normal(40, 5, 3, 3, seed=1), normal(40, seed=2)
    y, winners = cpu.conv2d_block_forward(x, weight, bias, *geometry, True, pool)
    grad = normal(*y.shape, seed=3)
    return y, *cpu.conv2d_block_backward(grad, y, winners, x, weight, *geometry, True, pool, ALL)


def norm_block(pool):
    x, weight, bias = normal(19, 40, 15, 13), normal(40, seed=1), normal(40, seed=2)
    return y_and_gradients(x, weight, bias, None, True, pool)


def sum_block(pool):
    x, weight, bias = normal(19, 40, 15, 13), normal(40, seed=1), normal(40, seed=2)
    return y_and_gradients(x, weight, bias, normal(*x.shape, seed=4), True, pool)


def y_and_gradients(x, weight, bias, residual, relu, pool, backend=cpu, needs=(True,) * 4):
    """What a batch norm block gives: y, mean and the gradients that are needed."""
    y, winners, mean, inv_std = backend.batch_norm_block_forward(x, weight, bias, residual, 1e-5, relu, pool)
    grad = channels_last(normal(*y.shape, seed=3))
    gradients = backend.batch_norm_block_backward(
        grad, y, winners, x, weight, bias, residual is not None, mean, inv_std, relu, pool, needs
    )
    return y, mean, *(gradient for gradient in gradients if gradient is not None)


@pytest.mark.parametrize("pool", [HALVING, None])
@pytest.mark.parametrize("block", [conv_block, norm_block, sum_block])
def test_one_and_two_threads_give_the_same_bits(block, pool):
    kernels.set_threads(1)
    one = block(pool)
    kernels.set_threads(min(2, kernels.threads.available_cores()))
    two = block(pool)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("relu", "pool"), FINISHES)
@pytest.mark.parametrize("shape", [(64, 16, 8, 8), (3, 40, 9, 7), (1, 3, 5, 4), (17, 1, 6, 7)])
@pytest.mark.parametrize("affine", [True, False])
def test_a_batch_norm_block_equals_its_layers_and_so_does_its_gradient(shape, affine, relu, pool):
    x = channels_last(normal(*shape) + 1)
    weight, bias = (normal(shape[1], seed=1), normal(shape[1], seed=2)) if affine else (None, None)
    y, winners, mean, inv_std = cpu.batch_norm_block_forward(x, weight, bias, None, 1e-5, relu, pool)
    before, expected_mean, expected_inv_std = cpu.batch_norm_forward(x, weight, bias, 1e-5)
    expected, expected_winners = finished(before, relu, pool)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(mean, expected_mean)
    np.testing.assert_array_equal(inv_std, expected_inv_std)
    if pool is not None:
        np.testing.assert_array_equal(winners, expected_winners)

    grad = channels_last(normal(*y.shape, seed=3))
    saved = grad, y, winners, x, weight, bias, False, mean, inv_std, relu, pool
    *gradients, nothing = cpu.batch_norm_block_backward(*saved, (*ALL, False))
    assert nothing is None
    whole = unfinished(grad, y, winners, x.shape, relu, pool)
    assert_gradients_close(gradients, cpu.batch_norm_backward(whole, x, weight, mean, inv_std, ALL))
    some = cpu.batch_norm_block_backward(*saved, (True, False, False, False))
    np.testing.assert_array_equal(some[0], gradients[0])
    assert some[1:] == (None, None, None)


@pytest.mark.parametrize(("relu", "pool"), FINISHES)
@pytest.mark.parametrize("shape", [(64, 16, 8, 8), (3, 40, 9, 7), (1, 3, 5, 4)])
def test_a_sum_with_batch_norm_equals_its_layers_and_so_does_its_gradient(shape, relu, pool):
    x, residual = channels_last(normal(*shape) + 1), normal(*shape, seed=4)
    weight, bias = normal(shape[1], seed=1), normal(shape[1], seed=2)
    y, *_ = cpu.batch_norm_block_forward(x, weight, bias, residual, 1e-5, relu, pool)
    before = cpu.add(cpu.batch_norm_forward(x, weight, bias, 1e-5)[0], residual)
    np.testing.assert_array_equal(y, finished(before, relu, pool)[0])
    assert_gradients_close(
        y_and_gradients(x, weight, bias, residual, relu, pool)[1:],
        y_and_gradients(x, weight, bias, residual, relu, pool, reference)[1:],
    )
    only_residual = (False, False, False, True)
    assert len(y_and_gradients(x, weight, bias, residual, relu, pool, needs=only_residual)) == 3


def test_a_batch_norm_block_without_a_pool_takes_vectors():
    x, grad = normal(64, 10), normal(64, 10, seed=1)
    y, winners, mean, inv_std = cpu.batch_norm_block_forward(x, None, None, None, 1e-5, True, None)
    assert winners is None
    np.testing.assert_array_equal(y, np.maximum(cpu.batch_norm_forward(x, None, None, 1e-5)[0], 0))
    expected = cpu.batch_norm_backward(np.where(y > 0, grad, 0), x, None, mean, inv_std, ALL)
    actual = cpu.batch_norm_block_backward(
        grad, y, None, x, None, None, False, mean, inv_std, True, None, (*ALL, False)
    )
    assert_gradients_close(actual[:3], expected)


@pytest.mark.parametrize("step", [(2, 2), (1, 3)])
@pytest.mark.parametrize("shape", [(3, 16, 8, 8), (2, 3, 7, 9), (0, 2, 4, 4)])
def test_a_shortcut_equals_the_reference_and_so_does_its_gradient(shape, step):
    x = normal(*shape)
    arguments = step, 2, shape[1] + 5
    for images in (x, channels_last(x)):
        y = cpu.shortcut_forward(images, *arguments)
        np.testing.assert_array_equal(y, reference.shortcut_forward(x, *arguments))
    grad = normal(*y.shape, seed=1)
    expected = reference.shortcut_backward(grad, shape, step, 2)
    np.testing.assert_array_equal(cpu.shortcut_backward(grad, shape, step, 2), expected)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (64, 32, 9, 9), (0, 3)])
def test_sum_and_relu_equal_the_two_kernels(shape):
    a, b = normal(*shape), normal(*shape, seed=1)
    if a.size:
        a.flat[0] = np.nan
    expected = cpu.relu_forward(cpu.add(a, b))
    np.testing.assert_array_equal(cpu.add_relu_forward(a, b), expected)
    if a.ndim == 4:
        np.testing.assert_array_equal(cpu.add_relu_forward(channels_last(a), b), expected)


@pytest.mark.parametrize(
    ("rows", "depth", "columns"), [(64, 300, 10), (7, 33, 128), (200, 17, 65), (3, 0, 4), (0, 3, 4)]
)
@pytest.mark.parametrize("with_bias", [True, False])
def test_a_dense_layer_and_relu_equal_the_two_kernels(rows, depth, columns, with_bias):
    x, weight = normal(rows, depth), normal(columns, depth, seed=1)
    bias = normal(columns, seed=2) if with_bias else None
    if x.size:
        x[1, 0] = np.nan
    expected = cpu.relu_forward(cpu.linear_forward(x, weight, bias))
    np.testing.assert_array_equal(cpu.linear_relu_forward(x, weight, bias), expected)


def test_whoever_chooses_the_explicit_convolution_gets_it_in_blocks():
    geometry = ((1, 1), (1, 1), (1, 1), 1)
    x, weight = normal(65, 4, 8, 8), normal(16, 4, 3, 3, seed=1)
    y, winners = cpu.conv2d_block_forward(x, weight, None, *geometry, True, HALVING)
    fused = cpu.conv2d_block_backward(y, y, winners, x, weight, *geometry, True, HALVING, ALL)
    kernels.set_algorithm("conv2d", "explicit")
    again, _ = cpu.conv2d_block_forward(x, weight, None, *geometry, True, HALVING)
    np.testing.assert_allclose(again, y, rtol=1e-4, atol=1e-4)
    explicit = cpu.conv2d_block_backward(y, y, winners, x, weight, *geometry, True, HALVING, ALL)
    assert_gradients_close(fused, explicit)


@pytest.mark.parametrize("size", [(8, 8), (9, 11)])
@pytest.mark.parametrize("pool", [HALVING, None])
@pytest.mark.parametrize("algorithm", ["auto", "winograd", "winograd4"])
def test_every_algorithm_gives_the_same_block(algorithm, pool, size):
    geometry = ((1, 1), (1, 1), (1, 1), 1)
    x, weight, bias = normal(65, 32, *size), normal(40, 32, 3, 3, seed=1) / 17, normal(40, seed=2)
    y, winners = cpu.conv2d_block_forward(x, weight, bias, *geometry, True, pool)
    direct = cpu.conv2d_block_backward(y, y, winners, x, weight, *geometry, True, pool, ALL)
    kernels.set_algorithm("conv2d", algorithm)
    again, _ = cpu.conv2d_block_forward(x, weight, bias, *geometry, True, pool)
    np.testing.assert_allclose(again, y, rtol=1e-4, atol=1e-4)
    gradients = cpu.conv2d_block_backward(y, y, winners, x, weight, *geometry, True, pool, ALL)
    for a, b in zip(gradients, direct, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())

"""The compiled convolutions against the reference, over drawn geometries, thread counts and dirty buffers."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minicnn_kernels as kernels
from minicnn_kernels.windows import conv_output_size

cpu, reference = kernels.backend("cpu"), kernels.backend("reference")
TOLERANCE = 2e-5  # of the largest value: float32 sums over up to a few thousand terms


@st.composite
def convolutions(draw):
    """x, weight, bias, grad and (stride, padding, dilation, groups) of a convolution that fits its input."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    in_group, out_group = (
        draw(st.sampled_from([1, 2, 3, 5, 16])),
        draw(st.sampled_from([1, 2, 5, 10, 16, 40])),
    )
    if draw(st.integers(0, 3)) == 0:  # depthwise
        groups, in_group, out_group = draw(st.sampled_from([2, 16, 19])), 1, draw(st.sampled_from([1, 1, 2]))
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    stride = draw(st.one_of(st.just((1, 1)), st.tuples(st.integers(1, 3), st.integers(1, 3))))
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    dilation = draw(st.one_of(st.just((1, 1)), st.tuples(st.integers(1, 3), st.integers(1, 3))))
    size = tuple(
        draw(st.integers(max(1, d * (k - 1) + 1 - 2 * p), 20))
        for k, p, d in zip(kernel, padding, dilation, strict=True)
    )
    images = draw(st.sampled_from([0, 1, 2, 5, 17]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    out_size = conv_output_size(size, kernel, stride, padding, dilation)
    shapes = (
        (images, groups * in_group, *size),
        (groups * out_group, in_group, *kernel),
        (groups * out_group,),
        (images, groups * out_group, *out_size),
    )
    arrays = [rng.standard_normal(shape, np.float32) for shape in shapes]
    if draw(st.booleans()):  # channels-last memory
        arrays[0] = np.ascontiguousarray(arrays[0].transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    if draw(st.booleans()):  # every other element of something larger
        arrays[3] = np.repeat(arrays[3], 2, axis=-1)[..., ::2]
    return arrays, (stride, padding, dilation, groups)


@pytest.fixture(autouse=True)
def _poisoned_pool():
    """Buffers come back full of NaN, so that reading what nobody wrote shows."""
    previous = kernels.memory.poison(True)
    yield
    kernels.memory.poison(previous)


@pytest.fixture(params=["implicit", "explicit"])
def algorithm(request):
    previous = kernels.set_algorithm("conv2d", request.param)
    yield request.param
    kernels.set_algorithm("conv2d", previous)


def assert_close(actual, expected):
    assert actual.dtype == np.float32
    assert actual.shape == expected.shape
    scale = np.abs(expected).max(initial=1)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE * scale)


def gradients(arrays, options, backend):
    """Everything that a convolution computes, forward and backward."""
    x, weight, bias, grad = arrays
    return (
        backend.conv2d_forward(x, weight, bias, *options),
        backend.conv2d_forward(x, weight, None, *options),
        backend.conv2d_backward_input(grad, weight, x.shape, *options),
        backend.conv2d_backward_weight(grad, x, weight.shape, *options),
        backend.conv2d_backward_bias(grad),
    )


def results_for_any_thread_count(arrays, options):
    """`gradients` of one thread, after asserting that two threads and a second call give the same bits."""
    threads = kernels.get_threads()
    try:
        kernels.set_threads(1)
        single = gradients(arrays, options, cpu)
        kernels.set_threads(min(2, kernels.threads.available_cores()))
        for _ in range(2):
            for one, many in zip(single, gradients(arrays, options, cpu), strict=True):
                np.testing.assert_array_equal(one, many)
    finally:
        kernels.set_threads(threads)
    return single


@given(case=convolutions())
@settings(max_examples=150, deadline=None)
def test_every_geometry_equals_the_reference_on_any_number_of_threads(algorithm, case):
    arrays, options = case
    expected = gradients([array.astype(np.float64) for array in arrays], options, reference)
    for actual, wanted in zip(results_for_any_thread_count(arrays, options), expected, strict=True):
        assert_close(actual, wanted)


LAYERS = {
    "first layer, grey": ((16, 1, 28, 28), (32, 1, 3, 3), (1, 1), (1, 1), 1),
    "first layer, colour": ((16, 3, 32, 32), (32, 3, 3, 3), (1, 1), (1, 1), 1),
    "3x3": ((16, 32, 14, 14), (64, 32, 3, 3), (1, 1), (1, 1), 1),
    "3x3, small images": ((33, 64, 7, 7), (96, 64, 3, 3), (1, 1), (1, 1), 1),
    "3x3, tiny images": ((32, 128, 4, 4), (256, 128, 3, 3), (1, 1), (1, 1), 1),
    "one image in bands": ((1, 16, 40, 40), (48, 16, 3, 3), (1, 1), (1, 1), 1),
    "one image, many channels": ((1, 64, 8, 8), (256, 64, 3, 3), (1, 1), (1, 1), 1),
    "strided": ((16, 16, 32, 32), (32, 16, 3, 3), (2, 2), (1, 1), 1),
    "strided, one image": ((1, 64, 16, 16), (128, 64, 3, 3), (2, 2), (1, 1), 1),
    "pointwise": ((8, 64, 16, 16), (128, 64, 1, 1), (1, 1), (0, 0), 1),
    "pointwise, strided": ((8, 64, 16, 16), (128, 64, 1, 1), (2, 2), (0, 0), 1),
    "depthwise": ((8, 72, 16, 16), (72, 1, 3, 3), (1, 1), (1, 1), 72),
    "depthwise, strided": ((8, 64, 17, 17), (64, 1, 3, 3), (2, 2), (1, 1), 64),
    "groups of two to one": ((8, 32, 9, 9), (16, 2, 3, 3), (1, 1), (1, 1), 16),
    "grouped": ((8, 64, 9, 9), (96, 16, 3, 3), (1, 1), (1, 1), 4),
    "5x5 to ten channels": ((8, 6, 14, 14), (10, 6, 5, 5), (1, 1), (0, 0), 1),
}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())
def test_layers_of_real_nets_equal_the_reference(algorithm, layer):
    x_shape, weight_shape, stride, padding, groups = layer
    rng = np.random.default_rng(0)
    out_size = conv_output_size(x_shape[2:], weight_shape[2:], stride, padding, (1, 1))
    shapes = (x_shape, weight_shape, weight_shape[:1], (x_shape[0], weight_shape[0], *out_size))
    arrays = [rng.standard_normal(shape, np.float32) for shape in shapes]
    options = (stride, padding, (1, 1), groups)
    expected = gradients([array.astype(np.float64) for array in arrays], options, reference)
    for actual, wanted in zip(results_for_any_thread_count(arrays, options), expected, strict=True):
        assert_close(actual, wanted)


def test_images_come_back_channels_last_and_weight_gradients_taps_first():
    x, weight = np.ones((2, 3, 8, 8), np.float32), np.ones((5, 3, 3, 3), np.float32)
    options = ((1, 1), (1, 1), (1, 1), 1)
    y = cpu.conv2d_forward(x, weight, None, *options)
    dx = cpu.conv2d_backward_input(y, weight, x.shape, *options)
    dw = cpu.conv2d_backward_weight(y, x, weight.shape, *options)
    assert y.transpose(0, 2, 3, 1).flags.c_contiguous
    assert dx.transpose(0, 2, 3, 1).flags.c_contiguous
    assert dw.transpose(2, 3, 1, 0).flags.c_contiguous


def test_not_a_number_stays_where_it_was_seen(algorithm):
    x, weight = np.ones((1, 2, 9, 9), np.float32), np.ones((4, 2, 3, 3), np.float32)
    x[0, 1, 4, 4] = np.nan
    y = cpu.conv2d_forward(x, weight, None, (1, 1), (1, 1), (1, 1), 1)
    seen = np.zeros((9, 9), bool)
    seen[3:6, 3:6] = True
    np.testing.assert_array_equal(np.isnan(y), np.broadcast_to(seen, y.shape))


@given(case=convolutions())
@settings(max_examples=30, deadline=None)
def test_im2col_and_col2im_equal_the_reference(case):
    (x, weight, *_), (stride, padding, dilation, _) = case
    window = (weight.shape[2:], stride, padding, dilation)
    columns = reference.im2col(x, *window)
    np.testing.assert_array_equal(cpu.im2col(x, *window), columns)
    images = reference.col2im(columns, x.shape[2:], *window)
    assert_close(cpu.col2im(columns, x.shape[2:], *window), images)


NARROWER = {
    "8 lanes": ("haswell", "+avx,+avx2,+fma,+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt"),
    "4 lanes": ("nehalem", "+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt"),
}


@pytest.mark.slow
@pytest.mark.parametrize("machine", NARROWER.values(), ids=NARROWER.keys())
def test_machines_with_narrower_vectors_compute_the_same(machine):
    name, features = machine
    environment = {**os.environ, "NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features}
    files = [__file__, os.path.join(os.path.dirname(__file__), "test_cpu_linear.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stdout[-3000:]

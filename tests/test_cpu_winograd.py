"""Winograd's convolution against the reference: any shape, thread count and vector width, and its error."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minicnn_kernels as kernels
from minicnn_kernels.cpu import winograd
from minicnn_kernels.windows import conv_output_size

cpu, reference = kernels.backend("cpu"), kernels.backend("reference")
TOLERANCE = {"winograd": 2e-6, "winograd4": 4e-5}  # of the largest value


@pytest.fixture(autouse=True)
def _poisoned_pool():
    """Buffers come back full of NaN, so that reading what nobody wrote shows."""
    previous = kernels.memory.poison(True)
    yield
    kernels.memory.poison(previous)


@pytest.fixture(autouse=True)
def _restored_choices():
    threads, algorithm = kernels.get_threads(), kernels.algorithm("conv2d")
    yield
    kernels.set_threads(threads)
    kernels.set_algorithm("conv2d", algorithm)


def layer(images, channels, outputs, size, padding=(1, 1), seed=0):
    """x, weight, bias, grad of a 3x3 convolution, weights scaled as networks scale them, and its options."""
    rng = np.random.default_rng(seed)
    out_size = conv_output_size(size, (3, 3), (1, 1), padding, (1, 1))
    weight = rng.standard_normal((outputs, channels, 3, 3), np.float32) / np.float32(3 * channels**0.5)
    x, bias, grad = (
        rng.standard_normal(shape, np.float32)
        for shape in ((images, channels, *size), outputs, (images, outputs, *out_size))
    )
    return (x, weight, bias, grad), ((1, 1), padding, (1, 1), 1)


def convolved(arrays, options, backend=cpu):
    """The result, with and without bias, and the gradients by the input and by the weight."""
    x, weight, bias, grad = arrays
    return (
        backend.conv2d_forward(x, weight, bias, *options),
        backend.conv2d_forward(x, weight, None, *options),
        backend.conv2d_backward_input(grad, weight, x.shape, *options),
        backend.conv2d_backward_weight(grad, x, weight.shape, *options),
    )


def errors(arrays, options):
    """Largest error of each result against float64, as a share of the largest value."""
    exact = convolved([array.astype(np.float64) for array in arrays], options, reference)
    return [
        np.abs(actual - wanted).max(initial=0) / np.abs(wanted).max(initial=1e-30)
        for actual, wanted in zip(convolved(arrays, options), exact, strict=True)
    ]


@st.composite
def layers(draw):
    padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    size = tuple(draw(st.integers(max(1, 3 - 2 * p), 15)) for p in padding)
    channels, outputs = (draw(st.sampled_from([1, 2, 3, 8, 16, 19, 32, 33, 70])) for _ in range(2))
    arrays, options = layer(
        draw(st.sampled_from([0, 1, 2, 5, 17])), channels, outputs, size, padding, draw(st.integers(0, 2**32))
    )
    if draw(st.booleans()):  # channels-last memory
        arrays = (np.ascontiguousarray(arrays[0].transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2), *arrays[1:])
    return arrays, options


@pytest.mark.parametrize("algorithm", TOLERANCE)
@given(case=layers())
@settings(max_examples=80, deadline=None)
def test_every_shape_equals_the_reference(algorithm, case):
    kernels.set_algorithm("conv2d", algorithm)
    arrays, options = case
    assert max(errors(arrays, options)) < TOLERANCE[algorithm]


@pytest.mark.parametrize("algorithm", TOLERANCE)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("pool", [None, ((2, 2), (2, 2))], ids=["no pool", "pool"])
@given(case=layers())
@settings(max_examples=25, deadline=None)
def test_fused_relu_and_pool_equal_separate_ones(algorithm, relu, pool, case):
    (x, weight, bias, _), options = case
    kernels.set_algorithm("conv2d", algorithm)
    wanted = cpu.conv2d_forward(x, weight, bias, *options)
    if min(wanted.shape[2:]) < 2:
        pool = None
    wanted = np.where(wanted < 0, np.float32(0), wanted) if relu else wanted
    y, winners = cpu.conv2d_block_forward(x, weight, bias, *options, relu, pool)
    if pool is None:
        np.testing.assert_array_equal(y, wanted)
    else:
        pooled, argmax = reference.max_pool2d_forward(wanted, *pool, (0, 0), (1, 1), False)
        alive = winners < 4
        np.testing.assert_allclose(
            y, pooled, rtol=0, atol=TOLERANCE[algorithm] * np.abs(wanted).max(initial=1)
        )
        assert not relu or np.all(y[~alive] == 0)
        if algorithm == "winograd":  # pooling takes F(2x2)
            np.testing.assert_array_equal(winners[alive], argmax[alive])


@pytest.mark.parametrize("algorithm", TOLERANCE)
@given(case=layers())
@settings(max_examples=20, deadline=None)
def test_one_and_two_threads_give_the_same_bits(algorithm, case):
    kernels.set_algorithm("conv2d", algorithm)
    kernels.set_threads(1)
    single = convolved(*case)
    kernels.set_threads(min(2, kernels.threads.available_cores()))
    for one, many in zip(single, convolved(*case), strict=True):
        np.testing.assert_array_equal(one, many)


@pytest.mark.parametrize("algorithm", TOLERANCE)
@given(case=layers())
@settings(max_examples=25, deadline=None)
def test_the_gradient_is_added_to_what_is_there(algorithm, case):
    (x, weight, _, grad), options = case
    kernels.set_algorithm("conv2d", algorithm)
    alone = cpu.conv2d_backward_input(grad, weight, x.shape, *options)
    for onto in (x.copy(), x.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)):
        total = cpu.conv2d_backward_input(grad, weight, x.shape, *options, onto)
        np.testing.assert_array_equal(total, alone + x)


# Images, channels, outputs, size: 3x3 layers of small nets for 28x28 and 32x32 images, and of ResNet-20.
NETS = [
    (16, 32, 64, (14, 14)),
    (16, 32, 64, (16, 16)),
    (16, 64, 128, (8, 8)),
    (64, 128, 256, (4, 4)),
    (4, 16, 16, (32, 32)),
    (16, 32, 32, (16, 16)),
    (16, 64, 64, (8, 8)),
]


@pytest.mark.parametrize("shape", NETS, ids=str)
def test_its_error_is_not_above_that_of_the_direct_kernel(shape):
    arrays, options = layer(*shape)
    kernels.set_algorithm("conv2d", "implicit")
    direct = errors(arrays, options)
    kernels.set_algorithm("conv2d", "winograd")
    for ours, limit in zip(errors(arrays, options), direct, strict=True):
        assert ours <= limit  # 0.25 to 0.5 of it


def assert_same(first, second, *, wanted):
    same = all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))
    assert same is wanted


@pytest.mark.parametrize(
    ("shape", "wins"),
    [
        ((16, 32, 64, (16, 16)), True),
        ((4, 3, 32, (32, 32)), False),  # few channels
        ((4, 64, 64, (3, 3)), False),  # tiles half empty
        ((1, 64, 64, (7, 7)), False),  # the weight's transform is most of the work
    ],
)
def test_auto_takes_it_only_where_it_wins(shape, wins):
    arrays, options = layer(*shape)
    results = {}
    for name in ("auto", "implicit", "winograd"):
        kernels.set_algorithm("conv2d", name)
        results[name] = convolved(arrays, options)
    assert_same(results["auto"], results["winograd"], wanted=wins)
    assert_same(results["auto"], results["implicit"], wanted=not wins)


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "groups"),
    [
        ((5, 5), (1, 1), (1, 1), 1),
        ((3, 3), (2, 2), (1, 1), 1),
        ((3, 3), (1, 1), (2, 1), 1),
        ((3, 3), (1, 1), (1, 1), 2),
    ],
)
def test_other_geometries_use_the_direct_kernel(kernel, stride, dilation, groups, rng):
    x = rng.standard_normal((4, 32, 12, 12), np.float32)
    weight = rng.standard_normal((32, 32 // groups, *kernel), np.float32)
    results = []
    for name in ("implicit", "winograd"):
        kernels.set_algorithm("conv2d", name)
        results.append(cpu.conv2d_forward(x, weight, None, stride, (1, 1), dilation, groups))
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_windows(value):
    kernels.set_algorithm("conv2d", "winograd")
    x, weight = np.ones((1, 2, 11, 11), np.float32), np.ones((4, 2, 3, 3), np.float32)
    x[0, 1, 4, 5] = value
    y = cpu.conv2d_forward(x, weight, None, (1, 1), (1, 1), (1, 1), 1)
    seen = np.zeros((11, 11), bool)
    seen[3:6, 4:7] = True
    np.testing.assert_array_equal(~np.isfinite(y), np.broadcast_to(seen, y.shape))


# How far one small image is divided: at least in two, so that two cores share it.
@pytest.mark.parametrize(
    "shape", [(1, 32, 64, (8, 8)), (1, 16, 16, (12, 12)), (1, 256, 256, (4, 4))], ids=str
)
def test_one_image_is_work_for_two_cores(shape, monkeypatch):
    arrays, options = layer(*shape)
    kernels.set_algorithm("conv2d", "winograd")
    tasks = []

    def counted(*args):
        total, tiles, column_blocks, _ = args[-4:]
        tasks.append(-(-total // tiles) * column_blocks)
        return convolve(*args)

    convolve = winograd.loops.convolve
    monkeypatch.setattr(winograd.loops, "convolve", counted)
    convolved(arrays, options)
    assert len(tasks) == 3
    assert min(tasks) >= 2


NARROWER = {
    "8 lanes": ("haswell", "+avx,+avx2,+fma,+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt"),
    "4 lanes": ("nehalem", "+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt"),
}


@pytest.mark.slow
@pytest.mark.parametrize("machine", NARROWER.values(), ids=NARROWER.keys())
def test_machines_with_narrower_vectors_compute_the_same(machine):
    name, features = machine
    environment = {**os.environ, "NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-m",
        "not slow",
        __file__,
    ]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stdout[-3000:]

"""Every rung of the ladders computes what the reference computes, on any shape and any number of threads."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minicnn_kernels as kernels
from minicnn_kernels import memory, reference
from minicnn_kernels.ladder import CONVOLUTION, MATMUL, convolution, limits, matmul

EPS = np.finfo(np.float32).eps
sizes = st.one_of(st.integers(1, 20), st.sampled_from([31, 32, 33, 63, 65, 257, 513]))


def names(rungs):
    return [rung.name for rung in rungs]


@pytest.fixture(autouse=True)
def _restored_threads():
    before = kernels.get_threads()
    yield
    kernels.set_threads(before)


@pytest.fixture(autouse=True)
def _poisoned_memory():
    before = memory.poison(True)
    yield
    memory.poison(before)


def random(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def agrees(result, exact, bound, depth):
    """Within the worst that rounding `depth` products and their sum can do. False for NaN."""
    return bool((np.abs(result - exact) <= (depth + 2) * EPS * bound).all())


@pytest.mark.parametrize("rung", MATMUL, ids=names(MATMUL))
@settings(max_examples=25)
@given(rows=sizes, depth=sizes, columns=sizes, seed=st.integers(0, 2**32 - 1))
def test_every_matrix_product_is_right(rung, rows, depth, columns, seed):
    if rung.interpreted:
        rows, depth, columns = rows % 9 + 1, depth % 9 + 1, columns % 9 + 1
    a, b = random(seed, rows, depth), random(seed + 1, depth, columns)
    arguments = matmul.arguments(rung, a, b)
    arguments[-1].fill(np.nan)
    result = rung.function(*arguments)
    assert result.shape == (rows, columns)
    assert agrees(result, a.astype(np.float64) @ b, np.abs(a) @ np.abs(b), depth)


@pytest.mark.parametrize("rung", MATMUL, ids=names(MATMUL))
def test_an_empty_sum_is_zero(rung):
    a, b = np.empty((3, 0), np.float32), np.empty((0, 5), np.float32)
    arguments = matmul.arguments(rung, a, b)
    arguments[-1].fill(np.nan)
    assert not rung.function(*arguments).any()


def pooled(x):
    """max_pool2d(relu(x), 2)."""
    window = (2, 2)
    return reference.max_pool2d_forward(reference.relu_forward(x), window, window, (0, 0), (1, 1), False)[0]


@pytest.mark.parametrize("rung", CONVOLUTION, ids=names(CONVOLUTION))
@settings(max_examples=25)
@given(
    images=st.integers(1, 4),
    channels=st.sampled_from([1, 2, 3, 8, 17]),
    out_channels=st.sampled_from([1, 3, 16, 32, 33, 40]),
    size=st.tuples(st.integers(2, 9), st.integers(2, 20)),
    kernel=st.tuples(st.sampled_from([1, 3, 5]), st.sampled_from([1, 3, 7])),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_convolution_is_right(rung, images, channels, out_channels, size, kernel, seed):
    x = random(seed, images, channels, *size)
    weight, bias = random(seed + 1, out_channels, channels, *kernel), random(seed + 2, out_channels)
    geometry = (1, 1), (kernel[0] // 2, kernel[1] // 2), (1, 1), 1
    exact = reference.conv2d_forward(*(v.astype(np.float64) for v in (x, weight, bias)), *geometry)
    bound = reference.conv2d_forward(*(np.abs(v) for v in (x, weight, bias)), *geometry)
    if rung.pooled:
        exact, bound = pooled(exact), pooled(bound)
    if rung.function is convolution.production:
        bound = bound.max()  # Winograd mixes neighbours: its rounding is bounded over a whole image only
    arguments = convolution.arguments(rung, x, weight, bias)
    arguments[-1].fill(np.nan)
    result = convolution.as_images(rung, rung.function(*arguments))
    assert result.shape == exact.shape
    assert agrees(result, exact, bound, weight[0].size)


@pytest.mark.parametrize(
    "rung", [r for r in MATMUL if r.parallel and r.function is not matmul.blas], ids=lambda r: r.name
)
def test_threads_do_not_change_a_bit_of_a_product(rung):
    a, b = random(1, 150, 300), random(2, 300, 70)
    results = []
    for threads in (1, min(2, kernels.threads.available_cores())):
        kernels.set_threads(threads)
        results.append(rung.function(*matmul.arguments(rung, a, b)).copy())
    assert np.array_equal(*results)


@pytest.mark.parametrize("rung", [r for r in CONVOLUTION if r.parallel], ids=lambda r: r.name)
def test_threads_do_not_change_a_bit_of_a_convolution(rung):
    operands = random(1, 9, 5, 8, 8), random(2, 20, 5, 3, 3), random(3, 20)
    results = []
    for threads in (1, min(2, kernels.threads.available_cores())):
        kernels.set_threads(threads)
        results.append(rung.function(*convolution.arguments(rung, *operands)).copy())
    assert np.array_equal(*results)


@pytest.mark.parametrize("rungs", [MATMUL, CONVOLUTION], ids=["matmul", "convolution"])
def test_every_rung_has_its_own_name_and_says_what_changed_and_why(rungs):
    assert len(set(names(rungs))) == len(rungs)
    for rung in rungs:
        assert rung.what_changed, rung.name
        assert rung.why, rung.name


def test_the_roofs_compute_what_they_claim():
    totals = np.empty(limits.TASKS, np.float32)
    limits.multiply_add(200, np.float32(0.5), np.float32(1), totals)
    # Every sum converges to 2 = 2 * 0.5 + 1.
    np.testing.assert_allclose(totals, 2 * limits.CHAINS * limits.LANES, rtol=1e-6)
    b, c = random(1, 100_003), random(2, 100_003)
    a = np.empty_like(b)
    limits.triad(a, b, c, np.float32(3))
    np.testing.assert_allclose(a, b + np.float32(3) * c, rtol=1e-5, atol=1e-5)


def test_the_kernels_do_not_bring_the_ladder_and_the_ladder_compiles_nothing_by_itself():
    program = (
        "import sys, minicnn_kernels\n"
        "minicnn_kernels.backend('cpu')\n"
        "assert not any('ladder' in name for name in sys.modules)\n"
        "from minicnn_kernels import ladder\n"
        "from minicnn_kernels.ladder import limits\n"
        "from numba.core.dispatcher import Dispatcher\n"
        "modules = [m for name, m in sys.modules.items() if name.startswith('minicnn_kernels.ladder')]\n"
        "values = [getattr(v, '_call', v) for m in modules for v in vars(m).values()]\n"
        "kernels = [v for v in values if isinstance(v, Dispatcher)]\n"
        "assert len(kernels) > 20 and not any(k.signatures for k in kernels)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)

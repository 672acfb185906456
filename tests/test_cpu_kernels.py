"""The cpu back end against the reference: same names, same values in every memory layout, same bits on any
number of threads. What the values mean is tested on the reference, in `test_functions.py`; the arguments
come from `cpu_cases.py`.
"""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cpu_cases import CASES, arguments
from hypothesis import given, settings
from hypothesis import strategies as st

import minicnn_kernels as kernels
from minicnn_kernels import cpu, memory, reference


def duplicate(value: Any) -> Any:
    """A copy for the other back end, in C order."""
    if isinstance(value, list):
        return [duplicate(entry) for entry in value]
    return np.array(value, order="C") if isinstance(value, np.ndarray) else value


def run(backend: Any, name: str, args: list) -> list:
    """What the kernel returns, and its array arguments as it leaves them."""
    with np.errstate(all="ignore"):
        outcome = getattr(backend, name)(*args)
    returned = list(outcome) if isinstance(outcome, tuple) else [outcome]
    return [*returned, *(arg for arg in args if isinstance(arg, np.ndarray))]


def functions(module: Any) -> dict[str, Callable]:
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and not name.startswith("_")
    }


def test_cpu_has_every_name_and_signature_of_the_reference():
    ours = functions(cpu)
    for name, function in functions(reference).items():
        assert name in ours, f"cpu has no {name}"
        assert list(inspect.signature(ours[name]).parameters) == list(inspect.signature(function).parameters)


def assert_close(actual: Any, expected: Any) -> None:
    assert type(actual) is type(expected)
    if expected is None:
        return
    if not isinstance(expected, np.ndarray):
        assert actual == pytest.approx(expected, rel=1e-12)
        return
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    finite = np.abs(expected[np.isfinite(expected)])
    scale = max(1, finite.max()) if finite.size else 1
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("name", sorted(CASES))
def test_equals_the_reference_in_every_memory_layout(name, large):
    @settings(max_examples=4 if large else 40)
    @given(data=st.data())
    def check(data):
        args = arguments(name, data, large)
        expected = run(reference, name, duplicate(args))
        previous = memory.poison(True)
        try:
            actual = run(cpu, name, args)
        finally:
            memory.poison(previous)
        for ours, theirs in zip(actual, expected, strict=True):
            assert_close(ours, theirs)

    check()


@pytest.mark.parametrize("name", sorted(CASES))
def test_bits_do_not_depend_on_the_number_of_threads(name):
    threads = kernels.get_threads()

    @settings(max_examples=3)
    @given(data=st.data())
    def check(data):
        args = arguments(name, data, large=True)
        digests = []
        for count in (1, threads):
            kernels.set_threads(count)
            results = run(cpu, name, [duplicate(arg) for arg in args])
            digests.append(
                [zlib.crc32(np.ascontiguousarray(x)) for x in results if isinstance(x, np.ndarray)]
            )
        assert digests[0] == digests[1]

    try:
        check()
    finally:
        kernels.set_threads(threads)


def test_relu_and_max_pool_let_nan_through():
    x = np.zeros((1, 2, 4, 4), np.float32)
    x[0, :, 1, 1] = np.nan
    assert np.isnan(cpu.relu_forward(x)).sum() == 2
    y, _ = cpu.max_pool2d_forward(x, (2, 2), (2, 2), (0, 0), (1, 1), False)
    assert np.isnan(y[0, :, 0, 0]).all()
    assert np.isnan(y).sum() == 2


def test_images_stay_channels_last():
    x = np.ones((2, 5, 8, 8), np.float32)
    y, argmax = cpu.max_pool2d_forward(cpu.relu_forward(x), (2, 2), (2, 2), (0, 0), (1, 1), False)
    normalized, _, _ = cpu.batch_norm_forward(y, None, None, 1e-5)
    for images in (y, argmax, normalized, cpu.add(normalized, normalized), cpu.copy(y)):
        assert images.transpose(0, 2, 3, 1).flags.c_contiguous


def test_batch_norm_of_a_distant_mean_loses_nothing(rng):
    x = (rng.standard_normal((64, 16, 16, 16)) + 1000).astype(np.float32)
    _, mean, inv_std = cpu.batch_norm_forward(x, None, None, 0)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(axis=(0, 2, 3)), rtol=1e-7)
    np.testing.assert_allclose(inv_std, 1 / exact.std(axis=(0, 2, 3)), rtol=1e-6)


def test_sums_are_exact_to_one_part_in_a_million(rng):
    x = rng.random((64, 33, 40, 31), dtype=np.float32)
    exact = x.astype(np.float64)
    for dims in (None, (0, 2, 3), (3,), (0,), (1, 2)):
        np.testing.assert_allclose(cpu.sum(x, dims, False), exact.sum(axis=dims), rtol=1e-6)


def test_a_target_out_of_range_gives_nan_and_reads_nothing_else():
    logits, target = np.zeros((3, 4), np.float32), np.array([0, 4, -1])
    loss, log_p = cpu.cross_entropy_forward(logits, target, None, -100, 0)
    assert np.isnan(loss).tolist() == [False, True, True]
    grad = cpu.cross_entropy_backward(np.ones(3, np.float32), log_p, target, None, -100, 0)
    assert np.isnan(grad).all(axis=1).tolist() == [False, True, True]


def test_padding_and_the_gradient_of_a_slice_keep_images_channels_last():
    x = memory.empty_images(2, 8, 6, 6)
    x[...] = np.arange(x.size, dtype=np.float32).reshape(x.shape)
    sliced = x[:, :, ::2, ::2]
    padded = cpu.pad(sliced, ((0, 0), (2, 2), (0, 0), (0, 0)), "constant", 0)
    back = cpu.getitem_backward(sliced, x.shape, (slice(None), slice(None), slice(0, 6, 2), slice(0, 6, 2)))
    for result in (
        padded,
        back,
        cpu.pad_backward(padded, sliced.shape, ((0, 0), (2, 2), (0, 0), (0, 0)), "constant"),
    ):
        assert memory.memory_order(result) == (0, 2, 3, 1)

"""Integer kernels: the reference against sums in int64, the cpu against the reference, bit for bit."""

from __future__ import annotations

import inspect
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from integer_cases import additions, convolutions, linears, pools, residual_net

import minicnn_kernels as kernels
from minicnn_kernels.algorithms import using
from minicnn_kernels.cpu.integers import plan
from minicnn_kernels.cpu.integers.routes import VNNI
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


ROUTES = ("vnni", "float", "plain") if VNNI else ("float", "plain")
every_route = pytest.mark.parametrize("route", ROUTES)


@every_route
@given(arguments=convolutions())
def test_every_route_convolves_like_the_reference(route, arguments):
    with using("integer", route):
        assert_equal(cpu.integer_conv2d_forward(*arguments), reference.integer_conv2d_forward(*arguments))


@every_route
@given(arguments=linears())
def test_every_route_multiplies_like_the_reference(route, arguments):
    with using("integer", route):
        assert_equal(cpu.integer_linear_forward(*arguments), reference.integer_linear_forward(*arguments))


@given(
    case=st.one_of(
        pools(average=True).map(lambda arguments: ("integer_avg_pool2d_forward", arguments)),
        pools(average=False).map(lambda arguments: ("integer_max_pool2d_forward", arguments)),
        additions().map(lambda arguments: ("integer_add_forward", arguments)),
    )
)
def test_pools_and_sums_equal_the_reference(case):
    name, arguments = case
    assert_equal(getattr(cpu, name)(*arguments), getattr(reference, name)(*arguments))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3, 17), (6,)])
def test_lookup_takes_from_the_table(rng, dtype, shape):
    x, table = rng.integers(0, 256, shape, np.uint8), rng.uniform(0, 255, 256).astype(dtype)
    assert_equal(cpu.integer_lookup(x, table), table[x])


@every_route
@pytest.mark.parametrize("images", [0, 1, 2, 37])
def test_a_net_with_every_kind_of_call_equals_the_reference_on_any_number_of_threads(rng, route, images):
    net, outputs = residual_net(rng)
    arguments = net.calls, [0], outputs
    x = (4 * rng.standard_normal((images, *net.shape))).astype(np.float32)
    expected = reference.IntegerProgram(*arguments)(x)
    program = cpu.IntegerProgram(*arguments)
    channels_last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    with using("integer", route):
        assert (program.prepare(x) is None) == (route == "float")
        for threads in (1, min(2, kernels.threads.available_cores())):
            kernels.set_threads(threads)
            for layout in (x, channels_last, np.repeat(x, 2, axis=3)[..., ::2]):
                for actual, wanted in zip(program(layout), expected, strict=True):
                    assert_equal(actual, wanted)


def test_images_of_another_size_and_bytes_are_planned_anew(rng):
    net, _ = residual_net(rng)
    arguments = net.calls[1:5], [1], [5]
    program, expected = cpu.IntegerProgram(*arguments), reference.IntegerProgram(*arguments)
    for size in [(12, 14), (9, 30), (12, 14)]:
        x = rng.integers(0, 256, (3, 3, *size), np.uint8)
        assert_equal(program(x)[0], expected(x)[0])
    assert (program.prepare(x) is not None) == VNNI


@pytest.mark.skipif(kernels.threads.available_cores() < 2, reason="needs two cores")
def test_threads_that_share_the_products_of_one_image_change_nothing(rng, monkeypatch):
    monkeypatch.setattr(plan, "_SHARED", 0)
    net, outputs = residual_net(rng)
    x = rng.standard_normal((1, *net.shape)).astype(np.float32)
    kernels.set_threads(2)
    actual = cpu.IntegerProgram(net.calls, [0], outputs)(x)
    for one, wanted in zip(actual, reference.IntegerProgram(net.calls, [0], outputs)(x), strict=True):
        assert_equal(one, wanted)


every_way = pytest.mark.parametrize(
    ("backend", "route"), [(reference, "auto"), *((cpu, route) for route in ROUTES)], ids=str
)


@every_way
def test_weights_for_other_images_are_refused(backend, route):
    weight, factor = np.ones((4, 3, 1, 1), np.int8), np.ones(4, np.float32)
    geometry = (1, 1), (0, 0), (1, 1), 1, None
    with using("integer", route), pytest.raises(ValueError):
        backend.integer_conv2d_forward(X, weight, None, factor, 0, 0, 0, 255, *geometry)
    with using("integer", route), pytest.raises(ValueError):
        backend.integer_linear_forward(X.reshape(1, -1), weight.reshape(4, 3), None, factor, 0, 0, 0, 255)


def test_two_python_threads_run_one_program(rng):
    net, outputs = residual_net(rng)
    program = cpu.IntegerProgram(net.calls, [0], outputs)
    batches = [rng.standard_normal((n, *net.shape)).astype(np.float32) for n in (1, 3, 33, 5)]
    expected = [[y.copy() for y in program(x)] for x in batches]
    wrong = []

    def work():
        for _ in range(20):
            for x, wanted in zip(batches, expected, strict=True):
                wrong.extend(i for i, y in enumerate(program(x)) if not np.array_equal(y, wanted[i]))

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_calls_without_a_step_run_one_by_one(rng):
    """Floats that do not come straight from outside, a lattice per channel."""
    scales, zeros = rng.uniform(0.01, 0.1, 3).astype(np.float32), np.array([0, 7, 200])
    calls = [
        IntegerCall("quantize", (Slot(0), scales, zeros, 0, 255, 1, np.uint8), 1),
        IntegerCall("integer_max_pool2d_forward", (Slot(1), (2, 2), (2, 2), (0, 0), (1, 1), False), 2),
    ]
    x = rng.standard_normal((2, 3, 6, 6)).astype(np.float32)
    program = cpu.IntegerProgram(calls, [0], [2])
    assert program.prepare(x) is None
    assert_equal(program(x)[0], reference.IntegerProgram(calls, [0], [2])(x)[0])


@pytest.mark.parametrize("route", ["auto", "float"])
def test_inputs_of_different_lengths_are_refused(route):
    one = np.float32(1)
    call = IntegerCall("integer_add_forward", (Slot(0), Slot(1), one, 0, one, 0, one, 0, 0, 255), 2)
    for backend in (reference, cpu):
        program = backend.IntegerProgram([call], [0, 1], [2])
        with using("integer", route), pytest.raises(ValueError, match="have 2, 3 images: expected as many"):
            program(*(np.zeros((n, 4), np.uint8) for n in (2, 3)))

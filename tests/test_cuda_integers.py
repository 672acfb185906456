"""Device "cuda" in the simulator: lattices, exact integers and programs of them, with the bits of the cpu."""

from __future__ import annotations

from pathlib import Path

from simulated import in_simulator

HEADER = """
import numpy as np, minicnn, minicnn_kernels as kernels
from minicnn_kernels import cuda, reference
rng = np.random.default_rng(0)
def there(x):
    return cuda.to_device(x) if isinstance(x, np.ndarray) else x
def same(name, *arguments):
    ours, theirs = getattr(cuda, name)(*map(there, arguments)), getattr(reference, name)(*arguments)
    if not isinstance(ours, tuple):
        ours, theirs = (ours,), (theirs,)
    for a, b in zip(ours, theirs, strict=True):
        a = cuda.to_host(a)
        assert (a.dtype, a.shape) == (b.dtype, b.shape), (name, a.dtype, b.dtype, a.shape, b.shape)
        np.testing.assert_array_equal(a, b, err_msg=name)
    return theirs
def number(x, dtype=np.float32):
    return np.asarray(x, dtype)
"""


def test_ranges_and_lattices_have_the_bits_of_the_reference():
    program = """
x = (rng.standard_normal((3, 4, 5)) * 40).astype(np.float32)
x[0, 0, :3] = np.nan, 0.5, -0.5
for values in (x, x[:, :, :1], np.abs(x), -np.abs(x), np.zeros((2, 0), np.float32), x[0, 0, :1]):
    for axis in (None, *range(values.ndim)):
        same("value_range", values, axis)
bounds = [(-3.3, 7.1), (0, 0), (0, 1e-30), (-1e-30, 3e38), (-0.1, 0.1), (-8, 0), (0, 255)]
limits = (-127, 127, True), (-128, 127, False), (0, 255, False), (0, 15, True), (-1, 1, True)
rules = [(*rule, power) for power in (False, True) for rule in (*limits, (-32768, 32767, False))]
lows, highs = (number([pair[i] for pair in bounds]) for i in (0, 1))
random = rng.random((2, 64)).astype(np.float32)
same("choose_scale", -random[0], random[1], *rules[0])
for rule in rules:
    same("choose_scale", lows, highs, *rule)
    for low, high in bounds:
        same("choose_scale", number(low), number(high), *rule)
for low, high in ((lows, highs), (lows * 0, highs * 0), (lows[0], highs[0])):
    new = low * number(1.7), high * number(0.3) + number(1)
    moved = [cuda.to_device(number(bound)) for bound in (low, high)]
    expected = [number(bound).copy() for bound in (low, high)]
    cuda.move_range(*moved, *(cuda.to_device(number(bound)) for bound in new), 0.1)
    reference.move_range(*expected, *(number(bound) for bound in new), 0.1)
    for ours, theirs in zip(moved, expected):
        np.testing.assert_array_equal(cuda.to_host(ours), theirs)
"""
    in_simulator("-c", HEADER + program)


def test_threads_that_meet_agree_about_lattices():
    program = """
import sys
sys.setswitchinterval(1e-5)  # the simulator polls its threads: let each have its turn soon
low, high = -np.abs(rng.standard_normal(3)).astype(np.float32), np.ones(3, np.float32)
same("choose_scale", low, high, -7, 7, True, False)
same("value_range", rng.standard_normal((2, 3)).astype(np.float32), 1)
same("least_error_values", rng.standard_normal((2, 3)).astype(np.float32), 0, -1, 1, True, False, 3)
moved, expected = [cuda.to_device(low), cuda.to_device(high)], [low.copy(), high.copy()]
cuda.move_range(*moved, cuda.to_device(low * 2), cuda.to_device(high * 2), 0.25)
reference.move_range(*expected, low * 2, high * 2, 0.25)
for ours, theirs in zip(moved, expected):
    np.testing.assert_array_equal(cuda.to_host(ours), theirs)
q, weight = rng.integers(0, 256, (3, 10)).astype(np.uint8), rng.integers(-127, 128, (3, 10)).astype(np.int8)
same("integer_linear_forward", q, weight, None, number(0.01), 3, 5, 0, 255)
"""
    in_simulator("-c", HEADER + program, threads=2)


def test_observers_see_what_they_see_on_the_host():
    program = """
x = rng.standard_normal(300).astype(np.float32)
x[:120] = 0
x[7], x[8] = 4, -4  # the edges
same("histogram", x, 2.0**-4, 128)
weight = rng.standard_normal((3, 5, 2)).astype(np.float32)
for axis, rule in ((None, (-1, 1, True, False)), (0, (-7, 7, True, False)), (1, (-2, 1, False, True))):
    same("least_error_values", weight, axis, *rule, 12)
"""
    in_simulator("-c", HEADER + program)


def test_layers_on_lattices_have_the_bits_of_the_reference():
    program = """
def on_lattice(shape, bits, scale, axis=None):
    most = 2 ** (bits - 1) - 1
    return reference.dequantize(rng.integers(-most, most + 1, shape), scale, number(0, np.int32), axis)
x_scale, affine = number(0.0173), (number(0.71), number(3, np.int32))
windows = ((1, 1), (1, 1), (1, 1), 1), ((2, 1), (0, 2), (1, 2), 2)
for bits, per_channel, lattice, window in (
    (8, True, affine, windows[0]), (8, False, affine, windows[1]), (8, True, (None, None), windows[1]),
    (4, True, affine, windows[1]), (4, False, (None, None), windows[0]), (2, True, affine, windows[0]),
    (2, False, affine, windows[1]), (16, True, (None, None), windows[0]), (16, False, affine, windows[1]),
):
    w_scale = rng.uniform(0.001, 0.1, 4).astype(np.float32) if per_channel else number(0.031)
    axis = 0 if per_channel else None
    bias = rng.standard_normal(4).astype(np.float32) if window is windows[0] else None
    result = bias, x_scale, w_scale, *lattice, -7, 100
    weight = on_lattice((4, 4 // window[3], 3, 2), bits, w_scale, axis)
    same("quantized_conv2d_forward", on_lattice((2, 4, 5, 6), bits, x_scale), weight, *result, *window)
    weight = on_lattice((4, 7), bits, w_scale, axis)
    same("quantized_linear_forward", on_lattice((2, 3, 7), bits, x_scale), weight, *result)
    x, window = on_lattice((2, 3, 5, 6), bits, x_scale), ((3, 2), (2, 1), (1, 0))
    same("quantized_avg_pool2d_forward", x, x_scale, *lattice, -7, 100, *window, 6)
# sums beyond float32 and int32
big = on_lattice((1, 64), 16, number(1)) * 0 + number(32767)
same("quantized_linear_forward", big, big[:, ::-1].copy(), None, number(1), number(1), None, None, 0, 0)
"""
    in_simulator("-c", HEADER + program)


def test_integer_kernels_have_the_bits_of_the_reference():
    program = """
def q(*shape):
    return rng.integers(0, 256, shape).astype(np.uint8)
def w(*shape):
    return rng.integers(-128, 128, shape).astype(np.int8)
def both(x_zero, outputs, bias):
    bias = rng.integers(-9999, 9999, outputs).astype(np.int32) if bias else None
    yield bias, (rng.random(outputs) * 1e-2).astype(np.float32), x_zero, 7, 7, 250
    yield bias, number(0.013), x_zero, None, 0, 0
for x_zero, with_bias in ((0, True), (131, False), (255, True)):
    for finish in both(x_zero, 6, with_bias):
        for pool in (None, ((2, 2), (2, 2)), ((3, 1), (1, 2))):
            window = (1, 2), (1, 1), (1, 2), 2
            same("integer_conv2d_forward", q(2, 4, 6, 5), w(6, 2, 3, 2), *finish, *window, pool)
        window = (1, 1), (0, 0), (1, 1), 1
        same("integer_conv2d_forward", q(1, 3, 4, 4), w(6, 3, 1, 1), *finish, *window, None)
        same("integer_linear_forward", q(3, 9), w(6, 9), *finish)
    for finish in both(x_zero, 1, False):
        window = (3, 2), (2, 1), (1, 0)
        same("integer_avg_pool2d_forward", q(2, 3, 6, 5), number(0.013), *finish[2:], *window)
for window in (
    ((2, 2), (2, 2), (0, 0), (1, 1), False), ((3, 2), (2, 1), (1, 1), (1, 2), True),
    ((2, 2), (1, 1), (1, 1), (9, 9), False),
):
    same("integer_max_pool2d_forward", q(2, 3, 9, 9), *window)
lattices = np.float32(0.037), 12, number(0.0021), 200, number(0.051), 3, 3, 240
same("integer_add_forward", q(2, 3, 9, 9), q(2, 3, 9, 9), *lattices)
same("integer_lookup", q(2, 5), rng.standard_normal(256).astype(np.float32))
same("integer_lookup", q(2, 5), q(256))
same("flatten", q(2, 3, 4, 5))
# on the way the sum leaves int32
deep = np.full((1, 70000), 255, np.uint8), np.full((1, 70000), 127, np.int8)
same("integer_linear_forward", *deep, None, number(1), 250, None, 0, 0)
"""
    in_simulator("-c", HEADER + program)


def test_a_quantized_network_has_the_bits_of_the_host_in_every_layer_and_as_a_file():
    program = str(Path(__file__).parent / "cuda_lattice.py")
    assert in_simulator(program) == "equal"

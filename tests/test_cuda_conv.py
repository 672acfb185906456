"""Convolution on device "cuda" in the simulator: every algorithm against the reference, shapes with tails."""

from __future__ import annotations

import pytest
from simulated import in_simulator

START = """
import sys
import numpy as np
from minicnn_kernels import algorithms, cuda, reference
from minicnn_kernels.cuda import conv
from minicnn_kernels.cuda.storage import to_device, to_host
rng = np.random.default_rng(0)

# images, channels, (H, W), outputs, kernel, stride, padding, dilation, groups
CASES = {
    "plain": (2, 3, (5, 6), 4, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "1x1": (3, 5, (4, 4), 9, (1, 1), (1, 1), (0, 0), (1, 1), 1),
    "stride": (2, 2, (7, 6), 3, (3, 2), (2, 3), (1, 0), (1, 1), 1),
    "1x1 stride": (1, 3, (5, 5), 2, (1, 1), (2, 2), (0, 0), (1, 1), 1),
    "stride beyond the kernel": (1, 2, (8, 3), 2, (2, 1), (3, 4), (0, 0), (1, 1), 1),
    "dilation": (1, 2, (7, 8), 3, (3, 3), (2, 1), (2, 3), (2, 3), 1),
    "groups of many": (1, 20, (3, 3), 18, (2, 2), (1, 1), (1, 0), (1, 1), 2),
    "groups of few": (2, 6, (4, 5), 9, (3, 3), (1, 2), (1, 1), (1, 1), 3),
    "depthwise": (2, 4, (5, 5), 4, (3, 3), (2, 2), (1, 1), (1, 1), 4),
    "depthwise, dilation": (1, 3, (6, 6), 6, (2, 3), (1, 1), (1, 2), (2, 1), 3),
}

def check(name, tolerance=1e-5):
    n, c, size, o, kernel, *geometry, groups = CASES[name]
    x, weight, bias = (
        rng.standard_normal(shape).astype(np.float32)
        for shape in ((n, c, *size), (o, c // groups, *kernel), (o,))
    )
    def agrees(found, expected):
        np.testing.assert_allclose(to_host(found), expected, tolerance, 20 * tolerance, err_msg=name)
    window = (*geometry, groups)
    expected = reference.conv2d_forward(x, weight, bias, *window)
    x_, weight_, bias_ = to_device(x), to_device(weight), to_device(bias)
    agrees(cuda.conv2d_forward(x_, weight_, bias_, *window), expected)
    without_bias = expected - bias[:, None, None]
    agrees(conv.convolution(x_, weight_, None, *window, relu=True), np.maximum(without_bias, 0))
    grad, onto = (rng.standard_normal(shape).astype(np.float32) for shape in (expected.shape, x.shape))
    grad_, onto_ = to_device(grad), to_device(onto)
    dx = reference.conv2d_backward_input(grad, weight, x.shape, *window)
    agrees(cuda.conv2d_backward_input(grad_, weight_, x.shape, *window), dx)
    agrees(cuda.conv2d_backward_input(grad_, weight_, x.shape, *window, onto=onto_), dx + onto)
    dweight = reference.conv2d_backward_weight(grad, x, weight.shape, *window)
    agrees(cuda.conv2d_backward_weight(grad_, x_, weight.shape, *window), dweight)
"""


@pytest.mark.parametrize("algorithm", ["implicit", "explicit"])
def test_every_geometry_gives_the_results_of_the_reference(algorithm):
    program = f"""
with algorithms.using("conv2d", {algorithm!r}):
    for name in CASES:
        check(name)
"""
    in_simulator("-c", START + program)


def test_threads_that_gather_together_agree():
    in_simulator("-c", START + "check('stride'); check('depthwise')", threads=2)


def test_a_warp_convolves_on_tensor_cores():
    program = """
with algorithms.using("matmul", "tf32"):
    check("stride", 2e-3)
"""
    in_simulator("-c", START + program, threads=32)


def test_a_batch_beyond_32_bit_indices_is_done_part_by_part():
    program = """
seen = []
by_images = conv._by_images
def noted(g, *arrays):
    parts = list(by_images(g, *arrays))
    seen.append([part.n for part, _ in parts])
    return parts
conv._by_images = noted
CASES["five images"] = (5, *CASES["plain"][1:])
for name, longest in (("five images", 260), ("depthwise", 100)):
    conv.LONGEST = longest
    check(name)
    assert seen and all(len(parts) > 1 for parts in seen), seen
"""
    in_simulator("-c", START + program)


def test_few_results_of_many_terms_are_summed_in_parts():
    program = """
from minicnn_kernels.cuda import implicit, implicit_weight
counts = []
for module in (implicit, implicit_weight):
    launch = module.launch
    module.launch = lambda *arguments, launch=launch: (counts.append(arguments[4]), launch(*arguments))
CASES["deep"] = (1, 30, (2, 3), 3, (3, 3), (1, 1), (1, 1), (1, 1), 1)
CASES["wide"] = (1, 1, (18, 20), 2, (1, 2), (1, 1), (0, 0), (1, 1), 1)
check("deep", 1e-4)
assert counts and min(counts) > 1, counts
counts.clear()
check("wide", 1e-4)
assert counts and min(counts) > 1, counts
"""
    in_simulator("-c", START + program)


def test_results_repeat_bit_for_bit_and_empty_batches_pass():
    program = """
x, weight = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 3, 6, 5), (4, 3, 3, 3)))
x_, weight_, window = to_device(x), to_device(weight), ((1, 1), (1, 1), (1, 1), 1)
results = [to_host(cuda.conv2d_backward_weight(x_, x_, (3, 3, 3, 3), *window)) for _ in range(2)]
np.testing.assert_array_equal(*results)
nothing = to_device(np.zeros((0, 3, 6, 5), np.float32))
assert cuda.conv2d_forward(nothing, weight_, None, *window).shape == (0, 4, 6, 5)
grad = to_device(np.zeros((0, 4, 6, 5), np.float32))
assert cuda.conv2d_backward_input(grad, weight_, (0, 3, 6, 5), *window).shape == (0, 3, 6, 5)
assert not to_host(cuda.conv2d_backward_weight(grad, nothing, (4, 3, 3, 3), *window)).any()
"""
    in_simulator("-c", START + program)

"""The matrix product of device "cuda" in the simulator: every road into a tile, tails, splits, epilogues,
TF32.

Most run with one thread in a block; some with as many as meet in a tile, and one with all 64 of a real tile.
"""

from __future__ import annotations

import pytest
from simulated import in_simulator

START = """
import sys
import numpy as np
from minicnn_kernels import algorithms, cuda, reference
from minicnn_kernels.cuda import gemm as module, tiles
from minicnn_kernels.cuda.epilogue import Epilogue
from minicnn_kernels.cuda.gemm import gemm
from minicnn_kernels.cuda.storage import empty, flat, to_device, to_host
sys.setswitchinterval(1e-5)  # the simulator polls its threads: let each have its turn soon
rng = np.random.default_rng(0)

kept = []  # memory goes back to the pool with the last array that views it

def moved(x):
    kept.append(to_device(x))
    return flat(kept[-1])

def random(*shape):
    return rng.standard_normal(shape).astype(np.float32)

def product(a, b, a_order="C", b_order="C", epilogue=None, c_pitch=None):
    (m, k), n = a.shape, b.shape[1]
    of_a, of_b = (moved(x.ravel(order)) for x, order in ((a, a_order), (b, b_order)))
    a_strides = (0, 0, k, 1) if a_order == "C" else (0, 0, 1, m)
    b_strides = (0, 0, n, 1) if b_order == "C" else (0, 0, 1, k)
    c = to_device(np.full((m, c_pitch or n), 7, np.float32))
    extra = () if epilogue is None else ((1, 1), epilogue)
    gemm(flat(c), (0, 0, c_pitch or n, 1), of_a, a_strides, of_b, b_strides, (m, n, k), *extra)
    found = to_host(c)
    assert (found[:, n:] == 7).all(), "written past the columns"
    return found[:, :n]

def agrees(found, expected, tolerance=1e-5):
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * 20)
"""

ROADS = """
for m, n, k in SHAPES:
    a, b = random(m, k), random(k, n)
    for orders in ORDERS:
        agrees(product(a, b, *orders), a @ b, TOLERANCE)
"""
ALL, BOTH = ("CC", "CF", "FC", "FF"), ("CF", "FC")  # orders of A and B in memory; both ways to bring each


@pytest.mark.parametrize(
    ("threads", "orders", "shapes"),
    [
        # multiples of four, which are copied by 128 bits; tails in every dimension; nothing to add up
        (1, ALL, ((8, 8, 8), (12, 20, 12), (9, 5, 17), (3, 11, 1), (1, 1, 25), (2, 3, 50), (4, 3, 0))),
        (2, ALL, ((8, 20, 9), (5, 3, 20))),
        (64, BOTH, ((60, 66, 18),)),
    ],
)
def test_every_road_gives_the_product(threads, orders, shapes):
    program = f"SHAPES, ORDERS, TOLERANCE = {shapes}, {orders}, 1e-5\n" + ROADS
    in_simulator("-c", START + program, threads=threads)


def test_a_warp_gives_the_product_in_tf32():
    program = f"""
SHAPES, ORDERS, TOLERANCE = ((16, 16, 16), (19, 13, 9)), {BOTH}, 1e-3
with algorithms.using("matmul", "tf32"):
    {ROADS.replace(chr(10), chr(10) + "    ")}
    a, b = random(16, 8), random(8, 16)
    assert np.abs(product(a, b) - a @ b).max() > 1e-5, "computed in float32"
"""
    in_simulator("-c", START + program, threads=32)


def test_few_results_of_many_terms_are_summed_in_parts_and_in_order():
    program = """
assert tiles.choose(module.FLOAT32_TILES, 3, 5, 301, 1)[1] > 1
a, b = random(3, 301), random(301, 5)
agrees(product(a, b), a.astype(np.float64) @ b, 1e-5)
bias, onto = random(5), random(3, 5)
epilogue = Epilogue(moved(bias), (0, 1), moved(onto), relu=True)
agrees(product(a, b, epilogue=epilogue), np.maximum(a.astype(np.float64) @ b + bias + onto, 0), 1e-5)
"""
    in_simulator("-c", START + program)


def test_bias_addend_and_relu_are_applied_once():
    program = """
a, b = random(9, 6), random(6, 12)
a[0, 0] = np.nan
for steps, bias in (((0, 1), random(12)), ((1, 0), random(9))):
    shown = bias if steps[1] else bias[:, None]
    for onto in (None, random(9, 12)):
        for relu in (False, True):
            epilogue = Epilogue(
                moved(bias), steps, None if onto is None else moved(onto), relu
            )
            expected = a @ b + shown + (0 if onto is None else onto)
            agrees(product(a, b, epilogue=epilogue), np.maximum(expected, 0) if relu else expected)
agrees(product(a, b, epilogue=Epilogue(relu=True)), np.maximum(a @ b, 0))
agrees(product(a, b, c_pitch=16), a @ b)
"""
    in_simulator("-c", START + program)


def test_matrices_beyond_32_bit_indices_are_multiplied_by_halves():
    program = """
calls = []
launch = module.launch_blocks
module.launch_blocks = lambda *arguments: (calls.append(1), launch(*arguments))
for m, n, k, longest in ((9, 2, 3, 12), (2, 9, 3, 12), (2, 3, 20, 25)):
    module.LONGEST = longest
    a, b, bias, onto = random(m, k), random(k, n), random(n), random(m, n)
    epilogue = Epilogue(moved(bias), (0, 1), moved(onto), relu=True)
    calls.clear()
    agrees(product(a, b, epilogue=epilogue), np.maximum(a @ b + bias + onto, 0))
    assert len(calls) > 1
"""
    in_simulator("-c", START + program)


def test_results_repeat_bit_for_bit():
    program = """
a, b = random(9, 301), random(301, 5)
np.testing.assert_array_equal(product(a, b), product(a, b))
"""
    in_simulator("-c", START + program)


def test_more_batches_than_a_grid_has_blocks():
    program = """
module._MOST_BATCHES = 2
a, b = random(5, 3, 4), random(5, 4, 2)
agrees(to_host(cuda.matmul(to_device(a), to_device(b))), a @ b)
"""
    in_simulator("-c", START + program)


def test_a_shape_gets_the_tile_that_fits():
    program = """
large, small, tall = (
    tiles.float32_tile(rows, columns, blocks=blocks, efficiency=efficiency)
    for rows, columns, blocks, efficiency in ((128, 128, 2, 1.0), (64, 64, 6, 0.8), (128, 32, 6, 0.7))
)
def chosen(*shape, batches=1):
    return tiles.choose((large, small, tall), *shape, batches)
assert chosen(4096, 4096, 4096) == (large, 1)
assert chosen(64, 64, 128, batches=1000) == (small, 1)  # large ones would stick out
assert chosen(65536, 32, 64) == (tall, 1)
assert chosen(32, 288, 131072)[1] > 32  # the gradient of a weight: few results, many terms
"""
    in_simulator("-c", START + program)

"""Instructions of the GPU as the simulator has them: against NumPy, and what the hardware would refuse."""

from __future__ import annotations

from simulated import in_simulator

START = """
import numpy as np
from minicnn_kernels.cuda.driver import cuda, kernel, launch_blocks
from minicnn_kernels.cuda.instructions import *
rng = np.random.default_rng(0)
"""


def test_a_warp_multiplies_by_the_fragments_of_the_ptx_manual():
    program = """
@kernel("float32[::1], float32[::1], float32[::1]")
def multiply(c, a, b):
    lane = cuda.threadIdx.x
    g, t = lane // 4, lane % 4
    c0, c1, c2, c3 = multiply_tile_tf32(
        tf32(a[8 * g + t]), tf32(a[8 * g + 64 + t]), tf32(a[8 * g + t + 4]), tf32(a[8 * g + 64 + t + 4]),
        tf32(b[8 * t + g]), tf32(b[8 * t + 32 + g]),
        c[8 * g + 2 * t], c[8 * g + 2 * t + 1], c[8 * g + 64 + 2 * t], c[8 * g + 64 + 2 * t + 1],
    )
    c[8 * g + 2 * t], c[8 * g + 2 * t + 1] = c0, c1
    c[8 * g + 64 + 2 * t], c[8 * g + 64 + 2 * t + 1] = c2, c3

a, b, c = (rng.standard_normal(shape).astype(np.float32) for shape in ((16, 8), (8, 8), (16, 8)))
moved = [cuda.to_device(x.ravel()) for x in (c, a, b)]
launch_blocks(multiply, (1,), 32, *moved)
found = moved[0].copy_to_host().reshape(16, 8)
np.testing.assert_allclose(found, a @ b + c, rtol=2e-3, atol=5e-3)
assert np.abs(found - (a @ b + c)).max() > 1e-5, "computed in float32, not in TF32"
"""
    in_simulator("-c", START + program)


def test_tf32_rounds_to_ten_bits_and_ties_away_from_zero():
    program = """
def rounded(x):
    return np.int32(tf32(np.float32(x))).view(np.float32)
ulp = 2.0**-10
for x, expected in (
    (1 + 0.49 * ulp, 1), (1 + 0.5 * ulp, 1 + ulp), (-1 - 0.5 * ulp, -1 - ulp), (1 + 1.5 * ulp, 1 + 2 * ulp),
    (2 - 0.25 * ulp, 2), (0, 0), (np.inf, np.inf), (-np.inf, -np.inf),
):
    assert rounded(x) == expected, x
assert np.isnan(rounded(np.nan))
"""
    in_simulator("-c", START + program)


def test_dot_products_of_four_bytes_are_exact_and_wrap_around():
    program = """
for _ in range(50):
    a, s, b = (rng.integers(*range_, 4) for range_ in ((0, 256), (-128, 128), (-128, 128)))
    start = int(rng.integers(-1000, 1000))
    u_word, s_word, b_word = (x.astype(np.uint8).view(np.int32)[0] for x in (a, s, b))
    assert dot4_unsigned(u_word, b_word, start) == start + (a * b).sum()
    assert dot4_signed(s_word, b_word, start) == start + (s * b).sum()
assert dot4_signed(np.int32(1), np.int32(1), np.int32(2**31 - 1)) == -(2**31)
words = load_words(np.arange(32, dtype=np.uint8), 16)
assert [hex(word) for word in words] == ["0x13121110", "0x17161514", "0x1b1a1918", "0x1f1e1d1c"]
"""
    in_simulator("-c", START + program)


def test_copies_arrive_when_they_are_waited_for_and_no_sooner():
    program = """
@kernel("float32[::1], float32[::1]")
def copy(seen, x):
    strip = cuda.shared.array(16, np.float32, alignment=16)
    copy16(strip, 0, x, 4, 3)
    commit_copies()
    copy4(strip, 5, x, 1, True)
    copy4(strip, 6, x, 1000, False)
    commit_copies()
    seen[0] = strip[0]
    wait_for_older_copies()
    seen[1], seen[2] = strip[0], strip[5]
    wait_for_copies()
    for i in range(8):
        seen[3 + i] = strip[i]

seen, x = cuda.to_device(np.zeros(11, np.float32)), cuda.to_device(np.arange(8, dtype=np.float32))
launch_blocks(copy, (1,), 1, seen, x)
np.testing.assert_array_equal(
    seen.copy_to_host(), [np.nan, 4, np.nan, 4, 5, 6, 0, np.nan, 1, 0, np.nan]
)
"""
    in_simulator("-c", START + program)


def test_what_the_hardware_refuses_is_refused():
    program = """
x = np.arange(16, dtype=np.float32)
first = -x.ctypes.data % 16 // 4
for call in (
    lambda: load4(x, first + 2), lambda: store4(x, first + 1, 0, 0, 0, 0), lambda: load(x, -1),
    lambda: copy16(x, first, x, first + 3, 4), lambda: copy16(x, first + 1, x, first, 4),
):
    try:
        call()
    except AssertionError:
        continue
    raise SystemExit("not refused")
assert load4(x, first) == tuple(x[first : first + 4])
"""
    in_simulator("-c", START + program)
